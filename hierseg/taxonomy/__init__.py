"The tree of classes, and masks and probabilities on its levels; what works on tensors is imported when it is asked for."
from hierseg._moved import lazily
from .tree import MAX_ID, PERSON_TREE, VOID, Taxonomy

__all__ = ['MAX_ID', 'PERSON_TREE', 'VOID', 'Taxonomy', 'TaxonomyError', 'aggregate_log_probs', 'aggregate_probs',
           'decompose_mask', 'lift_mask']
__getattr__ = lazily(__name__, 'core', 'taxonomy.tensors')
