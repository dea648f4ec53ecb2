"What a run does that nobody told: the learning rate by the network, how long it will take, the numbers it computes in."
import re

import pytest
import torch
from fastai.callback.core import Callback

from hierseg.cli import build_parser, main
from hierseg.config import LR_GENTLE, LR_SCRATCH, TrainConfig, read_train_config
from hierseg.core import ExperimentError, read_yaml
from hierseg.data.loaders import HierDataLoaders
from hierseg.models.zoo import create_model, model_config, model_from_config, model_lr
from hierseg.training import run
from hierseg.training.callbacks import Autocast
from hierseg.training.folder import ExperimentCallback, peak_lr
from hierseg.training.learner import hier_learner
from hierseg.training.run import ConsoleProgress, learner_from_config, load_experiment, resume_experiment, train, train_experiment

TINY = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)
SEGNET = dict(encoder_channels_array=[4, 8], decoder_channels_array=[4, 4], block_depth=1)
QUICK = dict(size=32, batch_size=4, augmentations='none', num_workers=0)


def peak(learn):
    "The learning rate that a one-cycle training peaks at."
    seen = []

    class Look(Callback):
        order = 70                                                      # the schedule is made before
        def before_train(self): seen.append(peak_lr(self.learn))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, cbs=Look())
    return seen[0]


# the learning rate


def test_the_default_rate_follows_the_network():
    lite = dict(encoder='tf_efficientnet_lite0', pretrained=False)
    scratch = [create_model('unet', 3, 7, TINY), create_model('unet_small', 3, 7), create_model('segnet', 3, 7, SEGNET)]
    gentle = [create_model('unet', 3, 7, {**TINY, 'enable_batchnorm': False}), create_model('fpn', 3, 7, **lite), torch.nn.Conv2d(3, 7, 1)]
    assert {model_lr(m) for m in scratch} == {LR_SCRATCH} and {model_lr(m) for m in gentle} == {LR_GENTLE}


def test_a_bare_fit_uses_it_and_what_is_given_goes_before(new_learner):
    assert (new_learner().lr, new_learner(lr=3e-3).lr) == (LR_SCRATCH, 3e-3)
    assert peak(new_learner()) == pytest.approx(LR_SCRATCH, rel=1e-3)
    assert peak(new_learner(lr=3e-3)) == pytest.approx(3e-3, rel=1e-3)


def test_config_yaml_holds_the_number_that_was_used(new_learner, tmp_path):
    folders = {name: train_experiment(new_learner(), tmp_path / name, 1, lr) for name, lr in dict(own=None, given=2e-3, groups=slice(1e-4, 2e-3)).items()}
    folders['learner'] = train_experiment(new_learner(lr=4e-3), tmp_path / 'learner', 1)
    assert {k: read_yaml(f / 'config.yaml')['lr'] for k, f in folders.items()} == dict(own=LR_SCRATCH, given=2e-3, groups=[1e-4, 2e-3], learner=4e-3)
    assert [load_experiment(folders[k]).lr for k in ('own', 'given')] == [LR_SCRATCH, 2e-3]            # who trains it further begins there
    assert load_experiment(folders['groups']).lr == slice(1e-4, 2e-3) and load_experiment(folders['own'], lr=5e-4).lr == 5e-4


