"A hold-out that is never trained on, and what is fitted on it: from Python and from the command line, through every command that uses it."
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fastai.callback.core import Callback
from PIL import Image

from hierseg.cli import main
from hierseg.core import ExperimentError
from hierseg.data.files import find_pairs, read_ids
from hierseg.data.loaders import HierDataLoaders
from hierseg.data.synthetic import make_synthetic
from hierseg.decoding.iou import LevelIoU
from hierseg.decoding.selectors import get_selector
from hierseg.evaluation.inference import predict_masks
from hierseg.evaluation.predictor import HierPredictor
from hierseg.evaluation.report import evaluate
from hierseg.training.calibrate import FittedDecoding, read_fitted, save_fitted
from hierseg.training.learner import hier_learner, level_probabilities
from hierseg.training.run import calibrate_experiment, data_of_experiment, load_experiment, train, train_experiment

TINY = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)
SMALL = ['--model-params', '{channels_array: [4, 8], bottleneck_channels: 8, block_depth: 1}', '--size', '32', '--bs', '4']


def run(*argv):
    try:
        return main([str(a) for a in argv])
    except SystemExit as e:
        return e.code


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp('data') / 'people', n_train=20, n_valid=6, size=32, seed=0)


@pytest.fixture(scope='module')
def held(people, tmp_path_factory):
    "An experiment of the command line with a hold-out of 8 images, not calibrated."
    out = tmp_path_factory.mktemp('runs') / 'held'
    assert run('train', people, '--holdout', .4, '--epochs', 2, '--lr', '1e-2', '--out', out, *SMALL) == 0
    return out


@pytest.fixture(scope='module')
def calibrated(held, tmp_path_factory):
    out = shutil.copytree(held, tmp_path_factory.mktemp('runs') / 'calibrated')
    assert run('calibrate', out) == 0
    return out


def ids(folder): return {n: read_ids(folder / f'{n}_id.txt') for n in ('train', 'valid', 'holdout')}


class Seen(Callback):
    "Which images the loaders hand out, by the sums of their pixels before augmentation could change them."
    def __init__(self): self.items = set()
    def before_train(self): self.items |= {p.stem for p in self.dls.train_ds.items}
    def before_validate(self): self.items |= {p.stem for p in self.dls.valid_ds.items}


# ---- the hold-out

def test_the_hold_out_is_in_no_split_and_the_three_are_all_images(held, people):
    found = ids(held)
    assert [len(v) for v in found.values()] == [12, 6, 8]
    assert sorted(found['train'] + found['holdout']) == read_ids(people / 'train_id.txt') and found['valid'] == read_ids(people / 'val_id.txt')
    assert yaml.safe_load((held / 'config.yaml').read_text())['data']['holdout'] == .4


def test_the_hold_out_is_never_trained_on(people, tmp_path):
    "Held-out pictures are replaced by files that cannot be read: the training does not notice."
    data = shutil.copytree(people, tmp_path / 'data')
    config = dict(data=dict(path=str(data), holdout=.4), size=32, batch_size=4, model_params=TINY, epochs=1)
    first = train(config, tmp_path / 'first')
    for i in ids(first)['holdout']:
        (data / 'JPEGImages' / f'{i}.jpg').write_bytes(b'no picture')
    seen = Seen()
    again = train(first / 'config.yaml', tmp_path / 'again', cbs=[seen])      # what the experiment wrote trains the same again
    assert (first / 'model.safetensors').read_bytes() == (again / 'model.safetensors').read_bytes() and ids(first) == ids(again)
    assert seen.items == {*ids(again)['train'], *ids(again)['valid']} and not seen.items & {*ids(again)['holdout']}


def test_another_seed_cuts_another_hold_out_and_the_same_the_same(people):
    def cut(seed, **more): return HierDataLoaders.from_folder(people, people / 'classes_hierarchy.yaml', size=32, holdout=.3, seed=seed, **more).split_ids
    assert cut(1) == cut(1) and cut(1)['holdout'] != cut(2)['holdout'] and cut(1)['valid'] == cut(2)['valid']
    random = cut(3, valid_pct=.25)
    assert len({*random['train'], *random['valid'], *random['holdout']}) == 26 == sum(map(len, random.values()))


def test_class_weights_are_counted_without_the_hold_out(people):
    from hierseg.data.loaders import class_frequencies
    dls = HierDataLoaders.from_folder(people, people / 'classes_hierarchy.yaml', size=32, holdout=.4)
    assert (class_frequencies(dls) == class_frequencies([p for p in find_pairs(people) if p.stem in dls.split_ids['train']], dls.taxonomy)).all()


