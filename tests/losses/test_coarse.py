"Pixels of which only an inner node is known: the losses against enumeration of the leaves that they may be."
import pickle

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, strategies as st

from hierseg.losses.conditional import ConditionalLoss
from hierseg.losses.factory import get_loss, loss_from_config
from hierseg.losses.hierarchical import FlatLoss, HierarchicalLoss
from hierseg.losses.marginal import MarginalLoss
from hierseg.losses.published import distance_maps
from hierseg.taxonomy.tensors import decompose_mask
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON, trees

NAMES = ['hierarchical', 'flat', 'marginal', 'conditional', 'treemin', 'tree_triplet', 'hxe', 'soft_labels', 'consistency', 'tv', 'boundary']


def with_coarse(tree):
    "The tree with an id for every inner node."
    plain = Taxonomy(tree)
    inner = range(plain.n_leaves, plain.n_nodes)
    return Taxonomy(tree, coarse={'/'.join(plain.node_paths[n]): 1000 + n for n in inner}), plain


def inputs(loss, seed=0, shape=(2, 3, 4), void=0.2):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(shape[0], loss.head.n_channels, *shape[1:], generator=g, dtype=torch.float64) * 2
    y = torch.randint(0, loss.taxonomy.n_codes, shape, generator=g)
    y[torch.rand(shape, generator=g) < void] = -100
    return z, y


@given(trees(), st.integers(0, 1000), st.sampled_from(['leaf', 'conditional', 'nodes']), st.sampled_from(['mean', 'sum', 'none']), st.booleans())
def test_marginal_loss_sums_over_the_leaves_that_a_pixel_may_be(tree, seed, head, reduction, weighted):
    tax, _ = with_coarse(tree)
    rng = np.random.default_rng(seed)
    w = [rng.random(k) + .1 for k in tax.n_classes] if weighted else None
    loss = MarginalLoss(tax, w, head=head, reduction=reduction)
    z, y = inputs(loss, seed)
    p = loss.head.leaf_log_probs(z).exp().numpy()
    num, den = np.zeros(2), np.zeros(2)
    for b, i, j in np.argwhere(y.numpy() >= 0):
        node = int(y[b, i, j])
        leaves = [k for k in range(tax.n_leaves) if tax.ancestors[k, node]]
        levels = [o[b, i, j].item() for o in decompose_mask(y, tax)]
        finest = max(l for l, c in enumerate(levels) if c >= 0)
        weight = np.float32(w[finest][levels[finest]]) if weighted else 1
        num[b] -= weight * np.log(sum(p[b, k, i, j] for k in leaves))
        den[b] += weight
    want = {'sum': num.sum(), 'none': num / np.maximum(den, 1e-300) * (den > 0), 'mean': num.sum() / max(den.sum(), 1e-300)}[reduction]
    np.testing.assert_allclose(loss(z, y).numpy(), want, rtol=1e-7, atol=1e-12)


@given(trees(), st.integers(0, 1000))
def test_with_known_leaves_all_is_as_without_coarse_ids(tree, seed):
    tax, plain = with_coarse(tree)
    for name in ('hierarchical', 'flat', 'conditional', 'treemin', 'hxe', 'soft_labels', 'tv', 'boundary'):
        loss, old = get_loss(name, tax), get_loss(name, plain)
        z, y = inputs(old, seed)
        torch.testing.assert_close(loss(z, y), old(z, y))
    z, y = inputs(FlatLoss(plain), seed)
    torch.testing.assert_close(MarginalLoss(tax)(z, y), FlatLoss(plain)(z, y))


@given(trees(), st.integers(0, 1000))
def test_level_and_flat_losses_use_what_is_known(tree, seed):
    tax, plain = with_coarse(tree)
    z, y = inputs(HierarchicalLoss(tax), seed)
    levels = decompose_mask(y, tax)
    torch.testing.assert_close(FlatLoss(tax)(z, y), FlatLoss(plain)(z, levels[-1]))
    for l, got in enumerate(HierarchicalLoss(tax).level_losses(z, y)):
        log_p = HierarchicalLoss(tax).head.level_log_probs(z)[l]
        ok = levels[l] >= 0
        want = -log_p.gather(1, levels[l].clamp(0)[:, None])[:, 0][ok].sum() / max(1, int(ok.sum()))
        torch.testing.assert_close(got, want)