def test_files_keep_their_meaning(people, tmp_path):
    config = {**QUICK, 'model_params': TINY, 'epochs': 1, 'data': dict(path=str(people))}
    old = {**config, 'lr': 1e-3}                                        # as hierseg 0.1 and the study wrote it
    for name, c, lr in (('old', old, 1e-3), ('text', {**config, 'lr': '1e-3'}, 1e-3), ('none', config, LR_SCRATCH)):
        assert read_yaml(train(c, tmp_path / name) / 'config.yaml')['lr'] == lr
    again = train(tmp_path / 'none/config.yaml', tmp_path / 'again')
    assert (again / 'model.safetensors').read_bytes() == (tmp_path / 'none/model.safetensors').read_bytes()
    text = (tmp_path / 'old/config.yaml').read_text()
    (tmp_path / 'old/config.yaml').write_text(re.sub('(?m)^(precision: .*|lr: .*)\n', '', text))      # a folder that says neither
    assert load_experiment(tmp_path / 'old').lr == LR_SCRATCH
    (tmp_path / 'old/config.yaml').write_text(text.replace('lr: 0.001', 'lr: fast'))
    with pytest.raises(ExperimentError, match=r"config.yaml: lr: 'fast' is not a number"): load_experiment(tmp_path / 'old')


def test_a_finished_model_and_an_encoder_begin_gently(new_learner, people, tmp_path):
    learn = new_learner()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=ExperimentCallback(folder=tmp_path / 'e', n_triples=0))
    dls = HierDataLoaders.from_folder(people, {'bg': 0, 'body': [1, 2, 3, 4, 5, 6]}, size=32, bs=4, augment='none', num_workers=0)
    assert hier_learner(dls, start=tmp_path / 'e').lr == LR_GENTLE
    config = {**QUICK, 'encoder': 'tf_efficientnet_lite0', 'pretrained': False}
    assert learner_from_config(config, dls).lr == LR_GENTLE
    assert learner_from_config({**config, 'lr': [1e-4, 1e-3]}, dls).lr == slice(1e-4, 1e-3)
    assert learner_from_config({**QUICK, 'model_params': TINY}, dls, lr=7e-3).lr == 7e-3


def test_help_says_what_the_default_is(capsys):
    with pytest.raises(SystemExit): build_parser().parse_args(['train', '--help'])
    words = ' '.join(capsys.readouterr().out.split())
    assert f'(default: {LR_SCRATCH} for unet, unet_small and segnet from scratch, else {LR_GENTLE})' in words and 'unet_small' in words


# the small network


def test_the_small_network(people, tmp_path):
    small = create_model('unet_small', 3, 7)
    assert 1_000_000 < sum(p.numel() for p in small.parameters()) < 1_300_000 and small(torch.zeros(1, 3, 48, 40)).shape == (1, 7, 48, 40)
    assert model_config(small)['__class__'] == 'UNet' and model_config(model_from_config(model_config(small))) == model_config(small)
    assert model_config(create_model('unet_small', 3, 7, dict(block_depth=2)))['block_depth'] == 2
    with pytest.raises(ValueError, match='unet_small'): create_model('unet_small', 3, 7, encoder='tf_efficientnet_lite0')
    assert main(['train', str(people), '--arch', 'unet_small', '--size', '32', '--bs', '4', '--epochs', '1', '--out', str(tmp_path / 'e')]) == 0
    assert load_experiment(tmp_path / 'e').model.config['channels_array'] == [16, 32, 64, 128, 128]


# how long it takes


def test_one_forecast_after_the_tenth_step_and_the_time_left_each_epoch(new_learner, tmp_path, capsys):
    folder = train_experiment(new_learner(), tmp_path / 'long', 6)                  # two steps an epoch
    out, err = capsys.readouterr()
    assert len(re.findall(r'(?m)^about .* to go, at \S+ s a step$', err)) == 1
    head, *rows = [line.split() for line in out.splitlines()]
    assert head[-2:] == ['time', 'left'] and len(rows) == 6 and rows[-1][-2:] == ['0', 's']
    assert all(r[-1] in ('s', 'min') for r in rows)
    train_experiment(new_learner(), tmp_path / 'short', 4)
    assert 'to go' not in capsys.readouterr().err
    assert resume_experiment(load_experiment(folder, new_learner().dls), folder, epochs=8) == (6, 8)
    assert [line.split()[-2:] for line in capsys.readouterr().out.splitlines()[2:]] == [['0', 's']]        # two more, the last has none left


