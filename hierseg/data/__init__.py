"From a folder to batches. What needs PyTorch is imported when it is asked for, so that `hierseg check` starts at once."
# ruff: noqa: F403, F405, F822
from hierseg._moved import lazily
from .check import *
from .files import *
from .synthetic import *
from .transforms import *
from . import check, files, synthetic, transforms

_LATE = ['DataError', 'TensorHierMask', 'TensorHierLevels', 'HierMask', 'HierImageBlock', 'HierMaskBlock', 'HierResize',
         'HierAugment', 'HierDataLoaders', 'HierDL', 'data_config', 'class_frequencies', 'encode_mask', 'class_indices',
         'ImageBands', 'ReadImage', 'ReadMask', 'CheckSizes', 'KeepTaxonomy', 'UnitImage', 'NormalizeInPlace',
         'SameSize', 'CUSTOM', 'as_taxonomy', 'SegDataset', 'PreparePair', 'Augmenter', 'TorchvisionAugment',
         'image_statistics', 'pair_lists', 'PairCache', 'open_cache', 'cache_key', 'cache_home', 'KEPT',
         'plot_frequencies', 'FineShare', 'fine_images', 'open_leaves']

__all__ = [*files.__all__, *transforms.__all__, *check.__all__, *synthetic.__all__, *_LATE]
__getattr__ = lazily(__name__, 'core', 'data.frequencies', 'data.tensors', 'data.cache', 'data.dataset', 'data.sampling',
                      'data.loaders')
