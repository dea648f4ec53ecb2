"Level and base losses against reference values, brute force and closed forms."

import copy
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, strategies as st
from torch import nn

from hierseg.losses.factory import list_losses
from hierseg.losses.pixel import CELoss, DiceLoss, FocalLoss
from hierseg.losses.class_weights import class_weights_from_counts
from hierseg.losses.hierarchical import FlatLoss, HierarchicalLoss
from hierseg.losses.factory import get_loss, loss_from_config
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON, STREET, leaf_paths, random_batch, trees, wave

FACES = {
    'background': 0,
    'foreground': {
        'hair': 1,
        'face': {
            'mouth': {'m1': 2, 'm2': 3, 'm3': 4},
            'skin': {'s1': 5, 's2': 6},
            'eyes': {'e1': 7, 'e2': 8},
            'brows': {'b1': 9, 'b2': 10},
        },
    },
}
BASES = ['ce', 'dice', 'focal']


batch = partial(random_batch, dtype=torch.float64)


def test_reference_value_of_muller_and_smith():
    tax = Taxonomy(FACES)
    z, y = wave(2, 11, 4, 5).float(), (torch.arange(40) % 11).reshape(2, 4, 5)
    loss = HierarchicalLoss(tax)
    assert [o.item() for o in loss.level_losses(z, y)] == pytest.approx(
        [0.503095, 0.827951, 2.722991, 4.011770], rel=1e-5
    )
    assert loss(z, y).item() == pytest.approx(8.065807, rel=1e-6)
    assert {k: v.item() for k, v in loss.last_terms.items()} == pytest.approx(
        dict(level_1=0.503095, level_2=0.827951, level_3=2.722991, level_4=4.011770), rel=1e-5
    )


def brute_level_ce(z, y, tax, weights, reduction):
    "Sum over levels of weighted cross-entropy, pixel by pixel in NumPy."
    paths, z, y = leaf_paths(tax), z.detach().numpy(), y.numpy()
    per_image = []
    for l in range(tax.n_levels):
        num, den = np.zeros(len(y)), np.zeros(len(y))
        for b, i, j in np.ndindex(*y.shape):
            if y[b, i, j] < 0:
                continue
            p = np.exp(z[b, :, i, j] - z[b, :, i, j].max())
            p /= p.sum()
            c = paths[y[b, i, j]][l]
            w = 1 if weights is None else weights[l][c]
            num[b] -= w * np.log(sum(p[k] for k in range(tax.n_leaves) if paths[k][l] == c))
            den[b] += w
        per_image.append((num, den))
    if reduction == 'sum':
        return sum(n.sum() for n, _ in per_image)
    div = lambda a, b: np.divide(a, b, out=np.zeros_like(a), where=b > 0)
    if reduction == 'none':
        return sum(div(n, d) for n, d in per_image)
    return sum(float(div(n.sum(), d.sum())) for n, d in per_image)


@given(
    trees(), st.integers(0, 1000), st.booleans(), st.sampled_from(['mean', 'sum', 'none']), st.sampled_from([0, 0.3, 1])
)
def test_level_ce_against_brute_force(tree, seed, weighted, reduction, void):
    tax = Taxonomy(tree)
    z, y = batch(tax, seed, (2, 2, 3), void)
    rng = np.random.default_rng(seed)
    weights = [rng.random(k).astype(np.float32) for k in tax.n_classes] if weighted else None
    got = HierarchicalLoss(tax, class_weights=weights, reduction=reduction)(z, y)
    np.testing.assert_allclose(got.numpy(), brute_level_ce(z, y, tax, weights, reduction), rtol=1e-6, atol=1e-12)


