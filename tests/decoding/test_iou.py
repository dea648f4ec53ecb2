"Decoding for IoU against loops, its cost matrix against the formula, and the fit against a search."
import itertools
import pickle

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, strategies as st

from hierseg.decoding.iou import IoUClassSelector, LevelIoU, ProbabilityCounts, fit_iou_selector, iou_cost, scored_classes
from hierseg.decoding.selectors import MinCostClassSelector, SmartClassSelector, get_selector, list_selectors
from hierseg.taxonomy.tensors import aggregate_probs
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON, batch, leaf_paths, trees


def random_selector(tax, seed, path):
    rng = np.random.default_rng(seed)
    return IoUClassSelector(tax, iou=[rng.random(k).tolist() for k in tax.n_classes],
                            union=[(rng.random(k) + 0.05).tolist() for k in tax.n_classes], path=path)


def brute(selector, p, paths, tax):
    "One pixel's classes by the words of the rule."
    gain = []
    for l, k in enumerate(tax.n_classes):
        level = np.zeros(k)
        for leaf, path in enumerate(paths): level[path[l]] += p[leaf]
        j, u = selector.iou[l].astype(float), selector.union[l].astype(float)
        gain.append(((1 + j) * level - j) / u)
        if tax.bg_index is not None: gain[l][tax.bg_index] = 0
    if not selector.path: return [g.argmax() for g in gain]
    worth = [sum(gain[l][c] / scored_classes(tax)[l] for l, c in enumerate(path)) for path in paths]
    return paths[int(np.argmax(worth))]


@given(trees(), st.integers(0, 1000), st.booleans())
def test_against_loops(tree, seed, path):
    tax = Taxonomy(tree)
    selector = random_selector(tax, seed, path)
    g = torch.Generator().manual_seed(seed)
    p = (torch.randn(2, tax.n_leaves, 2, 3, generator=g, dtype=torch.float64) * 2).softmax(1)
    paths, levels = leaf_paths(tax), aggregate_probs(p, tax)
    want = np.array([[[brute(selector, p[b, :, i, j].numpy(), paths, tax) for j in range(3)] for i in range(2)] for b in range(2)])
    for got in (selector.select(levels, log=False), selector.select([o.log() for o in levels]), selector(p.log())):
        assert (np.stack([o.numpy() for o in got], -1) == want).all()
    if path and tax.n_levels > 1:
        assert selector.consistent
        for l in range(1, tax.n_levels):
            assert (torch.tensor(tax.parents[l])[got[l]] == got[l - 1]).all()


@given(trees(), st.integers(0, 1000))
def test_the_path_form_is_a_cost_matrix(tree, seed):
    tax = Taxonomy(tree)
    selector, paths = random_selector(tax, seed, True), leaf_paths(tax)
    want = np.zeros((tax.n_leaves, tax.n_leaves))
    for j, k, l in itertools.product(range(tax.n_leaves), range(tax.n_leaves), range(tax.n_levels)):
        v = paths[k][l]
        if v == tax.bg_index: continue
        J, U = selector.iou[l][v], selector.union[l][v]
        want[j, k] -= ((1 + J) * (paths[j][l] == v) - J) / U / scored_classes(tax)[l]
    np.testing.assert_allclose(iou_cost(selector), want, rtol=1e-6, atol=1e-6)
    p = torch.randn(1, tax.n_leaves, 8, 8, generator=torch.Generator().manual_seed(seed)).softmax(1)
    cost = MinCostClassSelector(tax, cost=iou_cost(selector)).select(aggregate_probs(p, tax), log=False)[-1]
    mine = selector.select(aggregate_probs(p, tax), log=False)[-1]
    risk = torch.einsum('bjhw,jk->bkhw', p.double(), torch.tensor(want))
    gap = risk.gather(1, cost[:, None]) - risk.gather(1, mine[:, None])        # ties aside, the same leaf
    assert gap.abs().max() < 1e-5


