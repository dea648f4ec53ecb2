"The same batch whoever loads it: number of processes, cache, plain data set or loaders, flips that know left from right."
import os
import time
import warnings

import albumentations as A
import numpy as np
import pytest
import torch
from fastai.torch_core import set_seed
from PIL import Image
from torchvision.transforms import v2

from hierseg.core import DataError
from hierseg.data.cache import KEPT
from hierseg.data.dataset import Augmenter, SegDataset, TorchvisionAugment, image_statistics, mix
from hierseg.data.files import find_pairs
from hierseg.data.loaders import HierDataLoaders, class_frequencies
from hierseg.data.transforms import nearest_index, resize_mask
from hierseg.losses.class_weights import class_weights_from_counts, resolve_class_weights
from hierseg.taxonomy.tree import Taxonomy

TREE = Taxonomy({'bg': 0, 'body': {'left_arm': 1, 'right_arm': 2}, 'hat': 3}, swap=[['left_arm', 'right_arm']])
UNNAMED = Taxonomy({'bg': 0, 'body': {'left_arm': 1, 'right_arm': 2}, 'hat': 3})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('same') / 'data'
    for k in 'images', 'masks':
        (d / k).mkdir(parents=True)
    for i in range(10):
        rng = np.random.default_rng(i)
        m = rng.integers(0, 4, (5, 6)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        Image.fromarray(m).save(d / 'masks' / f'{i}.png')
        Image.fromarray(np.stack([60 * m, 255 - 60 * m, np.full_like(m, 20 * i)], -1)).save(d / 'images' / f'{i}.png')
    return d


def loaders(folder, tree=TREE, **kwargs):
    kwargs = {**dict(size=(24, 32), bs=3, device='cpu', num_workers=0, valid_pct=.2), **kwargs}
    return HierDataLoaders.from_folder(folder, tree, **kwargs)


def run(dls, epochs=2, seed=7):
    "All training batches of some epochs."
    set_seed(seed)
    return [t for _ in range(epochs) for b in dls.train for t in b]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def swirl(image, mask):
    n = np.random.randint(30)
    return np.roll(image, n, 1), np.roll(mask, n, 1)


AUGMENTS = ['flip', 'strong', swirl, v2.Compose([v2.RandomHorizontalFlip(), v2.RandomRotation(20)]),
            A.Compose([A.RandomSizedCrop((20, 40), (24, 32), p=.5), A.HorizontalFlip()])]


@pytest.mark.parametrize('augment', AUGMENTS, ids=['flip', 'strong', 'function', 'torchvision', 'albumentations'])
def test_the_number_of_loading_processes_changes_nothing(folder, augment):
    runs = [run(loaders(folder, augment=augment, num_workers=n)) for n in (0, 1, 2)]
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])
    assert not same(runs[0][:4], runs[0][4:]) and not same(runs[0], run(loaders(folder, augment=augment), seed=8))


def test_random_crops_are_the_same_in_any_process(folder):
    runs = [run(loaders(folder, augment='none', method='crop', size=20, num_workers=n)) for n in (0, 2)]
    assert same(*runs) and not same(runs[0][:2], runs[0][4:6])


def test_what_others_draw_between_batches_changes_nothing(folder):
    "The model's dropout draws from the same generator; an image's augmentation must not depend on it."
    dls = loaders(folder, augment='strong')
    set_seed(3)
    quiet = [x for b in dls.train for x in b]
    dls = loaders(folder, augment='strong')
    set_seed(3)
    noisy = []
    for b in dls.train:
        torch.rand(100)
        noisy += list(b)
    assert same(quiet, noisy)


def test_seeds_are_spread():
    assert len({mix(b, i) for b in range(100) for i in range(100)}) == 10**4


# --- left and right

def test_a_preset_does_not_flip_sides_that_nobody_named(folder):
    with pytest.warns(UserWarning, match='left_arm and right_arm'):
        dls = loaders(folder, UNNAMED, augment='flip')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        still = loaders(folder, UNNAMED, augment='none')
    assert same(run(dls), run(still))


@pytest.mark.parametrize('augment', ['flip', 'study', A.HorizontalFlip(), A.Compose([A.OneOf([A.D4(), A.Transpose()], p=1.)])])
def test_a_flip_exchanges_the_named_pairs(augment):
    rng = np.random.default_rng(0)
    m = rng.integers(1, 5, (16, 16)).astype(np.uint8)
    x = np.repeat(m[..., None] * np.uint8(50), 3, -1)             # colours that say the code
    f, mirrored = Augmenter(augment, (16, 16), TREE), 0
    for seed in range(20):
        image, mask = f(x, m, seed)
        was = image[..., 0] // 50
        if (image.shape == x.shape) and np.array_equal(was, mask):
            continue
        if set(np.unique(image[..., 0])) <= {50, 100, 150, 200}:
            assert np.array_equal(np.array([0, 1, 3, 2, 4])[was], mask)
            mirrored += 1
    assert mirrored


