"Level weights that move, averages of weights, and fastai's own callbacks."
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import foreground_acc

from hierseg.core import ExperimentError
from hierseg.training.callbacks import EMA, LevelWeightSchedule, LossTerms, SelectorScores
from hierseg.training.folder import SeedEpochs, read_history
from hierseg.training.learner import spread
from hierseg.training.run import load_experiment, resume_experiment, train_experiment


def quiet_fit(learn, n=1, lr=1e-2, **kwargs):
    with learn.no_bar(), learn.no_logging():
        learn.fit(n, lr, **kwargs)
    return learn


class Watch(Callback):
    "The state after every step, and what validation saw."
    order = 71

    def before_fit(self):
        self.steps, self.seen = [], []

    def after_step(self):
        self.steps.append({k: v.clone() for k, v in self.model.state_dict().items()})

    def after_validate(self):
        self.seen.append({k: v.clone() for k, v in self.model.state_dict().items()})


@pytest.mark.parametrize('decay', [0, .5, .9])
def test_the_average_against_a_loop(new_learner, decay):
    watch = Watch()
    learn = quiet_fit(new_learner(), 3, cbs=[EMA(decay), watch])
    average = {k: v.clone().double() for k, v in watch.steps[0].items()}
    shown = []
    for t, state in enumerate(watch.steps, 1):
        d = min(decay, (1 + t) / (10 + t))
        for k, v in state.items():
            average[k] = d * average[k] + (1 - d) * v.double() if v.is_floating_point() else v
        if t % 2 == 0:
            shown.append({k: v.clone() for k, v in average.items()})
    for seen, expected in zip(watch.seen, shown):
        for k in seen:
            assert torch.allclose(seen[k].double(), expected[k].double(), atol=1e-5), k
    for k, v in learn.model.state_dict().items():
        assert torch.equal(v, watch.seen[-1][k])                         # the average is what is left


