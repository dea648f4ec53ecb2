"Files, resampling, augmentation, loaders: what comes out is what was meant; what cannot be meant is refused by name."

import gc
import pickle
import shutil
import subprocess
import sys
from functools import partial

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
import yaml
import fastai.callback.progress  # noqa: F401, gives learners no_bar
from fastai.data.all import DataBlock, RandomSplitter, ToTensor
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorImage, set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageBlock
from hypothesis import given, strategies as st
from PIL import Image
from skimage.transform import resize

from hierseg.core import DataError
from hierseg.data.files import find_pairs
from hierseg.data.files import Pair, read_image, read_mask
from hierseg.data.check import check_dataset
from hierseg.data.tensors import HierMask, TensorHierLevels, TensorHierMask, class_indices, encode_mask
from hierseg.data.loaders import (
    HierAugment,
    HierDataLoaders,
    HierImageBlock,
    HierMaskBlock,
    HierResize,
    class_frequencies,
)
from hierseg.data.files import read_ids, split_pairs
from hierseg.taxonomy.tree import Taxonomy
from hierseg.taxonomy.tensors import lift_mask
from hierseg.data.transforms import (
    PairAugmenter,
    RESAMPLERS,
    augment_presets,
    augmentation_config,
    create_augmentation,
    fit_image,
    fit_mask,
    fit_size,
    resize_image,
    resize_mask,
)
from strategies import PERSON, trees

STREET = dict(hierarchy={'road': {'lane': 7, 'kerb': 24}, 'car': 33}, ignore=[255])  # no background, ragged depth
IDS = np.array([7, 24, 33, 255], dtype=np.uint8)
TREE = Taxonomy(STREET)


def blobs(seed, h, w, values):
    "A mask of a few large regions."
    rng = np.random.default_rng(seed)
    return np.asarray(values)[rng.integers(0, len(values), (4, 5)).repeat(-(-h // 4), 0).repeat(-(-w // 5), 1)[:h, :w]]


def make_folder(folder, n=10, n_valid=3, shape=(30, 40), values=IDS, kinds=('images', 'masks'), suffix='.png'):
    for k in kinds:
        (folder / k).mkdir(parents=True)
    ids = [f's{i:02d}' for i in range(n)]
    for i, s in enumerate(ids):
        m = blobs(i, *shape, values)
        rgb = np.stack([m, 255 - m, np.full_like(m, 20 * i)], -1).astype(np.uint8)
        Image.fromarray(rgb).save(folder / kinds[0] / f'{s}.png')
        np.save(folder / kinds[1] / f'{s}.npy', m) if suffix == '.npy' else Image.fromarray(m).save(
            folder / kinds[1] / f'{s}{suffix}'
        )
    (folder / 'train_id.txt').write_text('\n'.join(ids[:-n_valid]))
    (folder / 'val_id.txt').write_text('\n'.join(ids[-n_valid:]))
    return folder


@pytest.fixture(scope='module')
def street(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp('street') / 'data')


@pytest.fixture
def copy(street, tmp_path):
    return shutil.copytree(street, tmp_path / 'data')


def loaders(path, tree=TREE, **kwargs):
    return HierDataLoaders.from_folder(
        path, tree, **{**dict(size=(24, 32), bs=4, device='cpu', num_workers=0), **kwargs}
    )


def refused(f, *texts, match=DataError):
    with pytest.raises(match) as e:
        f()
    for t in texts:
        assert t in str(e.value)
    assert '\n' not in str(e.value)


# --- reading images


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    x = np.zeros((20, 30, 3), np.uint8)
    x[:8, :12] = [200, 30, 30]
    x[-8:, :12] = [30, 30, 200]
    stored = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](x)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / 'a.png', exif=exif)
    assert (np.asarray(read_image(tmp_path / 'a.png')) == x).all()
    assert (np.asarray(read_image(Image.open(tmp_path / 'a.png'))) == x).all()


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'PA', 'RGBA', 'CMYK', 'YCbCr', 'I;16', 'I'])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = Image.fromarray(np.arange(0, 240, dtype=np.uint8).reshape(12, 20))
    im = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) << 8)
        if mode == 'I;16'
        else Image.fromarray(np.asarray(grey).astype(np.int32) << 8)
        if mode == 'I'
        else (grey if mode == 'P' else grey.convert('RGB')).convert(mode)
    )
    file = im  # Pillow 12.3 cannot read back the YCbCr TIFF that it writes
    if mode != 'YCbCr':
        file = tmp_path / f"a.{'tif' if mode in ('CMYK', 'PA', 'I') else 'png'}"
        im.save(file)
    got = read_image(file)
    assert got.mode == 'RGB' and got.size == (20, 12)
    if mode in ('L', 'LA', 'P', 'RGBA', 'I;16', 'I'):
        assert np.abs(np.asarray(got)[..., 0].astype(int) - np.asarray(grey)).max() == 0


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp'])
def test_truncated_image_is_refused(tmp_path, suffix):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)).save(
        tmp_path / f'a{suffix}'
    )
    data = (tmp_path / f'a{suffix}').read_bytes()
    (tmp_path / f'a{suffix}').write_bytes(data[: len(data) * 2 // 3])
    refused(lambda: read_image(tmp_path / f'a{suffix}'), f'a{suffix}')


def test_what_is_no_image(tmp_path):
    (tmp_path / 'a.jpg').write_text('hello')
    (tmp_path / 'b.jpg').mkdir()
    Image.fromarray(np.zeros((3, 3), np.float32)).save(tmp_path / 'f.tif')
    for name in 'a.jpg', 'b.jpg', 'c.jpg', 'f.tif':
        refused(lambda: read_image(tmp_path / name), name)
    for x in (
        np.zeros((3, 3)),
        np.zeros((3, 3, 2), np.uint8),
        np.zeros((0, 3), np.uint8),
        np.zeros((2, 3, 3, 3), np.uint8),
    ):
        refused(lambda: read_image(x), 'array of shape')


# --- reading masks


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 255, 65535]), st.integers(0, 99))
def test_masks_read_as_written(tmp_path_factory, h, w, top, seed):
    folder = tmp_path_factory.mktemp('m')
    m = np.random.default_rng(seed).integers(0, top + 1, (h, w))
    small = m.astype(np.uint8 if top < 256 else np.uint16)
    np.save(folder / 'a.npy', m)
    np.save(folder / 'b.npy', m.astype('>i4'))
    np.savez(folder / 'c.npz', m)
    np.savez_compressed(folder / 'd.npz', mask=small, weight=np.ones(3))
    Image.fromarray(small).save(folder / 'e.png')
    Image.fromarray(small).save(folder / 'f.tif')
    files = [*folder.iterdir()]
    if top < 256:
        p = Image.fromarray(small)
        p.putpalette(list(range(255, -1, -1)) * 3)
        p.save(folder / 'g.png')
        files.append(folder / 'g.png')
    if top == 1:
        Image.fromarray(small.astype(bool)).save(folder / 'i.png')
        np.save(folder / 'j.npy', small.astype(bool))
        files += [folder / 'i.png', folder / 'j.npy']
    assert len(files) >= 6
    for f in files:
        got = read_mask(f)
        assert got.dtype in (np.uint8, np.uint16) and (got == m).all(), f