def test_the_forecast_counts_what_is_left_and_advises_only_who_waits_long(new_learner, capsys, monkeypatch):
    learn = new_learner()
    learn.add_cb(cb := ConsoleProgress())
    learn.n_epoch, cb.first, cb.steps, cb.bar = 12, 2, 10, None
    cb._forecast(1.)                                                                # two steps in each of ten epochs, ten are done
    assert capsys.readouterr().err == 'about 10 s to go, at 1 s a step\n'
    cb._forecast(1000.)
    assert capsys.readouterr().err == 'about 2 h 47 min to go, at 1e+03 s a step; shorter with a smaller --size or fewer --epochs\n'
    monkeypatch.setattr(run, 'SMALL', 10)
    cb._forecast(1000.)
    assert capsys.readouterr().err.endswith('shorter with a smaller network (--arch unet_small), a smaller --size or fewer --epochs\n')


def test_nothing_is_forecast_outside_training(new_learner, capsys):
    learn = new_learner(cbs=ConsoleProgress())
    with learn.no_bar():
        learn.get_preds()
        learn.lr_find(num_it=15, show_plot=False)
    assert 'to go' not in capsys.readouterr().err


# the numbers it computes in


def dtypes(learn):
    "Notes what the network computes in, and what the loss is given."
    seen = set()
    learn.model.register_forward_hook(lambda m, i, out: seen.add(out.dtype))
    return seen


def test_bfloat16_is_computed_in_saved_and_resumed(new_learner, tmp_path):
    plain, other = new_learner(), new_learner()
    first, second = dtypes(plain), dtypes(other)
    train_experiment(plain, tmp_path / 'plain', 1)
    folder = train_experiment(other, tmp_path / 'other', 1, precision='bfloat16')
    assert first == {torch.float32} and torch.bfloat16 in second
    assert [read_yaml(tmp_path / n / 'config.yaml')['precision'] for n in ('plain', 'other')] == ['float32', 'bfloat16']
    assert all(p.dtype == torch.float32 for p in other.model.parameters())
    assert (folder / 'model.safetensors').read_bytes() != (tmp_path / 'plain/model.safetensors').read_bytes()
    again = load_experiment(folder, other.dls)
    third = dtypes(again)
    resume_experiment(again, folder, epochs=2)
    assert torch.bfloat16 in third and read_yaml(folder / 'config.yaml')['precision'] == 'bfloat16'
    assert load_experiment(folder).predict(other.dls.valid_ds.items[0][1])[2].dtype == torch.float32


def test_bfloat16_from_a_file_and_the_command_line(people, tmp_path):
    options = ['--size', '32', '--bs', '4', '--epochs', '1', '--model-params', '{channels_array: [4, 8], bottleneck_channels: 8, block_depth: 1}']
    assert main(['train', str(people), *options, '--precision', 'bfloat16', '--out', str(tmp_path / 'a')]) == 0
    assert read_train_config(tmp_path / 'a')['precision'] == 'bfloat16'
    again = train(tmp_path / 'a/config.yaml', tmp_path / 'b')
    assert (again / 'model.safetensors').read_bytes() == (tmp_path / 'a/model.safetensors').read_bytes()
    assert TrainConfig.precision == 'float32'
    with pytest.raises(ValueError, match='precision'): train({**QUICK, 'precision': 'float16', 'data': dict(path=str(people))}, tmp_path / 'c')


@pytest.mark.parametrize('error', [RuntimeError('out of memory'), KeyboardInterrupt()], ids=['error', 'ctrl_c'])
def test_nothing_outside_computes_in_bfloat16(new_learner, error):
    learn = new_learner()

    def fail(*args): raise error
    learn.model.register_forward_hook(fail)
    with learn.no_bar(), learn.no_logging(), pytest.raises(type(error)): learn.fit(1, cbs=Autocast())
    assert not torch.is_autocast_enabled('cpu') and (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
