"A folder is claimed, never spoilt, and every state of it has one command that goes on."
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from fastai.callback.core import Callback

from hierseg.cli import main
from hierseg.core import ExperimentError, remove_temporary
from hierseg.training import folder as ex
from hierseg.training.folder import (DivergedError, ExperimentCallback, FolderLock, batch_names, best_epochs, may_train_into,
                                     read_history)
from hierseg.training.run import load_experiment, resume_experiment, train_experiment

ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', 'NO_ALBUMENTATIONS_UPDATE': '1', 'MPLBACKEND': 'agg'}


@pytest.fixture(scope='module')
def trained(new_learner, people, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'run'
    train_experiment(new_learner(), folder, 2, 1e-2, 1, data=dict(path=str(people)))
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob('*') if p.is_file()}


def test_a_refused_folder_is_left_as_it_was(trained, new_learner):
    before = contents(trained)
    for _ in range(2):
        with pytest.raises(ExperimentError, match='exists already'):
            train_experiment(new_learner(), trained, 1)
    assert contents(trained) == before


def test_an_error_on_the_way_removes_what_this_run_wrote_and_nothing_else(new_learner, tmp_path, monkeypatch):
    (tmp_path / 'e').mkdir()

    def full(*args, **kwargs):
        raise ExperimentError('disk full')
    monkeypatch.setattr(ex, 'save_weights', full)
    with pytest.raises(ExperimentError, match='disk full'):
        train_experiment(new_learner(), tmp_path / 'e', 1)
    assert (tmp_path / 'e').is_dir() and not contents(tmp_path / 'e')


SCRIPT = """
import sys, time
from hierseg.cli import main
while time.time() < float(sys.argv[1]): time.sleep(.01)
sys.exit(main(sys.argv[2:]))
"""


def test_of_two_that_start_together_exactly_one_wins(people, tmp_path):
    import time
    argv = ['train', people, '--out', tmp_path / 'e', '--size', '32', '--bs', '4', '--epochs', '2', '--num-workers', '0',
            '--model-params', '{channels_array: [4, 8], bottleneck_channels: 8}']
    command = [sys.executable, '-W', 'ignore', '-c', SCRIPT, str(time.time() + 5), *map(str, argv)]
    both = [subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [p.communicate(timeout=300)[1] for p in both]
    assert sorted(p.returncode for p in both) == [0, 2], said
    loser = next(s for p, s in zip(both, said) if p.returncode)
    last = loser.strip().splitlines()[-1]
    assert re.search('another training is writing there|exists already', last) and 'Traceback' not in loser
    assert len(read_history(tmp_path / 'e')) == 2 and (tmp_path / 'e/curves.png').is_file()
    assert not (tmp_path / 'e/.lock').exists() and not (tmp_path / 'e/resume.safetensors').exists()
    load_experiment(tmp_path / 'e')


def test_a_lock_goes_with_its_process(tmp_path):
    code = f"from hierseg.training.folder import FolderLock\nfrom pathlib import Path\nlock = FolderLock(Path({str(tmp_path)!r}))\nimport os; os._exit(9)"
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=ENV, timeout=120)
    assert (tmp_path / '.lock').exists()
    lock = FolderLock(tmp_path, 'mine')
    assert (tmp_path / '.lock').read_text() == 'mine'
    lock.release()
    lock.release()
    assert not any(tmp_path.iterdir())


def killed(monkeypatch, learn, folder, epochs, where, data):
    "Train until a function of the folder is called, and die there as a killed process does: nothing is cleaned up."
    class Killed(BaseException):
        pass

    def die(*args, **kwargs):
        raise Killed
    with monkeypatch.context() as m:
        m.setattr(ex, where, die)
        m.setattr(ex.ExperimentCallback, '_release', lambda self: None)
        with pytest.raises(Killed):
            train_experiment(learn, folder, epochs, 1e-2, 1, data=data)
    if (folder / '.lock').exists() and ex.fcntl is not None:           # the process is gone, and its lock with it
        for o in [o for o in learn.__dict__.values() if isinstance(o, ExperimentCallback)]:
            o.folder_lock.file.close()