def test_training_does_not_notice_the_average(new_learner):
    plain, watched = Watch(), Watch()
    quiet_fit(new_learner(), 3, cbs=[SeedEpochs(1), plain])
    quiet_fit(new_learner(), 3, cbs=[SeedEpochs(1), EMA(.9), watched])
    for a, b in zip(plain.steps, watched.steps):
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_an_interrupted_average_resumes_to_the_same_weights(new_learner, people, tmp_path):
    class Stop(Callback):
        order = 1000

        def after_batch(self):
            if self.training and self.epoch == 2:
                raise KeyboardInterrupt
    data = dict(path=str(people))
    train_experiment(new_learner(), tmp_path / 'whole', 4, 1e-2, 1, data=data, cbs=[EMA(.9)])
    with pytest.raises(KeyboardInterrupt):
        train_experiment(new_learner(), tmp_path / 'cut', 4, 1e-2, 1, data=data, cbs=[EMA(.9), Stop()])
    learn = load_experiment(tmp_path / 'cut', new_learner().dls)
    with pytest.raises(ExperimentError, match='callback ema'):
        resume_experiment(learn, tmp_path / 'cut')
    assert resume_experiment(load_experiment(tmp_path / 'cut', new_learner().dls), tmp_path / 'cut', cbs=[EMA(.9)]) == (2, 4)
    for name in ('model.safetensors',):
        assert (tmp_path / 'cut' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
    assert [r['miou_level_1'] for r in read_history(tmp_path / 'cut')] == [r['miou_level_1'] for r in read_history(tmp_path / 'whole')]


@pytest.mark.parametrize('bad', [1, -.1, 1.5])
def test_a_decay_that_makes_no_sense(bad):
    with pytest.raises(ValueError, match='EMA: decay'):
        EMA(bad)


def test_level_weights_by_epoch_also_after_a_resume(new_learner):
    class Look(Callback):
        def __init__(self):
            self.seen = {}

        def after_train(self):
            self.seen[self.epoch] = list(self.learn.loss_func.level_weights)
    look = Look()
    quiet_fit(new_learner(), 5, cbs=[LevelWeightSchedule((1, 0, 0), (0, 0, 1)), look])
    expected = np.linspace([1, 0, 0], [0, 0, 1], 5)
    assert np.allclose([look.seen[i] for i in range(5)], expected)
    later = Look()
    quiet_fit(new_learner(), 5, cbs=[LevelWeightSchedule((1, 0, 0), (0, 0, 1)), later], start_epoch=3)
    assert later.seen == {i: look.seen[i] for i in (3, 4)}


def test_mixup_mixes_losses_image_by_image(new_learner):
    class Look(Callback):
        order = 1000

        def after_loss(self):
            if not self.training:
                return
            mix = self.learn.mix_up
            loss = mix.old_lf
            old, loss.reduction = loss.reduction, 'none'
            a, b = loss(self.pred, *mix.yb1), loss(self.pred, *self.yb)
            loss.reduction = old
            assert a.shape == mix.lam.shape == (4,)
            assert torch.allclose(self.loss, torch.lerp(a, b, mix.lam).mean(), atol=1e-5)
            self.learn.checked = True
    learn = new_learner()
    quiet_fit(learn, 1, cbs=[MixUp(), Look(), SelectorScores()])
    assert learn.checked and learn.loss_func is learn.tree_loss


def test_mixup_in_an_experiment(new_learner, people, tmp_path):
    train_experiment(new_learner(), tmp_path / 'e', 2, 1e-2, 1, data=dict(path=str(people)), cbs=[MixUp()])
    assert len(read_history(tmp_path / 'e')) == 2


def test_what_cannot_work_is_said_in_a_line(new_learner):
    learn = new_learner()
    with pytest.raises(ValueError, match='use MixUp'):
        quiet_fit(learn, cbs=CutMix())
    for cb in (SaveModelCallback(monitor='miou_level_4'), EarlyStoppingCallback(monitor='typo')):
        with pytest.raises(ValueError, match='known are train_loss, valid_loss, miou_level_1, miou_level_2, miou_level_3'):
            quiet_fit(learn, cbs=cb)
    with pytest.raises(ValueError, match="did you mean 'miou_level_3'"):
        quiet_fit(new_learner(cbs=SaveModelCallback(monitor='miou_level_4')))


def test_fastais_name_for_the_loss(new_learner):
    assert type(new_learner(loss_func='ce').loss_func).__name__ == 'FlatLoss'
    quiet_fit(new_learner(loss_func=CrossEntropyLossFlat(axis=1)))
    with pytest.raises(ValueError, match='give one'):
        new_learner(loss='ce', loss_func='ce')


def test_metrics_beside_or_instead_of_miou(new_learner):
    levels = ['miou_level_1', 'miou_level_2', 'miou_level_3']
    assert [m.name for m in new_learner(metrics=['miou', foreground_acc]).metrics] == [*levels, 'foreground_acc']
    assert [m.name for m in new_learner(metrics=foreground_acc).metrics] == ['foreground_acc']
    assert [m.name for m in new_learner(metrics='miou').metrics] == levels
    assert len(new_learner(metrics=[]).metrics) == 0
    with pytest.raises(ValueError, match='known are miou'):
        new_learner(metrics=['iou'])


@pytest.mark.parametrize('form', [lambda x: x, lambda x: x.float() / 255, lambda x: x.permute(1, 2, 0), lambda x: x[None]], ids=['bytes', 'floats', 'last', 'batch of one'])
def test_predict_of_a_tensor_is_that_of_the_picture(new_learner, form):
    learn = new_learner()
    x = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    with learn.no_bar():
        levels, classes, probs = learn.predict(form(x))
        expected = learn.predict(x.permute(1, 2, 0).numpy())
    assert torch.equal(classes, expected[1]) and torch.allclose(probs, expected[2])
    assert classes.shape == (3, 32, 32) and probs.shape == (7, 32, 32)


@pytest.mark.parametrize('bad, says', [(torch.rand(4, 3, 8, 8), 'one image'), (torch.randn(3, 8, 8) * 3, 'before normalisation'),
                                       (torch.full((3, 8, 8), float('nan')), 'before normalisation')])
def test_tensors_that_are_no_images(new_learner, bad, says):
    with pytest.raises(ValueError, match=says):
        new_learner().predict(bad)


def test_a_saved_prediction_drags_no_tree_along(new_learner, tmp_path):
    learn = new_learner()
    with learn.no_bar():
        _, classes, probs = learn.predict(torch.rand(3, 32, 32))
    torch.save((classes, probs), tmp_path / 'p.pt')
    again = torch.load(tmp_path / 'p.pt', weights_only=True)
    assert torch.equal(again[0], classes) and torch.equal(again[1], probs)


def test_the_learning_rate_finder_leaves_the_learner_as_it_was(new_learner, tmp_path):
    learn = new_learner(path=tmp_path)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with learn.no_bar():
        lr, fig = learn.find_lr(n=40)
    assert 1e-6 <= lr <= 10 and fig.axes
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    assert not any(tmp_path.iterdir()) and learn.path == tmp_path
    with learn.no_bar(), pytest.raises(ValueError, match='at least 20 steps'):
        learn.find_lr(n=2)


def test_a_fitted_selector_is_the_learners_and_the_experiments(new_learner, people, tmp_path):
    learn = new_learner()
    history = learn.fit_selector(items=list(learn.dls.valid_ds.items))
    assert learn.selector.name == 'iou' and learn.selector.iou is not None and len(history) >= 2
    train_experiment(learn, tmp_path / 'e', 1, 1e-3, 1, data=dict(path=str(people)))
    assert load_experiment(tmp_path / 'e').selector.config == learn.selector.config
    with pytest.raises(ValueError, match='known are iou'):
        learn.fit_selector('smart')


def test_pictures_are_spread_over_the_set_and_named(new_learner):
    assert spread(10, 4) == [0, 3, 6, 9] and spread(1, 4) == [0] and spread(3, 9) == [0, 1, 2]
    fig = new_learner().results_figure(max_n=2)
    texts = {t.get_text() for a in fig.axes for t in [a.title, *a.texts]} | {t.get_text() for t in fig.texts}
    assert {'val_00000', 'val_00003'} <= texts, texts


def test_loss_terms_beside_level_weights_of_zero(new_learner):
    learn = quiet_fit(new_learner(), 2, cbs=[LevelWeightSchedule((1, 0, 0), (0, 0, 1)), LossTerms()])
    row = learn.history().iloc[0]
    assert row['train_loss_level_1'] > 0
