"Models that leave: ONNX, torch.export, and folders to share."
from hierseg._moved import lazily
from .hub import *
from .onnx import *
from . import hub, onnx

__all__ = [*onnx.__all__, *hub.__all__]
__getattr__ = lazily(__name__)
