"Calibration against torchmetrics, boundary IoU against SciPy's erosion."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from hierseg.metrics.calibration import Calibration, plot_reliability
from hierseg.metrics.boundary import BoundaryIoU, in_band
from hierseg.decoding.selectors import get_selector
from hierseg.taxonomy.tree import Taxonomy
from hierseg.taxonomy.tensors import aggregate_probs, decompose_mask
from strategies import PERSON, STREET, batch, trees


def test_calibration_against_torchmetrics():
    from torchmetrics.functional.classification import multiclass_calibration_error
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 1, (4, 32, 32))
    cal = Calibration(tax)
    for i in range(4): cal.update_output(z[i:i+1], y[i:i+1])
    for l, (p, t) in enumerate(zip(aggregate_probs(z.softmax(1), tax), decompose_mask(y, tax))):
        p, t = p.movedim(1, -1)[t >= 0], t[t >= 0]
        want = multiclass_calibration_error(p / p.sum(1, keepdim=True), t, num_classes=tax.n_classes[l],
                                            n_bins=15).item()
        assert cal.error(l) == pytest.approx(want, rel=1e-3)


@given(trees(), st.integers(0, 100), st.integers(1, 20))
def test_calibration_against_loops(tree, seed, n_bins):
    tax = Taxonomy(tree)
    z, y = batch(tax, seed, (2, 3, 3))
    cal = Calibration(tax, n_bins=n_bins).update_output(z, y)
    for l, (p, t) in enumerate(zip(aggregate_probs(z.softmax(1), tax), decompose_mask(y, tax))):
        conf, right = p.max(1).values.numpy(), (p.numpy().argmax(1) == t.numpy())
        bins = np.minimum((conf * n_bins).astype(int), n_bins - 1)[t.numpy() >= 0]
        n, c, a = cal.reliability(l)
        assert n.sum() == (t >= 0).sum()
        if len(np.unique(conf * n_bins % 1 < 1e-4)) != 1:
            continue        # a confidence on a bin's edge may fall either way
        for b in range(n_bins):
            ok = bins == b
            assert n[b] == ok.sum()
            if not ok.any(): continue
            assert c[b] == pytest.approx(conf[t.numpy() >= 0][ok].mean(), abs=1e-5)
            assert a[b] == pytest.approx(right[t.numpy() >= 0][ok].mean())


def scipy_bands(mask, d):
    "Cheng et al.: a region minus its erosion by a 3 × 3 square, d times, with the image's outside as background."
    from scipy.ndimage import binary_erosion
    out = np.zeros(mask.shape, bool)
    for c in np.unique(mask):
        out |= (mask == c) & ~binary_erosion(mask == c, np.ones((3, 3)), iterations=d, border_value=0)
    return out


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(4, 14))
def test_bands_against_erosion(seed, d, size):
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, 4, (2, 3, 3)), np.ones((1, size, 5), int))
    got = in_band(torch.tensor(mask), d).numpy()
    for m, g in zip(mask, got): assert (scipy_bands(m, d) == g).all()


@pytest.mark.parametrize('name', ['simple', 'smart'])
def test_boundary_iou_against_erosion(name):
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 2, (3, 6, 6), void=0)
    z, y = (o.repeat_interleave(9, -1).repeat_interleave(9, -2) for o in (z, y))
    b, d = BoundaryIoU(tax, name), max(1, round(.02 * math.hypot(54, 54)))
    for i in range(3): b.update_output(z[i:i+1], y[i:i+1])
    masks = BoundaryIoU(tax, name).update(get_selector(name, tax)(z), y)
    for l, (p, t) in enumerate(zip(get_selector(name, tax)(z), decompose_mask(y, tax))):
        p, t = p.numpy(), t.numpy()
        pb, tb = (np.stack([scipy_bands(o, d) for o in m]) for m in (p, t))
        both = lambda c: ((p == c) & (t == c) & pb & tb).sum()
        either = lambda c: (((p == c) & pb) | ((t == c) & tb)).sum()
        want = [both(c) / max(1, either(c)) for c in range(tax.n_classes[l])]
        np.testing.assert_allclose(b.iou(l), want)
        assert b.miou(l) == pytest.approx(np.mean(want[1:])) and (masks.iou(l) == b.iou(l)).all()


def test_void_takes_no_part_and_makes_no_border():
    tax = Taxonomy(STREET)
    m = torch.zeros(1, 20, 20, dtype=torch.int64)
    m[:, 8:12, 8:12] = -100
    assert in_band(m, 2).sum() == 400 - 16*16                       # only the image's own border
    z, y = batch(tax, 3, (2, 12, 12), void=0)
    y[:, 3:6] = -100
    other = z.clone()
    other[:, :, 4] = torch.randn_like(z[:, :, 4])   # deep inside the void, away from everything within d = 1
    a, b = BoundaryIoU(tax, 'smart').update_output(z, y), BoundaryIoU(tax, 'smart').update_output(other, y)
    assert a.report() == b.report()
    assert Calibration(tax).update_output(z, y).report() == Calibration(tax).update_output(other, y).report()


def test_merge_empty_and_bad_input():
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 4, (4, 10, 10))
    for make in (lambda: Calibration(tax), lambda: BoundaryIoU(tax, ['simple', 'smart'])):
        a, b = make().update_output(z[:1], y[:1]), make().update_output(z[1:], y[1:])
        assert a.merge(b).report() == make().update_output(z, y).report() != a.reset().report()
        assert 'None' in str(make().report())
    for call, message in [(lambda: Calibration(tax, n_bins=0), 'at least 1'),
                          (lambda: BoundaryIoU(tax, ratio=2), 'between 0 and 1'),
                          (lambda: BoundaryIoU(tax).iou(selector='smart'),
                           'simple were'), (lambda: BoundaryIoU(tax, 'best'), 'known are simple'),
                          (lambda: Calibration(tax).merge(Calibration(tax, n_bins=3)), 'number of bins')]:
        with pytest.raises(ValueError, match=message): call()


def test_plot_reliability():
    import matplotlib.pyplot as plt
    tax = Taxonomy(PERSON)
    assert 'level_3: error' in plot_reliability(Calibration(tax).update_output(*batch(tax))).get_title()
    plt.close('all')