@given(trees(), st.integers(0, 1000))
def test_gradient_is_p_minus_conditional(tree, seed):
    tax = Taxonomy(tree)
    z, y = batch(tax, seed, (2, 2, 2), 0.2)
    z.requires_grad_()
    HierarchicalLoss(tax, reduction='sum')(z, y).backward()
    p, want, paths = z.detach().softmax(1), torch.zeros_like(z), torch.tensor(leaf_paths(tax))
    for b, i, j in np.ndindex(*y.shape):
        if y[b, i, j] < 0:
            continue
        for l in range(tax.n_levels):
            under = (paths[:, l] == paths[y[b, i, j], l]).double()
            q = p[b, :, i, j]
            want[b, :, i, j] += q - q * under / (q * under).sum()
    torch.testing.assert_close(z.grad, want)


@pytest.mark.parametrize('dtype,tol', [(torch.float32, 1e-3), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_flat_and_level_gradients_at_1e4(dtype, tol):
    tax = Taxonomy(PERSON)
    y = torch.tensor([[[2, 0]]])
    z = torch.full((1, 7, 1, 2), -1e4)
    z[0, 0, 0, 0] = 1e4  # a torso called background
    z[0, 5, 0, 1] = 1e4  # a background called upper leg
    z = z.to(dtype).requires_grad_()
    loss = FlatLoss(tax, reduction='sum')(z, y)
    loss.backward()
    want = z.detach().float().softmax(1) - F.one_hot(y, 7).movedim(-1, 1)
    assert loss.isfinite() and loss.item() == pytest.approx(4e4, rel=0.01)
    torch.testing.assert_close(z.grad.float(), want, atol=tol, rtol=tol)
    z.grad = None
    loss = HierarchicalLoss(tax, reduction='sum')(z, y)
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()
    torch.testing.assert_close(
        z.grad[0, :, 0, 0].float(),
        torch.tensor([3, -1 / 6 - 0, -1 / 6 - 1 / 4 - 1, -1 / 6, -1 / 6 - 1 / 4, -1 / 6, -1 / 6 - 1 / 4])
        - torch.tensor([0, 1 / 4, 0, 0, 0, 0, 0]),
        atol=tol,
        rtol=tol,
    )
    torch.testing.assert_close(z.grad[0, :, 0, 1].float(), torch.tensor([-3.0, 0, 0, 0, 0, 3, 0]), atol=tol, rtol=tol)


def test_focal_keeps_its_gradient_at_1e4():
    tax = Taxonomy(PERSON)
    z = torch.full((1, 7, 1, 1), -1e4)
    z[0, 0] = 1e4
    for gamma in (0.5, 2):
        x = z.clone().requires_grad_()
        HierarchicalLoss(tax, FocalLoss(gamma=gamma))(x, torch.tensor([[[2]]])).backward()
        assert x.grad[0, 0].item() == pytest.approx(3, rel=1e-3)
        x = z.clone().requires_grad_()  # and no nan where all is right
        HierarchicalLoss(tax, FocalLoss(gamma=gamma))(x, torch.tensor([[[0]]])).backward()
        assert (x.grad == 0).all()


@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize('weighted', [False, True])
def test_gradcheck_in_float64(base, weighted):
    tax = Taxonomy(STREET)
    z, y = batch(tax, 1, (2, 2, 2))
    w = [torch.rand(k) + 0.1 for k in tax.n_classes] if weighted else None
    for reduction in ('mean', 'none'):
        loss = HierarchicalLoss(tax, base, class_weights=w, reduction=reduction)
        assert loss(z, y).dtype == torch.float64
        assert torch.autograd.gradcheck(lambda x: loss(x, y), z.clone().requires_grad_())


@pytest.mark.parametrize('base', [*BASES, nn.CrossEntropyLoss, partial(nn.CrossEntropyLoss, label_smoothing=0.1)])
@pytest.mark.parametrize('kind', [HierarchicalLoss, FlatLoss])
def test_void(base, kind):
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 3)
    z.requires_grad_()
    loss, before = kind(tax, base), y.clone()
    for loss.reduction in ('mean', 'sum', 'none'):
        value = loss(z, torch.full_like(y, -100))
        assert (value == 0).all() and (torch.autograd.grad(value.sum(), z)[0] == 0).all()
    loss.reduction = 'mean'
    (g,) = torch.autograd.grad(loss(z, y), z)
    assert (g.movedim(1, -1)[y == -100] == 0).all() and (y == before).all()
    scrambled = torch.where((y == -100).unsqueeze(1), torch.randn_like(z), z)
    torch.testing.assert_close(loss(scrambled, y), loss(z, y))


@pytest.mark.parametrize('base', BASES)
def test_reductions_agree(base):
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 4, void=0)
    loss = HierarchicalLoss(tax, base, reduction='none')
    each = loss(z, y)
    assert each.shape == (3,)
    torch.testing.assert_close(
        each, torch.stack([HierarchicalLoss(tax, base)(z[i : i + 1], y[i : i + 1]) for i in range(3)])
    )
    if base != 'dice':
        torch.testing.assert_close(HierarchicalLoss(tax, base)(z, y), each.mean())  # images of equal size, no void
    torch.testing.assert_close(
        HierarchicalLoss(tax, DiceLoss(per_image=True))(z, y),
        HierarchicalLoss(tax, 'dice', reduction='none')(z, y).mean(),
    )
    with pytest.raises(ValueError, match='known are mean'):
        loss.reduction = 'median'


