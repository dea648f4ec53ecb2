"Losses from papers against the authors' values and plain loops over random trees."

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, strategies as st

from hierseg.losses.factory import list_losses
from hierseg.losses.hierarchical import FlatLoss, HierarchicalLoss
from hierseg.losses.factory import get_loss, loss_from_config
from hierseg.losses.published import (
    BoundaryLoss,
    ConsistencyLoss,
    DistanceMaps,
    FocalTreeMinLoss,
    HXELoss,
    SoftLabelsLoss,
    TotalVariationLoss,
    TreeMinLoss,
    TreeTripletLoss,
    distance_maps,
)
from hierseg.decoding.heads import EmbeddingHead
from hierseg.taxonomy.tree import Taxonomy
from strategies import CITYSCAPES, PERSON, STREET, inputs, leaf_paths, logits_of, mask_of, trees, wave

NAMES = ['treemin', 'focal_treemin', 'tree_triplet', 'hxe', 'soft_labels', 'consistency', 'tv', 'boundary']
Y19 = (torch.arange(40) % 19).reshape(2, 4, 5)


# --- the authors' values ---


def test_reference_values():
    tax = Taxonomy(CITYSCAPES)
    z = wave(2, 26, 4, 5).float()
    assert 5 * TreeMinLoss(tax)(z, Y19).item() == pytest.approx(15.686979, rel=1e-6)
    assert 5 * FocalTreeMinLoss(tax)(z, Y19).item() == pytest.approx(12.347407, rel=1e-6)
    emb = F.normalize(wave(2, 8, 4, 5).float(), dim=1)
    triplet = TreeTripletLoss(tax, margin=0.6, head=EmbeddingHead(tax, 8))
    assert triplet(torch.cat([torch.zeros(2, 19, 4, 5), emb], 1), Y19).item() == pytest.approx(0.667672, rel=1e-5)
    z, y = wave(8, 19).float().view(8, 19, 1, 1), (2 * torch.arange(8) % 19).view(8, 1, 1)
    assert HXELoss(tax, 0)(z, y).item() == pytest.approx(4.222511, rel=1e-6)
    assert HXELoss(tax, 0.1)(z, y).item() == pytest.approx(3.718364, rel=1e-6)


# --- loops ---


@given(trees(), st.integers(0, 1000), st.sampled_from([0.0, 2.0]))
def test_tree_min_against_loops(tree, seed, gamma):
    tax = Taxonomy(tree)
    loss = FocalTreeMinLoss(tax, gamma)
    z, y = inputs(loss, seed, (2, 2, 2))
    s, total, n = z.sigmoid().numpy(), 0, 0
    for b, i, j in np.ndindex(*y.shape):
        if y[b, i, j] < 0:
            continue
        n += 1
        for d in range(1, tax.n_levels + 1):
            nodes, part = np.flatnonzero(tax.node_depth == d), 0
            for v in nodes:
                if tax.ancestors[y[b, i, j], v]:
                    p = min(s[b, u, i, j] for u in np.flatnonzero(tax.ancestors[v]))
                    part -= (1 - p) ** gamma * np.log(p)
                else:
                    p = max(s[b, u, i, j] for u in np.flatnonzero(tax.ancestors[:, v]))
                    part -= p**gamma * np.log(1 - p)
            total += part / len(nodes)
    assert loss(z, y).item() == pytest.approx(total / max(n, 1), rel=1e-9)


@given(trees(), st.integers(0, 1000), st.sampled_from([0, 0.1, 2.0]))
def test_hxe_against_the_sum_over_the_path(tree, seed, alpha):
    tax = Taxonomy(tree)
    loss = HXELoss(tax, alpha)
    z, y = inputs(loss, seed, (2, 2, 2))
    p, total, n = z.softmax(1).numpy(), 0, 0
    for b, i, j in np.ndindex(*y.shape):
        if y[b, i, j] < 0:
            continue
        n, parent = n + 1, 1.0
        for v in sorted(np.flatnonzero(tax.ancestors[y[b, i, j]]), key=lambda v: tax.node_depth[v]):
            pv = p[b, np.flatnonzero(tax.ancestors[: tax.n_leaves, v]), i, j].sum()
            total, parent = total - np.exp(-alpha * tax.node_depth[v]) * np.log(pv / parent), pv
    assert loss(z, y).item() == pytest.approx(total / max(n, 1), rel=1e-9)


