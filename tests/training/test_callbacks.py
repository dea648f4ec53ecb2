"Callbacks: their columns against separate passes and sums by hand, and that training goes on as if they were not there."
import pickle

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger
from fastai.callback.schedule import *  # noqa: F403  (lr_find)
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.torch_core import set_seed
from torch import nn

import hierseg.training.callbacks as callbacks
from hierseg.training.callbacks import LossTerms, SelectorScores, SelectorSwitch, ShowTriples
from hierseg.data.loaders import HierDataLoaders
from hierseg.training.folder import ExperimentCallback
from hierseg.training.run import load_experiment
from hierseg.training.learner import hier_learner, sample_triples
from hierseg.losses.hierarchical import HierarchicalLoss
from hierseg.metrics.columns import miou_metrics
from hierseg.losses.published import BoundaryLoss, TotalVariationLoss
from hierseg.decoding.selectors import MinCostClassSelector, list_selectors
from hierseg.data.synthetic import make_synthetic
from strategies import PERSON

LEVELS = ['level_1', 'level_2', 'level_3']


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope='module')
def dls(tmp_path_factory):
    data = make_synthetic(tmp_path_factory.mktemp('data')/'d', n_train=8, n_valid=5, size=32, seed=0)
    return HierDataLoaders.from_folder(data, PERSON, size=32, bs=2, augment='flip', num_workers=0)


@pytest.fixture
def learner(dls, tmp_path):
    def make(**kwargs):
        set_seed(3)
        dls.train.rng.seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout(.1), nn.Conv2d(8, dls.c, 1))
        return quiet(hier_learner(dls, model, path=tmp_path, **kwargs))
    return make


def quiet(learn):
    learn.remove_cb(learn.progress)
    learn.logger = lambda row: None
    return learn


def row(learn, epoch=-1):
    return dict(zip(list(learn.recorder.metric_names)[1:-1], learn.recorder.values[epoch], strict=True))


def weights(learn):
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


def test_scores_are_those_of_separate_passes(learner):
    learn = learner()
    calls = []
    learn.model.register_forward_hook(lambda m, x, y: calls.append(len(y)))
    values = learn.validate(cbs=SelectorScores(list_selectors()))
    got = dict(zip(list(learn.recorder.metric_names)[2:-1], values, strict=True))
    assert calls == [2, 2, 1]                                   # one pass, whatever the number of selectors
    assert len(got) == 1 + 3 * len(list_selectors())
    for name in list_selectors():
        learn.selector = name
        alone = learn.validate()[1:]
        suffix = '' if name == 'simple' else f'_{name}'
        assert [got[f'miou_{l}{suffix}'] for l in LEVELS] == list(alone)


def test_scores_leave_the_metrics_as_they_were(learner):
    learn = learner()
    before = list(learn.metrics)
    for _ in range(2):
        learn.fit(1, cbs=[SelectorScores(), LossTerms()])
        assert all(a is b for a, b in zip(learn.metrics, before, strict=True))
    names = list(learn.recorder.metric_names)
    assert len(set(names)) == len(names) == 3 + 6 + 6 + 1
    assert learn.metrics[1].value == row(learn)['miou_level_2']


def test_scores_leave_the_metrics_as_they_were_after_an_error(learner):
    class Fails(Callback):
        def after_step(self): raise RuntimeError('out of luck')
    learn = learner()
    before = list(learn.metrics)
    with pytest.raises(RuntimeError, match='out of luck'): learn.fit(1, cbs=[LossTerms(), SelectorScores(), Fails()])
    assert all(a is b for a, b in zip(learn.metrics, before, strict=True))
    learn.add_cb(SelectorScores())                              # one that stays is no different
    learn.fit(1)
    learn.fit(1)
    assert len(learn.metrics) == 3 and 'miou_level_3_smart' in row(learn)