@pytest.mark.parametrize(
    'name, content, text',
    [
        ('rgb.png', np.zeros((4, 4, 3), np.uint8), 'colours'),
        ('float.npy', np.zeros((4, 4)), 'float64'),
        ('minus.npy', np.full((4, 4), -1), '-1'),
        ('wide.npy', np.full((4, 4), 65536), '65536'),
        ('flat.npy', np.zeros(4, np.uint8), 'shape'),
        ('cube.npy', np.zeros((4, 4, 4), np.uint8), 'shape'),
        ('text.npy', np.array([['a', 'b']]), 'whole numbers'),
        ('empty.npy', np.zeros((0, 4), np.uint8), 'shape'),
        ('a.jpg', np.zeros((4, 4), np.uint8), 'compression'),
    ],
)
def test_what_is_no_mask(tmp_path, name, content, text):
    np.save(tmp_path / name, content) if name.endswith('npy') else Image.fromarray(content).save(tmp_path / name)
    refused(lambda: read_mask(tmp_path / name), name, text)


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / 'boom'), 'w')

    np.save(tmp_path / 'm.npy', np.array([[Bomb()]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / 'm.npz', mask=np.array([[Bomb()]], dtype=object))
    for name in 'm.npy', 'm.npz':
        refused(lambda: read_mask(tmp_path / name), name)
    assert not (tmp_path / 'boom').exists()


# --- encoding


@given(trees(), st.integers(0, 10**6))
def test_codes_agree_with_the_taxonomy(tree, seed):
    tax = Taxonomy(tree, ignore=[401, 65535])
    known = np.array([i for ids in tax.leaf_ids for i in ids] + tax.ignore)
    rng = np.random.default_rng(seed)
    raw = rng.choice(known, (6, 7))
    for dtype in (np.uint16, np.uint8) if raw.max() < 256 else (np.uint16,):
        assert (class_indices(encode_mask(raw.astype(dtype), tax)) == tax.encode(raw)).all()
    unknown = next(i for i in range(402, 500) if i not in known)
    raw[2, 3] = unknown
    refused(lambda: encode_mask(raw.astype(np.uint16), tax, 'x/y.png'), 'x/y.png', str(unknown))


@pytest.mark.parametrize('n', [253, 254, 255, 256, 700])
def test_many_classes(n):
    tax = Taxonomy({f'c{i}': i for i in range(n)})
    raw = np.arange(n, dtype=np.uint8 if n < 257 else np.uint16)[None]
    assert (class_indices(encode_mask(raw, tax)) == raw).all()
    mask = HierMask.of(encode_mask(raw, tax))
    assert (ToTensor()(mask).numpy() == raw).all()
    if n < 256:
        refused(lambda: encode_mask(np.full((1, 1), n, np.uint8), tax, 'm.png'), 'm.png', str(n))


# --- resampling


@given(st.integers(2, 60), st.integers(2, 60), st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
def test_gaussian_is_scikit_images(H, W, h, w, seed):
    x = np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)
    want = resize(x, (h, w), order=1, mode='reflect', anti_aliasing=True, preserve_range=True)
    got = np.asarray(resize_image(Image.fromarray(x), (h, w), 'gaussian')).astype(float)
    assert np.abs(got - want).max() < 0.51


@pytest.mark.parametrize('name', [r for r in RESAMPLERS if r != 'gaussian'])
def test_pillows_filters(name):
    im = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8))
    assert (
        np.asarray(resize_image(im, (20, 31), name))
        == np.asarray(im.resize((31, 20), getattr(Image.Resampling, name.upper())))
    ).all()


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_masks_are_sampled_at_pixel_centres(H, W, h, w):
    m = np.arange(H * W).reshape(H, W)
    got = resize_mask(m, (h, w))
    y, x = got // W, got % W
    assert (np.abs(y[:, 0] + 0.5 - (np.arange(h) + 0.5) * H / h) <= 0.5).all()
    assert (np.abs(x[0] + 0.5 - (np.arange(w) + 0.5) * W / w) <= 0.5).all()
    assert (got == m[y[:, :1], x[:1]]).all()


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(['squash', 'crop', 'pad']),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_fits_stay_inside_and_keep_the_ratio(H, W, h, w, method, at):
    f = fit_size((H, W), (h, w), method, at)
    for (t, l, b, r), (hh, ww) in (f.source, (H, W)), (f.target, (h, w)):
        assert 0 <= t < b <= hh and 0 <= l < r <= ww
    if method != 'squash':
        s = (f.source[2] - f.source[0], f.source[3] - f.source[1])
        t = (f.target[2] - f.target[0], f.target[3] - f.target[1])
        scale = (min if method == 'crop' else max)(H / h, W / w)
        for a, b in zip(s, t):
            assert abs(a / scale - b) <= max(1, 1 / scale)
    m = np.arange(1, H * W + 1).reshape(H, W)
    assert fit_mask(m, f).shape == (h, w) and fit_image(Image.new('RGB', (W, H)), f).size == (w, h)


