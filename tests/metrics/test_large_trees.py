"Trees of thousands of leaves: sparse tables with the numbers of dense ones, in memory that follows the pixels."
import pickle

import pytest
import torch
from hypothesis import given, strategies as st

from hierseg.metrics import counting
from hierseg.metrics.boundary import BoundaryIoU
from hierseg.metrics.confusion import LevelConfusion
from hierseg.decoding.selectors import get_selector
from hierseg.taxonomy.tree import Taxonomy
from strategies import batch, trees


@given(trees(), st.integers(0, 1000), st.sampled_from([0, .3, 1]))
def test_sparse_counts_equal_dense_ones(tree, seed, void):
    tax, names = Taxonomy(tree), ['simple', 'smart', 'topdown']
    z, y = batch(tax, seed, (4, 5, 6), void)
    dense, was = LevelConfusion(tax, names).update_output(z, y), counting.DENSE_LEAVES
    try:
        counting.DENSE_LEAVES = 0
        a, b = LevelConfusion(tax, names).update_output(z[:3], y[:3]), LevelConfusion(tax,
                                                names).update_output(z[3:], y[3:])
        sparse = LevelConfusion(tax, names).load_state_dict(pickle.loads(pickle.dumps((a + b).state_dict())))
        masks = LevelConfusion(tax, names).update({n: get_selector(n, tax)(z) for n in names}, y)
        with pytest.raises(ValueError, match='not raw ids'): a.update_output(z, torch.full_like(y, 255))
    finally: counting.DENSE_LEAVES = was
    assert sparse.counts['simple'][-1].is_sparse and not dense.counts['simple'][-1].is_sparse
    assert sparse.report() == masks.report() == dense.report()
    for n in names:
        for l in range(tax.n_levels): assert (sparse.confusion(l, n) == dense.confusion(l, n)).all()


def deep(n, width=10):
    "A tree of n leaves, ten children a node, beside a background."
    level = [{f'c{i}': i for i in range(start, min(start + width, n))} for start in range(1, n, width)]
    while len(level) > 1:
        level = [{f'n{i + j}': o for j, o in enumerate(level[i:i + width])} for i in range(0, len(level), width)]
    return Taxonomy({'bg': 0, 'all': level[0]})


def test_ten_thousand_leaves_fit_in_the_memory_of_the_pixels():
    tax = deep(10_001)
    y = torch.randint(0, tax.n_leaves, (2, 8, 8), generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 1)
    pred = get_selector('simple', tax)(torch.nn.functional.one_hot(y.roll(1, 2), tax.n_leaves).movedim(-1, 1).float())
    conf = LevelConfusion(tax)
    for _ in range(2): conf.update(pred, y)
    held = [*conf.counts['simple'], *conf.images['simple']]
    assert sum(t.indices().numel() + t.values().numel() for t in held) < 60 * y.numel()
    r = conf.report()['selectors']['simple']
    assert conf.n_images == 4 and r['levels']['level_1']['accuracy'] >= r['levels'][tax.level_names[-1]]['accuracy']
    assert conf.iou().shape == (tax.n_leaves,) and conf.mistake_height() > 0
    outline = BoundaryIoU(tax).update(pred, y)
    assert max(t.numel() for t in outline.tables['simple']) <= 4 * tax.n_leaves