def test_scores_beside_other_metrics(learner, dls):
    def lucky_error(pred, y): return torch.tensor(7.)
    learn = learner(metrics=[lucky_error])
    learn.fit(1, cbs=SelectorScores(['smart'], tree=True))
    r = row(learn)
    assert r['lucky_error'] == 7 and {'miou_level_1', 'miou_level_1_smart', 'inconsistency_error', 'inconsistency_error_smart'} <= set(r)
    assert r['inconsistency_error'] == 0
    learn = learner(metrics=miou_metrics(dls.taxonomy, ('active', 'topdown')))
    learn.fit(1, cbs=SelectorScores(['topdown', 'smart']))
    assert [n for n in row(learn) if 'level_1' in n] == ['miou_level_1', 'miou_level_1_topdown', 'miou_level_1_smart']


def test_scores_of_a_selector_with_parameters(learner, dls):
    cost = 1. - np.eye(dls.c)                                   # 0-1 cost: the likeliest leaf, as simple
    learn = learner()
    learn.fit(1, cbs=SelectorScores({'plain': MinCostClassSelector(dls.taxonomy, cost=cost), 'dear': 'mincost'}))
    r = row(learn)
    assert [r[f'miou_{l}_plain'] for l in LEVELS] == [r[f'miou_{l}'] for l in LEVELS]
    assert 'miou_level_1_dear' in r


def test_the_active_selector_is_shown_once(learner):
    learn = learner(selector='smart')
    learn.fit(1, cbs=SelectorScores())
    assert [n for n in row(learn) if n.startswith('miou')] == [f'miou_{l}' for l in LEVELS] + [f'miou_{l}_simple' for l in LEVELS]
    learn.fit(1, cbs=[SelectorScores(), SelectorSwitch('simple', at=0)])
    r = row(learn)
    assert all(r[f'miou_{l}'] == r[f'miou_{l}_simple'] for l in LEVELS) and 'miou_level_1_smart' in r


@pytest.mark.parametrize('bad, says', [([], 'known are simple'), ('active', 'scored anyway'), ({'active': 'smart'}, 'scored anyway')])
def test_scores_refuse(bad, says):
    with pytest.raises(ValueError, match=says): SelectorScores(bad)


def test_scores_refuse_what_they_do_not_know(learner):
    with pytest.raises(ValueError, match="selector 'clever' is unknown"): learner().fit(1, cbs=SelectorScores('clever'))
    learn = learner()
    learn.loss_func = nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match='has no taxonomy; use hier_learner'): learn.fit(1, cbs=SelectorScores())


@pytest.mark.parametrize('column', ['miou_level_3_smart', 'miou_level_1', 'valid_loss_level_2', 'train_loss_level_3'])
def test_fastai_trackers(learner, column, tmp_path):
    save, stop = SaveModelCallback(column, fname='best'), EarlyStoppingCallback(column, patience=1, min_delta=1e9)
    learn = learner()
    learn.fit(3, 1e-2, cbs=[SelectorScores(), LossTerms(), save, stop, CSVLogger()])
    assert len(learn.recorder.values) == 2                      # nothing improves by that much: stopped after the second epoch
    values = [row(learn, e)[column] for e in range(2)]
    assert save.best == (min if 'loss' in column else max)(values)
    assert (tmp_path/'models'/'best.pth').exists()
    log = (tmp_path/'history.csv').read_text().splitlines()
    assert log[0].split(',') == list(learn.recorder.metric_names) and len(log) == 3
    assert float(log[1].split(',')[log[0].split(',').index(column)]) == pytest.approx(values[0])


def test_tensorboard(learner, tmp_path):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    learner().fit(1, cbs=[SelectorScores(), LossTerms(), TensorBoardCallback(tmp_path/'tb', trace_model=False)])
    assert list((tmp_path/'tb').iterdir())