@pytest.mark.parametrize('method', ['squash', 'crop', 'pad'])
@pytest.mark.parametrize('resample', ['box', 'bilinear', 'lanczos', 'gaussian'])
def test_image_and_mask_stay_aligned(method, resample):
    "A disc drawn in image and mask has its centre at one place after resizing, to a twentieth of a pixel."
    y, x = np.mgrid[:151, :201]
    disc = (y - 70) ** 2 + (x - 103) ** 2 < 40**2
    f = fit_size(disc.shape, (48, 48), method)
    im = (
        np.asarray(
            fit_image(Image.fromarray(np.repeat(disc[..., None] * np.uint8(255), 3, -1)), f, resample, fill=(0, 0, 0))
        )[..., 0]
        / 255
    )
    m = fit_mask(disc.astype(np.uint8), f)

    def centre(a):
        return np.array([(a * g).sum() / a.sum() for g in np.mgrid[:48, :48]])

    assert np.abs(centre(im) - centre(m)).max() < 0.05


# --- augmentation


@pytest.mark.parametrize('name', [n for n in augment_presets() if n != 'none'])
def test_presets_invent_no_class_and_repeat(name):
    codes = blobs(3, 64, 64, [1, 2, 5, 7]).astype(np.uint8)
    x = np.repeat(codes[..., None], 3, -1) * np.uint8(30)
    augment = PairAugmenter(create_augmentation(name, (64, 64)))
    different = 0
    for seed in range(12):
        (xa, ma), (xb, mb) = augment(x, codes, seed), augment(x, codes, seed)
        assert (xa == xb).all() and (ma == mb).all() and xa.shape == x.shape and ma.dtype == np.uint8
        assert set(np.unique(ma)) <= {0, 1, 2, 5, 7}
        different += not np.array_equal(xa, x)
    assert different > 3