@given(trees(), st.integers(0, 1000))
def test_counts_against_loops(tree, seed):
    tax = Taxonomy(tree)
    z, y = batch(tax, seed, (2, 4, 5))
    pred, paths = SmartClassSelector(tax)(z), leaf_paths(tax)
    count = LevelIoU(tax)
    for b in range(2): count.update([o[b:b + 1] for o in pred], y[b:b + 1])
    ok = (y >= 0).numpy()
    true = np.array([paths[k] for k in y.numpy().clip(0).flatten()]).reshape(*y.shape, -1)
    means = []
    for l, k in enumerate(tax.n_classes):
        found = []
        for c in range(k):
            a, b = (pred[l].numpy() == c) & ok, (true[..., l] == c) & ok
            assert count.iou[l][c] == pytest.approx((a & b).sum() / max(1, (a | b).sum())) and count.union[l][c] == (a | b).sum()
            if c != tax.bg_index and (a | b).any(): found.append(count.iou[l][c])
        means.append(np.mean(found) if found else 0)
    assert count.mean() == pytest.approx(means) and count.pixels == ok.sum()


def vague(seed, shape=(6, 24, 24)):
    "Masks with much background and probabilities that are right but vague."
    g = torch.Generator().manual_seed(seed)
    prior = torch.tensor([8, .2, 2, .6, 1, .8, .4])
    y = torch.multinomial(prior, int(np.prod(shape)), True, generator=g).view(shape)
    z = torch.randn(shape[0], 7, *shape[1:], generator=g)
    z.scatter_add_(1, y.unsqueeze(1), torch.full_like(z[:, :1], 1.5))
    return (1.5 * z + prior.log().view(1, -1, 1, 1)).softmax(1), y


def mean_iou(selector, p, y):
    count = LevelIoU(selector.taxonomy)
    count.update(selector.select(aggregate_probs(p, selector.taxonomy), log=False), y)
    return count.mean()


@pytest.mark.parametrize('path', [False, True])
def test_a_fitted_selector_scores_higher_on_other_images(path):
    tax = Taxonomy(PERSON)
    (fit_p, fit_y), (p, y) = vague(0), vague(1)
    fit_y[:, :2] = -100
    levels = [o.split(2) for o in aggregate_probs(fit_p, tax)]
    seen = []
    def holdout():
        seen.append(1)
        yield from zip(zip(*levels), fit_y.split(2))
    selector, history = fit_iou_selector(holdout, tax, path=path, n_iter=4)
    assert len(history) == 5 == len(seen)
    assert np.mean(mean_iou(selector, fit_p, fit_y)) == pytest.approx(max(np.mean(h) for h in history[1:]))
    base = [mean_iou(get_selector(s, tax), p, y) for s in ('simple', 'smart', 'mincost')]
    ours = mean_iou(selector, p, y)
    assert all(o > max(b[l] for b in base) for l, o in enumerate(ours)) and ours[2] > base[0][2] + .02
    for again in (get_selector(yaml.safe_load(yaml.safe_dump(selector.config)), tax), pickle.loads(pickle.dumps(selector))):
        for a, b in zip(again.select(aggregate_probs(p, tax)), selector.select(aggregate_probs(p, tax))): assert (a == b).all()
        assert again.config == selector.config and again.path == path


def test_one_class_is_a_threshold():
    "With one foreground class the rule is p > J / (1 + J), and no other threshold does better where it was fitted."
    tax = Taxonomy({'bg': 0, 'thing': 1})
    g = torch.Generator().manual_seed(0)
    p1 = torch.rand(1, 1, 100, 100, generator=g) ** 2
    y = (torch.rand(1, 100, 100, generator=g) < p1[:, 0]).long()
    selector, _ = fit_iou_selector([([torch.cat([1 - p1, p1], 1)], y)], tax, n_iter=8)
    got = mean_iou(selector, torch.cat([1 - p1, p1], 1), y)[0]
    best = max(float(((p1[:, 0] > t) & (y == 1)).sum() / ((p1[:, 0] > t) | (y == 1)).sum()) for t in np.linspace(0, .9, 91))
    assert got > best - 2e-3
    j = float(selector.iou[0][1])
    assert (selector.select([torch.cat([1 - p1, p1], 1)], log=False)[0] == (p1[:, 0] > j / (1 + j)).long()).float().mean() > .999