@given(trees(), st.integers(0, 1000), st.sampled_from([0.0, 4.0, 30.0]))
def test_soft_labels_against_the_full_target(tree, seed, beta):
    tax = Taxonomy(tree)
    loss = SoftLabelsLoss(tax, beta)
    z, y = inputs(loss, seed)
    q = np.exp(-beta * tax.distance / tax.distance.max())
    q = torch.tensor(q / q.sum(1, keepdims=True))
    np.testing.assert_allclose(loss.targets, q)
    want = -(q[y.clamp(0)].movedim(-1, 1) * z.log_softmax(1)).sum(1)[y >= 0].sum() / max(1, (y >= 0).sum())
    torch.testing.assert_close(loss(z, y), want)


def spread(pool, n, most):
    "The first n of a small pool, n spread evenly over one that holds more than are used."
    return pool[:n] if len(pool) <= most else [pool[i * len(pool) // n] for i in range(n)]


@given(trees(), st.integers(0, 1000))
def test_tree_triplet_against_loops(tree, seed):
    tax, most = Taxonomy(tree), 3
    loss = TreeTripletLoss(tax, max_triplets=most, head=EmbeddingHead(tax, 4))
    z, y = inputs(loss, seed, (2, 3, 5))
    e = F.normalize(z[:, tax.n_leaves :], dim=1).movedim(1, -1).reshape(-1, 4).numpy()
    at = [[i for i, c in enumerate(y.flatten().tolist()) if c == k] for k in range(tax.n_leaves)]
    used = {i: k for k in range(tax.n_leaves) if k != tax.bg_index for i in spread(at[k], min(len(at[k]), most), most)}
    parts = []
    for a in range(tax.n_leaves):
        for h in range(1, tax.n_levels):
            anchors = [i for i in sorted(used) if used[i] == a]
            pos = [i for i in sorted(used) if 0 < tax.distance[a, used[i]] <= h]
            neg = [i for i in sorted(used) if tax.distance[a, used[i]] > h]
            n = min(most, len(anchors), len(pos), len(neg))
            if not n:
                continue
            trip = zip(*(spread(pool, n, most) for pool in (anchors, pos, neg)))
            parts.append(np.mean([max(0, e[i] @ e[k] - e[i] @ e[j] + 0.1 + 1 / tax.n_levels) for i, j, k in trip]))
    assert loss(z, y).item() == pytest.approx(np.mean(parts) if parts else 0, abs=1e-12)


def test_tree_triplet_leaves_background_out_and_looks_at_the_whole_batch():
    "Background once carried nearly all of the weight, and every triplet lay in the first image."
    tax = Taxonomy(PERSON)
    loss = TreeTripletLoss(tax, margin=0.6, head=EmbeddingHead(tax, 2))
    g = torch.Generator().manual_seed(0)
    y = torch.where(torch.rand(4, 64, 64, generator=g) < 0.9, 0, torch.randint(1, 7, (4, 64, 64), generator=g))
    same = torch.stack([y == 0, y > 0], 1).double()
    assert loss(torch.cat([torch.zeros(4, 7, 64, 64), same], 1), y).item() == pytest.approx(0.6)
    at, weight = loss.triplets(y.flatten())
    assert (y.flatten()[torch.tensor(at)] > 0).all() and weight.sum() == pytest.approx(1)
    assert all(set(row // 64**2) == {0, 1, 2, 3} for row in at)
    a, p, n = y.flatten()[torch.tensor(at)].numpy()
    assert (tax.distance[a, p] == 1).all() and (tax.distance[a, n] > 1).all()


@given(trees(), st.integers(0, 1000), st.sampled_from([0.0, 2.0]))
def test_tree_min_with_shallow_leaves_on_every_level(tree, seed, gamma):
    tax = Taxonomy(tree)
    loss = FocalTreeMinLoss(tax, gamma, repeat=True)
    z, y = inputs(loss, seed, (1, 2, 2))
    s, total, n = z.sigmoid().numpy(), 0, int((y >= 0).sum())
    for i, j in np.argwhere(y[0].numpy() >= 0):
        for nodes in tax.level_nodes:
            part = 0
            for v in nodes:
                true = tax.ancestors[y[0, i, j], v]
                near = np.flatnonzero(tax.ancestors[v]) if true else np.flatnonzero(tax.ancestors[:, v])
                p = min(s[0, near, i, j]) if true else 1 - max(s[0, near, i, j])
                part -= (1 - p) ** gamma * np.log(p)
            total += part / len(nodes)
    assert loss(z, y).item() == pytest.approx(total / max(n, 1), rel=1e-9)
    again = loss_from_config(yaml.safe_load(yaml.safe_dump(loss.config)), tax)
    assert again(z, y) == loss(z, y) and again.repeat


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('name', NAMES)
def test_half_precision_logits_of_1e4_give_finite_gradients(name, reduction):
    tax = Taxonomy(PERSON)
    loss = get_loss(name, tax)
    loss.reduction = reduction
    z, y = inputs(loss, 7, (2, 4, 5), dtype=torch.float32)
    z = (z.sign() * 1e4).half().requires_grad_()
    for cast in (False, True):
        with torch.autocast('cpu', dtype=torch.float16, enabled=cast):
            value = loss(z, y)
        value.sum().backward()
        assert value.dtype == torch.float32 and value.isfinite().all() and z.grad.isfinite().all()


@given(trees(), st.integers(0, 1000))
def test_consistency_is_a_divergence_and_zero_when_levels_agree(tree, seed):
    tax = Taxonomy(tree)
    loss = ConsistencyLoss(tax)
    z, y = inputs(loss, seed)
    parts, paths = z.split(tax.n_classes, 1), leaf_paths(tax)
    total = 0
    for l in range(tax.n_levels - 1):
        p, fine = parts[l].softmax(1), parts[l + 1].softmax(1)
        q = torch.stack(
            [
                fine[:, [k for k in range(tax.n_classes[l + 1]) if tax.parents[l + 1][k] == c]].sum(1)
                for c in range(tax.n_classes[l])
            ],
            1,
        )
        gap = (0.5 * (p - q) * (p.log() - q.log())).sum(1)
        total = total + gap[y >= 0].sum() / max(1, (y >= 0).sum())
    torch.testing.assert_close(loss(z, y), torch.as_tensor(total, dtype=torch.float64))
    leaf = torch.randn(2, tax.n_leaves, 3, 4, dtype=torch.float64).softmax(1)
    agree = torch.cat(
        [
            torch.stack([leaf[:, [k for k in range(tax.n_leaves) if paths[k][l] == c]].sum(1) for c in range(n)], 1)
            for l, n in enumerate(tax.n_classes)
        ],
        1,
    )
    assert loss(agree.log(), y).item() == pytest.approx(0, abs=1e-9)


@given(
    st.integers(0, 1000), st.sampled_from([(2, 3, 4), (1, 1, 1), (2, 1, 5)]), st.sampled_from(['mean', 'sum', 'none'])
)
def test_total_variation_against_loops(seed, shape, reduction):
    tax = Taxonomy(STREET)
    loss = TotalVariationLoss(tax, level_weights=[1, 0, 3], reduction=reduction)
    z, y = inputs(loss, seed, shape)
    leaf, paths, num, den = z.softmax(1).numpy(), leaf_paths(tax), np.zeros(shape[0]), np.zeros(shape[0])
    for b, i, j in np.ndindex(*shape):
        for u, v in ((i + 1, j), (i, j + 1)):
            if u >= shape[1] or v >= shape[2] or y[b, i, j] < 0 or y[b, u, v] < 0:
                continue
            den[b] += 1
            for l, w in ((0, 1), (2, 3)):
                for c in range(tax.n_classes[l]):
                    under = [k for k in range(tax.n_leaves) if paths[k][l] == c]
                    num[b] += w * 0.5 * abs(leaf[b, under, i, j].sum() - leaf[b, under, u, v].sum())
    want = {'sum': num.sum(), 'mean': num.sum() / max(1, den.sum()), 'none': num / np.maximum(den, 1)}[reduction]
    np.testing.assert_allclose(loss(z, y).numpy(), want, rtol=1e-9, atol=1e-12)


@given(trees(), st.integers(0, 1000))
def test_distance_maps_against_loops(tree, seed):
    tax = Taxonomy(tree)
    rng = np.random.default_rng(seed)
    mask = rng.integers(-1, tax.n_leaves, (4, 5))
    mask[mask < 0] = -100
    maps, paths, at = distance_maps(mask, tax), leaf_paths(tax), 0
    pixels = [q for q in np.ndindex(4, 5) if mask[q] >= 0]
    for l, k in enumerate(tax.n_classes):
        for c in range(k):
            inside = [q for q in pixels if paths[mask[q]][l] == c]
            outside = [q for q in pixels if paths[mask[q]][l] != c]
            for q in np.ndindex(4, 5):
                want = 0.0
                if q in pixels and inside and outside and c != tax.bg_index:
                    dist = lambda group: min(np.hypot(q[0] - a, q[1] - b) for a, b in group)
                    want = 1 - dist(outside) if q in inside else dist(inside)
                assert maps[at][q] == pytest.approx(want, abs=1e-6)
            at += 1
    assert at == len(maps)


def test_boundary_loss_is_the_mean_of_probability_times_distance():
    tax = Taxonomy(PERSON)
    loss = BoundaryLoss(tax)
    z, y = inputs(loss, 3, (2, 6, 6))
    maps = torch.tensor(np.stack([distance_maps(m, tax) for m in y.numpy()]))
    want, at = 0, 0
    for log_p, k in zip(loss.head.level_log_probs(z), tax.n_classes):
        cost = (log_p.exp() * maps[:, at : at + k]).sum(1) / (k - 1)
        want, at = want + cost[y >= 0].mean(), at + k
    torch.testing.assert_close(loss(z, y), want)
    torch.testing.assert_close(loss(z, y, maps), want)
    torch.testing.assert_close(loss(z, y, maps.half()), want, rtol=1e-3, atol=1e-3)


# --- what every loss must do ---


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('tree', [PERSON, STREET])
def test_void_gradcheck_reductions_config(name, tree):
    tax = Taxonomy(tree)
    head = EmbeddingHead(tax, 3) if name == 'tree_triplet' else None
    loss = get_loss(name, tax, head=head)
    z, y = inputs(loss, 1)
    before = y.clone()
    assert torch.autograd.gradcheck(lambda x: loss(x, y), z.clone().requires_grad_())
    x = z.clone().requires_grad_()
    loss(x, y).backward()
    assert (x.grad.movedim(1, -1)[y < 0] == 0).all() and (x.grad != 0).any() and (y == before).all()
    for loss.reduction in ('mean', 'sum', 'none'):
        value = loss(z, y)
        assert value.shape == ((2,) if loss.reduction == 'none' else ()) and value.dtype == torch.float64
        x = z.clone().requires_grad_()
        empty = loss(x, torch.full_like(y, -100))
        empty.sum().backward()
        assert (empty == 0).all() and (x.grad == 0).all()
        one = torch.stack([get_loss(name, tax, head=head)(z[i : i + 1], y[i : i + 1]) for i in range(2)])
        if loss.reduction == 'none':
            torch.testing.assert_close(value, one)
    loss.reduction = 'mean'
    assert sum(loss.last_terms.values()) is not None
    for again in (loss_from_config(yaml.safe_load(yaml.safe_dump(loss.config)), tax), pickle.loads(pickle.dumps(loss))):
        assert again(z, y) == loss(z, y) and again.config == loss.config and again.head.config == loss.head.config
    assert loss(z[:, :, :1, :1], y[:, :1, :1]).isfinite()
    flat = get_loss(name, Taxonomy({'a': 0, 'b': 1}))  # one level
    assert flat(*inputs(flat)).isfinite()


@pytest.mark.parametrize('name', NAMES)
def test_autocast_and_extremes_are_finite(name):
    tax = Taxonomy(PERSON)
    loss = get_loss(name, tax)
    z, y = inputs(loss, 2, dtype=torch.float32)
    z = (z.sign() * 1e4).half().requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(z, y)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and z.grad.isfinite().all()


@pytest.mark.parametrize('make', [TreeMinLoss, FocalTreeMinLoss, HXELoss, SoftLabelsLoss])
def test_a_wrong_logit_of_1e4_keeps_its_gradient(make):
    tax = Taxonomy(PERSON)
    loss = make(tax)
    y = torch.tensor([[[2]]])  # a torso, seen as background
    z = torch.full((1, loss.head.n_channels, 1, 1), -1e4)
    z[0, 0] = 1e4
    z.requires_grad_()
    loss(z, y).backward()
    assert z.grad[0, 0] > 0.1 and z.grad[0, 2] < -0.05


def test_tree_min_gradient_goes_to_the_weakest_ancestor_and_loudest_descendant():
    tax = Taxonomy({'bg': 0, 'body': {'arm': 1, 'leg': 2}})
    z = torch.tensor([-3.0, 2, -1, -1.5]).view(1, 4, 1, 1).requires_grad_()  # bg, arm, leg, body
    TreeMinLoss(tax)(z, torch.tensor([[[1]]])).backward()
    s = torch.tensor([-3.0, 2, -1, -1.5]).sigmoid()
    want = [s[0] / 2, 0, s[2] / 2, (s[3] - 1) / 2 + (s[3] - 1) / 2]  # the arm's term is body's too
    torch.testing.assert_close(z.grad.flatten(), torch.stack([torch.as_tensor(o) for o in want]))


def test_sums_share_the_head_that_a_term_needs():
    tax = Taxonomy(PERSON)
    both = (
        FlatLoss(tax)
        + 0.5 * TreeTripletLoss(tax, head=EmbeddingHead(tax, 4))
        + 0.1 * TotalVariationLoss()
        + 0.01 * BoundaryLoss()
    )
    assert both.head.n_channels == 11 and all(l.head.n_channels == 11 for l in both.losses)
    z, y = inputs(both, 5)
    parts = [
        FlatLoss(tax)(z[:, :7], y),
        0.5 * both.losses[1](z, y),
        0.1 * TotalVariationLoss(tax)(z[:, :7], y),
        0.01 * BoundaryLoss(tax)(z[:, :7], y),
    ]
    torch.testing.assert_close(both(z, y), sum(parts))
    assert sum(both.last_terms.values()).item() == pytest.approx(both(z, y).item())
    again = loss_from_config(yaml.safe_load(yaml.safe_dump(both.config)), tax)
    assert again.config == both.config and again(z, y) == both(z, y)
    with pytest.raises(ValueError, match='needs a NodeHead, not a EmbeddingHead'):
        both + TreeMinLoss(tax)
    with pytest.raises(ValueError, match='has no taxonomy yet'):
        TotalVariationLoss()(z, y)
    assert get_loss(TotalVariationLoss(), tax).taxonomy == tax


def test_bad_input():
    tax = Taxonomy(PERSON)
    assert set(NAMES) <= set(list_losses())
    for call, message in [
        (lambda: TreeMinLoss(tax, head='leaf'), 'needs a NodeHead'),
        (lambda: FocalTreeMinLoss(tax, -1), 'negative'),
        (lambda: HXELoss(tax, -1), 'negative'),
        (lambda: SoftLabelsLoss(tax, float('nan')), 'beta is nan'),
        (lambda: TreeTripletLoss(tax, max_triplets=0), 'at least 1'),
        (lambda: TotalVariationLoss(tax, [1]), 'give 3 numbers'),
        (lambda: TreeMinLoss(tax)(torch.zeros(1, 7, 2, 2), torch.zeros(1, 2, 2).long()), r'needs \(B, 10, H, W\)'),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


# --- distance maps in the loader ---


def test_distance_maps_in_a_learner():
    from fastai.data.core import Datasets
    from fastai.learner import Learner
    import fastai.callback.progress  # noqa: F401
    from hierseg.metrics.columns import miou_metrics

    tax = Taxonomy(PERSON)
    dls = Datasets(range(8), [[logits_of], [mask_of]], splits=[range(8), range(8)]).dataloaders(
        bs=4, num_workers=0, device='cpu'
    )
    DistanceMaps(tax).attach(DistanceMaps(tax).attach(dls))
    batch = dls.train.one_batch()
    assert len(batch) == 3 and batch[2].shape == (4, 12, 8, 8) and len(dls.valid.one_batch()) == 2
    np.testing.assert_allclose(batch[2][0], distance_maps(batch[1][0].numpy(), tax), rtol=1e-3)
    loss = HierarchicalLoss(tax) + 0.01 * BoundaryLoss()
    learn = Learner(dls, torch.nn.Conv2d(7, 7, 1), loss_func=loss, metrics=miou_metrics(tax))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        assert learn.get_preds()[1].shape == (8, 8, 8)
    assert 'boundary_level_1' in loss.last_terms
