"The command line, in process, on small data: what it prints, what it writes, how it refuses."
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hierseg.cli import main
from hierseg.data.synthetic import make_synthetic
from hierseg.taxonomy.tree import Taxonomy

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
    'bad valid pct': (['train', '{people}', '--train-ids', '{ids}', '--valid-pct', '2'], 'valid-pct'),
    'out is in the way': (['train', '{people}', '--out', '{people}'], 'exists already'),
    'resume nothing': (['train', '--resume', '{experiment}'], 'resume'),
    'train nothing': (['train'], 'DATA'),
    'no experiment': (['validate', '{people}'], 'config.yaml'),
    'validate nowhere': (['validate', '{experiment}', 'nowhere'], 'nowhere'),
    'validate unknown selector': (['validate', '{experiment}', '--selectors', 'clever'], 'clever'),
    'predict nothing': (['predict', '{experiment}', '--out', 'x'], 'IMAGES'),
    'predict missing': (['predict', '{experiment}', 'none.jpg', '--out', 'x'], 'none.jpg'),
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


def test_a_broken_image_is_named_and_the_others_are_predicted(people, experiment, tmp_path, capsys):
    whole = sorted((people / 'JPEGImages').glob('*.jpg'))[:2]
    (tmp_path / 'cut.jpg').write_bytes(whole[0].read_bytes()[:700])
    assert run('predict', experiment, whole[0], tmp_path / 'cut.jpg', whole[1], '--out', tmp_path / 'm', '--area', '--levels') == 1
    out, err = capsys.readouterr()
    assert 'cut.jpg' in err and len(err.strip().splitlines()) == 1 and '1 of 3 images failed' in out
    assert {p.stem for p in whole} <= {p.stem for p in (tmp_path / 'm').glob('*.png')} and not list((tmp_path / 'm').glob('cut*'))
    assert (tmp_path / 'm/classes.json').is_file() and (tmp_path / 'm/area.csv').is_file()
    assert run('predict', experiment, *whole, '--out', tmp_path / 'm', '--resume') == 0
    assert '2 images were there already' in capsys.readouterr().out