def test_ce_follows_torch_and_dice_and_focal_their_formulas():
    z, y = batch(Taxonomy(STREET), 5)
    w = torch.rand(z.shape[1]) + 0.1
    torch.testing.assert_close(CELoss(w)(z, y), F.cross_entropy(z, y, w.double()))
    torch.testing.assert_close(FocalLoss(w, gamma=0)(z, y), F.cross_entropy(z, y, w.double()))
    p, valid, t = z.softmax(1).numpy(), (y >= 0).numpy(), y.numpy()
    py = np.take_along_axis(p, t.clip(0)[:, None], 1)[:, 0]
    assert FocalLoss(gamma=3)(z, y).item() == pytest.approx((-((1 - py) ** 3) * np.log(py))[valid].mean())
    dice = [
        2 * p[:, c][t == c].sum() / (p[:, c][valid].sum() + (t == c).sum()) for c in range(z.shape[1]) if (t == c).any()
    ]
    assert DiceLoss()(z, y).item() == pytest.approx(1 - np.mean(dice))
    only = torch.where(y == 1, y, -100)  # classes that are nowhere take no part
    assert DiceLoss()(z, only).item() == pytest.approx(
        1 - 2 * p[:, 1][t == 1].sum() / (p[:, 1][t == 1].sum() + (t == 1).sum())
    )
    sure = F.one_hot(y.clamp(0), z.shape[1]).movedim(-1, 1) * 1e3
    for loss in (CELoss(), DiceLoss(), FocalLoss()):
        assert loss(sure.double(), y).item() == pytest.approx(0, abs=1e-9)


def test_dice_against_segmentation_models_pytorch():
    smp = pytest.importorskip('segmentation_models_pytorch')
    z, y = batch(Taxonomy(PERSON), 6, (2, 16, 16), void=0)
    theirs = smp.losses.DiceLoss('multiclass', smooth=0.0)
    assert DiceLoss()(z, y).item() == pytest.approx(theirs(z, y).item(), rel=1e-5)
    tax = Taxonomy(PERSON)
    mine = HierarchicalLoss(tax, 'dice')
    assert HierarchicalLoss(tax, partial(smp.losses.DiceLoss, 'multiclass'))(z, y).item() == pytest.approx(
        mine(z, y).item(), rel=1e-5
    )


def test_one_level_tree_is_flat_and_one_pixel_works():
    tax = Taxonomy({'a': 0, 'b': 4, 'c': 2})
    z, y = batch(tax, 7, (1, 1, 1), void=0)
    for base in BASES:
        torch.testing.assert_close(HierarchicalLoss(tax, base)(z, y), FlatLoss(tax, base)(z, y))
    torch.testing.assert_close(FlatLoss(tax)(z, y), F.cross_entropy(z, y))