def test_an_augmentation_of_ones_own_is_left_alone_with_a_warning(folder):
    with pytest.warns(UserWarning, match='without exchanging'):
        dls = loaders(folder, UNNAMED, augment=A.HorizontalFlip(p=1.))
    assert not same(run(dls), run(loaders(folder, UNNAMED, augment='none')))


# --- other ways in

def test_torchvision_fills_with_void(folder):
    f = TorchvisionAugment(v2.RandomAffine(0, translate=(.5, .5), fill=0))
    image, mask = f(np.full((20, 20, 3), 9, np.uint8), np.full((20, 20), 2, np.uint8))
    assert set(np.unique(mask)) <= {0, 2} and mask.dtype == np.uint8 and ((mask == 0) == (image[..., 0] == 0)).all()


def test_functions_draw_by_the_image(folder):
    state = np.random.get_state()[1].copy()
    f = Augmenter(swirl)
    m = np.arange(60, dtype=np.uint8).reshape(2, 30)
    assert np.array_equal(f(m, m, 4)[1], f(m, m, 4)[1]) and not np.array_equal(f(m, m, 4)[1], f(m, m, 5)[1])
    assert np.array_equal(np.random.get_state()[1], state)
    assert loaders(folder, augment=swirl).data_config['augment'] == 'custom'


# --- cache

@pytest.mark.parametrize('where', ['memory', 'disk'])
@pytest.mark.parametrize('workers', [0, 2])
def test_a_cache_changes_nothing_but_the_time(folder, tmp_path, monkeypatch, where, workers):
    monkeypatch.setenv('HIERSEG_CACHE', str(tmp_path))
    kw = dict(augment='strong', resample='gaussian', num_workers=workers)
    plain, kept = loaders(folder, **kw), loaders(folder, cache=where, **kw)
    assert same(run(plain, 3), run(kept, 3)) and len(kept.train.cache) == 8
    assert same([t for b in plain.valid for t in b], [t for b in kept.valid for t in b]) and len(kept.valid.cache) == 2


def test_a_full_cache_reads_no_file(folder, tmp_path, monkeypatch):
    dls = loaders(folder, cache=tmp_path, augment='flip')
    first = run(dls)
    again = loaders(folder, cache=tmp_path, augment='flip')
    monkeypatch.setattr('hierseg.data.dataset.read_image', lambda *args: pytest.fail('a file was read'))
    assert same(first, run(again))


def test_a_cache_is_stale_when_anything_changes(folder, tmp_path):
    import shutil
    d = shutil.copytree(folder, tmp_path / 'd')
    base = dict(cache=tmp_path / 'c', augment='none')
    full = loaders(d, **base)
    run(full, 1)
    assert len(loaders(d, **base).train.cache) == len(full.train.cache) > 0
    for change in dict(size=20), dict(resample='box'), dict(method='pad'), dict(tree=UNNAMED.to_dict() and Taxonomy({'bg': 0, 'x': [1, 2, 3]})):
        assert len(loaders(d, **base, **change).train.cache) == 0
    f = full.train_ds.items[0].image
    Image.open(f).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(f)
    os.utime(f, (time.time() + 5, time.time() + 5))
    assert len(loaders(d, **base).train.cache) == 0
    assert all(len(list(s.iterdir())) <= KEPT for s in (tmp_path / 'c').iterdir())


def test_a_cache_that_cannot_be_kept_is_refused(folder):
    for kw, text in ((dict(size=None, bs=1), 'size='), (dict(augment=A.HorizontalFlip()), 'native'),
                     (dict(method='crop', augment='flip'), 'crop'), (dict(cache=3), 'cache')):
        with pytest.raises(ValueError, match=text):
            loaders(folder, **{'cache': 'memory', **kw})


# --- a plain data set, and other images

def test_the_plain_data_set_is_the_loaders(folder):
    kw = dict(size=(24, 32), resample='box', augment='none')
    data, dls = SegDataset(folder / 'images', folder / 'masks', TREE, **kw), loaders(folder, **kw, valid_ids=['9'], shuffle=False, drop_last=False)
    x, y = (torch.cat(t) for t in zip(*dls.train))
    assert torch.allclose(torch.stack([data[i][0] for i in range(9)]), x, atol=1e-6)
    assert torch.equal(torch.stack([data[i][1] for i in range(9)]), y)
    assert type(data[0][0]) is torch.Tensor and type(data[0][1]) is torch.Tensor and len(data) == 10
    batches = [[t for b in torch.utils.data.DataLoader(SegDataset(folder / 'images', folder / 'masks', TREE, augment='strong'), 4,
                                                       num_workers=n) for t in b] for n in (0, 2)]
    assert same(*batches)


