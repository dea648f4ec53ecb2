"Pixels of which only an inner node is known: every metric counts them on the levels where they say something, against counts pixel by pixel."
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

import hierseg.metrics.confusion as confusion
import hierseg.metrics.counting as counting
from hierseg.metrics.boundary import BoundaryIoU, in_band
from hierseg.metrics.calibration import Calibration
from hierseg.metrics.confusion import LevelConfusion
from hierseg.taxonomy.tensors import decompose_mask
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON, trees

SELECTORS = ['simple', 'smart']


def with_coarse(tree):
    plain = Taxonomy(tree)
    return Taxonomy(tree, coarse={'/'.join(plain.node_paths[n]): 1000 + n for n in range(plain.n_leaves, plain.n_nodes)}), plain


def batch(tax, seed=0, shape=(3, 7, 6)):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, tax.n_codes, shape, generator=g)
    y[torch.rand(shape, generator=g) < .15] = -100
    return torch.randn(shape[0], tax.n_leaves, *shape[1:], generator=g), y


def by_loops(pred, y, tax, l):
    "(3, K_l) found, predicted and true, counted one by one."
    out = np.zeros((3, tax.n_classes[l]), np.int64)
    for p, t in zip(pred[l].flatten().tolist(), decompose_mask(y, tax)[l].flatten().tolist()):
        if t >= 0:
            out[0, t] += p == t
            out[1, p] += 1
            out[2, t] += 1
    return out


@pytest.mark.parametrize('dense', [True, False])
@given(tree=trees(), seed=st.integers(0, 1000))
def test_confusion_counts_what_is_known(tree, seed, dense):
    tax, _ = with_coarse(tree)
    out, y = batch(tax, seed)
    old = counting.DENSE_LEAVES, confusion.DENSE_LEAVES
    counting.DENSE_LEAVES = confusion.DENSE_LEAVES = old[0] if dense else 0
    try:
        conf = LevelConfusion(tax, SELECTORS).update_output(out, y)
        parts = LevelConfusion(tax, SELECTORS)
        for i in range(len(y)):
            parts.update_output(out[i:i + 1], y[i:i + 1])
        assert parts.report() == conf.report()
        for name, sel in conf.selectors.items():
            pred = sel(out)
            given_masks = LevelConfusion(tax, {name: sel}).update(pred, y)
            for l in range(tax.n_levels):
                found, p, t = by_loops(pred, y, tax, l)
                want = np.divide(found, p + t - found, out=np.full(len(found), np.nan), where=p + t - found > 0)
                np.testing.assert_array_equal(conf.iou(l, name), want)
                np.testing.assert_array_equal(given_masks.iou(l, name), want)
                true = decompose_mask(y, tax)[l]
                m = conf.confusion(l, name)
                assert m.sum() == (true >= 0).sum() and (np.diag(m) == found).all()
                each = conf.image_ious(l, name)
                for i in range(len(y)):
                    f, p, t = (o[slice(0 if tax.bg_index is None else 1, None)] for o in by_loops([q[i:i + 1] for q in pred], y[i:i + 1], tax, l))
                    np.testing.assert_array_equal(each[i], np.divide(f, p + t - f, out=np.full(len(f), np.nan), where=p + t - f > 0))
            clash = torch.zeros_like(y, dtype=torch.bool)
            for l in range(1, tax.n_levels):
                clash |= torch.as_tensor(tax.parents[l])[pred[l]] != pred[l - 1]
            assert conf.inconsistency(name) == pytest.approx((clash & (y >= 0)).sum().item() / max(1, (y >= 0).sum().item()))
            fine = (y >= 0) & (decompose_mask(y, tax)[-1] >= 0)
            t, p = decompose_mask(y, tax)[-1][fine], pred[-1][fine]
            height = sum((torch.as_tensor(up)[t] != torch.as_tensor(up)[p]).sum().item() for up in tax.lift)
            assert conf.mistake_height(name) == pytest.approx(height / max(1, int(fine.sum())), nan_ok=True) or not fine.any()
        assert conf.n_pixels == (y >= 0).sum() and conf.n_images == len(y)
    finally:
        counting.DENSE_LEAVES, confusion.DENSE_LEAVES = old


@given(trees(), st.integers(0, 1000))
def test_with_known_leaves_all_is_as_without_coarse_ids(tree, seed):
    tax, plain = with_coarse(tree)
    out, y = batch(plain, seed, (2, 9, 8))
    for kind in (LevelConfusion, BoundaryIoU):
        assert kind(tax, SELECTORS).update_output(out, y).report() == kind(plain, SELECTORS).update_output(out, y).report()
    assert Calibration(tax).update_output(out, y).report() == Calibration(plain).update_output(out, y).report()


@given(st.integers(0, 1000), st.sampled_from(SELECTORS))
def test_boundaries_are_those_of_each_level_alone(seed, name):
    tax, _ = with_coarse(PERSON)
    out, y = batch(tax, seed, (2, 16, 12))
    y = y.repeat_interleave(2, 1).repeat_interleave(2, 2)
    out = out.repeat_interleave(2, 2).repeat_interleave(2, 3)
    cal = BoundaryIoU(tax, [name]).update_output(out, y)
    pred, d = cal.selectors[name](out), cal._width(y)
    again = BoundaryIoU(tax, [name]).update(pred, y)
    for l, t in enumerate(decompose_mask(y, tax)):
        p, both = pred[l], []
        for k in range(tax.n_classes[l]):
            a, b = in_band(p, d) & (p == k) & (t >= 0), in_band(t, d) & (t == k)
            both.append((a & b).sum().item() / (a | b).sum().item() if (a | b).any() else np.nan)
        np.testing.assert_allclose(cal.iou(l), both)
        np.testing.assert_array_equal(again.iou(l), cal.iou(l))


def test_calibration_leaves_out_what_is_not_known():
    tax, _ = with_coarse(PERSON)
    out, y = batch(tax, 3)
    cal = Calibration(tax).update_output(out, y)
    for l, t in enumerate(decompose_mask(y, tax)):
        assert cal.reliability(l)[0].sum() == (t >= 0).sum()


def test_the_torchmetrics_metric_counts_the_same():
    pytest.importorskip('torchmetrics')
    from hierseg.metrics.levels import LevelIoU
    tax, _ = with_coarse(PERSON)
    out, y = batch(tax, 4)
    metric, conf = LevelIoU(tax, SELECTORS), LevelConfusion(tax, SELECTORS).update_output(out, y)
    metric.update(out, y)
    got = metric.compute()
    for l in tax.level_names:
        assert float(got[f'miou_{l}']) == pytest.approx(conf.miou(l)) and float(got[f'miou_{l}_smart']) == pytest.approx(conf.miou(l, selector='smart'))


def test_a_coarse_pixel_of_one_image_is_not_counted_in_the_next():
    "What it was before: a code behind the leaves fell into the rows of the next image."
    tax = Taxonomy(PERSON, coarse={'upper_body': 10, 'lower_body': 11})
    y = torch.zeros(2, 4, 4, dtype=torch.long)
    y[0] = tax.find_nodes('lower_body')[0]
    out = torch.zeros(2, 7, 4, 4)
    out[0, tax.vocab.index('low_leg')] = out[1, 0] = 9.
    conf = LevelConfusion(tax).update_output(out, y)
    assert conf.miou('level_1') == conf.miou('level_2') == 1. and np.isnan(conf.miou('level_3')) and conf.accuracy('level_3') == 1. and conf.n_pixels == 32