def test_level_weights_bases_and_terms():
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 8)
    each = [HierarchicalLoss(tax, b).level_losses(z, y)[l] for l, b in enumerate(BASES)]
    loss = HierarchicalLoss(tax, BASES, level_weights=[0.5, 1, 3])
    torch.testing.assert_close(loss(z, y), 0.5 * each[0] + each[1] + 3 * each[2])
    assert list(loss.last_terms) == tax.level_names and not any(v.requires_grad for v in loss.last_terms.values())
    torch.testing.assert_close(HierarchicalLoss(tax, level_weights=[0, 0, 2])(z, y), 2 * FlatLoss(tax)(z, y))


def test_autocast_integers_and_fastai_types():
    from fastai.torch_core import TensorImage, TensorMask

    tax = Taxonomy(PERSON)
    z, y = batch(tax, 9, dtype=torch.float32)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        for base in BASES:
            assert HierarchicalLoss(tax, base)(z.bfloat16(), y).dtype == torch.float32
    want = HierarchicalLoss(tax)(z, y)
    got = HierarchicalLoss(tax)(TensorImage(z), TensorMask(y))
    assert type(got) is torch.Tensor and got == want
    assert HierarchicalLoss(tax)(z, y.int()) == want


def test_sum_of_losses():
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 10)
    both = HierarchicalLoss(tax) + 0.5 * FlatLoss(tax, 'dice') * 2
    torch.testing.assert_close(both(z, y), HierarchicalLoss(tax)(z, y) + FlatLoss(tax, 'dice')(z, y))
    assert list(both.last_terms) == ['level_1', 'level_2', 'level_3', 'FlatLoss_level_3']
    both.reduction = 'none'
    assert both(z, y).shape == (3,)
    both.reduction, both.selector = 'mean', 'smart'
    again = loss_from_config(yaml.safe_load(yaml.safe_dump(both.config)), tax)
    assert again.config == both.config and again.selector.config == 'smart' and again(z, y) == both(z, y)


@pytest.mark.parametrize(
    'make',
    [
        HierarchicalLoss,
        FlatLoss,
        partial(HierarchicalLoss, base_loss=['ce', 'dice', FocalLoss(gamma=1)], level_weights=[1, 2, 3]),
        partial(HierarchicalLoss, class_weights=[None, [1, 2, 3], None], selector='smart', head='levels'),
        partial(FlatLoss, base_loss='focal', class_weights=[1] * 7),
    ],
)
def test_config_pickle_and_copy(make):
    tax = Taxonomy(PERSON)
    loss = make(tax)
    z = torch.randn(2, loss.head.n_channels, 3, 3)
    y = torch.randint(0, 7, (2, 3, 3))
    for again in (
        loss_from_config(yaml.safe_load(yaml.safe_dump(loss.config)), tax),
        pickle.loads(pickle.dumps(loss)),
        copy.deepcopy(loss),
    ):
        assert again(z, y) == loss(z, y) and again.config == loss.config and type(again.selector) is type(loss.selector)


def test_activation_and_decodes():
    pytest.importorskip('hierseg.data')
    tax = Taxonomy(PERSON)
    z, _ = batch(tax, 11)
    for loss in (HierarchicalLoss(tax), FlatLoss(tax)):
        p = loss.activation(z)
        torch.testing.assert_close(p, z.softmax(1))
        for name in ('simple', 'smart'):
            loss.selector = name
            got = loss.decodes(p)
            assert got.shape == (3, 3, 4, 5) and type(got).__name__ == 'TensorHierLevels'
            for a, b in zip(got.unbind(1), loss.selector(z)):
                assert (a == b).all()


