"What comes in from outside: names, rights, sizes, types. Each is taken as it is or refused in one line that names it."
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from hierseg.core import DataError
from hierseg.data.check import FOLD, check_dataset, folded
from hierseg.data.files import (find_files, find_pairs, load_picture, random_split, read_ids, read_image, read_mask,
                                split_pairs, write_ids)
from hierseg.data.loaders import HierDataLoaders, class_frequencies
from hierseg.data.dataset import SegDataset
from hierseg.data.synthetic import make_synthetic, synthetic_sample
from hierseg.taxonomy.tree import Taxonomy

TREE = {'bg': 0, 'a': 1, 'b': 2}


def make(folder, stems=('a', 'b', 'c', 'd'), values=(0, 1, 2)):
    for d in 'images', 'masks':
        (folder / d).mkdir(parents=True)
    for k, s in enumerate(stems):
        m = np.asarray(values, np.uint8)[np.arange(48).reshape(6, 8) % len(values)]
        Image.fromarray(np.roll(m, k, 1)).save(folder / 'masks' / f'{s}.png')
        Image.fromarray(np.full((6, 8, 3), 20 * k, np.uint8)).save(folder / 'images' / f'{s}.png')
    return folder


def refused(f, *texts):
    with pytest.raises(ValueError) as e:
        f()
    assert '\n' not in str(e.value) and all(t in str(e.value) for t in texts), str(e.value)


# --- id files

ids = st.text(st.characters(), min_size=0, max_size=12)


@settings(max_examples=300)
@given(st.lists(ids, max_size=8))
def test_ids_read_back_as_written(tmp_path_factory, names):
    path = tmp_path_factory.mktemp('ids') / 'train_id.txt'
    assert read_ids(write_ids(path, names)) == names


@pytest.mark.parametrize('name', ['#1', ' b', 'c ', '\t', 'two\nlines', 'cr\rlf\r\n', 'x\u2028y', 'x\x85y', '"q"', '', 'a\udcffb', '\xa0'])
def test_odd_names_read_back(tmp_path, name):
    assert read_ids(write_ids(tmp_path / 'i.txt', ['plain', name, 'z'])) == ['plain', name, 'z']


def test_files_of_before_mean_what_they_meant(tmp_path):
    (tmp_path / 'i.txt').write_bytes('\ufeff# a comment\r\n\r\n 2008_1 \r\nx/y.jpg\r\n"half\r\n'.encode())
    assert read_ids(tmp_path / 'i.txt') == ['2008_1', 'x/y.jpg', '"half']


def test_a_name_that_begins_with_a_hash_trains(tmp_path):
    d = make(tmp_path / 'd', ('#1', ' b', 'c', 'd'))
    write_ids(d / 'train_id.txt', ['#1', ' b', 'c'])
    write_ids(d / 'val_id.txt', ['d'])
    assert [[p.stem for p in s] for s in split_pairs(d)] == [['#1', ' b', 'c'], ['d']]
    assert check_dataset(d, TREE).ok


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    d = make(tmp_path / 'd')
    for kind in 'images', 'masks':
        os.rename(d / kind / 'a.png', os.fsencode(d / kind) + b'/caf\xe9.png')
    refused(lambda: find_pairs(d), 'caf\\udce9', 'not UTF-8', 'rename')
    report = check_dataset(d, TREE)
    assert any('not UTF-8' in p for p in report.problems) and report.text().encode()


# --- rights