@pytest.mark.parametrize(
    'step',
    [
        A.Affine(rotate=(25, 25), scale=(0.6, 0.6), interpolation=cv2.INTER_NEAREST, p=1),
        A.HorizontalFlip(p=1),
        A.Transpose(p=1),
        A.RandomSizedCrop(min_max_height=(20, 40), size=(48, 48), interpolation=cv2.INTER_NEAREST_EXACT, p=1),
        A.Perspective(interpolation=cv2.INTER_NEAREST, p=1),
        A.ElasticTransform(interpolation=cv2.INTER_NEAREST, p=1),
        A.GridDistortion(interpolation=cv2.INTER_NEAREST, p=1),
    ],
)
def test_the_mask_goes_where_the_image_goes(step):
    codes = blobs(0, 48, 48, [1, 2, 3, 4]).astype(np.uint8)
    for seed in range(3):
        x, m = PairAugmenter(create_augmentation(step))(np.repeat(codes[..., None], 3, -1) * np.uint8(60), codes, seed)
        assert (x[..., 0] == m * 60).all()


def test_what_comes_in_from_outside_is_void(street):
    shift = A.Affine(translate_percent=dict(x=(0.5, 0.5), y=(0, 0)), fill_mask=3, p=1)
    dls = loaders(street, augment=shift, size=None, bs=1, normalize=False)
    x, y = dls.train.one_batch()
    assert (y[..., :20] == -100).all() and x[..., :20].max() == 0 and (y[..., 20:] >= 0).any()
    x, y = loaders(street, method='pad', size=32).valid.one_batch()
    assert (y[:, :4] == -100).all() and (y[:, -4:] == -100).all() and x[:, :, :4].abs().max() < 0.01


def test_interpolation_of_masks_cannot_be_changed(street):
    step = A.Rotate(limit=(30, 30), mask_interpolation=cv2.INTER_LINEAR, p=1)
    _, y = loaders(street, augment=[step]).train.one_batch()
    assert set(y.unique().tolist()) <= {-100, 0, 1, 2}
    assert step.mask_interpolation == cv2.INTER_LINEAR  # the caller's object is left as it was


def epochs(path, n=2, seed=1, **kwargs):
    dls = loaders(path, shuffle=False, drop_last=False, **kwargs)
    set_seed(seed)
    return [torch.cat([x for x, _ in dls.train]) for _ in range(n)]


@pytest.mark.parametrize('workers', [0, 2])
def test_augmentation_is_seeded(street, workers):
    a, b = epochs(street, augment='color', num_workers=workers), epochs(street, augment='color', num_workers=workers)
    assert all(torch.equal(x, y) for x, y in zip(a, b))  # a seed gives the same batches
    assert not torch.equal(*a)  # two epochs differ
    assert not torch.equal(a[0], epochs(street, n=1, seed=2, augment='color', num_workers=workers)[0])


def test_workers_draw_differently(street, tmp_path):
    d = make_folder(tmp_path / 'same', n=6, n_valid=2)
    for i in range(1, 4):
        shutil.copy(d / 'images' / 's00.png', d / 'images' / f's{i:02d}.png')
        shutil.copy(d / 'masks' / 's00.png', d / 'masks' / f's{i:02d}.png')
    (x,) = epochs(d, n=1, augment='color', num_workers=2, bs=2)  # two batches of one image, one from each worker
    assert len({t.numpy().tobytes() for t in x}) == 4


def test_validation_is_not_augmented(street):
    a, b = (loaders(street, augment=o, method='crop', size=20) for o in ('strong', 'none'))
    for (x, y), (u, v) in zip(a.valid, b.valid):
        assert torch.equal(x, u) and torch.equal(y, v)


def test_random_crops(street):
    dls = loaders(street, method='crop', size=(10, 30), shuffle=False)
    set_seed(0)
    first, second = dls.train.one_batch()[0], dls.train.one_batch()[0]
    set_seed(0)
    assert not torch.equal(first, second) and torch.equal(first, dls.train.one_batch()[0])


def test_augmentation_through_yaml(street, tmp_path):
    mine = A.Compose(
        [
            A.RandomSizedCrop(min_max_height=(15, 28), size=(24, 32), p=0.7),
            A.OneOf([A.HorizontalFlip(), A.VerticalFlip()], p=0.8),
            A.GaussNoise(p=0.5),
        ]
    )
    dls = loaders(street, augment=mine)
    config = yaml.safe_load(yaml.safe_dump(dls.data_config))
    assert config == dls.data_config and config['augment_at'] == 'native'
    again = {k: v for k, v in config.items() if k not in ('bs', 'num_workers', 'size', 'seed')}
    assert all(torch.equal(a, b) for a, b in zip(epochs(street, augment=mine), epochs(street, **again)))
    assert augmentation_config(create_augmentation(config['augment'])) == config['augment']
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(config['augment']))
    assert (
        loaders(street, augment=tmp_path / 'mine.yaml').data_config
        == loaders(street, augment=str(tmp_path / 'mine.yaml')).data_config
        == config
    )
    (tmp_path / 'bad.yaml').write_text('- 1')
    for name in 'bad.yaml', 'none.yaml':
        refused(lambda: loaders(street, augment=tmp_path / name), name, match=ValueError)


