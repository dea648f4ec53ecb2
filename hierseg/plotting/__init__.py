"What people look at: colours of the tree, pictures, curves."
from hierseg._moved import lazily
from .colors import *
from .curves import *
from .pictures import *
from . import colors, curves, pictures

__all__ = [*colors.__all__, *pictures.__all__, *curves.__all__]
__getattr__ = lazily(__name__, 'plotting.colors', 'plotting.pictures', 'plotting.curves')