def test_conditional_steps_that_are_known():
    tax, _ = with_coarse(PERSON)
    loss = ConditionalLoss(tax)
    y = torch.tensor([[[tax.node_names.index('upper_body'), tax.node_names.index('body'), tax.vocab.index('torso')]]])
    z = torch.randn(1, tax.n_nodes, 1, 3, requires_grad=True)
    loss(z, y).backward()
    cond = [o.detach() for o in loss.head.level_log_probs(z)]
    a, b, c = (o[0, :, 0] for o in cond)
    up, torso = tax.lift[1][2], 2
    want = dict(step_level_1=-a[1].mean(), step_level_2=-(b[up, [0, 2]] - a[1, [0, 2]]).mean(), step_level_3=-(c[torso, 2] - b[up, 2]))
    for k, v in want.items(): torch.testing.assert_close(loss.last_terms[k], v)
    lower = [tax.node_names.index(n) for n in ('low_leg', 'up_leg')]
    assert (z.grad[0, lower] == 0).all() and (z.grad[0, :7, 0, :2] == 0).sum() == 2 * 6      # only bg, of the leaves


@pytest.mark.parametrize('name', NAMES)
def test_every_loss_takes_coarse_pixels(name):
    tax, _ = with_coarse(PERSON)
    for reduction in ('mean', 'sum', 'none'):
        loss = get_loss(name, tax, reduction=reduction)
        z, y = inputs(loss, 3, (2, 5, 6))
        x = z.clone().requires_grad_()
        value = loss(x, y)
        value.sum().backward()
        assert value.isfinite().all() and x.grad.isfinite().all() and (x.grad != 0).any()
        only = torch.full_like(y, tax.n_nodes - 1)                          # coarse throughout
        assert loss(z, only).isfinite().all()
        for again in (loss_from_config(yaml.safe_load(yaml.safe_dump(loss.config)), tax), pickle.loads(pickle.dumps(loss))):
            again.reduction = reduction
            assert again(z, y).equal(loss(z, y))
    if name in ('hierarchical', 'marginal', 'conditional', 'hxe'):
        loss.reduction = 'mean'
        assert torch.autograd.gradcheck(lambda x: loss(x, y), z.clone().requires_grad_())


def test_distance_maps_know_nothing_below_a_coarse_pixel():
    tax, plain = with_coarse(PERSON)
    mask = np.zeros((8, 8), np.int64)
    mask[2:6, 1:4] = 2
    mask[2:6, 4:7] = tax.node_names.index('upper_body')
    maps, fine = distance_maps(mask, tax), distance_maps(np.where(mask > 6, 2, mask), plain)
    np.testing.assert_array_equal(maps[:5], fine[:5])                       # body and its halves are known throughout
    assert (maps[5:, mask > 6] == 0).all() and (maps[5 + 2, mask == 2] <= 0).all()


def test_coarse_labels_teach_more_than_their_absence():
    "A linear model on noisy features: a tenth of the pixels has parts, the others only body or background."
    tax, _ = with_coarse({'bg': 0, 'body': {'arm': 1, 'leg': 2}})
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 6, generator=g) * .8
    y = torch.randint(0, 3, (4, 30, 30), generator=g)
    x = (centres[y] + torch.randn(4, 30, 30, 6, generator=g)).movedim(-1, 1)
    test_y = torch.randint(0, 3, (4, 60, 60), generator=g)
    test_x = (centres[test_y] + torch.randn(4, 60, 60, 6, generator=g)).movedim(-1, 1)
    known = torch.rand(y.shape, generator=g) < .01
    coarse = torch.where(known | (y == 0), y, 3)                            # 3 is the body
    scores = {}
    for name, loss, mask in (('dropped', FlatLoss(tax), torch.where(known, y, -100)), ('marginal', MarginalLoss(tax), coarse)):
        torch.manual_seed(0)
        model = torch.nn.Conv2d(6, 3, 1)
        opt = torch.optim.LBFGS(model.parameters(), max_iter=60)
        def step():
            opt.zero_grad()
            value = loss(model(x), mask)
            value.backward()
            return value
        opt.step(step)
        scores[name] = HierarchicalLoss(tax)(model(test_x), test_y).item()
    assert scores['marginal'] < scores['dropped'] - .02