def test_an_augmentation_that_fails_names_the_file(street):
    def broken(x, **kwargs):
        raise IndexError('too small')

    refused(lambda: loaders(street, augment=A.Lambda(image=broken, p=1)).train.one_batch(), '.png', 'IndexError')
    assert loaders(street, augment=A.Lambda(image=broken, p=1)).data_config['augment'] == 'custom'


# --- types and blocks


def test_types_survive(street):
    y = loaders(street).valid.one_batch()[1]
    levels = TensorHierLevels(torch.stack([lift_mask(y.as_subclass(torch.Tensor), TREE, l) for l in range(2)], 1))
    for t, cls in (y, TensorHierMask), (levels, TensorHierLevels):
        for o in (
            t,
            t[0],
            t.to('cpu'),
            torch.cat([t, t]),
            torch.stack([t[0], t[1]]),
            t.clone(),
            pickle.loads(pickle.dumps(t)),
        ):
            assert type(o) is cls and o.dtype == torch.int64
    assert y[0].taxonomy == TREE and pickle.loads(pickle.dumps(y)).taxonomy == TREE


def block(**kwargs):
    return DataBlock(
        **{
            **dict(
                blocks=(ImageBlock, HierMaskBlock(STREET)),
                get_items=lambda p: sorted((p / 'images').iterdir()),
                get_y=lambda f: f.parent.parent / 'masks' / f.name,
                splitter=RandomSplitter(0.3, seed=0),
            ),
            **kwargs,
        }
    )


def test_datablock_with_fastais_transforms(street):
    for method in 'squish', 'crop', 'pad':
        dls = block(
            item_tfms=Resize((20, 36), method=method, pad_mode='zeros'),
            batch_tfms=aug_transforms(pad_mode='zeros', max_rotate=30, p_affine=1.0),
        ).dataloaders(street, bs=4, num_workers=0, device='cpu')
        x, y = dls.one_batch()
        assert (type(x), type(y), y.dtype, x.shape, y.shape) == (
            TensorImage,
            TensorHierMask,
            torch.int64,
            (4, 3, 20, 36),
            (4, 20, 36),
        )
        assert set(y.unique().tolist()) <= {-100, 0, 1, 2} and (y == -100).any()
        assert (dls.vocab, dls.c, dls.taxonomy) == (['lane', 'kerb', 'car'], 3, TREE)
        assert [len(b) for b in dls.test_dl(sorted((street / 'images').iterdir())[:2])] == [1]


def test_datablock_with_our_transforms_equals_the_loaders(street):
    dls = block(
        blocks=(HierImageBlock, HierMaskBlock(TREE)),
        item_tfms=[HierResize((24, 32), 'gaussian'), HierAugment('strong', (24, 32))],
        splitter=lambda items: (list(range(7)), [7, 8, 9]),
    ).dataloaders(street, bs=4, num_workers=0, device='cpu')
    ours = loaders(street, resample='gaussian', normalize=False)
    for a, b in zip(dls.valid.one_batch(), ours.valid.one_batch()):
        assert torch.equal(a, b)


def test_datablock_refuses_at_construction(copy):
    Image.fromarray(np.full((30, 40), 9, np.uint8)).save(copy / 'masks' / 's00.png')
    refused(lambda: block(splitter=lambda o: ([0], [1])).dataloaders(copy, bs=1, num_workers=0), 's00.png', '9')


# --- loaders


def test_values(street):
    "Without resizing and normalisation the batch is the files, encoded."
    dls = loaders(street, size=None, normalize=False, shuffle=False, augment='none')
    x, y = dls.train.one_batch()
    for i, p in enumerate(dls.items[:4]):
        assert (x[i] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8).tolist() == np.asarray(
            Image.open(p.image)
        ).tolist()
        assert (y[i].numpy() == TREE.encode(np.asarray(Image.open(p.mask)))).all()


def test_normalisation_and_back(street):
    stats = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    a, b = loaders(street, normalize=stats), loaders(street, normalize=False)
    x, u = a.valid.one_batch()[0], b.valid.one_batch()[0]
    assert torch.allclose(x * torch.tensor(stats[1]).view(3, 1, 1) + torch.tensor(stats[0]).view(3, 1, 1), u, atol=1e-6)
    b.set_normalize(*stats)
    assert torch.equal(b.valid.one_batch()[0], x) and b.data_config == a.data_config
    assert torch.equal(
        HierDataLoaders.from_config(b.data_config, TREE, device='cpu').test_dl(b.valid_ds.items, bs=4).one_batch()[0], x
    )