def test_class_weights_from_counts():
    tax = Taxonomy(PERSON)
    n = np.array([8000, 150, 1200, 400, 300, 700, 250.0])
    w = class_weights_from_counts(n, tax)
    np.testing.assert_allclose(w[2], n.sum() / (7 * n), rtol=1e-6)
    np.testing.assert_allclose(w[0], 11000 / (2 * np.array([8000, 3000])), rtol=1e-6)
    np.testing.assert_allclose(
        class_weights_from_counts(n, tax, 'sqrt_inverse')[2], np.sqrt(n.sum() / (7 * n)), rtol=1e-6
    )
    np.testing.assert_allclose(class_weights_from_counts(n, tax, 'median')[2], 400 / n, rtol=1e-6)
    eff = (1 - 0.999) / (1 - 0.999**n)
    np.testing.assert_allclose(
        class_weights_from_counts(n, tax, 'effective', beta=0.999)[2], eff * n.sum() / (eff * n).sum(), rtol=1e-5
    )
    images = np.array(
        [[10, 5, 0, 0, 0, 0, 1], [10, 0, 10, 1, 1, 1, 1]]
    )  # Eigen & Fergus: only images that hold the class
    freq = images.sum(0) / np.array([40, 16, 24, 24, 24, 24, 40])
    np.testing.assert_allclose(class_weights_from_counts(images, tax, 'median')[2], np.median(freq) / freq, rtol=1e-6)
    n[1] = 0
    for scheme in ('inverse', 'sqrt_inverse', 'median', 'effective'):
        with pytest.warns(UserWarning, match='low_hand'):
            w = class_weights_from_counts(n, tax, scheme)
        assert w[2][1] == 0 and all(o.isfinite().all() for o in w) and [len(o) for o in w] == tax.n_classes
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        class_weights_from_counts(np.ones(7), tax)
    for bad in ([1, 2], np.zeros(7), -np.ones(7)):
        with pytest.raises(ValueError, match='each of the 7 leaves'):
            class_weights_from_counts(bad, tax)
    with pytest.raises(ValueError, match='known are inverse'):
        class_weights_from_counts(np.ones(7), tax, 'log')


def test_by_name_and_bad_input():
    tax, other = Taxonomy(PERSON), Taxonomy(STREET)
    z, y = batch(tax, 12)
    assert {'hierarchical', 'flat', 'ce'} <= set(list_losses())
    assert get_loss('CrossEntropyLoss', tax).config == get_loss('ce', tax).config == get_loss('flat', tax, 'ce').config
    assert get_loss('hierarchical', tax, 'dice', level_weights=[1, 2, 3]).config['base_loss'] == 'dice'
    torch.testing.assert_close(get_loss(nn.CrossEntropyLoss(), tax)(z, y), get_loss('ce', tax)(z, y))
    loss = HierarchicalLoss(tax)
    assert get_loss(loss, tax) is loss
    for call, message in [
        (lambda: get_loss('ce', tax, level_weights=[1, 2, 3]), 'level_weights: FlatLoss takes no such'),
        (lambda: get_loss('treemin', tax, class_weights=[1]), 'class_weights: TreeMinLoss takes no such'),
        (lambda: get_loss('cosine', tax), 'known are hierarchical, flat'),
        (lambda: get_loss('ce', tax, 'dice'), "use loss='hierarchical'"),
        (lambda: get_loss(loss, other), 'another taxonomy'),
        (lambda: HierarchicalLoss(tax, 'mse'), 'known are ce, dice, focal'),
        (lambda: HierarchicalLoss(tax, ['ce']), '1 given for 3 levels'),
        (lambda: HierarchicalLoss(tax, level_weights=[1, -1, 1]), 'give 3 numbers'),
        (lambda: HierarchicalLoss(tax, class_weights=[[1] * 7]), 'each of the 3 levels'),
        (lambda: HierarchicalLoss(tax, class_weights=[[1], None, None]), 'class_weights of level_1'),
        (lambda: FlatLoss(tax, class_weights=[1, 2]), 'give 7 finite numbers'),
        (lambda: HierarchicalLoss(tax, nn.CrossEntropyLoss(), class_weights=[[1, 2], None, None]), 'give its class'),
        (lambda: loss(z[:, :3], y), r'needs \(B, 7, H, W\)'),
        (lambda: loss(z, y[:, :2]), 'do not fit'),
        (lambda: HierarchicalLoss(tax, selector='best'), 'known are simple'),
        (lambda: loss_from_config({'__class__': 'Mystery'}, tax), 'known are'),
        (lambda: loss_from_config(HierarchicalLoss(tax, nn.CrossEntropyLoss).config, tax), 'pass base_loss= again'),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_sum_is_over_pixels_for_every_base():
    "It was pixels for cross-entropy and focal, images for Dice and the losses of others."
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 13)
    valid = (y >= 0).flatten(1).sum(1)
    for base in [*BASES, nn.CrossEntropyLoss, nn.CrossEntropyLoss(reduction='none'), F.cross_entropy]:
        none, total = (HierarchicalLoss(tax, base, reduction=r)(z, y) for r in ('none', 'sum'))
        torch.testing.assert_close(total, (none * valid).sum())
    w = [torch.rand(k) + 0.1 for k in tax.n_classes]
    for base in (nn.CrossEntropyLoss, partial(nn.CrossEntropyLoss, reduction='none')):
        for reduction in ('mean', 'sum', 'none'):
            torch.testing.assert_close(
                HierarchicalLoss(tax, base, class_weights=[o.double() for o in w], reduction=reduction).double()(z, y),
                HierarchicalLoss(tax, 'ce', class_weights=w, reduction=reduction)(z, y))
    images = FlatLoss(tax, 'dice', class_weights=w[-1], reduction='none')(z, y)
    weight = torch.where(y >= 0, w[-1].double()[y.clamp(0)], 0).flatten(1).sum(1)
    torch.testing.assert_close(FlatLoss(tax, 'dice', class_weights=w[-1], reduction='sum')(z, y), (images * weight).sum())


