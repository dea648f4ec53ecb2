"Arguments of the wrong type are one line that names them, before anything is trained or written."
import numpy as np
import pytest
import torch

from hierseg.data.loaders import HierDataLoaders
from hierseg.data.synthetic import make_synthetic
from hierseg.evaluation.comparison import compare_experiments, score_checkpoints
from hierseg.evaluation.inference import find_images, predict_masks
from hierseg.evaluation.interpretation import HierInterpretation
from hierseg.evaluation.report import evaluate, report_text
from hierseg.training.callbacks import EMA, LevelWeightSchedule, SelectorScores, SelectorSwitch, ShowTriples
from hierseg.training.folder import ExperimentCallback
from hierseg.training.learner import hier_learner
from hierseg.training.run import load_experiment, resume_experiment, train_experiment
from strategies import PERSON

TINY = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)


@pytest.fixture(scope='module')
def dls(tmp_path_factory):
    data = make_synthetic(tmp_path_factory.mktemp('data') / 'd', n_train=4, n_valid=2, size=32, seed=0)
    return HierDataLoaders.from_folder(data, PERSON, size=32, bs=2, augment='none', num_workers=0)


@pytest.fixture(scope='module')
def learn(dls):
    return hier_learner(dls, 'unet', model_params=TINY)


@pytest.mark.parametrize('given', [dict(model_params=5), dict(arch=5), dict(loss=5), dict(base_loss=5), dict(selector=5), dict(encoder=5), dict(start=5), dict(head=5),
                                   dict(class_weights=5), dict(level_weights=5), dict(level_weights='abc'), dict(metrics=5), dict(loss_func=5), dict(pretrained=2.5)],
                         ids=lambda d: '{}={}'.format(*next(iter(d.items()))))
def test_of_a_learner(dls, given):
    with pytest.raises(ValueError) as e:
        hier_learner(dls, **{'model_params': TINY, **given})
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('given', [dict(epochs='x'), dict(epochs=0), dict(epochs=1.5), dict(epochs=True), dict(lr='x'), dict(lr=-1), dict(lr=float('inf')), dict(seed='x'),
                                   dict(monitor=5), dict(checkpoints=5), dict(score_selectors=5), dict(triples_every='x')], ids=lambda d: '{}={}'.format(*next(iter(d.items()))))
def test_of_a_training(learn, tmp_path, given):
    with pytest.raises(ValueError) as e:
        train_experiment(learn, tmp_path / 'e', **{'epochs': 1, **given})
    assert '\n' not in str(e.value) and next(iter(given)) in str(e.value)
    assert not (tmp_path / 'e').exists()


@pytest.mark.parametrize('call', [
    lambda learn, tmp: train_experiment(learn, 5, 1), lambda learn, tmp: train_experiment(learn, None, 1), lambda learn, tmp: load_experiment(5),
    lambda learn, tmp: resume_experiment(learn, tmp, epochs='x'), lambda learn, tmp: ExperimentCallback(n_triples='x'), lambda learn, tmp: EMA('x'),
    lambda learn, tmp: LevelWeightSchedule(1, 2), lambda learn, tmp: SelectorScores(5), lambda learn, tmp: SelectorSwitch('smart', at='x'),
    lambda learn, tmp: ShowTriples(every='x'), lambda learn, tmp: ShowTriples(idxs=5), lambda learn, tmp: learn.find_lr(n='x'), lambda learn, tmp: learn.fit_selector(items=5),
    lambda learn, tmp: learn.results_figure(max_n='x'), lambda learn, tmp: learn.predict(object()), lambda learn, tmp: evaluate(learn, 5),
    lambda learn, tmp: evaluate(learn, ['a.jpg']), lambda learn, tmp: evaluate(learn, list(learn.dls.valid_ds.items), 5),
    lambda learn, tmp: evaluate(learn, list(learn.dls.valid_ds.items), bs=0), lambda learn, tmp: list(predict_masks(learn, [5])),
    lambda learn, tmp: list(predict_masks(learn, [np.zeros(3)])), lambda learn, tmp: list(predict_masks(learn, ['a'], selector=5)), lambda learn, tmp: find_images(5),
    lambda learn, tmp: find_images([5]), lambda learn, tmp: compare_experiments(5), lambda learn, tmp: compare_experiments([5]), lambda learn, tmp: score_checkpoints(5)])
def test_of_everything_else(learn, tmp_path, call):
    with pytest.raises(ValueError) as e:
        call(learn, tmp_path)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('call, says', [
    (lambda learn: evaluate(5, []), "evaluate: learn=5 is not a HierLearner"), (lambda learn: list(predict_masks('unet', [])), "learn='unet' is not a HierLearner"),
    (lambda learn: train_experiment(learn.model, 'e', 1), 'train_experiment: learn='), (lambda learn: hier_learner('folder'), "hier_learner: dls='folder' is not a DataLoaders"),
    (lambda learn: report_text({}, 5), 'taxonomy=5 is not a Taxonomy'), (lambda learn: HierInterpretation.from_learner(5), 'from_learner: learn=5 is not a Learner'),
    (lambda learn: learn.results_figure(dl=5), 'results_figure: dl=5 is not a TfmdDL or None'), (lambda learn: load_experiment('e', model=5), 'model=5 is not a torch.nn.Module or None')])
def test_of_our_own_types(learn, call, says):
    with pytest.raises(ValueError) as e:
        call(learn)
    assert says in str(e.value) and '\n' not in str(e.value)


@pytest.mark.parametrize('call', [lambda learn, i: learn.results_figure(ds_idx=i), lambda learn, i: learn.show_results(ds_idx=i), lambda learn, i: HierInterpretation.from_learner(learn, ds_idx=i)])
@pytest.mark.parametrize('i', [7, 2, -3])
def test_of_a_set_that_does_not_exist(learn, call, i):
    with pytest.raises(ValueError, match=f'^ds_idx={i}; this data has 2 sets: 0 to train on, 1 to validate with'):
        call(learn, i)


def test_of_what_is_read_off(learn):
    with learn.no_bar():
        it = HierInterpretation.from_learner(learn)
    for call in (lambda: it.worst('x'), lambda: it.worst(3, by=5), lambda: it.confusion(9), lambda: it.most_confused(k='x'), lambda: it.most_confused(kind=5)):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(ValueError, match='known are pooled'):
        report_text(evaluate(learn, list(learn.dls.valid_ds.items)).report(), learn.taxonomy, reduction='x')
    assert torch.is_grad_enabled()
