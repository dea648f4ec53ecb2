__version__ = "0.1.0"

from hierseg import _moved

_moved.install()
