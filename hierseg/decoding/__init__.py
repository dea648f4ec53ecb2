"From a model's channels to probabilities, and to one class a level."
from hierseg._moved import lazily
from .heads import *
from .selectors import *
from .iou import *
from .temperature import *
from . import heads, iou, selectors, temperature

__all__ = [*heads.__all__, *selectors.__all__, *iou.__all__, *temperature.__all__]
__getattr__ = lazily(__name__)
