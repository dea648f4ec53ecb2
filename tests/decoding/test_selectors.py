"Heads and selectors against per-pixel loops over random trees."

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from hierseg.decoding.heads import EmbeddingHead, LeafHead, LevelHeads, NodeHead, get_head
from hierseg.decoding.selectors import (
    MinCostClassSelector,
    Selector,
    SimpleClassSelector,
    SmartClassSelector,
    get_selector,
    lift_prediction,
    list_selectors,
)
from hierseg.taxonomy.tree import Taxonomy
from hierseg.taxonomy.tensors import aggregate_log_probs, aggregate_probs
from strategies import CITYSCAPES, PERSON, STREET, leaf_paths, trees

CONSISTENT = ['simple', 'topdown', 'mincost', 'bestpath']


def brute_levels(p, paths, tax):
    "Probabilities of every level for one pixel."
    levels = [np.zeros(k) for k in tax.n_classes]
    for leaf, path in enumerate(paths):
        for l, c in enumerate(path):
            levels[l][c] += p[leaf]
    return levels


def brute(rule, p, paths, tax):
    "One pixel's classes by the words of the rule."
    levels = brute_levels(p, paths, tax)
    if rule == 'smart':
        return [int(np.argmax(q)) for q in levels]
    if rule == 'topdown':
        path = []
        for l in range(tax.n_levels):
            allowed = {q[l] for q in paths if q[:l] == path}
            path.append(max(sorted(allowed), key=lambda c: levels[l][c]))
        return path
    score = {
        'simple': lambda k: p[k],
        'mincost': lambda k: -sum(p[j] * sum(a != b for a, b in zip(paths[j], paths[k])) for j in range(len(p))),
        'bestpath': lambda k: np.prod([levels[l][c] for l, c in enumerate(paths[k])]),
    }[rule]
    return paths[max(range(len(p)), key=score)]


@given(trees(), st.integers(0, 1000), st.booleans())
def test_selectors_against_loops(tree, seed, log):
    tax = Taxonomy(tree)
    g = torch.Generator().manual_seed(seed)
    out = torch.randn(2, tax.n_leaves, 2, 3, generator=g, dtype=torch.float64) * 2
    probs, paths = out.softmax(1), leaf_paths(tax)
    levels = [o.log() if log else o for o in aggregate_probs(probs, tax)]
    for rule in ('simple', 'smart', 'topdown', 'mincost', 'bestpath'):
        sel = get_selector(rule, tax)
        want = np.array(
            [
                [[brute(rule, probs[b, :, i, j].numpy(), paths, tax) for j in range(3)] for i in range(2)]
                for b in range(2)
            ]
        )
        for got in (sel(out), sel.select(levels), sel.decode(probs)):
            assert [tuple(o.shape) for o in got] == [(2, 2, 3)] * tax.n_levels and all(
                o.dtype == torch.int64 for o in got
            )
            assert (np.stack([o.numpy() for o in got], -1) == want).all(), rule


@given(trees(), st.integers(0, 1000))
def test_consistency_and_agreement(tree, seed):
    tax = Taxonomy(tree)
    out = torch.randn(1, tax.n_leaves, 8, 8, generator=torch.Generator().manual_seed(seed)).round(decimals=1)  # ties
    for rule in CONSISTENT:
        assert get_selector(rule, tax).consistent
        levels = get_selector(rule, tax)(out)
        for l in range(1, tax.n_levels):
            assert (torch.tensor(tax.parents[l])[levels[l]] == levels[l - 1]).all()
    simple, smart = SimpleClassSelector(tax)(out), SmartClassSelector(tax)(out)
    assert (simple[-1] == smart[-1]).all()
    assert (simple[-1].numpy() == out.numpy().argmax(1)).all()  # the lowest class of a tie


@given(trees(), st.integers(0, 1000))
def test_lifting_a_prediction(tree, seed):
    tax = Taxonomy(tree)
    leaf = torch.randint(0, tax.n_leaves, (2, 3, 4), generator=torch.Generator().manual_seed(seed))
    paths = leaf_paths(tax)
    for l, m in enumerate(lift_prediction(leaf, tax)):
        assert m.flatten().tolist() == [paths[k][l] for k in leaf.flatten().tolist()]