@pytest.mark.parametrize('kind', ['object', 'class', 'partial'])
def test_losses_of_fastai(kind):
    "Their __call__ transposes and flattens the masks, and their signature is that of the class they wrap."
    from fastai.losses import CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropyFlat
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 14)
    make = {'object': lambda c: c(axis=1), 'class': lambda c: c, 'partial': lambda c: partial(c, axis=1)}[kind]
    smooth = partial(nn.CrossEntropyLoss, label_smoothing=0.1)
    for cls, same in ((CrossEntropyLossFlat, 'ce'), (FocalLossFlat, 'focal'), (LabelSmoothingCrossEntropyFlat, smooth)):
        for reduction in ('mean', 'sum', 'none'):
            got = HierarchicalLoss(tax, make(cls), reduction=reduction)
            torch.testing.assert_close(got(z, y), HierarchicalLoss(tax, same, reduction=reduction)(z, y))
            flat = get_loss(make(cls), tax, reduction=reduction)
            torch.testing.assert_close(flat(z, y), FlatLoss(tax, same, reduction=reduction)(z, y))
        assert got.config['base_loss'] == {'custom': f'fastai.losses.{cls.__name__}'}
        assert pickle.loads(pickle.dumps(got))(z, y).equal(got(z, y))
        assert (got(z, torch.full_like(y, -100)) == 0).all()
    w = torch.rand(7) + 0.1
    weighted = get_loss(CrossEntropyLossFlat(axis=1, weight=w), tax)
    torch.testing.assert_close(weighted(z.float(), y), FlatLoss(tax, 'ce', class_weights=w)(z.float(), y))
    with pytest.raises(ValueError, match=r'masks need CrossEntropyLossFlat\(axis=1\)'):
        get_loss(CrossEntropyLossFlat(), tax)