def test_wandb(learner, tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    from fastai.callback.wandb import WandbCallback
    wandb.init(mode='disabled', dir=tmp_path)
    sent = {}
    monkeypatch.setattr(wandb, 'log', lambda d, **kw: sent.update(d))
    monkeypatch.setattr('fastai.callback.wandb._format_config', lambda config: config)     # fails on any number with fastcore 2.2
    learner().fit(1, cbs=[SelectorScores(), LossTerms(), WandbCallback(log_preds=False)])
    assert {'miou_level_3_smart', 'valid_loss_level_1'} <= set(sent)


def test_switch_at_an_epoch(learner, capsys):
    switch, learn = SelectorSwitch('smart', at=1), learner()
    learn.fit(3, cbs=[switch, SelectorScores(['simple', 'smart'])])
    assert switch.log == [(1, 'simple', 'smart', None)] and 'epoch 1: selector simple -> smart' in capsys.readouterr().out
    for e, name in enumerate(['simple', 'smart', 'smart']): assert row(learn, e)['miou_level_1'] == row(learn, e)[f'miou_level_1_{name}']
    assert learn.selector.name == 'smart' and learn.loss_func.config['selector'] == 'smart'


def test_switch_does_not_happen_outside_training(learner):
    switch, learn = SelectorSwitch('smart', at=0), learner()
    learn.add_cb(switch)
    learn.validate()
    learn.get_preds()
    assert switch.log == [] and learn.selector.name == 'simple'
    scores = SelectorSwitch(monitor='miou_level_1')
    learn.remove_cb(switch)
    learn.validate(cbs=[SelectorScores(list_selectors()), scores])
    assert scores.log == []


def test_switch_is_made_up_for_by_a_resumed_run(learner):
    switch, learn = SelectorSwitch('smart', at=1), learner()
    learn.fit(4, start_epoch=2, cbs=switch)
    assert [o[0] for o in switch.log] == [2]


def test_switch_to_the_best(learner):
    names = ['simple', 'smart', 'mincost', 'topdown']
    switch, learn = SelectorSwitch(monitor='miou_level_2'), learner()
    learn.fit(6, 1e-2, cbs=[switch, SelectorScores(names)])
    active, want = 'simple', []
    for e in range(6):
        r = row(learn, e)
        assert r['miou_level_2'] == r[f'miou_level_2_{active}']                # the row is of the one that was active
        best = max(r[f'miou_level_2_{n}'] for n in names)
        if best > r['miou_level_2']:
            new = next(n for n in names if r[f'miou_level_2_{n}'] == best)
            want.append((e, active, new, best))
            active = new
    assert want and switch.log == want and learn.selector.name == active


@pytest.mark.parametrize('monitor, rows, want', [
    ('miou_level_1', [dict(simple=.5, smart=.5)], []),                                                    # a tie changes nothing
    ('miou_level_1', [dict(simple=.5, smart=.6), dict(simple=.7, smart=.6)], ['smart', 'simple']),
    ('mistake_height_error', [dict(simple=.5, smart=.6), dict(simple=.5, smart=.4)], ['smart']),          # less is better
    ('miou_level_1', [dict(simple=float('nan'), smart=.1), dict(simple=float('nan'), smart=float('nan'))], ['smart'])])
def test_switch_on_given_scores(learner, monkeypatch, monitor, rows, want):
    def scripted(learn):
        r = rows[learn.epoch]
        return {monitor: r[learn.selector.name], **{f'{monitor}_{n}': v for n, v in r.items()}}
    monkeypatch.setattr(callbacks, '_row', scripted)
    switch = SelectorSwitch(monitor=monitor)
    learner().fit(len(rows), cbs=[SelectorScores(tree=True), switch])
    assert [o[2] for o in switch.log] == want


def test_switch_refuses(learner):
    for args, says in [({}, 'at=5'), (dict(to='smart'), 'at=5'), (dict(at=1), 'at=5'), (dict(to='smart', monitor='miou_level_1', at=1), 'leave to= and at= out'),
                       (dict(at=1, monitor='miou_level_1'), 'leave to= and at= out'), (dict(to='smart', at=-1), 'at=-1'), (dict(to='smart', at=1.5), 'at=1.5')]:
        with pytest.raises(ValueError, match=says): SelectorSwitch(**args)
    with pytest.raises(ValueError, match="selector 'clever' is unknown"): learner().fit(1, cbs=SelectorSwitch('clever', at=0))
    with pytest.raises(ValueError, match='add SelectorScores'): learner().fit(1, cbs=SelectorSwitch(monitor='miou_level_1'))
    with pytest.raises(ValueError, match='miou_level_4 is no column of the training table; it has train_loss'):
        learner().fit(1, cbs=[SelectorScores(), SelectorSwitch(monitor='miou_level_4')])
    with pytest.warns(UserWarning, match='at=1, but this training ends with epoch 0'): learner().fit(1, cbs=SelectorSwitch('smart', at=1))


@pytest.mark.parametrize('metrics_of_training', [False, True])
def test_loss_terms_against_sums_by_hand(learner, dls, metrics_of_training):
    loss = HierarchicalLoss(dls.taxonomy, level_weights=[1, .5, 2]) + .1 * TotalVariationLoss() + .01 * BoundaryLoss()
    learn, seen = learner(loss=loss), []
    learn.recorder.train_metrics = metrics_of_training

    class Spy(Callback):
        def after_loss(self): seen.append((self.training, len(self.x), {k: v.item() for k, v in loss.terms(self.pred, self.y).items()}, self.loss.item()))
    learn.fit(1, 1e-2, cbs=[LossTerms(), Spy()])
    r = dict(zip(list(learn.recorder.metric_names)[1:-1], learn.recorder.values[-1]))
    for phase, training in (('train', True), ('valid', False)):
        mine = [o for o in seen if o[0] == training]
        for term in mine[0][2]:
            mean = sum(n * t[term] for _, n, t, _ in mine) / sum(n for _, n, _, _ in mine)
            assert r[f'{phase}_loss_{term}'] == pytest.approx(mean, rel=1e-5, abs=1e-7)
    total = sum(n * l for t, n, _, l in seen if not t) / 5
    assert total == pytest.approx(r['valid_loss'], rel=1e-5)
    assert sum(v for k, v in r.items() if k.startswith('valid_loss_')) == pytest.approx(total, rel=1e-5)


def test_loss_terms_need_a_loss_that_has_them(learner):
    learn = learner()
    learn.loss_func = nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match='CrossEntropyLoss has no named terms'): learn.fit(1, cbs=LossTerms())


