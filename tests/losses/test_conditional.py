"One softmax a family, steps down the tree, and cross-entropy with Dice, against products, loops and closed forms."
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, strategies as st

from hierseg.decoding.heads import ConditionalHead
from hierseg.decoding.selectors import get_selector, list_selectors
from hierseg.losses.conditional import ConditionalLoss
from hierseg.losses.factory import get_loss, loss_from_config
from hierseg.losses.hierarchical import FlatLoss, HierarchicalLoss
from hierseg.losses.pixel import CEDiceLoss, CELoss, DiceLoss
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON, STREET, inputs, leaf_paths, trees


def chances(tax, z):
    "(n_nodes,) probability of each node of one pixel: products of softmaxes over siblings."
    out = np.zeros(tax.n_nodes)
    for v in sorted(range(tax.n_nodes), key=lambda v: tax.node_depth[v]):
        siblings = [u for u in range(tax.n_nodes) if tax.node_parent[u] == tax.node_parent[v]]
        given = np.exp(z[v]) / np.exp(z[siblings]).sum()
        out[v] = given * (out[tax.node_parent[v]] if tax.node_parent[v] >= 0 else 1)
    return out


@given(trees(), st.integers(0, 1000))
def test_conditional_head_is_the_product_along_the_path(tree, seed):
    tax = Taxonomy(tree)
    head = ConditionalHead(tax)
    z = torch.randn(1, tax.n_nodes, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    levels = head.level_log_probs(z)
    for i, j in np.ndindex(2, 2):
        p = chances(tax, z[0, :, i, j].numpy())
        for l, nodes in enumerate(tax.level_nodes):
            np.testing.assert_allclose(levels[l][0, :, i, j].exp(), p[nodes], rtol=1e-9)
    for level in levels: torch.testing.assert_close(level.exp().sum(1), torch.ones(1, 2, 2, dtype=torch.float64))
    torch.testing.assert_close(head.level_probs(head.activation(z))[0], levels[0].exp())
    for rule in list_selectors():
        assert len(get_selector(rule, tax, head)(z)) == tax.n_levels


def test_conditional_head_at_the_extremes():
    tax = Taxonomy(PERSON)
    z = torch.tensor([1e4, -1e4, 0, 1e4, 3, -2, 1, -1e4, 1e4, 5]).half().view(1, 10, 1, 1).requires_grad_()
    levels = ConditionalHead(tax).level_log_probs(z)
    sum(o.sum() for o in levels).backward()
    assert all(o.dtype == torch.float32 and o.isfinite().all() for o in levels) and z.grad.isfinite().all()
    with pytest.raises(ValueError, match=r'ConditionalHead needs \(B, 10, H, W\)'): ConditionalHead(tax).leaf_log_probs(torch.zeros(1, 7, 1, 1))


@given(trees(), st.integers(0, 1000), st.sampled_from(['leaf', 'conditional', 'nodes']), st.sampled_from(['mean', 'sum', 'none']))
def test_weights_of_one_are_flat_cross_entropy_and_others_the_level_loss(tree, seed, head, reduction):
    tax = Taxonomy(tree)
    loss = ConditionalLoss(tax, head=head, reduction=reduction)
    z, y = inputs(loss, seed)
    flat = FlatLoss(tax, head=head, reduction=reduction)
    torch.testing.assert_close(loss(z, y), flat(z, y))
    grads = []
    for one in (loss, flat):
        x = z.clone().requires_grad_()
        one(x, y).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)
    w = np.random.default_rng(seed).random(tax.n_levels) + .1
    steps = ConditionalLoss(tax, w[::-1].cumsum()[::-1].tolist(), head=head, reduction=reduction)     # λ_j = Σ_{l ≥ j} w_l
    torch.testing.assert_close(steps(z, y), HierarchicalLoss(tax, level_weights=w.tolist(), head=head, reduction=reduction)(z, y))