@pytest.mark.parametrize('config,message', [
    ('SumLoss', 'cannot be made by its name alone'), (5, 'a loss is a name or a mapping'), ({}, 'loss None is unknown'),
    ({'__class__': ['HierarchicalLoss']}, 'is unknown'),
    ({'__class__': 'SumLoss', 'losses': 3, 'scales': [1]}, 'give `losses`, a list of losses'),
    ({'__class__': 'SumLoss', 'losses': ['ce'], 'scales': ['x']}, 'a number for each'),
    ({'__class__': 'SumLoss', 'losses': ['ce'], 'scales': [1], 'how': 1}, 'SumLoss: give'),
    ({'__class__': 'HXELoss', 'alpha': 'much'}, 'alpha: HXELoss takes float, not str'),
    ({'__class__': 'HXELoss', 'alpha': True}, 'alpha: HXELoss takes float, not bool'),
    ({'__class__': 'HXELoss', 'alpha': None}, 'alpha: HXELoss takes float, not NoneType'),
    ({'__class__': 'FocalTreeMinLoss', 'gamma': [2]}, 'gamma: FocalTreeMinLoss takes float, not list'),
    ({'__class__': 'TreeTripletLoss', 'max_triplets': 2.5}, 'max_triplets: TreeTripletLoss takes int, not float'),
    ({'__class__': 'HierarchicalLoss', 'level_weights': 'a'}, 'level_weights: HierarchicalLoss takes'),
    ({'__class__': 'HierarchicalLoss', 'level_weights': ['a', 'b', 'c']}, 'give 3 numbers'),
    ({'__class__': 'HierarchicalLoss', 'level_weights': [[1], [2], [3]]}, 'give 3 numbers'),
    ({'__class__': 'HierarchicalLoss', 'class_weights': [['x'], None, None]}, 'class_weights of level_1'),
    ({'__class__': 'HierarchicalLoss', 'base_loss': ['ce', 5, 'ce']}, 'base_loss 5 is unknown'),
    ({'__class__': 'HierarchicalLoss', 'base_loss': {'__class__': 'FocalLoss', 'gama': 1}}, 'gama: FocalLoss takes no such'),
    ({'__class__': 'HierarchicalLoss', 'base_loss': {'__class__': 3}}, 'base_loss 3 is unknown'),
    ({'__class__': 'HierarchicalLoss', 'head': 3}, 'a head is a name'),
    ({'__class__': 'HierarchicalLoss', 'head': {'__class__': 'EmbeddingHead', 'dim': 'x'}}, 'dim: EmbeddingHead takes int'),
    ({'__class__': 'HierarchicalLoss', 'selector': {'__class__': 'MinCostClassSelector', 'cost': 'x'}}, '7 × 7 finite'),
    ({'__class__': 'HierarchicalLoss', 'selector': []}, 'a selector is one of'),
    ({'__class__': 'HierarchicalLoss', 'reduction': 3}, 'reduction: HierarchicalLoss takes str'),
    ({'__class__': 'FlatLoss', 'class_weights': []}, 'give 7 finite numbers'),
    ({'__class__': 'CrossEntropyLoss', 'level_weights': [1]}, 'level_weights: FlatLoss takes no such')])
def test_configs_of_wrong_types_get_one_line(config, message):
    with pytest.raises(ValueError, match=message) as error:
        get_loss(config, Taxonomy(PERSON)) if isinstance(config, str) else loss_from_config(config, Taxonomy(PERSON))
    assert '\n' not in str(error.value)


def test_class_weights_of_rare_classes_are_capped_or_announced():
    tax = Taxonomy(PERSON)
    counts = [8_000_000, 2, 1200, 400, 300, 700, 250]
    with pytest.warns(UserWarning, match=r'above 1000: low_hand \(5.72e\+05\).*cap=100'):
        w = class_weights_from_counts(counts, tax)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        capped = class_weights_from_counts(counts, tax, cap=50)
    assert all((c == o.clamp(max=50)).all() for c, o in zip(capped, w))
    with pytest.raises(ValueError, match='cap is 0'):
        class_weights_from_counts(counts, tax, cap=0)
