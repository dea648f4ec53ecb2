"From a model's channels to probabilities, and to one class a level."
from hierseg._moved import lazily
from .heads import *
from .selectors import *
from . import heads, selectors

__all__ = [*heads.__all__, *selectors.__all__]
__getattr__ = lazily(__name__)