@pytest.mark.parametrize('kind', ['npy', 'tif', 'grey16'])
def test_images_of_other_channels_and_depths(folder, tmp_path, kind):
    import shutil

    import tifffile
    d = tmp_path / 'd'
    shutil.copytree(folder / 'masks', d / 'masks')
    (d / 'images').mkdir()
    rng, c = np.random.default_rng(0), 1 if kind == 'grey16' else 5
    for i in range(10):
        x = rng.integers(0, 4000, (40, 48, c)).astype(np.uint16)
        if kind == 'npy':
            np.save(d / 'images' / f'{i}.npy', x)
        elif kind == 'tif':
            tifffile.imwrite(d / 'images' / f'{i}.tif', x.transpose(2, 0, 1), photometric='minisblack')
        else:
            Image.fromarray(x[..., 0]).save(d / 'images' / f'{i}.png')
    kw = dict(in_channels=1) if kind == 'grey16' else {}
    dls = loaders(d, augment='flip', **kw)
    x, y = dls.train.one_batch()
    assert dls.in_channels == dls.n_channels == c and x.shape == (3, c, 24, 32) and x.dtype == torch.float32
    assert abs(float(torch.cat([b[0] for b in dls.train]).mean())) < .2 and len(dls.data_config['normalize']['mean']) == c
    again = HierDataLoaders.from_config(dls.data_config, TREE, device='cpu')
    files = [p.image for p in dls.valid_ds.items]
    assert torch.allclose(again.test_dl(files).one_batch()[0], dls.valid.one_batch()[0], atol=1e-6)
    dls.show_batch(max_n=2)
    stats = image_statistics(dls.train_ds.items, c)
    assert np.allclose(stats['mean'], dls.data_config['normalize']['mean'])


def test_a_file_of_other_channels_is_named(folder, tmp_path):
    import shutil
    d = tmp_path / 'd'
    shutil.copytree(folder / 'masks', d / 'masks')
    (d / 'images').mkdir()
    for i in range(10):
        np.save(d / 'images' / f'{i}.npy', np.zeros((40, 48, 5 if i != 3 else 4), np.uint8))
    with pytest.raises(DataError, match='3.npy: has 4 channels, the data set 5'):
        list(loaders(d, valid_ids=['9'], drop_last=False).train)


# --- masks, weights, pictures

@pytest.mark.parametrize('n, m', [(256, 128), (256, 64), (512, 64), (96, 48), (240, 60)])
def test_nearest_masks_are_not_shifted_at_even_factors(n, m):
    offset = (nearest_index(n, m) + .5) * m / n - (np.arange(m) + .5)
    assert abs(offset.mean()) < 1e-9 and np.abs(offset).max() <= .5 * m / n + 1e-9
    disc = (np.mgrid[:n, :n] - (n - 1) / 2)
    small = resize_mask((disc**2).sum(0) < (n / 3)**2, (m, m))
    assert np.abs([(g * small).sum() / small.sum() - (m - 1) / 2 for g in np.mgrid[:m, :m]]).max() < .02


def test_median_weights_count_by_image(folder):
    dls = loaders(folder)
    each = class_frequencies(dls, per_image=True)
    assert each.shape == (8, 4) and (each.sum(0) == class_frequencies(dls)).all()
    got = resolve_class_weights('median', dls, TREE)
    want = class_weights_from_counts(each, TREE, 'median')
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_show_batch_with_rows_and_columns(folder, monkeypatch):
    shown = []
    monkeypatch.setattr('hierseg.data.tensors.show_figure', shown.append)
    monkeypatch.setattr('hierseg.data.tensors.show_pairs', lambda images, *a, n_cols, **k: (len(images), n_cols))
    dls = loaders(folder, bs=8, augment='none')
    dls.show_batch(nrows=2, ncols=2)
    dls.show_batch(max_n=3)
    assert shown == [(4, 2), (3, 3)]


def test_pairs_of_a_folder_and_of_lists_agree(folder):
    pairs = find_pairs(folder)
    a, b = SegDataset(folder / 'images', folder / 'masks', TREE), SegDataset([p.image for p in pairs], [p.mask for p in pairs], TREE)
    assert a.items == b.items == pairs