def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    d = make(tmp_path / 'd')
    scandir = os.scandir

    def locked(path='.'):
        if str(path).endswith('masks'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', locked)
    refused(lambda: find_files(d), 'masks', 'cannot be read', 'Permission denied')


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    d = make(tmp_path / 'd')

    def locked(*args, **kwargs):
        raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(Image, 'open', locked)
    monkeypatch.setattr(np, 'load', locked)
    refused(lambda: read_image(d / 'images' / 'a.png'), 'a.png', 'not allowed')
    refused(lambda: read_mask(d / 'masks' / 'a.npy'), 'a.npy', 'not allowed')


# --- sizes

def test_a_photograph_of_too_many_pixels_is_refused_from_its_header(tmp_path, monkeypatch):
    Image.new('1', (300, 200)).save(tmp_path / 'big.png')
    monkeypatch.setenv('HIERSEG_MAX_PIXELS', '50000')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 50000)
    loaded = []
    monkeypatch.setattr('PIL.ImageFile.ImageFile.load', lambda self: loaded.append(self))
    refused(lambda: load_picture(tmp_path / 'big.png', 'image'), '300x200', 'GiB', 'HIERSEG_MAX_PIXELS=60000')
    assert not loaded
    monkeypatch.setenv('HIERSEG_MAX_PIXELS', '60000')
    load_picture(tmp_path / 'big.png', 'image')
    assert loaded


def test_a_batch_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    d = make(tmp_path / 'd')
    refused(lambda: HierDataLoaders.from_folder(d, TREE, size=999999), 'GiB', 'bs=', 'HIERSEG_MAX_GIB')
    monkeypatch.setenv('HIERSEG_MAX_GIB', '1e-9')
    refused(lambda: HierDataLoaders.from_folder(d, TREE, size=None, bs=2), '8x6', 'GiB')
    monkeypatch.delenv('HIERSEG_MAX_GIB')
    HierDataLoaders.from_folder(d, TREE, size=None, bs=2, device='cpu')


# --- types

def test_an_npz_whose_member_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / 'm.npz', 'w') as z:
        z.writestr('mask', 'text')
    refused(lambda: read_mask(tmp_path / 'm.npz'), 'm.npz', 'no array')
    (tmp_path / 'x.npz').write_bytes(b'PK')
    refused(lambda: read_mask(tmp_path / 'x.npz'), 'x.npz')


WRONG = [
    lambda d: read_image(3), lambda d: read_image(None), lambda d: read_image(b'a.png'), lambda d: read_image(d, 'three'),
    lambda d: read_mask([[1]]), lambda d: read_mask(1.5), lambda d: read_ids(3), lambda d: write_ids(d / 'a', 'abc'),
    lambda d: find_pairs(3), lambda d: find_pairs(d, images=3), lambda d: find_pairs(d, ids='abc'),
    lambda d: split_pairs(d, valid_pct='half'), lambda d: split_pairs(d, seed='x'), lambda d: split_pairs(d, train_ids=5),
    lambda d: random_split('abc', .5), lambda d: random_split(['a', 'b'], True), lambda d: check_dataset(None, TREE),
    lambda d: check_dataset(d, 5), lambda d: check_dataset(d, TREE, n_workers='2'), lambda d: class_frequencies(5),
    lambda d: class_frequencies([], None), lambda d: make_synthetic(3), lambda d: make_synthetic(d / 'x', '5'),
    lambda d: synthetic_sample('seed'), lambda d: synthetic_sample(-1), lambda d: SegDataset(d, 5, TREE),
    lambda d: SegDataset(d / 'images', d / 'masks', 7), lambda d: SegDataset(d / 'images', d / 'masks', TREE, size='x'),
    lambda d: HierDataLoaders.from_folder(5, TREE), lambda d: HierDataLoaders.from_folder(d, 5),
    lambda d: HierDataLoaders.from_folder(d, TREE, images=5), lambda d: HierDataLoaders.from_folder(d, TREE, seed='x'),
    lambda d: HierDataLoaders.from_folder(d, TREE, num_workers='x'), lambda d: HierDataLoaders.from_folder(d, TREE, method=3),
    lambda d: HierDataLoaders.from_folder(d, TREE, resample=[1]), lambda d: HierDataLoaders.from_folder(d, TREE, cache=5),
    lambda d: HierDataLoaders.from_folder(d, TREE, in_channels='rgb'), lambda d: HierDataLoaders.from_pairs(5, [], TREE),
    lambda d: HierDataLoaders.from_ids(d, TREE, 5, ['a']), lambda d: HierDataLoaders.from_df(5, TREE),
    lambda d: HierDataLoaders.from_config(5, TREE), lambda d: HierDataLoaders.from_folder(d, TREE, augment=5),
    lambda d: HierDataLoaders.from_folder(d, TREE, augment_at=5), lambda d: HierDataLoaders.from_folder(d, TREE, normalize=5),
]


