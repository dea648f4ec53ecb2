"Networks by name, pretrained encoders, and finished models as a start."
from hierseg._moved import lazily
from .blocks import *
from .unet import *
from .segnet import *
from .encoders import *
from .zoo import *
from .transfer import *
from . import blocks, unet, segnet, encoders, zoo, transfer

__all__ = [*blocks.__all__, *unet.__all__, *segnet.__all__, *encoders.__all__, *zoo.__all__, *transfer.__all__]
__getattr__ = lazily(__name__)
