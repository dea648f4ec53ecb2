"The one-pass level cross-entropy, in C and in plain PyTorch, against the general form and brute force."
import contextlib
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from hierseg.decoding.heads import EmbeddingHead, LevelHeads, NodeHead
from hierseg.losses import kernel
from hierseg.losses import level_ce as module
from hierseg.losses.hierarchical import FlatLoss, HierarchicalLoss
from hierseg.losses.level_ce import leaf_weights, level_cross_entropy
from hierseg.losses.pixel import CELoss
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON, random_batch, trees

KERNELS = [False, True]
DEEP = {f'a{i}': {f'b{j}': {'c': {'d': {f'e{k}': 100 * i + 10 * j + k for k in range(4)}}} for j in range(4)} for i in range(4)}


class General(HierarchicalLoss, name=None):
    "The level loss by way of level log-probabilities."
    def _at_once(self, output, base=None):
        return False


@contextlib.contextmanager
def using(native):
    "With the kernel, where there is a compiler, or without it."
    if native and kernel.native_kernel() is None:
        pytest.skip('no C compiler here')
    before = module.can_run_native
    module.can_run_native = kernel.can_run_native if native else lambda z: False
    try:
        yield
    finally:
        module.can_run_native = before


def run(z, y, tax, native, up=None, **kwargs):
    "Level losses, and the gradient of their sum weighted by `up`."
    with using(native):
        z = z.detach().clone().requires_grad_()
        out = level_cross_entropy(z, y, tax, **kwargs)
        out.backward(torch.ones_like(out) if up is None else up)
        return out.detach(), z.grad


@given(trees(), st.integers(0, 1000), st.booleans(), st.sampled_from(['mean', 'sum', 'none']), st.sampled_from([0, 0.3, 1]),
       st.sampled_from([1, 30, 3000]), st.sampled_from(KERNELS))
def test_losses_and_gradient_of_the_general_form(tree, seed, weighted, reduction, void, scale, native):
    tax = Taxonomy(tree)
    z, y = random_batch(tax, seed, (2, 5, 7), void)
    z = z * scale
    g = torch.Generator().manual_seed(seed)
    w = [torch.rand(k, generator=g) for k in tax.n_classes] if weighted else None
    level_weights = (torch.rand(tax.n_levels, generator=g) + 0.1).tolist()
    general = General(tax, class_weights=w, level_weights=level_weights, reduction=reduction).double()
    z64 = z.double().requires_grad_()
    general(z64, y).sum().backward()
    want = torch.stack(general.level_losses(z64, y))
    up = torch.tensor(level_weights).view(-1, *[1] * (want.ndim - 1)).expand_as(want)
    out, grad = run(z, y, tax, native, up, weight=leaf_weights(tax, w), reduction=reduction)
    torch.testing.assert_close(out.double(), want.detach(), rtol=3e-5, atol=3e-5 * (70 if reduction == 'sum' else 1))
    torch.testing.assert_close(grad.double(), z64.grad, rtol=1e-4, atol=3e-6 * (70 if reduction == 'sum' else 1))


@given(trees(), st.integers(0, 1000), st.booleans())
def test_gradcheck(tree, seed, weighted):
    tax = Taxonomy(tree)
    z, y = random_batch(tax, seed, (2, 1, 2), dtype=torch.float64)
    w = leaf_weights(tax, [torch.rand(k) + 0.1 for k in tax.n_classes]) if weighted else None
    for reduction in ('mean', 'sum', 'none'):
        assert torch.autograd.gradcheck(lambda x: level_cross_entropy(x, y, tax, w, reduction), z.requires_grad_())