@pytest.mark.parametrize('call', WRONG, ids=range(len(WRONG)))
def test_wrong_types_are_refused_in_one_line(tmp_path, call):
    refused(lambda: call(make(tmp_path / 'd')))


# --- the check

def test_alike_findings_are_folded(tmp_path):
    d = make(tmp_path / 'd', [f's{i}' for i in range(9)], (0, 1, 11))
    report = check_dataset(d, TREE)
    assert len(report.problems) == 9 and len(report.unknown_ids[11]) == 9
    assert report.text().count('label id 11') == 1 and 'in 9 files' in report.text()
    assert folded(report.problems[:FOLD]) == report.problems[:FOLD]


def test_the_check_proposes_a_tree(tmp_path):
    d = make(tmp_path / 'd', values=(0, 3, 7, 255))
    (d / 'classes.txt').write_text('0 background\n3 left leg\n7 right leg\n')
    report = check_dataset(d)
    assert report.ok and report.taxonomy.vocab == ['background', 'left leg', 'right leg']
    assert report.taxonomy.ignore == [255] and report.void and report.proposed in report.text()
    import yaml
    assert Taxonomy(yaml.safe_load(report.proposed)).swap == [(1, 2)]
    (d / 'classes.txt').unlink()
    assert check_dataset(d).taxonomy.vocab == ['background', 'class_3', 'class_7']


def test_the_check_says_what_to_look_at(tmp_path):
    d = make(tmp_path / 'd', values=(0, 1))
    notes = check_dataset(d, {'bg': 0, 'left_arm': 1, 'right_arm': 2}).notes
    assert any('right_arm' in n and 'nothing to learn' in n for n in notes) and any('swap' in n for n in notes)
    m = np.zeros((300, 400), np.uint8)
    m[0, 0] = 2
    for s in 'ab':
        Image.fromarray(m).save(d / 'masks' / f'{s}.png')
        Image.new('RGB', (400, 300)).save(d / 'images' / f'{s}.png')
    assert any(n.startswith('b has') and 'nearly empty' in n for n in check_dataset(d, TREE).notes)


def test_splits_in_a_folder_of_their_own(tmp_path):
    d = make(tmp_path / 'd')
    (d / 'splits').mkdir()
    (d / 'splits' / 'train.txt').write_text('a\nb\nc\n')
    (d / 'splits' / 'val.txt').write_text('d\n')
    assert [[p.stem for p in s] for s in split_pairs(d)] == [['a', 'b', 'c'], ['d']]


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    d = make(tmp_path / 'd', ('ok', 'evil\x1b[2Kname', 'x', 'y'))
    (d / 'masks' / 'evil\x1b[2Kname.png').write_text('no picture')
    text = check_dataset(d, {'bg': 0, 'a\x1b[31m': 1, 'b': 2}).text()
    assert '\x1b' not in text and '\\x1b' in text
    with pytest.raises(DataError) as e:
        read_mask(d / 'masks' / 'evil\x1b[2Kname.png')
    assert '\x1b' not in str(e.value)


def test_frequencies_as_a_picture(tmp_path):
    from hierseg.data import plot_frequencies
    fig = plot_frequencies(check_dataset(make(tmp_path / 'd'), TREE))
    assert [len(ax.patches) for ax in fig.axes] == [3]
    fig.savefig(Path(tmp_path) / 'f.png')
