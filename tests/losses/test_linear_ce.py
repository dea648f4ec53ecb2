"The last convolution inside the loss: the same numbers as without, and never more logits than a piece holds."
import copy

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from hierseg.losses import kernel
from hierseg.losses import linear_ce as module
from hierseg.losses.factory import get_loss
from hierseg.losses.hierarchical import HierarchicalLoss
from hierseg.losses.level_ce import leaf_weights, level_cross_entropy
from hierseg.losses.linear_ce import fuse_last_conv, linear_level_cross_entropy
from hierseg.models.segnet import SegNet
from hierseg.models.unet import UNet
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON, trees

TAX = Taxonomy(PERSON)


@pytest.fixture(params=[True, False])
def native(request, monkeypatch):
    if request.param and kernel.native_kernel() is None:
        pytest.skip('no C compiler here')
    if not request.param:
        monkeypatch.setattr(module, 'can_run_native', lambda z: False)
    return request.param


def batch(tax, seed, shape=(2, 5, 9, 11), void=.2):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g)
    y = torch.randint(0, tax.n_leaves, (shape[0], *shape[2:]), generator=g)
    y[torch.rand(y.shape, generator=g) < void] = -100
    k, b = torch.randn(tax.n_leaves, shape[1], 1, 1, generator=g), torch.randn(tax.n_leaves, generator=g)
    return [o.requires_grad_() for o in (x, k, b)], y


def both(args, y, tax, **how):
    "Losses of levels and gradients, by way of logits and without them."
    x, k, b = args
    for out in (level_cross_entropy(nn.functional.conv2d(x, k, b), y, tax, **how),
                linear_level_cross_entropy(x, k, b, y, tax, **how)):
        yield [out.detach(), *torch.autograd.grad((out * torch.rand(out.shape, generator=torch.Generator().manual_seed(1))).sum(), args)]


@given(trees(), st.integers(0, 1000), st.sampled_from(['mean', 'sum', 'none']), st.booleans(), st.sampled_from([0, .3, 1]))
def test_losses_and_gradients_of_the_logits(tree, seed, reduction, weighted, void):
    tax = Taxonomy(tree)
    args, y = batch(tax, seed, void=void)
    w = leaf_weights(tax, [torch.rand(k) for k in tax.n_classes]) if weighted else None
    for a, b in zip(*both(args, y, tax, reduction=reduction, weight=w)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_pieces_add_up(native, monkeypatch):
    args, y = batch(TAX, 0, (2, 5, 40, 50))
    monkeypatch.setattr(module, '_PIECE', 7)            # 256 pixels a piece, the least
    for a, b in zip(*both(args, y, TAX)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_double_gradcheck():
    (x, k, b), y = batch(TAX, 1, (2, 3, 3, 4))
    args = [o.detach().double().requires_grad_() for o in (x, k, b)]
    for reduction in ('mean', 'sum', 'none'):
        assert torch.autograd.gradcheck(lambda *a: linear_level_cross_entropy(*a, y, TAX, reduction=reduction), args)
    assert torch.autograd.gradcheck(lambda x, k: linear_level_cross_entropy(x, k, None, y, TAX), args[:2])


def test_very_sure_and_very_wrong_half_precision_and_void(native):
    x = torch.full((1, 1, 1, 1), 1e4, requires_grad=True)
    k, y = torch.tensor([1., -1, -1, -1, -1, -1, -1]).view(7, 1), torch.tensor([[[2]]])
    loss = linear_level_cross_entropy(x, k, None, y, TAX)
    loss.sum().backward()
    torch.testing.assert_close(loss, level_cross_entropy(k.view(1, 7, 1, 1) * 1e4, y, TAX))
    assert x.grad.isfinite().all() and x.grad.item() != 0
    (x, k, b), y = batch(TAX, 2)
    with torch.autocast('cpu', torch.bfloat16):
        half = linear_level_cross_entropy(x.bfloat16(), k, b, y, TAX)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, linear_level_cross_entropy(x.bfloat16().float(), k, b, y, TAX))
    nothing = linear_level_cross_entropy(x, k, b, torch.full_like(y, -100), TAX)
    assert (nothing == 0).all() and all((g == 0).all() for g in torch.autograd.grad(nothing.sum(), (x, k, b)))


@pytest.mark.parametrize('n', [40, 4000])
def test_logits_at_a_time_do_not_grow_with_the_leaves(n, monkeypatch):
    tax, seen, real = Taxonomy({f'g{i}': {f'l{j}': 20 * i + j for j in range(20)} for i in range(n // 20)}), [], module.pieces

    def watched(*args):
        for piece in real(*args):
            seen.append(piece[2].numel())
            yield piece
    monkeypatch.setattr(module, 'pieces', watched)
    monkeypatch.setattr(module, '_PIECE', 1 << 18)
    (x, k, b), y = batch(tax, 0, (2, 4, 30, 30))
    linear_level_cross_entropy(x, k, b, y, tax).sum().backward()
    assert max(seen) <= max(1 << 18, 256 * n) and sum(seen) == 2 * 2 * 900 * n


MODELS = [lambda: UNet(3, 7, [4, 6], 6, block_depth=1), lambda: SegNet(3, 7, [4, 6], block_depth=1),
          lambda: UNet(3, 7, [4, 6], 6, block_depth=1).to(memory_format=torch.channels_last)]


@pytest.mark.parametrize('make', MODELS)
@pytest.mark.parametrize('size', [16, 19])
def test_a_step_of_training_is_the_same(make, size):
    torch.manual_seed(0)
    plain, loss = make(), HierarchicalLoss(TAX, class_weights=[torch.rand(k) for k in TAX.n_classes], level_weights=[1, 0, 2])
    fused, own = copy.deepcopy(plain), copy.deepcopy(loss)
    fuse_last_conv(fused, own)
    assert fused.training and list(fused.state_dict()) == list(plain.state_dict())
    assert not list(own.parameters()) and own.config == loss.config and fused.config == plain.config
    x, y = torch.rand(2, 3, size, size), torch.randint(0, 7, (2, size, size))
    outs = [f(m(x), y) for m, f in ((plain, loss), (fused, own))]
    torch.testing.assert_close(*outs)
    assert loss.last_terms.keys() == own.last_terms.keys()
    for out in outs:
        out.backward()
    for a, b in zip(plain.parameters(), fused.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)
    for m in (plain, fused):
        m.eval()
    assert torch.equal(plain(x), fused(x)) and torch.equal(loss(plain(x), y), own(fused(x), y))


def test_what_cannot_be_fused_says_why():
    net = UNet(3, 7, [4], 4, block_depth=1)
    for loss in (get_loss('flat', TAX), get_loss('hierarchical', TAX, 'dice'), get_loss('hierarchical', TAX) + get_loss('flat', TAX)):
        with pytest.raises(ValueError, match='only HierarchicalLoss'):
            fuse_last_conv(net, loss)
    loss = HierarchicalLoss(TAX)
    for model, why in ((nn.Conv2d(3, 7, 3), 'its last convolution is Conv2d'), (nn.Conv2d(3, 6, 1), 'with 7 channels'),
                       (nn.Sequential(nn.Conv2d(3, 7, 1), nn.ReLU()), 'something follows')):
        with pytest.raises(ValueError, match=why):
            fuse_last_conv(model, loss)
    fuse_last_conv(net, loss)
    net.train()
    with pytest.raises(ValueError, match=r'was left to the loss, which needs \(B, 4, H, W\)'):
        loss(torch.rand(2, 7, 8, 8), torch.zeros(2, 8, 8).long())