def test_from_everything_alike(street, tmp_path):
    import pandas as pd

    plain = partial(loaders, augment='none')       # a flip would be drawn anew each time

    ids = [p.stem for p in find_pairs(street)]
    a = plain(street)
    other = make_folder(tmp_path / 'other', kinds=('JPEGImages', 'GT_Masks'), suffix='.npy')
    nested = tmp_path / 'nested'
    for kind in 'images', 'masks':
        for split, s in ('train', ids[:7]), ('valid', ids[7:]):
            (nested / split / kind).mkdir(parents=True)
            for o in s:
                shutil.copy(street / kind / f'{o}.png', nested / split / kind)
    df = pd.DataFrame(
        {'i': [f'images/{s}.png' for s in ids], 'm': [f'masks/{s}.png' for s in ids], 'v': [0] * 7 + [1] * 3}
    )
    kw = dict(size=(24, 32), bs=4, device='cpu', num_workers=0, augment='none')
    for b in (
        plain(other),
        plain(nested),
        plain(street, train_ids=ids[:7] * 1, valid_ids=street / 'val_id.txt'),
        plain(street, valid_ids=[f'{s}.png' for s in ids[7:]]),
        HierDataLoaders.from_ids(street, TREE, ids[:7], ids[7:], **kw),
        HierDataLoaders.from_df(df, STREET, valid_col='v', path=street, **kw),
        HierDataLoaders.from_pairs(find_pairs(street, ids=ids[:7]), find_pairs(street, ids=ids[7:]), TREE, **kw),
    ):
        for part in 'train', 'valid':
            one, two = getattr(plain(street), part).one_batch(), getattr(b, part).one_batch()
            assert all(torch.equal(s, t) for s, t in zip(one, two))
    assert a.split_ids == dict(train=ids[:7], valid=ids[7:]) and len(a.items) == 10
    assert plain(nested).split_ids['valid'] == [f'valid/{s}' for s in ids[7:]]


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_random_split(n, pct, seed):
    from hierseg.data.files import random_split

    stems = [f'i{k}' for k in range(n)]
    train, valid = random_split(stems, pct, seed)
    assert (
        sorted(train + valid) == sorted(stems)
        and train
        and valid
        and (train, valid) == random_split(stems[::-1], pct, seed)
    )
    assert abs(len(valid) - pct * n) <= 1


def test_new_images(street):
    dls = loaders(street)
    files = [p.image for p in dls.valid_ds.items]
    want = dls.valid.one_batch()
    bare = HierDataLoaders.from_config(
        {**yaml.safe_load(yaml.safe_dump(dls.data_config)), 'model_params': {}}, STREET, device='cpu'
    )
    for d in dls, bare, pickle.loads(pickle.dumps(dls.new_empty())):
        for items in (
            files,
            [str(f) for f in files],
            [np.asarray(Image.open(f)) for f in files],
            [Image.open(f) for f in files],
            dls.valid_ds.items,
        ):
            got = d.test_dl(items, bs=4).one_batch()
            assert len(got) == 1 and torch.equal(got[0], want[0])
        labelled = [(p.image, p.mask) for p in dls.valid_ds.items]
        for items in (
            dls.valid_ds.items,
            labelled,
            [(np.asarray(Image.open(i)), np.asarray(Image.open(m))) for i, m in labelled],
        ):
            assert all(torch.equal(a, b) for a, b in zip(d.test_dl(items, bs=4, with_labels=True).one_batch(), want))
    assert (len(bare.train_ds), bare.vocab, bare.c, bare.data_config) == (0, TREE.vocab, 3, dls.data_config)
    refused(lambda: dls.test_dl(files, with_labels=True), 'with_labels')


def test_less_than_a_batch_still_trains(street):
    assert len(loaders(street, bs=32).train) == 1 and len(loaders(street, bs=4).train) == 1


def test_a_learner_uses_them(street, tmp_path):
    dls = loaders(street, augment='flip')
    dls.path = tmp_path
    learn = Learner(dls, torch.nn.Conv2d(3, 3, 3, padding=1), loss_func=CrossEntropyLossFlat(axis=1, ignore_index=-100))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        image = dls.items[0].image
        mask, _, probs = learn.predict(image)
        learn.export('model.pkl')
        again = load_learner(tmp_path / 'model.pkl')
        with again.no_bar():
            assert (
                type(mask) is TensorHierMask and mask.taxonomy == TREE and torch.equal(again.predict(image)[2], probs)
            )
            assert again.dls.data_config == dls.data_config
        assert learn.get_preds()[0].shape == (3, 3, 24, 32)


