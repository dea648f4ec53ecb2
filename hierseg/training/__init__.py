"Learners, callbacks, and runs that leave a folder behind."
from hierseg._moved import lazily
from .folder import *
from .start import *
from .learner import *
from .calibrate import *
from .callbacks import *
from .distributed import *
from .run import *
from . import folder, start, learner, calibrate, callbacks, distributed, run

__all__ = [*folder.__all__, *start.__all__, *learner.__all__, *calibrate.__all__, *callbacks.__all__, *distributed.__all__, *run.__all__]
__getattr__ = lazily(__name__)