def test_an_exported_model_predicts_the_same(experiment, people, tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    image = next((people / 'JPEGImages').glob('*.jpg'))
    assert run('export', experiment, '--onnx', tmp_path / 'e.onnx') == 0
    for source, out in (experiment, 'a'), (tmp_path / 'e.onnx', 'b'):
        assert run('predict', source, image, '--out', tmp_path / out, '--no-overlay') == 0
    a, b = (np.asarray(Image.open(tmp_path / o / f'{image.stem}.png')) for o in 'ab')
    assert (a == b).mean() > .999
    assert run('export', experiment) == 2


def test_a_bundle_to_share_is_an_experiment(experiment, people, tmp_path):
    assert run('push', experiment, tmp_path / 'bundle', '--local', '--license', 'apache-2.0') == 0
    names = {p.name for p in (tmp_path / 'bundle').iterdir()}
    assert {'README.md', 'config.yaml', 'taxonomy.yaml', 'model.safetensors'} <= names
    image = next((people / 'JPEGImages').glob('*.jpg'))
    assert run('predict', tmp_path / 'bundle', image, '--out', tmp_path / 'm') == 0


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


# ---- training from a configuration, checkpoints, comparison

STUDY = """
augmentations: [RandomSizedCrop, HorizontalFlip, VerticalFlip]
batch_size: 4
loss: HierarchicalLoss
lr: 1e-3
model_params: {__class__: models.unet.UNet, in_channels: 3, out_channels: 7, channels_array: [4, 8], bottleneck_channels: 8, pool_kernel_size: 2,
               conv_kernel_size: 3, block_depth: 1, enable_batchnorm: true, act_class: torch.nn.ReLU}
resample: 1
"""


def read_yaml(path):
    import yaml
    return yaml.safe_load(Path(path).read_text())


def test_a_configuration_of_the_study_trains_and_comes_back_out(people, tmp_path):
    (tmp_path / 'study.yaml').write_text(STUDY)
    assert run('train', people, '--config', tmp_path / 'study.yaml', '--size', 32, '--epochs', 1, '--out', tmp_path / 'a') == 0
    cfg = read_yaml(tmp_path / 'a/config.yaml')
    assert cfg['lr'] == 1e-3 and cfg['batch_size'] == 4 and cfg['resample'] == 'lanczos' and cfg['loss']['__class__'] == 'HierarchicalLoss'
    assert cfg['model_params']['__class__'] == 'UNet' and cfg['model_params']['channels_array'] == [4, 8]
    assert [t['__class_fullname__'] for t in cfg['augmentations']['transform']['transforms']] == ['RandomSizedCrop', 'HorizontalFlip', 'VerticalFlip']
    assert run('train', '--config', tmp_path / 'a/config.yaml', '--out', tmp_path / 'b') == 0, 'what was written is read'
    assert (tmp_path / 'a/model.safetensors').read_bytes() == (tmp_path / 'b/model.safetensors').read_bytes()
    assert cfg == read_yaml(tmp_path / 'b/config.yaml')


@pytest.mark.parametrize('data, options', [
    ('people', []),
    ('people', ['--loss', 'ce', '--selector', 'smart', '--class-weights', 'inverse', '--lr', '0.00123456789']),
    ('street', ['--arch', 'segnet', '--model-params', '{encoder_channels_array: [4, 8], block_depth: 1}', '--augment', 'study', '--valid-pct', '0.25'])])
def test_the_configuration_of_an_experiment_gives_the_same_training(request, tmp_path, data, options):
    data = request.getfixturevalue(data)
    assert run('train', data, '--epochs', 1, '--out', tmp_path / 'a', *SMALL, *options) == 0
    assert run('train', '--config', tmp_path / 'a/config.yaml', '--out', tmp_path / 'b') == 0
    assert (tmp_path / 'a/model.safetensors').read_bytes() == (tmp_path / 'b/model.safetensors').read_bytes()
    assert (tmp_path / 'a/valid_id.txt').read_text() == (tmp_path / 'b/valid_id.txt').read_text()


def test_what_is_typed_goes_before_the_file(people, tmp_path):
    (tmp_path / 'study.yaml').write_text(STUDY + 'epochs: 7\nseed: 3\n')
    config = ['--config', tmp_path / 'study.yaml']
    assert run('train', people, *config, '--size', 32, '--epochs', 1, '--lr', '0.002', '--base-loss', 'dice', '--model-params', '{bottleneck_channels: 4}', '--out', tmp_path / 'a') == 0
    cfg = read_yaml(tmp_path / 'a/config.yaml')
    assert (cfg['epochs'], cfg['lr'], cfg['seed'], cfg['batch_size']) == (1, .002, 3, 4) and 'dice' in str(cfg['loss']['base_loss']).lower()
    assert cfg['model_params']['bottleneck_channels'] == 4 and cfg['model_params']['channels_array'] == [4, 8]
    assert run('train', people, '--config', tmp_path / 'a/config.yaml', '--loss', 'ce', '--arch', 'segnet', '--model-params', '{encoder_channels_array: [4, 8]}', '--out', tmp_path / 'b') == 0
    cfg = read_yaml(tmp_path / 'b/config.yaml')
    assert cfg['model_params']['__class__'] == 'SegNet' and cfg['loss']['__class__'] == 'FlatLoss' and cfg['lr'] == .002


BAD_CONFIGS = {
    'unknown key': ('learning_rate: 1', 'learning_rate: unknown; known keys are'), 'bad lr': ('lr: fast', 'lr'), 'bad epochs': ('epochs: 0', 'epochs'),
    'no mapping': ('[1, 2]', 'mapping'), 'no yaml': ('lr: [', 'bad.yaml'), 'unknown transform': ('augmentations: [Fly]', 'Fly'), 'unknown loss': ('loss: MSELoss', 'MSELoss'),
    'stranger in the loss': ('loss: {__class__: HierarchicalLoss, magic: 1}', 'magic'), 'unknown model': ('model_params: {__class__: VNet}', 'VNet'),
    'unknown filter': ('resample: 9', 'resample'), 'runs code': ('loss: !!python/name:os.system', 'bad.yaml'), 'bad checkpoints': ('checkpoints: some', 'checkpoints'),
    'bad size': ('size: [1, 2, 3]', 'size'), 'bad monitor': ('monitor: speed', 'speed'), 'bad selector': ('selector: {__class__: magic}', 'magic')}


@pytest.mark.parametrize('text, says', BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_bad_configuration_is_one_line(text, says, people, tmp_path, capsys):
    (tmp_path / 'bad.yaml').write_text(text)
    assert run('train', people, '--config', tmp_path / 'bad.yaml', '--out', tmp_path / 'e', *(SMALL[:2] if 'model' not in text else []),
               *(['--size', 32] if 'size' not in text else [])) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith('hierseg:')]
    assert len(err) == 1 and says in err[0] and not (tmp_path / 'e').exists()


def test_augmentations_from_a_file(people, tmp_path):
    (tmp_path / 'flips.yaml').write_text('[HorizontalFlip, {Rotate: {limit: 10}}]')
    assert run('train', people, '--epochs', 1, '--augment', tmp_path / 'flips.yaml', '--out', tmp_path / 'e', *SMALL) == 0
    assert len(read_yaml(tmp_path / 'e/config.yaml')['augmentations']['transform']['transforms']) == 2


@pytest.fixture(scope='module')
def kept(people, tmp_path_factory):
    "A run that kept every epoch, and the flat baseline, which kept the best two of three."
    out = tmp_path_factory.mktemp('kept')
    assert run('train', people, '--epochs', 2, '--checkpoints', 'all', '--out', out / 'hier', *SMALL) == 0
    assert run('train', people, '--epochs', 3, '--checkpoints', 'best:2', '--monitor', 'valid_loss', '--loss', 'ce', '--out', out / 'flat', *SMALL) == 0
    return out


def test_all_checkpoints_are_scored_and_drawn(kept, tmp_path, capsys):
    import csv
    assert len(list((kept / 'flat/checkpoints').iterdir())) == 2
    capsys.readouterr()
    assert run('validate', kept / 'hier', '--all-checkpoints', '--at', 'input', '--levels', 'level_1,level_3') == 0
    said = capsys.readouterr().out                 # table and picture say the same reduction, by name
    assert 'mean over images' in said and 'miou_image_level_1_smart' in said and ' miou_level_1' not in said
    from hierseg.plotting.curves import plot_checkpoints
    figure = plot_checkpoints(kept / 'hier/checkpoints.csv', Taxonomy(kept / 'hier/taxonomy.yaml'))
    assert 'mean over images' in figure._suptitle.get_text()
    rows = list(csv.DictReader((kept / 'hier/checkpoints.csv').open()))
    history = list(csv.DictReader((kept / 'hier/history.csv').open()))
    assert [r['epoch'] for r in rows] == ['0', '1']
    for a, b in zip(rows, history):
        assert [float(a[f'miou_level_{i}_simple']) for i in (1, 2, 3)] == pytest.approx([float(b[f'miou_level_{i}']) for i in (1, 2, 3)], abs=2e-6)
        assert float(a['valid_loss']) == float(b['valid_loss']) and float(a['miou_image_se_level_1_smart']) >= 0
    assert (kept / 'hier/checkpoints.png').stat().st_size > 10_000
    assert run('predict', kept / 'hier', next((kept / 'hier').glob('*.png')), '--weights', 'epoch_000', '--out', tmp_path / 'm') == 0
    capsys.readouterr()
    assert run('validate', kept / 'hier', '--all-checkpoints', '--ids', kept / 'hier/train_id.txt') == 2 and '--out' in capsys.readouterr().err


def test_validate_scores_what_predict_answers_with_a_mirror(kept, tmp_path, capsys):
    import hierseg.all as hs
    assert run('validate', kept / 'hier', '--tta', '--selectors', 'smart', '--json', tmp_path / 's.json') == 0
    assert 'mean of image and mirror image' in capsys.readouterr().out
    assert (kept / 'hier/scores_tta.json').read_text() == (tmp_path / 's.json').read_text()
    pairs = hs.pairs_of_experiment(kept / 'hier')
    images = [p.image for p in pairs]
    tax = hs.Taxonomy(kept / 'hier/taxonomy.yaml')
    conf = hs.LevelConfusion(tax, ['smart'])
    for p, answer in hs.HierPredictor.from_experiment(kept / 'hier', selector='smart').predict_many(images, looks=True):
        mask = next(q.mask for q in pairs if q.image == p)
        conf.update({'smart': [torch.from_numpy(m)[None] for m in answer.levels]}, torch.from_numpy(tax.encode(hs.read_mask(mask), mask))[None])
    scores = json.loads((tmp_path / 's.json').read_text())
    assert scores['tta'] is True
    for l, name in enumerate(tax.level_names):
        assert scores['selectors']['smart']['levels'][name]['miou'] == pytest.approx(conf.miou(l))
    assert run('validate', kept / 'hier', '--tta', '--at', 'input') == 2 and '--tta' in capsys.readouterr().err


def test_validate_leaves_its_scores_where_compare_finds_them(kept, people, tmp_path, capsys):
    assert run('validate', kept / 'flat') == 0 and run('validate', kept / 'flat', '--at', 'input') == 0
    assert run('validate', kept / 'flat', '--ids', kept / 'flat/train_id.txt', '--json', tmp_path / 'other.json') == 0
    scores = json.loads((kept / 'flat/scores.json').read_text())
    assert scores['at'] == 'native' and scores['images'] == 4 and json.loads((kept / 'flat/scores_input.json').read_text())['at'] == 'input'
    capsys.readouterr()
    assert run('compare', kept / 'hier', kept / 'flat', '--csv', tmp_path / 'c.csv', '--out', tmp_path / 'figures') == 0
    import pandas as pd
    table = pd.read_csv(tmp_path / 'c.csv').set_index('name')
    assert set(table.index) == {'hier', 'flat'} and table.loc['flat', 'loss'] == 'flat/ce' and list(table.loc[['hier', 'flat'], 'epochs']) == [2, 3]
    assert table.loc['flat', 'native_level_3'] == pytest.approx(scores['selectors']['simple']['levels']['level_3']['miou']) and np.isnan(table.loc['hier', 'native_level_3'])
    assert table['best_level_3'].is_monotonic_decreasing and capsys.readouterr().out.startswith('| name') and (tmp_path / 'figures/comparison.png').is_file()


def test_compare_shows_blanks_for_classes_of_another_tree(kept, street, tmp_path, capsys):
    assert run('train', street, '--valid-pct', '0.25', '--epochs', 1, '--out', tmp_path / 'hier', *SMALL) == 0
    capsys.readouterr()
    assert run('compare', kept / 'hier', tmp_path / 'hier', '--csv', tmp_path / 'c.csv') == 0
    assert 'other classes' in capsys.readouterr().err
    import pandas as pd
    table = pd.read_csv(tmp_path / 'c.csv').set_index('name')
    assert len(table) == 2 and all(n.endswith('/hier') for n in table.index) and table.loc[f'{tmp_path.name}/hier', [c for c in table if 'level' in c]].isna().all()


def test_of_the_table_and_the_figure_neither_is_lost_with_the_other(kept, tmp_path, capsys, monkeypatch):
    import hierseg.evaluation.comparison as comparison
    runs = kept / 'hier', kept / 'flat'
    assert run('compare', *runs, '--out', tmp_path / 'new/figs', '--csv', tmp_path / 'new/figs/a.csv') == 0         # the table goes where the figure made a folder
    assert {p.name for p in (tmp_path / 'new/figs').iterdir()} == {'a.csv', 'comparison.png'}
    capsys.readouterr()
    assert run('compare', *runs, '--out', tmp_path / 'figs', '--csv', tmp_path / 'nowhere/a.csv') == 2              # no table
    out, err = capsys.readouterr()
    assert (tmp_path / 'figs/comparison.png').is_file() and out.startswith('| name') and 'nowhere/a.csv: cannot be written' in err and 'Traceback' not in err
    (tmp_path / 'file').write_text('')
    assert run('compare', *runs, '--out', tmp_path / 'file/figs', '--csv', tmp_path / 'b.csv') == 2                 # no place for the figure
    assert (tmp_path / 'b.csv').is_file() and 'file/figs' in capsys.readouterr().err

    def fail(*args): raise ValueError('no curve')
    monkeypatch.setattr(comparison, 'plot_comparison', fail)
    assert run('compare', *runs, '--out', tmp_path / 'more', '--csv', tmp_path / 'more/c.csv') == 2                 # no figure
    assert [p.name for p in (tmp_path / 'more').iterdir()] == ['c.csv'] and capsys.readouterr().err == 'hierseg: no curve\n'
    assert run('compare', *runs, '--out', tmp_path / 'more', '--csv', tmp_path / 'nowhere/c.csv') == 2              # neither: both are said
    assert capsys.readouterr().err.splitlines() == ['hierseg: no curve', f"hierseg: {tmp_path / 'nowhere/c.csv'}: cannot be written: No such file or directory"]


def test_no_result_of_a_command_is_lost_with_another(kept, people, tmp_path, capsys):
    (kept / 'hier/scores_epoch_000.json').mkdir()
    try:
        assert run('validate', kept / 'hier', '--weights', 'epoch_000', '--json', tmp_path / 's.json') == 2
    finally:
        (kept / 'hier/scores_epoch_000.json').rmdir()
    assert json.loads((tmp_path / 's.json').read_text())['weights'] == 'epoch_000' and 'level_3' in capsys.readouterr().out
    assert run('check', people, '--figure', tmp_path / 'f.bmpx', '--json', tmp_path / 'c.json') == 2
    assert (tmp_path / 'c.json').is_file() and 'f.bmpx' in capsys.readouterr().err


MORE_REFUSED = {
    'resume with options': (['train', '--resume', '{kept}/hier', '--size', '9'], '--size'),
    'no checkpoints': (['validate', '{experiment}', '--all-checkpoints'], '--checkpoints all'),
    'unknown level': (['validate', '{kept}/hier', '--all-checkpoints', '--levels', 'level_9'], 'level_9'),
    'unknown weights': (['validate', '{kept}/hier', '--weights', 'epoch_009'], 'epoch_009'),
    'compare nothing': (['compare', '{people}'], 'config.yaml'),
    'compare by a stranger': (['compare', '{kept}/hier', '--sort', 'speed'], 'speed'),
    'bad monitor': (['train', '{people}', '--monitor', 'speed', '--size', '32', *SMALL[:2]], 'speed'),
    'bad checkpoints': (['train', '{people}', '--checkpoints', 'best:0'], 'best:0'),
    'negative seed': (['train', '{people}', '--seed', '-1'], '--seed'),
    'mask over a photograph': (['predict', '{kept}/hier', '{png}', '--out', '.'], 'name another folder'),
    'config missing': (['train', '{people}', '--config', 'none.yaml'], 'none.yaml'),
}


@pytest.mark.parametrize('argv, says', MORE_REFUSED.values(), ids=MORE_REFUSED)
def test_more_mistakes_are_one_line_and_leave_nothing(argv, says, people, experiment, kept, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (20, 20)).save('photo.png')
    assert run(*[a.format(people=people, experiment=experiment, kept=kept, png='photo.png') if '{channels' not in a else a for a in argv]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith('hierseg') and not line.startswith('hierseg train: error: the')]
    assert len(err) == 1 and says in err[0], err
    assert [p.name for p in Path().iterdir()] == ['photo.png']


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(people, tmp_path, capsys, monkeypatch):
    import hierseg.training.folder as ex
    monkeypatch.setattr(ex, 'save_resume_state', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert run('train', people, '--epochs', 3, '--out', tmp_path / 'e', *SMALL) == 130
    assert f"hierseg: interrupted after epoch 1 of 3; go on with: hierseg train --resume {tmp_path / 'e'}" in capsys.readouterr().err


def test_another_folder_with_another_tree_is_refused(experiment, people, tmp_path, capsys):
    import shutil
    other = shutil.copytree(people, tmp_path / 'other')
    assert run('validate', experiment, other) == 0
    (other / 'classes_hierarchy.yaml').write_text('bg: 0\nstreet: {road: 1, car: [2, 3], sky: [4, 5, 6]}\n')
    assert run('validate', experiment, other) == 2
    assert 'another tree' in capsys.readouterr().err
    assert run('validate', experiment, other, '--any-tree') == 0


def test_check_without_a_tree_proposes_one(people, tmp_path, capsys):
    import shutil
    bare = shutil.copytree(people, tmp_path / 'bare')
    (bare / 'classes_hierarchy.yaml').unlink()
    assert run('check', bare, '--figure', tmp_path / 'f.png') in (0, 1)
    assert 'hierarchy' in capsys.readouterr().out or (tmp_path / 'f.png').is_file()
    assert (tmp_path / 'f.png').is_file()


def test_the_learning_rate_finder(people, tmp_path, capsys):
    assert run('lr', people, *SMALL, '--out', tmp_path / 'lr.png') in (0, 2)
    out, err = capsys.readouterr()
    assert (float(out) > 0 and (tmp_path / 'lr.png').is_file()) or 'no learning rate was found' in err


def test_an_average_of_the_weights(people, tmp_path):
    for name, more in (('plain', []), ('ema', ['--ema', '0.9'])):
        assert run('train', people, '--epochs', 1, '--out', tmp_path / name, *SMALL, *more) == 0
    assert read_yaml(tmp_path / 'ema/config.yaml')['ema'] == .9
    assert (tmp_path / 'ema/model.safetensors').read_bytes() != (tmp_path / 'plain/model.safetensors').read_bytes()


def test_an_argument_too_many_points_at_the_help_of_its_command(capsys):
    assert run('check', 'DATA', 'tree.yaml') == 2
    assert capsys.readouterr().err == "hierseg: unrecognized arguments: tree.yaml; see hierseg check --help\n"


def test_weights_that_are_no_tensors_are_refused_without_the_library_s_advice(people, tmp_path, capsys):
    import fractions
    import torch
    torch.save({'a': fractions.Fraction(1, 2)}, tmp_path / 'w.pth')
    args = '--encoder', 'tf_efficientnet_lite0', '--pretrained', tmp_path / 'w.pth', '--size', 32, '--epochs', 1, '--out', tmp_path / 'e'
    assert run('train', people, *args) == 2
    err = capsys.readouterr().err
    assert 'w.pth: cannot be read as weights' in err and '.safetensors' in err
    assert 'weights_only' not in err and 'trust' not in err and '\x1b' not in err and not (tmp_path / 'e').exists()


@pytest.mark.parametrize('lr', ['inf', '1e308', 'nan', '-1', '0'])
def test_a_learning_rate_that_means_nothing_is_refused(lr, people, tmp_path, capsys):
    assert run('train', people, '--epochs', 1, '--out', tmp_path / 'e', *SMALL, f'--lr={lr}') == 2
    assert 'lr' in capsys.readouterr().err and not (tmp_path / 'e').exists()


def test_no_warning_of_a_library_stands_before_our_line(experiment, tmp_path):
    "In a process of its own, where nothing catches them."
    (tmp_path / 'cut.jpg').write_bytes(b'\xff\xd8\xff\xe0 no picture')
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONWARNINGS'}
    cmd = [sys.executable, '-m', 'hierseg', 'predict', str(experiment), str(tmp_path / 'cut.jpg'), '--out', str(tmp_path / 'm')]
    done = subprocess.run(cmd, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode in (1, 2) and len(done.stderr.strip().splitlines()) == 1 and 'cut.jpg' in done.stderr, done.stderr


def test_several_processes_without_accelerate_are_refused_in_one_line(people, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('WORLD_SIZE', '2')                       # what a launcher says
    monkeypatch.setattr('hierseg.training.distributed.Accelerator', None)
    assert run('train', people, '--epochs', 1, '--out', tmp_path / 'e', *SMALL) == 2
    err = capsys.readouterr().err
    assert "2 processes were started" in err and "pip install 'hierseg[distributed]'" in err and not (tmp_path / 'e').exists()


def test_validate_draws_examples_and_the_card_shows_them(people, tmp_path, capsys):
    assert run('train', people, '--epochs', 1, '--out', tmp_path / 'e', *SMALL) == 0
    assert run('push', tmp_path / 'e', tmp_path / 'before', '--local') == 0
    assert 'examples.png' not in (tmp_path / 'before/README.md').read_text()
    picture = tmp_path / 'e/examples.png'
    assert run('validate', tmp_path / 'e', '--examples', picture) == 0
    assert str(picture) in capsys.readouterr().err and Image.open(picture).width > 300
    assert run('push', tmp_path / 'e', tmp_path / 'bundle', '--local') == 0
    card = (tmp_path / 'bundle/README.md').read_text()
    assert '](examples.png)' in card and (tmp_path / 'bundle/examples.png').read_bytes() == picture.read_bytes()
    scores = json.loads((tmp_path / 'e/scores.json').read_text())['selectors']
    for name, level in scores['simple']['levels'].items():
        for c, iou in level['iou'].items():
            assert f"| {name} | {c} | {'–' if iou is None else f'{iou:.3f}'} |" in card
