"Synthetic people: what a sample and a folder promise."

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from hierseg.data.synthetic import Paint, SYNTHETIC_TREE, _Canvas, make_synthetic, synthetic_sample
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy


def digest(folder):
    return {
        str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest()
        for p in Path(folder).rglob('*')
        if p.is_file()
    }


def sample_digest(seed, size):
    img, mask = synthetic_sample(seed, size)
    return hashlib.md5(img.tobytes() + mask.tobytes()).hexdigest()


def test_tree_is_the_studys():
    assert SYNTHETIC_TREE == PERSON_TREE


@given(st.integers(0, 2**40), st.integers(16, 90), st.integers(16, 90))
def test_sample_contract(seed, w, h):
    img, mask = synthetic_sample(seed, (w, h))
    assert img.mode == 'RGB' and mask.mode == 'L' and img.size == mask.size == (w, h)
    assert np.asarray(mask).max() <= 6
    again = synthetic_sample(seed, (w, h))
    assert img.tobytes() == again[0].tobytes() and mask.tobytes() == again[1].tobytes()


def test_same_in_another_process():
    code = ("import hashlib; from hierseg.synthetic import synthetic_sample as s; i, m = s((3, 1, 4), 64); "
            "print(hashlib.md5(i.tobytes() + m.tobytes()).hexdigest())")
    out = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert out.stdout.strip() == sample_digest((3, 1, 4), 64)


def test_samples_differ():
    assert len({sample_digest((0, i), 32) for i in range(20)} | {sample_digest((1, i), 32) for i in range(20)}) == 40


def test_size_keeps_the_scene():
    agree = [
        (np.asarray(synthetic_sample((5, i), 48)[1]) == np.asarray(synthetic_sample((5, i), 144)[1])[1::3, 1::3]).mean()
        for i in range(12)
    ]
    assert min(agree) > 0.93


def test_statistics_resemble_photographs():
    masks = np.stack([synthetic_sample((9, i), 64)[1] for i in range(150)])
    share = np.bincount(masks.ravel(), minlength=7) / masks.size
    assert 0.65 < share[0] < 0.82 and 0.06 < share[2] < 0.13 and share[[1, 3, 4, 5, 6]].min() > 0.01
    absent = np.array([(~(masks == c).any((1, 2))).mean() for c in range(7)])
    assert absent[0] == 0 and 0.2 < absent[3] < 0.5  # lower legs are often out of the frame
    whole = (masks != 0).any(1)
    assert (whole[:, 0] | whole[:, -1]).mean() > 0.1  # people run out of the picture


def test_hard_by_colour_alone():
    "A nearest-mean classifier on colour must be far from right: clutter wears the same colours"
    pairs = [synthetic_sample((11, i), 48) for i in range(60)]
    x = np.concatenate([np.asarray(i, float).reshape(-1, 3) for i, _ in pairs])
    y = np.concatenate([np.asarray(m).ravel() for _, m in pairs])
    means = np.stack([x[y == c].mean(0) for c in range(7)])
    pred = ((x[:, None] - means) ** 2).sum(-1).argmin(1)
    iou = [((pred == c) & (y == c)).sum() / ((pred == c) | (y == c)).sum() for c in range(1, 7)]
    assert np.mean(iou) < 0.25


def test_image_and_mask_are_aligned():
    "White shapes on black: pixels well inside a shape are white, well outside black"
    canvas = _Canvas((60, 40))
    canvas.add([(10.2, 9.7), (41.6, 12.1), (30.3, 33.3)], Paint(np.array([255, 255, 255])), 'torso')
    shapes = np.asarray(canvas.map.point([0] + [255] * 255).reduce(3), float) / 255
    mask = canvas.mask()
    assert set(np.unique(mask)) == {0, 2}
    assert (shapes[mask == 2] >= 0.3).all() and (shapes[mask == 0] <= 0.7).all()
    assert abs(shapes.sum() - (mask == 2).sum()) < 15
    yx = [np.average(g, weights=shapes) - g[mask == 2].mean() for g in np.mgrid[:40, :60]]
    assert np.abs(yx).max() < 0.25


def test_later_shapes_hide_earlier_ones():
    canvas, square = _Canvas((20, 20)), [(2, 2), (15, 2), (15, 15), (2, 15)]
    canvas.add(square, Paint((9, 9, 9)), 'head')
    canvas.add(square, Paint((99, 9, 9)), 'bg')
    assert not canvas.mask().any() and canvas.materials().any()


