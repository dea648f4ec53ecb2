"Prediction, scores, where it goes wrong, experiments side by side."
from hierseg._moved import lazily
from .inference import *
from .report import *
from .interpretation import *
from .comparison import *
from . import inference, report, interpretation, comparison

__all__ = [*inference.__all__, *report.__all__, *interpretation.__all__, *comparison.__all__]
__getattr__ = lazily(__name__)