@pytest.mark.parametrize('native', KERNELS)
@pytest.mark.parametrize('dtype,tol', [(torch.float32, 1e-3), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_logits_of_1e4(native, dtype, tol):
    tax, y = Taxonomy(PERSON), torch.tensor([[[2, 0]]])
    z = torch.full((1, 7, 1, 2), -1e4)
    z[0, 0, 0, 0] = z[0, 5, 0, 1] = 1e4
    out, g = run(z.to(dtype), y, tax, native, reduction='sum')
    assert out.isfinite().all() and out.sum().item() == pytest.approx(12e4, rel=0.01) and g.dtype == dtype
    want = [3, -1 / 6 - 1 / 4, -1 / 6 - 1 / 4 - 1, -1 / 6, -1 / 6 - 1 / 4, -1 / 6, -1 / 6 - 1 / 4]
    torch.testing.assert_close(g[0, :, 0, 0].float(), torch.tensor(want), atol=tol, rtol=tol)
    torch.testing.assert_close(g[0, :, 0, 1].float(), torch.tensor([-3.0, 0, 0, 0, 0, 3, 0]), atol=tol, rtol=tol)


@pytest.mark.parametrize('native', KERNELS)
def test_a_diverged_network_does_not_look_sound(native):
    tax = Taxonomy(PERSON)
    for bad in (torch.nan, torch.inf):
        z, y = random_batch(tax, 1, void=0)
        z[1, 3, 2, 2] = bad
        out, _ = run(z, y, tax, native, reduction='none')
        assert not out[:, 1].isfinite().any() and out[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize('native', KERNELS)
def test_a_class_ruled_out_leaves_the_others_finite(native):
    tax = Taxonomy(PERSON)
    z, y = random_batch(tax, 2, void=0)
    z[:, 3] = -torch.inf
    y[y == 3] = 2
    out, g = run(z, y, tax, native)
    torch.testing.assert_close(out, torch.stack(General(tax).level_losses(z, y)))
    assert g.isfinite().all()


@pytest.mark.parametrize('native', KERNELS)
def test_void_autocast_views_threads_and_bad_targets(native):
    tax = Taxonomy(PERSON)
    z, y = random_batch(tax, 1, (3, 150, 151), 0.1)
    out, g = run(z, torch.full_like(y, -100), tax, native)
    assert not out.any() and not g.any()
    want, want_grad = run(z, y, tax, native)
    for other in (z.contiguous(memory_format=torch.channels_last), torch.cat([z, z], 1)[:, :7], z.transpose(2, 3).contiguous().transpose(2, 3)):
        out, g = run(other, y, tax, native)
        torch.testing.assert_close(out, want)
        torch.testing.assert_close(g, want_grad)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        out, g = run(z, y, tax, native)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(g, want_grad)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out, g = run(z.bfloat16(), y, tax, native)
    assert out.dtype == torch.float32 and g.dtype == torch.bfloat16
    torch.testing.assert_close(out, want, rtol=1e-2, atol=1e-2)
    for bad in (7, -1):
        with pytest.raises((IndexError, RuntimeError)):
            run(z, y.clone().fill_(bad), tax, native)
    out, g = run(z[:, :, 0, 0], y[:, 0, 0], tax, native, reduction='none')
    assert out.shape == (3, 3) and g.shape == (3, 7)


def test_retain_graph_and_a_deep_tree():
    tax = Taxonomy(DEEP)
    z, y = random_batch(tax, 3, (2, 9, 9), 0.1)
    want, want_grad = run(z, y, tax, False)
    out, g = run(z, y, tax, True)
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(g, want_grad)
    z.requires_grad_()
    loss = level_cross_entropy(z, y, tax).sum()
    a, = torch.autograd.grad(loss, z, retain_graph=True)
    b, = torch.autograd.grad(loss, z)
    assert torch.equal(a, b)


def test_falls_back_saying_so_once(monkeypatch, tmp_path):
    monkeypatch.setenv('CC', str(tmp_path / 'no-compiler'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('HIERSEG_NATIVE', raising=False)
    kernel.native_kernel.cache_clear()
    loss = HierarchicalLoss(Taxonomy(PERSON))
    z, y = random_batch(loss.taxonomy)
    try:
        with pytest.warns(UserWarning, match='plain PyTorch'):
            a = loss(z, y)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            b = loss(z, y)
            kernel.native_kernel.cache_clear()
            monkeypatch.setenv('HIERSEG_NATIVE', '0')
            c = loss(z, y)
        assert torch.equal(a, b) and torch.equal(a, c)
    finally:
        kernel.native_kernel.cache_clear()
    monkeypatch.undo()
    torch.testing.assert_close(a, loss(z, y))


@pytest.mark.parametrize('head', ['leaf', 'nodes', 'levels', EmbeddingHead])
def test_the_level_loss_takes_the_fast_way_where_it_is_the_same(head):
    tax = Taxonomy(PERSON)
    head = head(tax, 3) if isinstance(head, type) else head
    w = [torch.rand(k) + 0.1 for k in tax.n_classes]
    fast, general = (c(tax, level_weights=[1, 0, 2], class_weights=w, head=head) for c in (HierarchicalLoss, General))
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, fast.head.n_channels, 4, 5, generator=g)
    y = torch.randint(-1, 7, (2, 4, 5), generator=g)
    y[y < 0] = -100
    assert fast._at_once(z) == (not isinstance(fast.head, LevelHeads))
    grads = []
    for loss in (fast, general):
        x = z.clone().requires_grad_()
        loss(x, y).backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)
    assert fast.last_terms.keys() == general.last_terms.keys()
    for k, v in fast.last_terms.items():
        torch.testing.assert_close(v, general.last_terms[k])
    assert fast.state_dict().keys() == general.state_dict().keys()
    torch.testing.assert_close(fast.double()(z, y), general.double()(z, y))        # weights of another type than the logits


def test_other_bases_and_heads_go_the_general_way():
    tax = Taxonomy(PERSON)
    z = torch.zeros(1, 7, 1, 1)

    class Sharper(CELoss):
        pass

    class Tempered(NodeHead):
        def level_log_probs(self, output):
            return [o / 2 for o in super().level_log_probs(output)]
    assert HierarchicalLoss(tax)._at_once(z)
    assert not HierarchicalLoss(tax)._at_once(z.to('meta'))
    for loss in (HierarchicalLoss(tax, Sharper()), HierarchicalLoss(tax, ['ce', 'dice', 'ce']), HierarchicalLoss(tax, head=Tempered(tax))):
        assert not loss._at_once(z)


def test_one_level_is_flat_cross_entropy():
    tax = Taxonomy({'a': 0, 'b': 4, 'c': 2})
    z, y = random_batch(tax, 7)
    for native in KERNELS:
        out, g = run(z, y, tax, native)
        x = z.clone().requires_grad_()
        want = FlatLoss(tax)(x, y)
        want.backward()
        torch.testing.assert_close(out[0], want.detach())
        torch.testing.assert_close(g, x.grad)
    assert np.isfinite(out).all()


@given(trees(), st.integers(0, 1000), st.booleans(), st.sampled_from(['mean', 'sum', 'none']), st.sampled_from([0, 0.3, 1]),
       st.sampled_from([1, 3000]))
def test_focal_from_the_true_path_alone(tree, seed, weighted, reduction, void, scale):
    tax = Taxonomy(tree)
    z, y = random_batch(tax, seed, (2, 5, 7), void)
    z = (z * scale).double()
    w = [torch.rand(k) for k in tax.n_classes] if weighted else None
    kind = dict(base_loss='focal', class_weights=w, reduction=reduction)
    outs = []
    for make in (General, HierarchicalLoss):
        x = z.clone().requires_grad_()
        out = make(tax, **kind).double()(x, y)
        outs.append((out.detach(), torch.autograd.grad(out.sum(), x)[0]))
    for a, b in zip(*outs):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
