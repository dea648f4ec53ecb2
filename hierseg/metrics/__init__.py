"Streaming counts and everything read off them."
from hierseg._moved import lazily
from .counting import *
from .confusion import *
from .calibration import *
from .boundary import *
from .columns import *
from . import counting, confusion, calibration, boundary, columns

__all__ = [*counting.__all__, *confusion.__all__, *calibration.__all__, *boundary.__all__, *columns.__all__]
__getattr__ = lazily(__name__, 'metrics.levels')     # LevelIoU, where torchmetrics is there
