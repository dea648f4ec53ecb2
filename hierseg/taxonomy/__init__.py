"The tree of classes, and masks and probabilities on its levels; what works on tensors is imported when it is asked for."
from hierseg._moved import lazily, names_in
from .tree import *
from . import tree

_LATER = ['taxonomy.tensors', 'taxonomy.formats']
__all__ = [*tree.__all__, 'TaxonomyError', *names_in(*_LATER)]
__getattr__ = lazily(__name__, 'core', *_LATER)
