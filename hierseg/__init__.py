__version__ = "0.2.0"

from hierseg import _moved

_moved.install()