def test_a_resumed_run_keeps_its_hold_out(people, tmp_path):
    class Impatient(Callback):
        def after_batch(self):
            if self.training and self.epoch == 2:
                raise KeyboardInterrupt
    config = dict(data=dict(path=str(people), holdout=.4), size=32, batch_size=4, model_params=TINY, epochs=3)
    whole = train(config, tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / 'broken', cbs=[Impatient()])
    before = ids(tmp_path / 'broken')
    assert run('train', '--resume', tmp_path / 'broken') == 0
    assert ids(tmp_path / 'broken') == before == ids(whole)
    assert (tmp_path / 'broken/model.safetensors').read_bytes() == (whole / 'model.safetensors').read_bytes()
    dls = data_of_experiment(whole)
    assert [p.stem for p in dls.holdout] == before['holdout'] and not {*before['holdout']} & {p.stem for p in dls.items}


def test_a_hold_out_list_of_a_run_that_saved_nothing_goes(people, tmp_path):
    out = tmp_path / 'run'
    train(dict(data=dict(path=str(people), holdout=.4), size=32, batch_size=4, model_params=TINY, epochs=1), out)
    for name in ('model.safetensors', 'history.csv', 'curves.png', 'triples.png'):
        (out / name).unlink()
    train(dict(data=dict(path=str(people)), size=32, batch_size=4, model_params=TINY, epochs=1), out)
    assert not (out / 'holdout_id.txt').exists() and len(read_ids(out / 'train_id.txt')) == 20


def test_what_a_hold_out_may_be(people, tmp_path, capsys):
    for share in ('0', '1', 'x', '1.5'):
        assert run('train', people, '--holdout', share, '--out', tmp_path / 'x', *SMALL) == 2
        assert 'is not a fraction between 0 and 1' in capsys.readouterr().err
    (tmp_path / 'one.txt').write_text('train_00000\n')
    assert run('train', people, '--train-ids', tmp_path / 'one.txt', '--valid-ids', people / 'val_id.txt', '--holdout', .5, '--out', tmp_path / 'x', *SMALL) == 2
    assert 'there is only one' in capsys.readouterr().err
    dls = HierDataLoaders.from_folder(people, people / 'classes_hierarchy.yaml', size=32)
    with pytest.raises(ValueError, match='is in the hold-out and in a split'):
        dls.keep_out(find_pairs(people)[-1:])


# ---- what is fitted

def test_calibrate_fits_on_two_thirds_and_scores_on_the_rest(held):
    fitted = load_experiment(held, data_of_experiment(held)).calibrate()
    assert (fitted.report['fitted'], fitted.report['scored']) == (5, 3) and sorted(fitted.selectors) == ['iou', 'iou_path']
    learn = load_experiment(held, data_of_experiment(held))
    rest = learn.dls.holdout[1::3]
    for name, config in fitted.selectors.items():
        count = LevelIoU(learn.taxonomy)
        for levels, mask in level_probabilities(learn, rest):
            count.update(get_selector(config, learn.taxonomy).select(levels, log=False), mask)
        assert count.mean() == fitted.report['miou'][name]


@pytest.mark.parametrize('limit', [None, 0, 'no room'])
def test_a_hold_out_that_memory_does_not_hold_is_fitted_the_same(held, monkeypatch, limit):
    "The batches wait in temporary files; only where those cannot be written the network is asked again."
    import hierseg.training.calibrate as module
    whole, asked, files = load_experiment(held, data_of_experiment(held)).calibrate(), [], []
    save = module.save_file
    def counted(*args, **kwargs):
        asked.append(1)
        return level_probabilities(*args, **kwargs)
    def written(tensors, file):
        files.append(Path(file))
        if limit == 'no room':
            raise OSError(28, 'No space left on device')
        save(tensors, file)
    monkeypatch.setattr(module, 'level_probabilities', counted)
    monkeypatch.setattr(module, 'save_file', written)
    monkeypatch.setattr(module, 'KEPT_BYTES', module.KEPT_BYTES if limit is None else 0)
    fitted = load_experiment(held, data_of_experiment(held)).calibrate()
    assert fitted.to_dict() == whole.to_dict() and bool(files) == (limit is not None)
    assert (len(asked) == 2) == (limit != 'no room'), 'once for the fit, once for the images that are scored'
    assert not any(f.exists() for f in files)


def test_the_hold_out_is_what_fit_selector_takes(held):
    learn = load_experiment(held, data_of_experiment(held))
    assert learn.fit_selector() == learn.fit_selector(items=list(learn.dls.holdout)) != learn.fit_selector(items=list(learn.dls.train_ds.items))