@given(trees(), st.integers(0, 1000), st.sampled_from(['mean', 'sum', 'none']))
def test_balanced_against_loops(tree, seed, reduction):
    tax = Taxonomy(tree)
    w = (np.random.default_rng(seed).random(tax.n_levels) + .1).tolist()
    loss = ConditionalLoss(tax, w, balanced=True, reduction=reduction)
    z, y = inputs(loss, seed)
    paths = leaf_paths(tax)
    def one(z, y):
        total = 0
        for l in range(tax.n_levels):
            costs = {}
            for b, i, j in np.argwhere(y.numpy() >= 0):
                leaf = int(y[b, i, j])
                if tax.node_depth[leaf] <= l: continue
                p = chances(tax, z[b, :, i, j].numpy())
                node = tax.level_nodes[l][paths[leaf][l]]
                parent = tax.node_parent[node]
                costs.setdefault(int(parent), []).append(-np.log(p[node] / (p[parent] if parent >= 0 else 1)))
            if costs: total += w[l] * np.mean([np.mean(c) for c in costs.values()])
        return total
    each = np.array([one(z[b:b + 1], y[b:b + 1]) for b in range(2)])
    want = {'mean': one(z, y), 'none': each, 'sum': (each * (y >= 0).flatten(1).sum(1).numpy()).sum()}[reduction]
    np.testing.assert_allclose(loss(z, y).numpy(), want, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize('balanced', [False, True])
@pytest.mark.parametrize('tree', [PERSON, STREET])
def test_contracts_of_the_conditional_loss(tree, balanced):
    tax = Taxonomy(tree)
    loss = ConditionalLoss(tax, [1, 2, 3], balanced)
    z, y = inputs(loss, 1)
    assert torch.autograd.gradcheck(lambda x: loss(x, y), z.clone().requires_grad_())
    for loss.reduction in ('mean', 'sum', 'none'):
        x = z.clone().requires_grad_()
        empty = loss(x, torch.full_like(y, -100))
        empty.sum().backward()
        assert (empty == 0).all() and (x.grad == 0).all()
    loss.reduction = 'mean'
    x = z.clone().requires_grad_()
    loss(x, y).backward()
    assert (x.grad.movedim(1, -1)[y < 0] == 0).all()
    assert list(loss.last_terms) == [f'step_{n}' for n in tax.level_names]
    for again in (loss_from_config(yaml.safe_load(yaml.safe_dump(loss.config)), tax), pickle.loads(pickle.dumps(loss))):
        assert again(z, y) == loss(z, y) and again.config == loss.config
    far = (z.sign() * 1e4).half().requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16): value = loss(far, y)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and far.grad.isfinite().all()


def test_a_coarse_step_leaves_the_families_below_alone():
    tax = Taxonomy(PERSON)
    loss = ConditionalLoss(tax, [1, 0, 0])
    z, y = inputs(loss, 2, void=0)
    z.requires_grad_()
    loss(z, y).backward()
    moved = z.grad.abs().amax((0, 2, 3)) > 0
    assert [tax.node_names[v] for v in range(tax.n_nodes) if moved[v]] == ['bg', 'body']


@pytest.mark.parametrize('per_image', [False, True])
def test_ce_dice_is_their_sum_flat_and_by_level(per_image):
    tax = Taxonomy(PERSON)
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(3, 7, 5, 6, generator=g, dtype=torch.float64), torch.randint(0, 7, (3, 5, 6), generator=g)
    y[0, :2] = -100
    weights = [torch.rand(k, generator=g) + .1 for k in tax.n_classes]
    for w in (None, weights):
        for reduction in ('mean', 'sum', 'none'):
            base = CEDiceLoss(per_image=per_image)
            for kind, args in ((FlatLoss, w and w[-1]), (HierarchicalLoss, w)):
                got, ce, dice = (kind(tax, b, class_weights=args, reduction=reduction)(z, y) for b in (base, CELoss(), DiceLoss(per_image=per_image)))
                torch.testing.assert_close(got, ce + dice)
    flat, level = get_loss('ce_dice', tax), get_loss('hierarchical', tax, 'ce_dice')
    torch.testing.assert_close(flat(z, y), F.cross_entropy(z, y) + FlatLoss(tax, 'dice')(z, y))
    assert flat.config['base_loss'] == level.config['base_loss'] == 'ce_dice'
    loss = FlatLoss(tax, CEDiceLoss(ce=.5, dice=2, smooth=1., per_image=True), class_weights=weights[-1])
    for again in (loss_from_config(yaml.safe_load(yaml.safe_dump(loss.config)), tax), pickle.loads(pickle.dumps(loss))):
        assert again(z, y) == loss(z, y) and again.config == loss.config
    assert torch.autograd.gradcheck(lambda x: level(x, y), z.clone().requires_grad_())
    with pytest.raises(ValueError, match='neither may be negative'): CEDiceLoss(ce=-1)