@pytest.mark.parametrize('where', ['save_weights', 'save_resume_state'])
def test_killed_before_its_first_epoch_is_saved_can_be_trained_into_again(where, new_learner, people, tmp_path, monkeypatch, trained):
    folder, data = tmp_path / 'e', dict(path=str(people))
    killed(monkeypatch, new_learner(), folder, 2, where, data)
    (folder / '.config.yaml.4194305.tmp').write_text('half')            # of a process that is no more
    assert may_train_into(folder)
    with pytest.raises(ExperimentError, match='can be trained into again'):
        resume_experiment(new_learner(), folder)
    train_experiment(new_learner(), folder, 2, 1e-2, 1, data=data)
    assert contents(folder).keys() == contents(trained).keys()
    assert (folder / 'model.safetensors').read_bytes() == (trained / 'model.safetensors').read_bytes()


@pytest.mark.parametrize('where', ['draw_experiment', 'save_figure'])
def test_killed_while_drawing_goes_on_with_one_command(where, new_learner, people, tmp_path, monkeypatch, trained):
    folder, data = tmp_path / 'e', dict(path=str(people))
    killed(monkeypatch, new_learner(), folder, 2, where, data)
    assert (folder / 'resume.safetensors').exists() and not may_train_into(folder)
    assert main(['train', '--resume', str(folder)]) == 0
    assert contents(folder).keys() == contents(trained).keys()
    assert (folder / 'model.safetensors').read_bytes() == (trained / 'model.safetensors').read_bytes()
    with pytest.raises(SystemExit):                                      # and a finished run says that it is
        main(['train', '--resume', str(folder)])


def test_pictures_that_are_missing_are_drawn_again(trained, new_learner, tmp_path):
    folder = shutil.copytree(trained, tmp_path / 'e')
    (folder / 'curves.png').unlink()
    assert resume_experiment(load_experiment(folder, new_learner().dls), folder) == (2, 2)
    assert (folder / 'curves.png').exists()


