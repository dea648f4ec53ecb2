"The command line, in process, on small data: what it prints, what it writes, how it refuses."
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hierseg.cli import main
from hierseg.synthetic import make_synthetic
from hierseg.taxonomy import Taxonomy

SMALL = ['--model-params', '{channels_array: [4, 8], bottleneck_channels: 8, block_depth: 1}', '--size', '32', '--bs', '4']
STREET = """
hierarchy:
  flat: {road: 7, sidewalk: 8}
  object:
    vehicle: {car: 24, bike: 33}
    pole: 17
  sky: 23
ignore: 255
"""


def run(*argv):
    try:
        return main([str(a) for a in argv])
    except SystemExit as e:
        return e.code


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp('people') / 'data', 8, 4, 48, 1)


@pytest.fixture(scope='module')
def street(tmp_path_factory):
    "Another tree: no background, ragged depth, scattered ids and void; blocks of colour as images, masks as .npy and .png."
    folder = tmp_path_factory.mktemp('street')
    rng = np.random.default_rng(0)
    for d in ('images', 'masks'):
        (folder / d).mkdir()
    for i in range(8):
        mask = rng.choice([7, 8, 24, 33, 17, 23, 255], (6, 5)).repeat(8, 0).repeat(9, 1).astype(np.uint8)
        image = np.stack([mask, 255 - mask, mask // 2], -1)
        Image.fromarray(image).save(folder / 'images' / f'{i:03}.png')
        np.save(folder / 'masks' / f'{i:03}.npy', mask) if i % 2 else Image.fromarray(mask).save(folder / 'masks' / f'{i:03}.png')
    (folder / 'taxonomy.yaml').write_text(STREET)
    return folder


@pytest.fixture(scope='module')
def experiment(people, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'first'
    assert run('train', people, '--epochs', 2, '--out', out, *SMALL) == 0
    return out


def test_train_writes_the_experiment(experiment, capsys):
    names = {p.name for p in experiment.iterdir()}
    assert names == {'config.yaml', 'taxonomy.yaml', 'train_id.txt', 'valid_id.txt', 'model.safetensors', 'history.csv', 'curves.png', 'triples.png'}
    header, *rows = (experiment / 'history.csv').read_text().splitlines()
    assert header.split(',')[:6] == ['epoch', 'train_loss', 'valid_loss', 'miou_level_1', 'miou_level_2', 'miou_level_3'] and len(rows) == 2
    assert len((experiment / 'train_id.txt').read_text().split()) == 8 and len((experiment / 'valid_id.txt').read_text().split()) == 4


def test_validate_prints_every_level_and_selector(experiment, tmp_path, capsys):
    assert run('validate', experiment, '--json', tmp_path / 's.json') == 0
    out = capsys.readouterr().out
    assert 'native size' in out and 'pooled' in out and 'background excluded' in out and 'up_hand' in out
    report = json.loads((tmp_path / 's.json').read_text())
    assert report['images'] == 4 and set(report['selectors']) == {'simple', 'smart'}
    assert set(report['selectors']['simple']['levels']['level_3']['iou']) == {'bg', 'low_hand', 'torso', 'low_leg', 'head', 'up_leg', 'up_hand'}


def test_validate_at_input_size_agrees_with_the_training_table(experiment, tmp_path):
    assert run('validate', experiment, '--at', 'input', '--json', tmp_path / 's.json') == 0
    last = (experiment / 'history.csv').read_text().splitlines()[-1].split(',')
    report = json.loads((tmp_path / 's.json').read_text())['selectors']['simple']['levels']
    assert [report[f'level_{i}']['miou'] for i in (1, 2, 3)] == pytest.approx([float(v) for v in last[3:6]], abs=2e-6)


@pytest.mark.parametrize('reduction', ['image', 'original'])
def test_validate_with_another_reduction_says_so(experiment, capsys, reduction):
    assert run('validate', experiment, '--reduction', reduction) == 0
    assert {'image': 'classes present', 'original': 'counted 0'}[reduction] in capsys.readouterr().out


def test_predict_writes_masks_of_raw_ids_at_native_size(experiment, people, tmp_path, capsys):
    image = next((people / 'JPEGImages').glob('*.jpg'))
    Image.open(image).resize((70, 41)).save(tmp_path / 'odd.jpg')
    assert run('predict', experiment, tmp_path / 'odd.jpg', people / 'JPEGImages', '--out', tmp_path / 'm', '--levels') == 0
    mask = np.asarray(Image.open(tmp_path / 'm/odd.png'))
    assert mask.shape == (41, 70) and set(np.unique(mask)) <= set(range(7))
    names = {p.name for p in (tmp_path / 'm').glob('odd*')}
    assert names == {'odd.png', 'odd_level_1.png', 'odd_level_2.png', 'odd_level_3.png', 'odd_overlay.png'}
    assert len(list((tmp_path / 'm').glob('*_overlay.png'))) == 13


def test_another_tree_and_folder_from_end_to_end(street, tmp_path, capsys):
    assert run('check', street) == 0
    assert run('train', street, '--taxonomy', street / 'taxonomy.yaml', '--valid-pct', '0.25', '--epochs', 1, '--out', tmp_path / 'e', *SMALL) == 0
    assert run('validate', tmp_path / 'e', '--json', tmp_path / 's.json') == 0
    report = json.loads((tmp_path / 's.json').read_text())
    assert report['images'] == 2 and set(report['selectors']['smart']['levels']['level_2']['iou']) == {'road', 'sidewalk', 'pole', 'sky', 'vehicle'}
    assert run('validate', tmp_path / 'e', street, '--json', tmp_path / 's.json') == 0
    assert json.loads((tmp_path / 's.json').read_text())['images'] == 2, 'the same folder: the validation ids'
    assert run('predict', tmp_path / 'e', street / 'images', '--out', tmp_path / 'm', '--no-overlay', '--selector', 'smart') == 0
    masks = [np.asarray(Image.open(p)) for p in (tmp_path / 'm').glob('*.png')]
    assert len(masks) == 8 and all(set(np.unique(m)) <= {7, 8, 24, 33, 17, 23} and m.shape == (48, 45) for m in masks)


def test_same_seed_same_weights(people, tmp_path):
    for name in 'ab':
        assert run('train', people, '--epochs', 1, '--seed', 7, '--augment', 'study', '--out', tmp_path / name, *SMALL) == 0
    assert (tmp_path / 'a/model.safetensors').read_bytes() == (tmp_path / 'b/model.safetensors').read_bytes()


def test_taxonomy_prints_tree_levels_and_ids(street, capsys):
    assert run('taxonomy', street / 'taxonomy.yaml') == 0
    out = capsys.readouterr().out
    assert '│   ├── vehicle' in out and 'level_2: 5 classes' in out and 'void: 255' in out


def test_help_and_taxonomy_do_not_import_torch(street):
    code = ("import sys\nfrom hierseg.cli import main\n"
            "for argv in (['--help'], ['train', '--help'], ['taxonomy', sys.argv[1]]):\n"
            "    try: main(argv)\n"
            "    except SystemExit as e: assert not e.code\n"
            "assert not {'torch', 'fastai', 'matplotlib', 'pandas'} & set(sys.modules)")
    subprocess.run([sys.executable, '-c', code, str(street / 'taxonomy.yaml')], check=True, capture_output=True)


@pytest.mark.parametrize('command', ['demo', 'train', 'validate', 'predict', 'taxonomy', 'check'])
def test_every_command_has_help_with_an_example(command, capsys):
    assert run(command, '--help') == 0
    assert f'hierseg {command}' in capsys.readouterr().out.split('example:')[1]


def test_demo_tells_the_whole_story(tmp_path, capsys):
    assert run('demo', '--out', tmp_path / 'd', '--size', 32, '--n-train', 6, '--n-valid', 3, '--epochs', 1) == 0
    out = capsys.readouterr().out
    assert out.count('| flat') == 2 and out.count('| hierarchical') == 2 and 'smart' in out
    names = {p.name for p in (tmp_path / 'd').iterdir()}
    assert {'data', 'compare.png', 'scores.md'} <= names and sum(n.startswith(('flat ', 'hierarchical ')) for n in names) == 2


REFUSED = {
    'no such folder': (['train', 'nowhere'], 'nowhere'),
    'no taxonomy': (['train', '{empty}'], 'taxonomy'),
    'bad taxonomy': (['train', '{people}', '--taxonomy', '{bad}'], 'bad.yaml'),
    'unknown arch': (['train', '{people}', '--arch', 'vnet'], 'vnet'),
    'unknown loss': (['train', '{people}', '--loss', 'mse'], 'mse'),
    'unknown base loss': (['train', '{people}', '--base-loss', 'mse'], 'mse'),
    'unknown selector': (['train', '{people}', '--selector', 'clever'], 'clever'),
    'unknown resample': (['train', '{people}', '--resample', 'sinc'], 'sinc'),
    'unknown augment': (['train', '{people}', '--augment', 'wild'], 'wild'),
    'bad size': (['train', '{people}', '--size', '0'], 'size'),
    'bad epochs': (['train', '{people}', '--epochs', '-1'], 'epochs'),
    'bad model params': (['train', '{people}', '--model-params', '{{depth: 3}}'], 'depth'),
    'model params no mapping': (['train', '{people}', '--model-params', '[1]'], 'mapping'),
    'missing ids file': (['train', '{people}', '--train-ids', 'none.txt', '--valid-ids', 'none.txt'], 'none.txt'),
    'bad valid pct': (['train', '{people}', '--train-ids', '{ids}', '--valid-pct', '2'], 'valid_pct'),
    'out is in the way': (['train', '{people}', '--out', '{people}'], 'exists already'),
    'resume nothing': (['train', '--resume', '{experiment}'], 'resume'),
    'train nothing': (['train'], 'DATA'),
    'no experiment': (['validate', '{people}'], 'config.yaml'),
    'validate nowhere': (['validate', '{experiment}', 'nowhere'], 'nowhere'),
    'validate unknown selector': (['validate', '{experiment}', '--selectors', 'clever'], 'clever'),
    'predict nothing': (['predict', '{experiment}', '--out', 'x'], 'IMAGES'),
    'predict missing': (['predict', '{experiment}', 'none.jpg', '--out', 'x'], 'none.jpg'),
    'predict truncated': (['predict', '{experiment}', '{cut}', '--out', '{out}'], 'cut.jpg'),
    'taxonomy missing': (['taxonomy', 'none.yaml'], 'none.yaml'),
    'unknown command': (['fly'], 'fly'),
}


@pytest.mark.parametrize('argv, says', REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_and_exit_code_2(argv, says, people, experiment, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'bad.yaml').write_text('a: 1\nb: 1\n')
    (tmp_path / 'ids.txt').write_text((people / 'train_id.txt').read_text())
    (tmp_path / 'cut.jpg').write_bytes(next((people / 'JPEGImages').glob('*.jpg')).read_bytes()[:700])
    where = dict(people=people, experiment=experiment, empty='empty', bad='bad.yaml', ids='ids.txt', cut='cut.jpg', out=tmp_path / 'masks')
    before = sorted(Path().rglob('*'))
    assert run(*[a.format(**where) for a in argv]) == 2
    err = capsys.readouterr().err.strip()
    assert says in err and 'Traceback' not in err
    assert len([line for line in err.splitlines() if not line.startswith(('usage:', ' '))]) == 1, err
    left = [p for p in sorted(Path().rglob('*')) if p not in before and p.is_file()]
    assert left == [], 'nothing half-written is left behind'


def test_unknown_ids_are_refused_with_the_file(people, tmp_path, capsys):
    import shutil
    data = shutil.copytree(people, tmp_path / 'data')
    mask = data / 'gt_masks' / f"{(data / 'train_id.txt').read_text().split()[2]}.png"
    Image.fromarray(np.full_like(np.asarray(Image.open(mask)), 99)).save(mask)
    assert run('train', data, '--epochs', 1, '--out', tmp_path / 'e', *SMALL) == 2
    assert mask.name in capsys.readouterr().err
    assert run('check', data) == 1
    out = capsys.readouterr().out
    assert mask.name in out and '99' in out


def test_taxonomy_of_the_experiment_is_the_one_it_was_trained_with(experiment, people):
    assert Taxonomy(experiment / 'taxonomy.yaml') == Taxonomy(people / 'classes_hierarchy.yaml')