def test_training_is_the_same_with_and_without_watching(learner, tmp_path):
    alone = learner()
    alone.fit(2, 1e-2)
    want = weights(alone)
    watched = learner()
    watched.fit(2, 1e-2, cbs=[LossTerms(), SelectorScores(), ShowTriples(n=2, folder=tmp_path/'p')])
    assert torch.equal(weights(watched), want)
    assert watched.recorder.losses[-1] == alone.recorder.losses[-1]


def test_sample_triples(learner, dls):
    learn = learner(selector='smart')
    learn.model.train()
    images, truths, preds = sample_triples(learn, dls.valid, [3, 1])
    assert learn.model.training
    out, y, levels = learn.get_preds(with_decoded=True)
    for k, i in enumerate([3, 1]):
        assert (truths[k] == y[i].numpy()).all() and (preds[k] == levels[i].numpy()).all()
        picture = np.asarray(dls.valid_ds[i][0].resize((32, 32), resample=1))
        assert images[k].dtype == np.uint8 and np.abs(images[k].astype(int) - picture).mean() < 3


def test_triples_files(learner, tmp_path):
    learn = learner()
    learn.fit(4, cbs=ShowTriples(every=2, n=1, folder=tmp_path/'p'))
    assert sorted(p.name for p in (tmp_path/'p').iterdir()) == [f'triples_epoch_{e:03d}.png' for e in (0, 2, 3)]
    learn.fit(1, cbs=ShowTriples(n=9, folder=tmp_path/'r'))                     # more than there are
    assert (tmp_path/'r'/'triples_epoch_000.png').exists()
    learn.add_cb(ShowTriples(folder=tmp_path/'q'))
    learn.validate()
    learn.get_preds()
    assert not (tmp_path/'q').exists()