def test_what_is_not_ours_is_no_place_to_train(trained, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/config.yaml').write_text('lr: 0.1\n')              # a configuration of the user's own
    (tmp_path / 'killed').mkdir()
    (tmp_path / 'killed/config.yaml').write_text(yaml.safe_dump(dict(hierseg='0.2.0', lr=.1)))
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes/config.yaml').write_text(yaml.safe_dump(dict(hierseg='0.2.0')))
    (tmp_path / 'notes/notes.txt').write_text('mine')
    assert {n: may_train_into(tmp_path / n) for n in ('mine', 'killed', 'notes', 'none')} == dict(mine=False, killed=True, notes=False, none=True)
    assert not may_train_into(trained)


def test_temporary_files_of_the_living_stay(tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    names = [f'.a.{os.getpid()}.tmp', '.a.4194305.tmp', 'checkpoints/.b.4194305.tmp', '.vimrc.tmp', 'c.4194305.tmp']
    for n in names:
        (tmp_path / n).touch()
    remove_temporary(tmp_path)
    assert [n for n in names if (tmp_path / n).exists()] == [names[0], names[3], names[4]]


def test_a_longer_training_goes_on_in_the_same_folder(trained, new_learner, tmp_path):
    folder = shutil.copytree(trained, tmp_path / 'e')
    old = read_history(folder)
    assert resume_experiment(load_experiment(folder, new_learner().dls), folder, epochs=4) == (2, 4)
    rows = read_history(folder)
    assert [r['epoch'] for r in rows] == ['0', '1', '2', '3'] and rows[:2] == old
    assert ex.read_config(folder)['epochs'] == 4 and not (folder / 'resume.safetensors').exists()
    with pytest.raises(ExperimentError, match='4 epochs are done already'):
        resume_experiment(load_experiment(folder, new_learner().dls), folder, epochs=3)


def test_a_longer_training_that_is_interrupted_resumes_to_the_same_weights(trained, new_learner, tmp_path):
    class Stop(Callback):
        order = 1000

        def after_batch(self):
            if self.training and self.epoch == 1:
                raise KeyboardInterrupt
    whole, cut = (shutil.copytree(trained, tmp_path / n) for n in ('whole', 'cut'))
    resume_experiment(load_experiment(whole, new_learner().dls), whole, epochs=5)
    learn = load_experiment(cut, new_learner().dls)
    learn.add_cb(Stop())
    with pytest.raises(KeyboardInterrupt):
        resume_experiment(learn, cut, epochs=5)
    assert len(read_history(cut)) == 3
    assert resume_experiment(load_experiment(cut, new_learner().dls), cut) == (3, 5)
    assert (cut / 'model.safetensors').read_bytes() == (whole / 'model.safetensors').read_bytes()
    timeless = [[{k: v for k, v in r.items() if k != 'time'} for r in read_history(f)] for f in (cut, whole)]
    assert timeless[0] == timeless[1]


class Explode(Callback):
    "A loss that is no number, from one batch on."
    order = -10

    def __init__(self, epoch, batch):
        self.at = epoch, batch

    def after_loss(self):
        if self.training and (self.epoch, self.iter) >= self.at:
            self.learn.loss = self.learn.loss * float('nan')


def test_a_loss_that_is_no_number_stops_the_run_and_names_its_images(trained, new_learner, people, tmp_path):
    learn, seen = new_learner(), []

    class Look(Callback):
        order = -20

        def after_loss(self):
            if self.training and self.epoch == 1 and self.iter == 1:
                seen.extend(batch_names(self.dl, 1))
    with pytest.raises(DivergedError) as e:
        train_experiment(learn, tmp_path / 'e', 3, 1e-2, 1, data=dict(path=str(people)), cbs=[Explode(1, 1), Look()])
    text = str(e.value)
    assert '\n' not in text and 'Exception occured' not in text and 'epoch 2: the loss is nan at batch 2' in text and 'after epoch 1 are kept' in text
    assert len(seen) == 4 and all(n in text for n in seen)
    assert len(read_history(tmp_path / 'e')) == 1 and (tmp_path / 'e/curves.png').exists()
    for v in load_experiment(tmp_path / 'e').model.state_dict().values():
        assert torch.isfinite(v.float()).all()


def test_a_run_that_diverges_ends_with_exit_code_1(people, tmp_path, capsys):
    argv = ['train', people, '--out', tmp_path / 'e', '--size', '32', '--bs', '2', '--epochs', '3', '--num-workers', '0', '--lr', '1e6',
            '--model-params', '{channels_array: [4, 8], bottleneck_channels: 8}']
    with pytest.raises(SystemExit) as e:
        main([str(a) for a in argv])
    err = capsys.readouterr().err
    assert e.value.code == 1 and 'no finite number' in err or 'the loss is' in err
    assert not (tmp_path / 'e').exists() or all(torch.isfinite(v.float()).all() for v in load_experiment(tmp_path / 'e').model.state_dict().values())


def test_weights_that_are_no_numbers_are_never_saved(trained, new_learner, tmp_path):
    class Spoil(Callback):
        order = 57

        def after_epoch(self):
            if self.epoch == 1:
                next(self.model.parameters()).data.fill_(float('inf'))
    with pytest.raises(DivergedError, match='no finite numbers'):
        train_experiment(new_learner(), tmp_path / 'e', 3, 1e-2, 1, cbs=[Spoil()])
    assert len(read_history(tmp_path / 'e')) == 1
    assert all(torch.isfinite(v.float()).all() for v in load_experiment(tmp_path / 'e').model.state_dict().values())


def test_nothing_that_is_no_number_is_best():
    rows = [dict(valid_loss=v, miou='nan') for v in ('nan', '-inf', '0.7', 'inf', '', '0.5')]
    assert best_epochs(rows, 'valid_loss', 9) == [5, 2] and best_epochs(rows, 'miou') == []