def test_what_cannot_be_fitted_is_said():
    tax = Taxonomy(PERSON)
    p, y = vague(2, (2, 8, 8))
    y[y == 1] = -100
    with pytest.warns(UserWarning, match='no pixel of low_hand'): selector, _ = fit_iou_selector([(aggregate_probs(p, tax), y)], tax)
    assert selector.iou[2][1] == pytest.approx(selector.iou[2][[i for i in range(7) if i != 1]].mean(), rel=1e-5)
    for call, message in [
        (lambda: fit_iou_selector([], tax), 'no labelled pixel'), (lambda: get_selector('iou', tax).select(aggregate_probs(p, tax)), 'is not fitted'),
        (lambda: IoUClassSelector(tax, iou=[[1]]), 'one list for each of the 3 levels'), (lambda: IoUClassSelector(tax, iou='x'), 'one list for each'),
        (lambda: IoUClassSelector(tax, iou=selector._params()['iou']), 'both iou and union'),
        (lambda: IoUClassSelector(tax, iou=[[1, 1], [1] * 3, ['a'] * 7], union=[[1, 1], [1] * 3, [1] * 7]), 'iou of level_3'),
        (lambda: get_selector(dict(__class__='IoUClassSelector', path='yes'), tax), 'path: IoUClassSelector takes bool')]:
        with pytest.raises(ValueError, match=message): call()
    assert 'iou' not in list_selectors() and 'iou' in list_selectors(unfitted=True) and get_selector('iou', tax).config == 'iou'


@pytest.mark.parametrize('path', [False, True])
@pytest.mark.parametrize('rare', [.2, .02])
def test_a_class_that_never_wins_does_not_take_the_background(rare, path):
    "Its IoU under the likeliest classes is 0, for which any pixel would be a gain."
    tax, g = Taxonomy(PERSON), torch.Generator().manual_seed(0)
    prior = torch.tensor([20, rare, 2, .6, 1, .8, .4])
    y = torch.multinomial(prior, 6 * 48 * 48, True, generator=g).view(6, 48, 48)
    z = torch.randn(6, 7, 48, 48, generator=g)
    z.scatter_add_(1, y.unsqueeze(1), torch.full_like(z[:, :1], 1.5))
    p = (z + prior.log().view(1, -1, 1, 1)).softmax(1)
    smart = LevelIoU(tax)
    smart.update(SmartClassSelector(tax).select(aggregate_probs(p, tax), log=False), y)
    assert smart.iou[-1][1] < .005
    selector, history = fit_iou_selector([(aggregate_probs(p, tax), y)], tax, path=path)
    count = LevelIoU(tax)
    count.update(selector.select(aggregate_probs(p, tax), log=False), y)
    assert all(np.mean(h) > np.mean(history[0]) + .02 for h in history[1:])
    assert all(after[0] > before[0] - .15 for before, after in zip(smart.iou, count.iou))
    assert min(abs(np.mean(a) - np.mean(b)) for a, b in zip(history[2:], history[3:])) < .002      # it settles


@given(trees(), st.integers(0, 1000))
def test_what_a_class_is_worth_alone_is_the_best_threshold(tree, seed):
    tax, g = Taxonomy(tree), torch.Generator().manual_seed(seed)
    p = (torch.randn(2, tax.n_leaves, 3, 4, generator=g, dtype=torch.float64) * 2).softmax(1)
    y = torch.randint(-1, tax.n_leaves, (2, 3, 4), generator=g)
    alone, paths = ProbabilityCounts(tax), leaf_paths(tax)
    levels = aggregate_probs(p, tax)
    alone.update(levels, torch.where(y < 0, -100, y))
    iou, union = alone.best()
    for l, k in enumerate(tax.n_classes):
        for c in range(k):
            own = np.array([v >= 0 and paths[v][l] == c for v in y.flatten().tolist()])
            bins, ok = np.minimum((levels[l][:, c].flatten().numpy() * 256).astype(int), 255), (y.flatten() >= 0).numpy()
            found = {t: (((bins >= t) & own).sum(), (((bins >= t) & ok) | own).sum()) for t in range(256)}
            assert iou[l][c] == pytest.approx(max(i / max(1, u) for i, u in found.values()))
            assert any(i == round(iou[l][c] * union[l][c]) and max(1, u) == union[l][c] for i, u in found.values())