def test_triples_and_switch_go_to_the_experiment(learner, tmp_path):
    learn = learner()
    learn.model = hier_learner(learn.dls, 'unet', model_params=dict(channels_array=[4], bottleneck_channels=4, block_depth=1)).model
    learn.opt = None
    learn.fit(1, cbs=[ExperimentCallback(folder=tmp_path/'run'), ShowTriples(n=1, idxs=[4]), SelectorSwitch('smart', at=0)])
    assert (tmp_path/'run'/'triples_epoch_000.png').stat().st_size > 1000
    assert load_experiment(tmp_path/'run').selector.name == 'smart'


def test_triples_in_a_notebook(learner, monkeypatch):
    import IPython.display
    shown = []

    class Handle:
        def update(self, fig): shown.append('update')

    def display(fig, display_id=None):
        shown.append('display')
        return Handle()
    monkeypatch.setattr(callbacks, '_in_notebook', lambda: True)
    monkeypatch.setattr(IPython.display, 'display', display)
    learner().fit(3, cbs=ShowTriples(n=1))
    assert shown == ['display', 'update', 'update']                            # one output, replaced


def test_triples_refuse(learner, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, '_in_notebook', lambda: False)       # a test before this one may have started IPython
    for args, says in [(dict(every=0), 'every=0'), (dict(n=1.5), 'n=1.5'), (dict(idxs=[]), 'idxs is empty')]:
        with pytest.raises(ValueError, match=says): ShowTriples(**args)
    (tmp_path/'file').touch()
    for args, says in [({}, 'give folder= to save them'), (dict(idxs=[5], folder=tmp_path), 'images 0 to 4'), (dict(folder=tmp_path/'file'), 'is a file')]:
        with pytest.raises(ValueError, match=says): learner().fit(1, cbs=ShowTriples(**args))


def test_history_keeps_all_fits(learner, tmp_path):
    learn = learner()
    with pytest.raises(ValueError, match='no history yet'): learn.history()
    learn.fit(2)
    first = [row(learn, e)['valid_loss'] for e in range(2)]
    learn.validate()
    learn.get_preds()
    learn.lr_find(num_it=20, stop_div=False, show_plot=False)
    learn.fit(1, cbs=SelectorScores())
    h = learn.history()
    assert h['epoch'].tolist() == [0, 1, 2] and h['valid_loss'].tolist()[:2] == first
    assert h['miou_level_1_smart'].isna().tolist() == [True, True, False]
    assert learn.history(last=True)['valid_loss'].tolist() == [row(learn)['valid_loss']]
    left, right = learn.history_figure().axes
    assert [list(l.get_ydata()) for l in left.lines][1] == h['valid_loss'].tolist()
    learn.plot_history(last=True)


def test_history_of_an_interrupted_fit(learner):
    class Stop(Callback):
        def before_train(self):
            if self.epoch == 1: raise KeyboardInterrupt
    learn = learner()
    with pytest.raises(KeyboardInterrupt): learn.fit(3, cbs=Stop())
    assert len(learn.history()) == 1


def test_callbacks_pickle(learner):
    for cb in (SelectorScores(), SelectorSwitch('smart', at=2), LossTerms(), ShowTriples()):
        learn = learner()
        learn.add_cb(cb)
        learn.logger = print
        back = pickle.loads(pickle.dumps(cb))
        assert type(back) is type(cb) and vars(back).keys() - {'_state'} == vars(cb).keys()