@given(trees(), st.integers(0, 1000))
def test_levels_and_their_gradients_against_autograd(tree, seed):
    tax = Taxonomy(tree)
    z = torch.randn(2, tax.n_leaves, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 5
    grads = []
    for f in (LeafHead(tax).level_log_probs, lambda x: aggregate_log_probs(x.log_softmax(1), tax)):
        x = z.clone().requires_grad_()
        levels = f(x)
        sum((o * torch.linspace(-1, 2, o.numel(), dtype=o.dtype).view(o.shape)).sum() for o in levels).backward()
        grads.append([*[o.detach() for o in levels], x.grad])
    torch.testing.assert_close(*grads)


def test_a_class_ruled_out_with_minus_infinity_leaves_the_gradient_finite():
    tax = Taxonomy(PERSON)
    z = torch.randn(1, 7, 2, 2)
    z[:, [3, 5]] = -torch.inf  # the whole lower body
    z.requires_grad_()
    levels = LeafHead(tax).level_log_probs(z)
    (levels[0].sum() + levels[1][:, :2].sum()).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_head_is_finite_and_precise_at_extremes(dtype):
    tax = Taxonomy(PERSON)
    out = torch.tensor([1e4, -1e4, 0, 1e4, 3, -2, 1]).to(dtype).view(1, 7, 1, 1)
    for level in LeafHead(tax).level_log_probs(out):
        assert level.dtype == torch.float32 and level.isfinite().all()
        assert level.exp().sum() == pytest.approx(1, abs=1e-5)
    assert LeafHead(tax).leaf_log_probs(out.double()).dtype == torch.float64


@given(trees(), st.integers(0, 1000))
def test_node_head_takes_the_weakest_node_of_each_path(tree, seed):
    tax = Taxonomy(tree)
    z = torch.randn(1, tax.n_nodes, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    s = z.sigmoid().flatten().numpy()
    for rule, f in (('min', np.min), ('mean', np.mean)):
        score = np.array([f(s[tax.ancestors[k]]) for k in range(tax.n_leaves)])
        np.testing.assert_allclose(
            NodeHead(tax, rule).leaf_log_probs(z).exp().flatten(), score / score.sum(), rtol=1e-9
        )


def test_level_heads_and_embedding_head():
    tax = Taxonomy(STREET)
    head = LevelHeads(tax)
    out = torch.randn(2, head.n_channels, 3, 3)
    for logp, part, k in zip(head.level_log_probs(out), torch.split(out, tax.n_classes, 1), tax.n_classes):
        torch.testing.assert_close(logp, part.log_softmax(1))
    smart = SmartClassSelector(tax, head)
    for a, b in zip(smart(out), smart.decode(head.activation(out))):
        assert (a == b).all()
    simple = SimpleClassSelector(tax, head)
    assert (simple(out)[-1] == smart(out)[-1]).all() and (
        simple.decode(head.activation(out))[-1] == smart(out)[-1]
    ).all()
    emb = EmbeddingHead(tax, 5)
    out = torch.randn(2, emb.n_channels, 3, 3)
    torch.testing.assert_close(emb.embedding(out).norm(dim=1), torch.ones(2, 3, 3))
    torch.testing.assert_close(emb.leaf_log_probs(out), out[:, : tax.n_leaves].log_softmax(1))


def test_min_cost_with_its_own_costs():
    tax = Taxonomy(CITYSCAPES)
    p = torch.rand(2, 19, 4, 4, dtype=torch.float64).softmax(1)
    cost = np.random.default_rng(0).random((19, 19)) * 5
    want = (p.numpy().transpose(0, 2, 3, 1) @ cost.astype(np.float32)).argmin(-1)
    sel = MinCostClassSelector(tax, cost=cost)
    assert (sel.select(aggregate_probs(p, tax), log=False)[-1].numpy() == want).all()
    again = get_selector(sel.config, tax)
    assert (again.cost == sel.cost).all() and again.config == sel.config
    for bad in ([[1, 2]], np.full((19, 19), np.inf)):
        with pytest.raises(ValueError, match='19 × 19'):
            MinCostClassSelector(tax, cost=bad)


@pytest.mark.parametrize('name', list_selectors())
def test_one_level_one_pixel_empty_batch_and_pickle(name):
    flat, tax = Taxonomy({'a': 3, 'b': 1, 'c': 8}), Taxonomy(PERSON)
    out = torch.randn(2, 3, 1, 1)
    got = get_selector(name, flat)(out)
    assert len(got) == 1 and (got[0].numpy() == out.numpy().argmax(1)).all()
    assert [tuple(o.shape) for o in get_selector(name, tax)(torch.zeros(0, 7, 4, 4))] == [(0, 4, 4)] * 3
    sel, out = get_selector(name, tax), torch.randn(1, 7, 4, 4)
    for a, b in zip(pickle.loads(pickle.dumps(sel))(out), sel(out)):
        assert (a == b).all()


def test_registry():
    tax, other = Taxonomy(PERSON), Taxonomy(STREET)
    assert get_selector('SmartClassSelector', tax).config == 'smart'
    assert get_selector(SimpleClassSelector, tax, 'levels').head.n_channels == 12
    sel = SimpleClassSelector(tax)
    assert (
        get_selector(sel, Taxonomy(PERSON)) is sel
        and get_selector(sel, tax, 'nodes').head.config == 'nodes'
        and sel.head.config == 'leaf'
    )
    for bad in ('clever', 3, None, {'__class__': 'Clever'}):
        with pytest.raises(ValueError, match='simple, smart'):
            get_selector(bad, tax)
    with pytest.raises(ValueError, match='another taxonomy'):
        get_selector(sel, other)
    with pytest.raises(ValueError, match='known are leaf, nodes'):
        get_head('trunk', tax)
    with pytest.raises(ValueError, match=r'needs \(B, 7, H, W\)'):
        sel(torch.zeros(1, 10, 2, 2))
    with pytest.raises(ValueError, match=r'\[2, 3, 7\]'):
        SmartClassSelector(tax).select([torch.zeros(1, 7, 2, 2)])

    class Last(Selector, name='last'):
        def select(self, levels, log=None):
            return [torch.full_like(o[:, 0], o.shape[1] - 1, dtype=torch.int64) for o in levels]

    try:
        assert [o.item() for o in get_selector('last', tax)(torch.zeros(1, 7, 1, 1))] == [1, 2, 6]
    finally:
        from hierseg.decoding.selectors import SELECTORS

        SELECTORS.remove('last')
