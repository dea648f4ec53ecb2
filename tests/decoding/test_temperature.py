"A temperature a level: against brute force, on batches of any cut, with void and coarse pixels, on models that are too sure or too modest."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from hierseg.decoding.temperature import HIGHEST, LOWEST, check_temperatures, fit_temperatures, temper
from hierseg.metrics.calibration import Calibration
from hierseg.taxonomy.tensors import aggregate_probs, decompose_mask
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy

TREES = {'person': PERSON_TREE, 'ragged': {'road': 7, 'object': {'vehicle': {'car': 24, 'bike': 33}, 'pole': 17}, 'sky': 23},
         'coarse': dict(hierarchy=PERSON_TREE, coarse={'upper_body': 10, 'body': 11})}


def drawn(name, scale, seed=0, shape=(3, 24, 24), truth=1.):
    "Probabilities of a net whose logits are `scale` times those that the truth was drawn from, with void and, where the tree has them, coarse pixels."
    tax, g = Taxonomy(TREES[name]), torch.Generator().manual_seed(seed)
    z = torch.randn(shape[0], tax.n_leaves, *shape[1:], generator=g) * 1.5
    y = torch.multinomial((truth * z).softmax(1).movedim(1, -1).reshape(-1, tax.n_leaves), 1, generator=g).view(shape)
    y[:, :2] = -100
    if tax.coarse:
        y[:, 5:9] = tax.find_nodes('upper_body')[0]
        y[:, 9:11] = tax.find_nodes('body')[0]
    return tax, aggregate_probs((scale * z).softmax(1), tax), y


def nll(p, y, t): return F.nll_loss((p.double().log() / t).log_softmax(1), y, ignore_index=-100).item()


@pytest.mark.parametrize('name', TREES)
@pytest.mark.parametrize('scale', [.4, 1., 3.])
def test_against_a_search_over_a_fine_grid(name, scale):
    tax, levels, y = drawn(name, scale)
    found, grid = fit_temperatures([(levels, y)], tax), np.exp(np.linspace(np.log(LOWEST), np.log(HIGHEST), 1201))
    for p, target, t in zip(levels, decompose_mask(y, tax), found):
        costs = [nll(p, target, o) for o in grid]
        best = grid[int(np.argmin(costs))]
        assert abs(np.log(t / best)) < 2 * np.log(grid[1] / grid[0]) and nll(p, target, t) <= min(costs) + 1e-6


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(.3, 4), st.integers(1, 3))
def test_batches_of_any_cut_give_the_same(seed, scale, bs):
    tax, levels, y = drawn('person', scale, seed)
    whole = fit_temperatures([(levels, y)], tax)
    cut = lambda: (([p[i:i + bs] for p in levels], y[i:i + bs]) for i in range(0, len(y), bs))
    assert fit_temperatures(cut, tax) == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize('scale', [.3, 2.5])
def test_the_calibration_error_of_other_images_falls_on_every_level(scale):
    "A net that is too sure, and one that is too modest, whose coarse levels have a bias that no temperature mends; half of the images to fit on, half to count."
    tax, levels, y = drawn('person', scale, shape=(8, 32, 32))
    t = fit_temperatures([([p[:4] for p in levels], y[:4])], tax)
    rest, mask = [p[4:] for p in levels], y[4:]
    before, after = (Calibration(tax, temperatures=o).update_levels(rest, mask) for o in (None, t))
    for l in tax.level_names:
        assert after.error(l) < (.5 if scale > 1 or l == 'level_3' else 1) * before.error(l), l


def test_tempered_levels_sum_to_one_keep_their_best_class_and_do_not_add_up():
    tax, levels, _ = drawn('person', 1.)
    out = temper(levels, [2., .5, 3.])
    for p, q in zip(levels, out):
        assert torch.allclose(q.sum(1), torch.ones(()), atol=1e-5) and torch.equal(p.max(1).indices, q.max(1).indices)
    assert (aggregate_probs(out[-1], tax)[1] - out[1]).abs().max() > .05
    for p, q in zip(levels, temper(levels, [1, 1, 1])):
        assert torch.allclose(p, q, atol=1e-6)
    extreme = [torch.tensor([[0., 1.]]).view(1, 2, 1)]
    for t in (LOWEST, 1., HIGHEST):
        assert torch.isfinite(temper(extreme, [t])[0]).all()


def test_a_level_of_which_nothing_is_known_keeps_1():
    tax, levels, y = drawn('coarse', 2.)
    y = torch.full_like(y, tax.find_nodes('body')[0])
    y[0] = 0
    y[0, 0] = tax.find_nodes('body')[0]
    found = fit_temperatures([([p[1:] for p in levels], y[1:])], tax)
    assert found[1:] == [1., 1.] and found[0] != 1.


def test_half_precision_probabilities_will_do():
    tax, levels, y = drawn('person', 2.)
    assert fit_temperatures([([p.half() for p in levels], y)], tax) == pytest.approx(fit_temperatures([(levels, y)], tax), rel=.02)


def test_what_is_refused():
    tax = Taxonomy(PERSON_TREE)
    for call, words in [(lambda: fit_temperatures([], tax), 'no labelled pixel'), (lambda: check_temperatures([1, 2], tax), 'give 3 numbers above 0'),
                        (lambda: check_temperatures([1, 2, 0], tax), 'give 3 numbers'), (lambda: check_temperatures('x', tax), 'give 3 numbers'),
                        (lambda: check_temperatures([1, 2, float('nan')], tax), 'give 3 numbers'),
                        (lambda: Calibration(tax, temperatures=[1]), 'give 3 numbers'),
                        (lambda: Calibration(tax).merge(Calibration(tax, temperatures=[1, 1, 2])), 'temperatures')]:
        with pytest.raises(ValueError, match=words):
            call()
