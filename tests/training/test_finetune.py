"Fine-tuning: what is frozen stays, groups have rates of their own, heads follow the loss, weights that cannot be had are an error."
import os

os.environ['HF_HUB_OFFLINE'] = '1'
import numpy as np
import pytest
import torch
import yaml
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.training import BnFreeze
from torch import nn

from hierseg.data.loaders import HierDataLoaders
from hierseg.training.folder import ExperimentCallback
from hierseg.training.run import load_experiment, resume_experiment, train_experiment
from hierseg.training.learner import hier_learner
from hierseg.losses.factory import list_losses
from hierseg.models.zoo import splitter
from hierseg.decoding.heads import get_head
from hierseg.data.synthetic import make_synthetic

from strategies import PERSON

LITE = dict(encoder='tf_efficientnet_lite0', pretrained=False, model_params=dict(decoder_channels=[8, 8, 8, 8, 8]))
SMALL = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)
COARSE = {'bg': 0, 'body': [1, 2, 3, 4, 5, 6]}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp('data'), n_train=4, n_valid=2, size=32, seed=0)


def loaders(data, tree=PERSON):
    return HierDataLoaders.from_folder(data, tree, size=32, bs=2, num_workers=0)


def quietly(learn, fit):
    with learn.no_bar(), learn.no_logging(): fit()
    return learn


@pytest.fixture(scope='module')
def coarse_run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'coarse'
    learn = hier_learner(loaders(data, COARSE), 'unet', model_params=SMALL)
    quietly(learn, lambda: learn.fit(1, cbs=ExperimentCallback(folder=folder, n_triples=0)))
    return folder


def norm_params(module):
    return {id(p) for m in module.modules() if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)) for p in m.parameters(False)}


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def changed(module, before):
    return {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}


class Phases(Callback):
    "Writes down, at each step, the rates of the groups, which of their parameters are trained, and what has changed since the fit began."
    def __init__(self): self.fits = []
    def before_fit(self):
        self.fits.append([])
        self.before = snapshot(self.learn.model.encoder)
    def before_step(self):
        self.fits[-1].append([(h['lr'], sum(p.requires_grad for p in g)) for h, g in zip(self.opt.hypers, self.opt.param_lists)])
    def after_fit(self): self.changed = getattr(self, 'changed', []) + [changed(self.learn.model.encoder, self.before)]


# what moves

def test_frozen_encoder_then_gentle_rates(data):
    learn, log = hier_learner(loaders(data), 'unet', **LITE), Phases()
    encoder, norms = learn.model.encoder, norm_params(learn.model.encoder)
    trained = {n for n, p in encoder.named_parameters() if id(p) in norms}
    rest, decoder = {n for n, _ in encoder.named_parameters()} - trained, snapshot(learn.model.net.decoder)
    quietly(learn, lambda: learn.fine_tune(1, 1e-2, freeze_epochs=2, cbs=log))
    assert rest and trained and [len(f) for f in log.fits] == [4, 2]
    frozen, free = log.changed
    assert not frozen & rest                                    # convolutions of the encoder stand still
    assert frozen & trained                                     # fastai's rule: its normalisation layers learn even then
    assert any('running_mean' in k for k in frozen)
    assert rest <= free                                         # then everything moves
    assert changed(learn.model.net.decoder, decoder) >= {n for n, _ in learn.model.net.decoder.named_parameters()}
    for (lr_e, n_e), (lr_d, n_d) in log.fits[0]: assert n_e == len(trained) and n_d == len(splitter(learn.model)[1])
    for (lr_e, n_e), (lr_d, n_d) in log.fits[1]:
        assert n_e == len(list(encoder.parameters())) and lr_d / lr_e == pytest.approx(100)


def test_without_train_bn_nothing_of_the_encoder_learns(data):
    learn, log = hier_learner(loaders(data), 'unet', train_bn=False, **LITE), Phases()
    learn.freeze()
    quietly(learn, lambda: learn.fit(1, 1e-2, cbs=[log, BnFreeze()]))
    assert log.changed == [set()]


def test_slices_of_rates(data):
    learn, log = hier_learner(loaders(data), 'unet', **LITE), Phases()
    quietly(learn, lambda: learn.fit_one_cycle(1, slice(1e-5, 1e-3), cbs=log))
    rates = np.array([[lr for lr, _ in step] for step in log.fits[0]])
    np.testing.assert_allclose(rates[:, 1], 100*rates[:, 0])
    quietly(learn, lambda: learn.fit(1, slice(1e-4, 1e-2)))
    assert [h['lr'] for h in learn.opt.hypers] == pytest.approx([1e-4, 1e-2])


def test_a_finished_model_trains_its_head_first(data, coarse_run):
    learn = hier_learner(loaders(data), start=coarse_run)
    assert [len(g) for g in splitter(learn.model)] == [len(list(learn.model.parameters())) - 2, 2]
    before, norms = snapshot(learn.model), norm_params(learn.model)
    learn.freeze()
    quietly(learn, lambda: learn.fit(1, 1e-2))
    names = {n for n, p in learn.model.named_parameters() if id(p) not in norms}
    assert changed(learn.model, before) & names == {'head.weight', 'head.bias'}
    learn.unfreeze()
    quietly(learn, lambda: learn.fit(1, slice(1e-3, 1e-2)))
    assert names <= changed(learn.model, before) and [h['lr'] for h in learn.opt.hypers] == pytest.approx([1e-3, 1e-2])