def test_calibrate_on_the_command_line(held, tmp_path, capsys):
    folder = shutil.copytree(held, tmp_path / 'e')
    assert run('calibrate', folder, '--json', tmp_path / 'c.json') == 0
    out = capsys.readouterr().out
    assert 'fitted on 5 images (hold-out), scored on 3 others' in out and 'iou_path' in out and 'with temperature' in out and str(folder / 'calibration.yaml') in out
    found = json.loads((tmp_path / 'c.json').read_text())
    assert found['ids'] == ids(folder)['holdout'] and len(found['temperatures']) == 3 and len(found['calibration_error_fitted']) == 3
    assert read_fitted(folder, load_experiment(folder).taxonomy).to_dict() == found
    assert not [p for p in folder.iterdir() if p.name.endswith('.tmp')]


def test_a_model_that_is_too_sure_is_cured(held, tmp_path):
    "The last layer times twenty: the same answers, far too sure; fitted temperatures bring the error of the images left for scoring down on every level."
    learn = load_experiment(held, data_of_experiment(held))
    last = [m for m in learn.model.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight *= 20
        last.bias *= 20
    r = learn.calibrate().report
    assert all(a < b for a, b in zip(r['calibration_error_fitted'], r['calibration_error'])), r
    assert min(learn.fitted.temperatures) > 2


# ---- through every command

def test_validate_scores_what_was_fitted(calibrated, tmp_path, capsys):
    assert run('validate', calibrated, '--json', tmp_path / 's.json') == 0
    err = capsys.readouterr().err
    report = json.loads((tmp_path / 's.json').read_text())['selectors']
    assert list(report) == ['simple', 'smart', 'iou', 'iou_path'] and report['iou_path']['inconsistent'] == 0 and 'fitted on' not in err
    learn = load_experiment(calibrated)
    conf = evaluate(learn, find_pairs(data_of_experiment(calibrated).path, ids=ids(calibrated)['valid']), ['iou'])
    assert conf.miou('level_3') == pytest.approx(report['iou']['levels']['level_3']['miou'])
    assert run('validate', calibrated, '--selector', 'iou', '--json', tmp_path / 's.json') == 0
    assert list(json.loads((tmp_path / 's.json').read_text())['selectors']) == ['iou']
    assert run('validate', calibrated, '--ids', calibrated / 'holdout_id.txt') == 0
    assert '8 of these images are of those that iou and iou_path were fitted on' in capsys.readouterr().err


@pytest.mark.parametrize('selector', ['iou', 'iou_path'])
def test_predict_with_what_was_fitted_and_calibrated_probabilities(calibrated, people, tmp_path, selector):
    image = sorted((people / 'JPEGImages').glob('val*'))[0]
    assert run('predict', calibrated, image, '--out', tmp_path / 'm', '--selector', selector, '--levels', '--probs', '--calibrated', '--no-overlay') == 0
    learn = load_experiment(calibrated)
    [(_, masks)] = predict_masks(learn, [image], selector)
    for l, m in enumerate(masks):
        assert (np.asarray(Image.open(tmp_path / f'm/{image.stem}_level_{l + 1}.png')) == learn.taxonomy.decode(m, l)).all()
    plain = HierPredictor.from_experiment(calibrated).predict(image, probs=True).probs
    with np.load(tmp_path / f'm/{image.stem}_probs.npz') as got:
        for name, p, t in zip(learn.taxonomy.level_names, plain, learn.fitted.temperatures):
            want = p ** (1 / t) / (p ** (1 / t)).sum(0)
            assert np.abs(got[name].astype(float) - want).max() < 2e-3 and (t == 1 or np.abs(want - p).max() > 1e-4)
    about = json.loads((tmp_path / 'm/classes.json').read_text())
    assert about['selector'] == selector and about['calibration'] == learn.fitted.temperatures
    assert run('predict', calibrated, image, '--out', tmp_path / 't', '--selector', selector, '--probs', '--calibrated', '--tile', 32, '--overlap', 0, '--no-overlay') == 0
    assert (np.asarray(Image.open(tmp_path / f't/{image.stem}.png')) == np.asarray(Image.open(tmp_path / f'm/{image.stem}.png'))).all()


def test_compare_by_a_fitted_selector(calibrated, held, capsys):
    assert run('validate', calibrated) == 0 and run('validate', held) == 0
    want = json.loads((calibrated / 'scores.json').read_text())['selectors']['iou']['levels']['level_3']['miou']
    capsys.readouterr()
    assert run('compare', calibrated, held, '--selector', 'iou') == 0
    said = capsys.readouterr()
    row = next(line for line in said.out.splitlines() if line.startswith('| calibrated'))
    assert row.split('|')[-2].strip() == f'{want:.3f}' and 'held: has no scores of iou' in said.err
    assert run('compare', calibrated, held) == 0
    simple = json.loads((calibrated / 'scores.json').read_text())['selectors']['simple']['levels']['level_3']['miou']
    assert next(line for line in capsys.readouterr().out.splitlines() if line.startswith('| calibrated')).split('|')[-2].strip() == f'{simple:.3f}'


def test_export_carries_what_was_fitted(calibrated, people, tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    assert run('export', calibrated, '--onnx', tmp_path / 'm.onnx', '--selector', 'iou_path') == 0
    image = sorted((people / 'JPEGImages').glob('val*'))[0]
    ours, theirs = HierPredictor.from_experiment(calibrated, selector='iou_path'), HierPredictor.from_onnx(tmp_path / 'm.onnx')
    for selector in (None, 'iou'):
        a, b = (p.predict(image, selector=selector, probs='calibrated') for p in (ours, theirs))
        assert all((p != q).mean() < 5e-3 for p, q in zip(a.levels, b.levels)) and all(np.abs(p - q).max() < 1e-3 for p, q in zip(a.probs, b.probs))
    assert run('predict', tmp_path / 'm.onnx', image, '--out', tmp_path / 'o', '--selector', 'iou', '--probs', '--calibrated', '--no-overlay') == 0


def test_the_app_offers_what_was_fitted(calibrated, held):
    from hierseg.app import Answers
    assert {'iou', 'iou_path'} <= {*Answers(HierPredictor.from_experiment(calibrated)).selectors} and 'iou' not in Answers(HierPredictor.from_experiment(held)).selectors


def test_a_shared_experiment_carries_what_was_fitted_without_the_ids(calibrated, people, tmp_path):
    assert run('push', calibrated, tmp_path / 'bundle', '--local') == 0
    assert 'ids' not in yaml.safe_load((tmp_path / 'bundle/calibration.yaml').read_text()) and not (tmp_path / 'bundle/holdout_id.txt').exists()
    assert "selector='iou'" in (tmp_path / 'bundle/README.md').read_text()
    image = sorted((people / 'JPEGImages').glob('val*'))[0]
    a, b = (HierPredictor.from_experiment(f, selector='iou').predict(image, probs='calibrated') for f in (calibrated, tmp_path / 'bundle'))
    assert all((p == q).all() for p, q in zip(a.levels, b.levels)) and all((p == q).all() for p, q in zip(a.probs, b.probs))
    assert run('validate', tmp_path / 'bundle', people, '--selectors', 'iou') == 0


# ---- old experiments, other weights, and what is refused

def test_an_experiment_without_any_of_it_loads_as_before(people, tmp_path, capsys):
    dls = HierDataLoaders.from_folder(people, people / 'classes_hierarchy.yaml', size=32, bs=4, num_workers=0)
    folder = train_experiment(hier_learner(dls, model_params=TINY), tmp_path / 'old', 1, data=dict(path=str(people)))
    assert not (folder / 'holdout_id.txt').exists() and load_experiment(folder).fitted is None
    assert run('validate', folder, '--json', tmp_path / 's.json') == 0
    assert list(json.loads((tmp_path / 's.json').read_text())['selectors']) == ['simple', 'smart']
    capsys.readouterr()
    image = sorted((people / 'JPEGImages').glob('val*'))[0]
    for argv, words in [(('calibrate', folder), 'has no hold-out; name images that were not trained on with --ids F'),
                        (('calibrate', folder, '--ids', people / 'train_id.txt'), '20 of its images were trained on (train_00000); name others, or say --seen'),
                        (('calibrate', folder, '--ids', 'none.txt'), 'none.txt: no such file'), (('calibrate', folder, '--weights', 'best'), 'no hold-out'),
                        (('calibrate', people), 'config.yaml: no such file'), (('validate', folder, '--selectors', 'iou'), "the selector 'iou' is not fitted to this model yet"),
                        (('predict', folder, image, '--out', tmp_path / 'm', '--selector', 'iou_path'), "the selector 'iou_path' is not fitted to these weights yet"),
                        (('predict', folder, image, '--out', tmp_path / 'm', '--probs', '--calibrated'), 'has no temperatures'),
                        (('predict', folder, image, '--out', tmp_path / 'm', '--calibrated'), 'give both'),
                        (('export', folder, '--onnx', tmp_path / 'm.onnx', '--selector', 'iou'), 'is not fitted'),
                        (('train', people, '--selector', 'iou', '--out', tmp_path / 'x', *SMALL), 'is fitted to a trained model')]:
        assert run(*argv) == 2
        err = capsys.readouterr().err
        assert words in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / 'm').exists() and not (tmp_path / 'x').exists() and not (tmp_path / 'm.onnx').exists()


def test_seen_images_have_to_be_asked_for_and_validation_images_are_warned_of(people, tmp_path, capsys):
    dls = HierDataLoaders.from_folder(people, people / 'classes_hierarchy.yaml', size=32, bs=4, num_workers=0)
    folder = train_experiment(hier_learner(dls, model_params=TINY), tmp_path / 'old', 1, data=dict(path=str(people)))
    assert calibrate_experiment(folder, seen=True).report['images'] == 'training images'
    assert calibrate_experiment(folder, ids=people / 'train_id.txt', seen=True).report['images'] == 'ids'
    with pytest.warns(UserWarning, match='6 of its images are the experiment'):
        calibrate_experiment(folder, ids=people / 'val_id.txt')
    other = make_synthetic(tmp_path / 'other', n_train=4, n_valid=2, size=32, seed=5)
    assert calibrate_experiment(folder, other).report['images'] == 'another folder' and read_fitted(folder, dls.taxonomy).report['fitted'] == 4
    (tmp_path / 'one.txt').write_text('train_00000\n')
    with pytest.raises(ValueError, match='the hold-out has 1 image: give two at least'):
        calibrate_experiment(folder, ids=tmp_path / 'one.txt', seen=True)


def test_what_was_fitted_belongs_to_its_weights(people, tmp_path):
    out = train(dict(data=dict(path=str(people), holdout=.4), size=32, batch_size=4, model_params=TINY, epochs=2, monitor='miou_level_3', checkpoints='all'), tmp_path / 'e')
    assert run('calibrate', out, '--weights', 'best') == 0
    assert (out / 'calibration_best.yaml').is_file() and load_experiment(out).fitted is None and load_experiment(out, weights='best').fitted is not None
    HierPredictor.from_experiment(out, 'best', 'iou')
    with pytest.raises(ValueError, match='is not fitted to these weights'):
        HierPredictor.from_experiment(out, selector='iou')
    assert run('calibrate', out) == 0 and run('train', '--resume', out, '--epochs', 3) == 0
    assert not list(out.glob('calibration*')), 'the weights are others now'


@pytest.mark.parametrize('text, words', [('', 'calibration.yaml'), ('temperatures: [1, 1, 1]', 'selectors'), ('[1, 2]', 'calibration.yaml'), ('a: [', 'calibration.yaml'),
                                         ('temperatures: [1]\nselectors: {iou: simple, iou_path: simple}', 'give 3 numbers'),
                                         ('temperatures: [1, 1, 1]\nselectors: {iou: simple}', 'iou and iou_path'),
                                         ('temperatures: [1, 1, 1]\nselectors: {iou: nonsense, iou_path: simple}', 'nonsense')])
def test_a_damaged_file_is_named(calibrated, tmp_path, capsys, people, text, words):
    folder = shutil.copytree(calibrated, tmp_path / 'e')
    (folder / 'calibration.yaml').write_text(text)
    image = sorted((people / 'JPEGImages').glob('val*'))[0]
    for argv in (('validate', folder), ('predict', folder, image, '--out', tmp_path / 'm')):
        assert run(*argv) == 2
        err = capsys.readouterr().err
        assert 'calibration.yaml' in err and words in err and len(err.splitlines()) == 1, err
    assert run('calibrate', folder) == 0, 'writing it anew is the way out'


def test_a_learner_takes_fitted_selectors_by_name(calibrated, tmp_path):
    learn = load_experiment(calibrated, data_of_experiment(calibrated))
    for name in ('iou', 'iou_path'):
        learn.selector = name
        assert learn.selector.name == name and learn.selector.consistent == (name == 'iou_path')
    assert 'scored on 3 others' in repr(learn.calibrate())
    folder = save_fitted(FittedDecoding(learn.taxonomy, learn.fitted.selectors, [1, 1, 1]), tmp_path).parent
    assert 'temperatures=[1.0, 1.0, 1.0]' in repr(read_fitted(folder, learn.taxonomy))
    with pytest.raises(ExperimentError, match='cannot be written'):
        save_fitted(learn.fitted, tmp_path / 'no/where')
    with pytest.raises(ValueError, match='there is no hold-out'):
        load_experiment(calibrated).calibrate()
    assert Path(folder, 'calibration.yaml').is_file()
