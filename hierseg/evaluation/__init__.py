"Prediction, scores, where it goes wrong, experiments side by side. What needs PyTorch is imported when it is asked for."
from hierseg._moved import lazily, names_in
from .onnx_engine import *
from .predictor import *
from .tiles import *
from .writing import *
from . import onnx_engine, predictor, tiles, writing

_LATER = [f'evaluation.{m}' for m in ('engine', 'inference', 'report', 'interpretation', 'comparison')]
__all__ = [*onnx_engine.__all__, *predictor.__all__, *tiles.__all__, *writing.__all__, *names_in(*_LATER)]
__getattr__ = lazily(__name__, *_LATER)