@pytest.mark.parametrize('size', [8, 15, (64, 8), (1, 2, 3), 'big', None, 64.5, True])
def test_bad_size(size):
    with pytest.raises(ValueError, match='at least 16'):
        synthetic_sample(0, size)


def test_folder(tmp_path):
    seen = []
    path = make_synthetic(
        tmp_path / 'new' / 'people', 4, 3, (40, 32), seed=2, progress=lambda jobs: seen.append(len(jobs)) or jobs
    )
    assert seen == [7]
    train, valid = ((path / f'{s}_id.txt').read_text().split() for s in ('train', 'val'))
    assert len(train) == 4 and len(valid) == 3 and not set(train) & set(valid)
    assert (
        {p.stem for p in (path / 'JPEGImages').iterdir()}
        == {p.stem for p in (path / 'gt_masks').iterdir()}
        == set(train + valid)
    )
    tax = Taxonomy.from_yaml(path / 'classes_hierarchy.yaml')
    assert tax == Taxonomy(PERSON_TREE)
    for stem in train + valid:
        img, mask = Image.open(path / 'JPEGImages' / f'{stem}.jpg'), Image.open(path / 'gt_masks' / f'{stem}.png')
        assert img.size == mask.size == (40, 32) and mask.mode == 'L'
        tax.encode(np.asarray(mask))
    img, mask = synthetic_sample((2, 1, 0), (40, 32))
    assert Image.open(path / 'gt_masks' / f'{valid[0]}.png').tobytes() == mask.tobytes()
    assert np.abs(np.asarray(Image.open(path / 'JPEGImages' / f'{valid[0]}.jpg'), float) - np.asarray(img)).mean() < 6


def test_rerun_and_resume(tmp_path):
    a, b = make_synthetic(tmp_path / 'a', 3, 1, 32), make_synthetic(tmp_path / 'b', 3, 1, 32)
    assert digest(a) == digest(b)
    stamp = (a / 'JPEGImages' / 'train_00000.jpg').stat().st_mtime_ns
    (a / 'gt_masks' / 'train_00002.png').unlink(), (a / 'val_id.txt').unlink()
    assert digest(make_synthetic(a, 3, 1, 32)) == digest(b)
    assert (a / 'JPEGImages' / 'train_00000.jpg').stat().st_mtime_ns == stamp


def test_interrupted_leaves_only_whole_files(tmp_path):
    def stop_after_two(jobs):
        yield from jobs[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path / 'a', 3, 1, 32, progress=stop_after_two)
    assert len(list((tmp_path / 'a' / 'gt_masks').iterdir())) == 2 and not list(tmp_path.rglob('*.tmp'))
    assert digest(make_synthetic(tmp_path / 'a', 3, 1, 32)) == digest(make_synthetic(tmp_path / 'b', 3, 1, 32))


def test_more_training_images_keep_the_rest(tmp_path):
    a, b = digest(make_synthetic(tmp_path / 'a', 2, 2, 32)), digest(make_synthetic(tmp_path / 'b', 4, 2, 32))
    assert all(b[k] == v for k, v in a.items() if k.endswith(('jpg', 'png')))


@pytest.mark.parametrize(
    'kw, word',
    [
        (dict(n_train=0), 'n_train=0'),
        (dict(n_valid=-1), 'n_valid=-1'),
        (dict(n_train=1.5), 'n_train=1.5'),
        (dict(n_valid=True), 'n_valid=True'),
        (dict(seed=-1), 'seed=-1'),
        (dict(size=4), 'size=4'),
    ],
)
def test_bad_arguments_touch_nothing(tmp_path, kw, word):
    with pytest.raises(ValueError, match=word):
        make_synthetic(tmp_path / 'a', **kw)
    assert not (tmp_path / 'a').exists()


def test_foreign_folder_refused(tmp_path):
    (tmp_path / 'mine.txt').write_text('keep')
    with pytest.raises(ValueError, match='not a synthetic data set'):
        make_synthetic(tmp_path, 1, 1)
    with pytest.raises(ValueError, match='is a file'):
        make_synthetic(tmp_path / 'mine.txt', 1, 1)
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']


def test_other_parameters_refused(tmp_path):
    path = make_synthetic(tmp_path / 'a', 1, 1, 32)
    before = digest(path)
    with pytest.raises(ValueError, match='delete this one'):
        make_synthetic(path, 1, 1, 32, seed=1)
    assert digest(path) == before
    (path / 'synthetic.json').write_text(json.dumps([1])[:-1])
    with pytest.raises(ValueError, match='delete this one'):
        make_synthetic(path, 1, 1, 32)
