"A folder whose masks name parts here and only the body there: checked, trained on, scored and predicted from the command line."
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from hierseg.cli import main
from hierseg.data.check import check_dataset
from hierseg.data.synthetic import make_synthetic
from hierseg.taxonomy.tree import Taxonomy

SMALL = ['--model-params', '{channels_array: [4, 8], bottleneck_channels: 8, block_depth: 1}', '--size', '32', '--bs', '4', '--epochs', 1]
TREE = """
hierarchy:
  bg: 0
  body:
    upper_body: {low_hand: 1, up_hand: 6, torso: 2, head: 4}
    lower_body: {low_leg: 3, up_leg: 5}
coarse: {upper_body: 10, lower_body: 11, body: 12}
"""


def run(*argv):
    try:
        return main([str(a) for a in argv])
    except SystemExit as e:
        return e.code


def coarsen(raw, i):
    "Every fourth mask stays as it is; of the others one in three names the body alone, two the halves."
    if i % 4 == 0:
        return raw
    out = raw.copy()
    for new, ids in ((12, [1, 2, 3, 4, 5, 6]),) if i % 4 == 1 else ((10, [1, 6, 2, 4]), (11, [3, 5])):
        out[np.isin(raw, ids)] = new
    return out


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    data = make_synthetic(tmp_path_factory.mktemp('data') / 'people', n_train=12, n_valid=4, size=32, seed=3)
    (data / 'classes_hierarchy.yaml').write_text(TREE)
    for d in sorted((data / 'gt_masks').glob('*')):
        Image.fromarray(coarsen(np.asarray(Image.open(d)), int(d.stem[-2:]))).save(d)
    return data


def test_check_knows_coarse_ids_and_counts_them_where_they_say_something(people, capsys):
    "Against a count pixel by pixel."
    tax = Taxonomy(people / 'classes_hierarchy.yaml')
    report = check_dataset(people, tax)
    raw = [np.asarray(Image.open(f)) for f in (people / 'gt_masks').glob('*')]
    coarse = {10: ('body', 'upper_body'), 11: ('body', 'lower_body'), 12: ('body',)}
    for l, name in enumerate(tax.level_names):
        want = {c: [0, 0] for c in tax.level_classes[l]}
        for m in raw:
            here = {c: 0 for c in want}
            for i, n in zip(*np.unique(m, return_counts=True)):
                c = next((c for c in want if i in tax.ids_of(l, c)), None) if i < 10 else dict(enumerate(coarse[i])).get(l)
                if c:
                    here[c] += int(n)
            want = {c: [a + here[c], b + (here[c] > 0)] for c, (a, b) in want.items()}
        total = sum(a for a, _ in want.values())
        assert report.levels()[name] == {c: dict(pixels=pytest.approx(a / total), images=pytest.approx(b / len(raw))) for c, (a, b) in want.items()}
    assert report.ok and run('check', people) == 0 and 'body/upper_body' in capsys.readouterr().out


@pytest.mark.parametrize('loss', ['marginal', 'hierarchical', 'conditional', 'ce'])
def test_a_mixed_folder_from_end_to_end(people, tmp_path, loss, capsys):
    more = ['--holdout', .4, '--monitor', 'miou_level_2', '--triples-every', 1, '--class-weights', 'sqrt_inverse'] if loss == 'marginal' else []
    assert run('train', people, '--loss', loss, '--out', tmp_path / 'e', *more, *SMALL) == 0
    assert run('validate', tmp_path / 'e', '--json', tmp_path / 's.json') == 0
    report = json.loads((tmp_path / 's.json').read_text())
    assert report['images'] == 4 and report['selectors']['simple']['levels']['level_1']['miou'] is not None
    if loss != 'marginal':
        return
    assert run('calibrate', tmp_path / 'e') == 0
    assert run('predict', tmp_path / 'e', people / 'JPEGImages', '--out', tmp_path / 'm', '--levels', '--selector', 'iou_path', '--no-overlay') == 0
    masks = [np.asarray(Image.open(f)) for f in (tmp_path / 'm').glob('*[0-9].png') if 'level' not in f.stem]
    assert len(masks) == 16 and all(set(np.unique(m)) <= set(range(7)) for m in masks), 'answers are leaves, never inner nodes'


def test_a_folder_whose_masks_are_all_coarse_trains_and_says_that_there_are_no_leaves(people, tmp_path, capsys):
    data = shutil.copytree(people, tmp_path / 'data')
    for f in (data / 'gt_masks').glob('*'):
        Image.fromarray(np.where(np.asarray(Image.open(f)) > 0, 12, 0).astype(np.uint8)).save(f)
    assert run('check', data) == 0 and 'no pixel of low_hand, torso, low_leg, head, up_leg, up_hand' in capsys.readouterr().out
    assert run('train', data, '--loss', 'marginal', '--out', tmp_path / 'e', *SMALL) == 0
    assert run('validate', tmp_path / 'e', '--json', tmp_path / 's.json') == 0
    levels = json.loads((tmp_path / 's.json').read_text())['selectors']['simple']['levels']
    assert levels['level_1']['iou']['body'] > 0 and levels['level_2']['iou']['lower_body'] in (0, None)