def test_own_network_trains_its_head_first(data):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 21, 1))
    learn = hier_learner(loaders(data), net, head='2')
    before = snapshot(net)
    learn.freeze()
    quietly(learn, lambda: learn.fit(1, 1e-2))
    assert changed(net, before) == {'2.weight', '2.bias'}


def test_from_scratch_there_is_one_group(data):
    learn = hier_learner(loaders(data), 'unet', model_params=SMALL)
    before = snapshot(learn.model)
    learn.freeze()
    quietly(learn, lambda: learn.fit(1, 1e-2))
    assert len(splitter(learn.model)) == 1 and {n for n, _ in learn.model.named_parameters()} <= changed(learn.model, before)


# experiments

def test_fine_tune_is_one_experiment(data, tmp_path, coarse_run):
    learn = hier_learner(loaders(data), start=coarse_run)
    quietly(learn, lambda: learn.fine_tune(2, 1e-2, freeze_epochs=1, cbs=ExperimentCallback(folder=tmp_path / 'run', n_triples=0)))
    assert len((tmp_path / 'run' / 'history.csv').read_text().splitlines()) == 4
    again, x = load_experiment(tmp_path / 'run'), torch.rand(1, 3, 32, 32)
    with torch.no_grad(): assert torch.equal(again.model(x), learn.model.eval()(x))
    assert yaml.safe_load((tmp_path / 'run' / 'config.yaml').read_text())['model_params']['start'] == {'from': str(coarse_run.resolve()), 'head': 'head'}


class Stop(Callback):
    def before_epoch(self):
        if self.epoch == 1: raise CancelFitException


def test_resume_with_groups(data, tmp_path, coarse_run):
    "Interrupted, loaded and resumed, group by group: to the bit as without the interruption."
    def new(): return hier_learner(loaders(data), start=coarse_run)
    rates = slice(1e-3, 1e-2)
    torch.manual_seed(0)
    whole = new()
    torch.manual_seed(0)
    part = new()
    train_experiment(whole, tmp_path / 'whole', 3, rates, seed=1)
    train_experiment(part, tmp_path / 'part', 3, rates, seed=1, cbs=[Stop()])
    again = load_experiment(tmp_path / 'part', loaders(data))
    assert resume_experiment(again, tmp_path / 'part') == (1, 3)
    assert len(again.opt.hypers) == len(splitter(whole.model)) == 2
    assert not changed(again.model, snapshot(whole.model))
    assert (tmp_path / 'part' / 'history.csv').read_text().count('\n') == 4


# heads

def _n(tax): return dict(leaf=tax.n_leaves, nodes=tax.n_nodes, levels=sum(tax.n_classes), embedding=tax.n_leaves + 64, conditional=tax.n_nodes)

HEAD_OF = dict(treemin='nodes', focal_treemin='nodes', tree_triplet='embedding', consistency='levels', conditional='conditional')


@pytest.mark.parametrize('name', [n for n in list_losses() if n not in ('tv', 'boundary')])
def test_the_loss_chooses_the_head(name, data, tmp_path):
    dls = loaders(data)
    learn = hier_learner(dls, 'unet', name, model_params=SMALL)
    want = HEAD_OF.get(name, 'leaf')
    assert learn.head.config == get_head(want, dls.taxonomy).config and learn.model.out_channels == learn.head.n_channels == _n(dls.taxonomy)[want]
    quietly(learn, lambda: learn.fit(1, 1e-3, cbs=ExperimentCallback(folder=tmp_path / 'run', n_triples=0)))
    again = load_experiment(tmp_path / 'run', dls)
    assert again.head.config == learn.head.config and type(again.loss_func) is type(learn.loss_func)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad(): out = learn.model.eval()(x); assert torch.equal(again.model(x), out)
    for a, b in zip(again.selector(out), learn.selector(out), strict=True): assert torch.equal(a, b)
    assert all(a.shape[1] == k for a, k in zip(again.head.level_log_probs(out), dls.taxonomy.n_classes, strict=True))


# no silent random start

def test_weights_that_cannot_be_had(data):
    for kw in (dict(encoder='resnet18'), dict(arch='fpn', encoder='resnet18', pretrained=True), dict(model_params=dict(encoder='mobilenetv3_small_050'))):
        with pytest.raises(ValueError, match="no pretrained weights for encoder .* pretrained='FILE' with its weights, or pretrained=False to start from random weights"):
            hier_learner(loaders(data), **kw)
    with pytest.raises(ValueError, match="no weights file 'nowhere.pth'"): hier_learner(loaders(data), encoder='resnet18', pretrained='nowhere.pth')
    assert hier_learner(loaders(data), encoder='resnet18', pretrained=False).model.pretrained_from is None


def test_images_follow_the_model_that_is_trained(data):
    "One set of loaders, two learners in turn: each is normalised as its encoder wants, the caller's own statistics are left alone."
    dls = loaders(data)
    for kw, mean in ((LITE, .5), (dict(model_params=SMALL), .485), (LITE, .5)):
        hier_learner(dls, 'unet', **kw)
        assert dls.data_config['normalize']['mean'][0] == pytest.approx(mean)
    own = HierDataLoaders.from_folder(data, PERSON, size=32, bs=2, num_workers=0, normalize=((.1,)*3, (.2,)*3))
    hier_learner(own, 'unet', **LITE)
    assert own.data_config['normalize']['mean'] == [.1]*3
