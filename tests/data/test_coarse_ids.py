"A raw id that stands for an inner node, on its way from the folder to the batch, the check and the weights."
import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from hierseg.data.check import check_dataset
from hierseg.data.dataset import SegDataset
from hierseg.data.frequencies import plot_frequencies
from hierseg.data.loaders import HierDataLoaders, HierImageBlock, HierMaskBlock, class_frequencies
from hierseg.losses.class_weights import class_weights_from_counts, resolve_class_weights
from hierseg.taxonomy.tensors import decompose_mask
from hierseg.taxonomy.tree import Taxonomy
from fastai.data.all import DataBlock, RandomSplitter, get_image_files
from strategies import trees

SIDES = {'bg': 0, 'body': {'left leg': {'l knee': 1, 'l foot': 2}, 'right leg': {'r knee': 3, 'r foot': 4}}}
TREE = Taxonomy(SIDES, swap=[['left leg', 'right leg']], coarse={'body': 20, 'left leg': [21, 31], 'right leg': 22},
                ignore=[255])
IDS = [0, 1, 2, 3, 4, 20, 21, 22, 31, 255]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d, g = tmp_path_factory.mktemp('coarse'), np.random.default_rng(0)
    for name in ('images', 'masks'):
        (d / name).mkdir()
    for i in range(6):
        Image.fromarray(g.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(d / 'images' / f'{i}.png')
        Image.fromarray(np.array(IDS, np.uint8)[g.integers(0, len(IDS), (20, 24))]).save(d / 'masks' / f'{i}.png')
    (d / 'train_id.txt').write_text('0\n1\n2\n3\n')
    (d / 'val_id.txt').write_text('4\n5\n')
    return d


def raw(folder, i):
    return np.asarray(Image.open(folder / 'masks' / f'{i}.png'))


def loaders(folder, **kwargs):
    return HierDataLoaders.from_folder(folder, TREE, **{**dict(size=None, augment='none', bs=2, num_workers=0, shuffle=False), **kwargs})


def test_batches_hold_node_indices(folder):
    dls, plain = loaders(folder), SegDataset(folder / 'images', folder / 'masks', TREE, size=None)
    whole = torch.stack([torch.from_numpy(TREE.encode(raw(folder, i))) for i in range(6)])
    assert whole.max() == TREE.n_codes - 1 > TREE.n_leaves
    assert (torch.cat([y for _, y in dls.train]).as_subclass(torch.Tensor) == whole[:4]).all()
    assert all((plain[i][1] == whole[i]).all() for i in range(6))


@pytest.mark.parametrize('cache', [None, 'memory'])
def test_a_flip_exchanges_what_is_known_of_a_side(folder, cache):
    import albumentations as A
    flip = [A.HorizontalFlip(p=1)]
    how = dict(size=(20, 24), augment=flip, augment_at='resized', cache=cache)
    plain = SegDataset(folder / 'images', folder / 'masks', TREE, size=(20, 24), augment=flip, cache=cache)
    want = [TREE.swap_table[TREE.encode(raw(folder, i))[:, ::-1].clip(0)] for i in range(4)]
    void = [raw(folder, i)[:, ::-1] == 255 for i in range(4)]
    dls = loaders(folder, **how)
    for _ in range(2):      # the second time out of the cache
        batches = torch.cat([y for _, y in dls.train]).numpy()
        for i in range(4):
            for got in (batches[i], plain[i][1].numpy()):
                assert (got == np.where(void[i], -100, want[i])).all()


def test_a_cache_on_disk_is_begun_anew_when_coarse_ids_change(folder, tmp_path):
    masks = [SegDataset(folder / 'images', folder / 'masks', tree, size=16, cache=tmp_path)[0][1] for tree in
             (TREE, Taxonomy(SIDES, coarse={'body': [20, 21, 31], 'right leg': 22}, ignore=[255]))]
    assert (masks[0] != masks[1]).any() and len({tuple(np.unique(m)) for m in masks}) == 2


def test_a_cache_keeps_codes_that_need_two_bytes(tmp_path):
    tree = Taxonomy({'bg': 0, **{f'g{i}': {f'a{i}': 2 * i + 1, f'b{i}': 2 * i + 2} for i in range(100)}}, coarse={f'g{i}': 1000 + i for i in range(100)})
    assert tree.n_leaves < 254 < tree.n_codes
    for name in ('images', 'masks'):
        (tmp_path / name).mkdir()
    ids = np.arange(1000, 1100, dtype=np.uint16).reshape(10, 10)
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(tmp_path / 'images/a.png')
    Image.fromarray(ids).save(tmp_path / 'masks/a.png')
    for cache in (None, 'memory'):
        data = SegDataset(tmp_path / 'images', tmp_path / 'masks', tree, size=10, cache=cache)
        assert all((data[0][1].numpy() == tree.encode(ids)).all() for _ in range(2))


def test_frequencies_count_them_apart(folder):
    want = sum(np.bincount(TREE.encode(raw(folder, i)).ravel()[raw(folder, i).ravel() != 255], minlength=TREE.n_codes) for i in range(4))
    dls, files = loaders(folder), [folder / 'masks' / f'{i}.png' for i in range(4)]
    assert want[TREE.n_leaves:].min() > 0
    assert (class_frequencies(dls) == want).all() and (class_frequencies(files, TREE) == want).all()
    assert (class_frequencies(dls, per_image=True).sum(0) == want).all()
    block = DataBlock((HierImageBlock, HierMaskBlock(TREE)), get_items=lambda d: get_image_files(d / 'images'),
                      get_y=lambda f: folder / 'masks' / f.name, splitter=RandomSplitter(.3, seed=1))
    own = block.dataloaders(folder, bs=2, num_workers=0, device='cpu')
    rows = class_frequencies(own, per_image=True)      # its items are no pairs: counted from encoded masks
    assert (rows.sum(0) == class_frequencies([folder / 'masks' / f.name for f in own.train_ds.items], TREE)).all()


def test_the_check_accepts_and_reports_them(folder):
    report = check_dataset(folder, TREE)
    assert report.ok and not report.unknown_ids and report.void > 0
    masks = np.stack([raw(folder, i) for i in range(6)])
    levels = [m.numpy() for m in decompose_mask(torch.from_numpy(TREE.encode(masks)), TREE)]
    for (name, classes), mask in zip(report.levels().items(), levels):
        assert sum(c['pixels'] for c in classes.values()) == pytest.approx(1)
        for k, c in enumerate(classes.values()):
            assert c['pixels'] == pytest.approx((mask == k).sum() / (mask >= 0).sum()), name
            assert c['images'] == (mask == k).any((1, 2)).mean()
    known = (masks != 255).sum()
    assert report.coarse() == pytest.approx({'body': (masks == 20).sum() / known, 'body/right leg': (masks == 22).sum() / known,
                                             'body/left leg': np.isin(masks, [21, 31]).sum() / known})
    assert json.loads(json.dumps(report.to_dict()))['coarse'] == report.coarse()
    line = next(l for l in report.text().split('\n') if l.startswith('known no further'))
    assert 'body/left leg' in line and f"{report.coarse()['body']:.2%}" in line
    fig = plot_frequencies(report)
    for ax, classes in zip(fig.axes, report.levels().values()):
        assert [p.get_width() for p in ax.patches] == pytest.approx([100 * c['pixels'] for c in classes.values()])
        assert 'known here' in ax.get_xlabel()


def test_the_check_still_names_what_the_tree_lacks(folder):
    report = check_dataset(folder, Taxonomy(SIDES, coarse={'body': 20}, ignore=[255]))
    assert sorted(report.unknown_ids) == [21, 22, 31] and not report.ok


def test_weights_count_them_where_they_say_something(folder):
    dls = loaders(folder)
    counts = class_frequencies(dls)
    weights = resolve_class_weights('inverse', dls, TREE)
    levels = decompose_mask(torch.cat([y for _, y in dls.train]).as_subclass(torch.Tensor), TREE)
    for w, mask in zip(weights, levels):
        n = torch.bincount(mask[mask >= 0])
        torch.testing.assert_close(w, (n.sum() / (len(n) * n)).float())
    assert all(len(w) == k for w, k in zip(resolve_class_weights('median', dls, TREE), TREE.n_classes))
    with pytest.raises(ValueError, match='each of the 5 leaves'):
        class_weights_from_counts(counts[:-1], TREE)


@given(trees(), st.integers(0, 2**31 - 1))
def test_counts_of_leaves_alone_weigh_as_ever(tree, seed):
    plain = Taxonomy(tree)
    keys = ['/'.join(plain.node_paths[n]) for n in range(plain.n_leaves, plain.n_nodes)]
    tax = Taxonomy(tree, coarse={k: 60000 + i for i, k in enumerate(keys)})
    counts = np.random.default_rng(seed).integers(1, 1000, plain.n_leaves)
    none = np.append(counts, np.zeros(tax.n_codes - tax.n_leaves, int))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for other in (class_weights_from_counts(counts, tax), class_weights_from_counts(none, tax)):
            assert all(torch.equal(a, b) for a, b in zip(class_weights_from_counts(counts, plain), other))