def test_levels_are_decoded_as_levels(street):
    dls = loaders(street)
    x, y = dls.valid.one_batch()
    levels = TensorHierLevels(torch.stack([lift_mask(y.as_subclass(torch.Tensor), TREE, l) for l in range(2)], 1))
    for _, decoded in dls.decode_batch((x, levels)):
        assert type(decoded) is TensorHierLevels and decoded.shape == (2, 24, 32) and decoded.taxonomy == TREE
    ctxs = [decoded.show(), y[0].show(level='level_1'), HierMask.of(np.ones((4, 4), np.uint8), TREE).show()]
    assert all(len(c.images) == 1 for c in ctxs)


def test_show_batch_draws_all(street):
    import matplotlib.pyplot as plt

    _, axs = plt.subplots(1, 3)
    loaders(street).show_batch(ctxs=axs, max_n=3, level=0)
    assert [a.images[0].get_array().shape for a in axs] == [(24, 32, 3)] * 3
    loaders(street).show_batch()
    block(item_tfms=Resize(16)).dataloaders(street, bs=4, num_workers=0, device='cpu').show_batch()
    plt.close('all')


def test_class_frequencies(street):
    dls = loaders(street)
    want = np.zeros(3, np.int64)
    for p in dls.train_ds.items:
        for c, ids in enumerate(TREE.leaf_ids):
            want[c] += np.isin(np.asarray(Image.open(p.mask)), ids).sum()
    seen = []
    assert (class_frequencies(dls, progress=lambda *a: seen.append(a)) == want).all() and seen[-1] == (7, 7)
    assert (class_frequencies(dls.train_ds.items, STREET) == want).all()
    d = block(item_tfms=Resize(16), splitter=lambda o: (list(range(7)), [7, 8, 9])).dataloaders(
        street, bs=4, num_workers=0
    )
    assert (class_frequencies(d) == want).all()


# --- what is refused


def break_image_without_mask(d):
    (d / 'masks' / 's03.png').unlink()
    return 's03'


def break_mask_without_image(d):
    (d / 'images' / 's03.png').unlink()
    return 's03'


def break_sizes(d):
    Image.new('RGB', (40, 31)).save(d / 'images' / 's03.png')
    return 's03.png', '40x30', '40x31'


def break_rotation(d):
    Image.new('RGB', (30, 40)).save(d / 'images' / 's03.png')
    return 's03.png', 'EXIF'


def break_unknown_id(d):
    Image.fromarray(np.full((30, 40), 8, np.uint8)).save(d / 'masks' / 's03.png')
    return 's03.png', '8'


def break_truncated(d):
    f = d / 'images' / 's03.png'
    f.write_bytes(f.read_bytes()[: len(f.read_bytes()) // 2])
    return 's03.png', 'truncated'


def break_colour_mask(d):
    Image.new('RGB', (40, 30)).save(d / 'masks' / 's03.png')
    return 's03.png', 'colours'


def break_same_stem(d):
    Image.new('RGB', (40, 30)).save(d / 'images' / 's03.jpg')
    return 's03.'


def break_empty_split(d):
    (d / 'val_id.txt').write_text('# none\n\n')
    return ('validation split is empty',)


def break_empty_train(d):
    (d / 'train_id.txt').write_text('')
    return ('training split is empty',)


def break_overlap(d):
    (d / 'val_id.txt').write_text('s03\ns08\n')
    return 's03', 'both splits'


def break_twice(d):
    (d / 'val_id.txt').write_text('s08\ns08\n')
    return 's08', 'twice'


def break_ghost(d):
    (d / 'val_id.txt').write_text('s08\ns99\n')
    return 's99', 'no image'


BREAKS = {k[6:]: v for k, v in list(globals().items()) if k.startswith('break_')}
LATE = ('sizes', 'rotation', 'unknown_id', 'truncated', 'colour_mask')


@pytest.mark.parametrize('how', BREAKS)
def test_refused_by_training_and_reported_by_the_check(copy, how):
    texts = BREAKS[how](copy)
    texts = (texts,) if isinstance(texts, str) else texts
    report = check_dataset(copy, TREE)
    assert not report.ok and all(any(t in p for p in report.problems) for t in texts)
    if how not in LATE:
        refused(lambda: loaders(copy), *texts)
    else:
        refused(lambda: list(loaders(copy, drop_last=False).train), *texts)
        ids = ['s03'], ['s05']
        refused(lambda: loaders(copy, train_ids=ids[0], valid_ids=ids[1]), *texts)  # the first pair is read at once


@pytest.mark.parametrize('how', ['image_without_mask', 'mask_without_image', 'same_stem', 'unknown_id'])
def test_only_listed_ids_matter(copy, how):
    BREAKS[how](copy)
    ids = read_ids('train_id.txt', copy)
    ids.remove('s03')
    assert len(list(loaders(copy, train_ids=ids, valid_ids='val_id.txt').train)) == 1
    assert check_dataset(copy, TREE, train_ids=ids, valid_ids='val_id.txt').ok
    if how != 'unknown_id':
        refused(lambda: loaders(copy, valid_pct=0.3), 's03')


def test_errors_of_workers_are_one_line(copy, monkeypatch):
    monkeypatch.setattr(
        torch.utils.data._utils, 'MP_STATUS_CHECK_INTERVAL', 0.5
    )  # how long PyTorch waits for the process to go
    name = BREAKS['truncated'](copy)[0]
    refused(lambda: list(loaders(copy, num_workers=1, drop_last=False).train), name, 'truncated')
    gc.collect()


@pytest.mark.parametrize(
    'kwargs, text',
    [
        (dict(valid_pct=0), 'valid_pct'),
        (dict(valid_pct=1.0), 'valid_pct'),
        (dict(train='a', valid='b'), 'a: no such sub-folder'),
        (dict(train='a'), 'both'),
        (dict(train='a', valid='b', train_ids=['s01']), 'give one'),
        (dict(images='nope'), 'nope'),
        (dict(masks='nope'), 'nope'),
        (dict(train_ids='nope.txt'), 'nope.txt'),
        (dict(images='images', masks='images'), 'two folders'),
        (dict(size=-1), 'size'),
        (dict(resample='best'), 'lanczos'),
        (dict(method='zoom'), 'squash'),
        (dict(augment='more'), 'study'),
        (dict(bs=0), 'bs'),
        (dict(normalize='mine'), 'normalize'),
        (dict(sizes=3), 'unknown argument'),
        (dict(augment='study', size=None), 'size'),
    ],
)
def test_bad_arguments(street, kwargs, text):
    refused(lambda: loaders(street, **kwargs), text, match=ValueError)


def test_different_sizes_in_a_batch(street, tmp_path):
    d = make_folder(tmp_path / 'd')
    for f in (d / 'images' / 's03.png', d / 'masks' / 's03.png'):
        im = Image.open(f)
        im.crop((0, 0, 20, 20)).save(f)
    refused(lambda: list(loaders(d, size=None, drop_last=False).train), '20x20', 'bs=1')
    assert len(list(loaders(d, size=None, bs=1).train)) == 7


def test_report(copy):
    report = check_dataset(copy, TREE)
    masks = [np.asarray(Image.open(p.mask)) for p in find_pairs(copy)]
    assert report.ok and report.n_pairs == 10 and report.void == sum((m == 255).sum() for m in masks)
    total = sum((m != 255).sum() for m in masks)
    level = report.levels()['level_1']
    assert level['road'] == dict(
        pixels=pytest.approx(sum(np.isin(m, [7, 24]).sum() for m in masks) / total),
        images=np.mean([np.isin(m, [7, 24]).any() for m in masks]),
    )
    assert report.sizes == dict(height=dict(min=30, median=30, max=30), width=dict(min=40, median=40, max=40))
    assert 'nothing to complain about' in str(report) and 'kerb' in str(report)


def test_report_counts_all_problems(copy):
    for how in 'sizes', 'overlap':
        BREAKS[how](copy)
    Image.fromarray(np.full((30, 40), 8, np.uint8)).save(copy / 'masks' / 's04.png')
    (copy / 'masks' / 's05.png').unlink()
    report = check_dataset(copy, TREE)
    assert len(report.problems) == 4 and {p.name for p in report.unknown_ids[8]} == {'s04.png'}


def test_pairs_are_pairs(street):
    p = find_pairs(street)[0]
    assert isinstance(p, Pair) and tuple(p) == ('s00', street / 'images' / 's00.png', street / 'masks' / 's00.png')
    ids = ['s01', 's02', 's03', 's04']
    assert [q.stem for q in split_pairs(street, train_ids=ids, valid_pct=0.25)[0]] != ids


def test_the_study_tree_too(tmp_path):
    d = make_folder(tmp_path / 'p', values=np.arange(7, dtype=np.uint8))
    dls = loaders(d, PERSON)
    assert dls.c == 7 and set(torch.cat([y for _, y in dls.valid]).unique().tolist()) <= set(range(7))


def test_our_show_methods_win_whatever_is_imported_later():
    code = (
        "import hierseg.data as d, hierseg.learner\nimport fastai.vision.all\nimport torch\n"
        "from fastai.data.core import show_batch, show_results\n"
        "x, y = fastai.vision.all.TensorImage(torch.zeros(3, 4, 4)), d.TensorHierMask(torch.zeros(4, 4))\n"
        "for f, args in ((show_batch, (x, y, [])), (show_results, (x, y, [], []))):\n"
        "    assert f.resolve_method(args)[0].__module__.startswith('hierseg'), f"
    )
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)
