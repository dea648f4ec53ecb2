"`hier_learner` gives a learner that behaves as fastai's do."
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger, ProgressCallback
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.data.all import DataBlock, FuncSplitter, get_image_files
from fastai.learner import Learner
from fastai.vision.all import Interpretation, ImageBlock
from torch import nn

from hierseg.data.tensors import TensorHierLevels
from hierseg.data.loaders import HierDataLoaders, HierMaskBlock
from hierseg.training.run import seed_everything
from hierseg.training.learner import HierLearner, hier_learner
from hierseg.decoding.selectors import SmartClassSelector
from hierseg.data.synthetic import make_synthetic
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy

TINY = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp('people') / 'data', 8, 4, 48, 3)


@pytest.fixture
def dls(data):
    seed_everything(0)
    return HierDataLoaders.from_folder(data, PERSON_TREE, size=32, bs=4, num_workers=0)


@pytest.fixture
def learn(dls, tmp_path):
    learn = hier_learner(dls, 'unet', model_params=TINY, path=tmp_path)
    learn.remove_cb(ProgressCallback)
    return learn


def test_it_is_a_fastai_learner_with_columns_named_by_level(learn):
    assert isinstance(learn, Learner) and isinstance(learn, HierLearner)
    with learn.no_logging():
        learn.fit_one_cycle(1, 1e-3)
    assert list(learn.recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', 'miou_level_1', 'miou_level_2', 'miou_level_3', 'time']
    assert len(learn.recorder.values[0]) == 5 and np.isfinite(learn.recorder.values[0]).all()


def test_defaults_are_the_studys(dls):
    learn = hier_learner(dls)
    cfg = learn.model.config
    assert (cfg['__class__'], cfg['channels_array'], cfg['bottleneck_channels'], cfg['block_depth'], cfg['out_channels']) == ('UNet', [64, 128, 256, 512], 512, 3, 7)
    assert type(learn.loss_func).__name__ == 'HierarchicalLoss' and learn.selector.name == 'simple'


@pytest.mark.parametrize('arch, params', [('segnet', dict(encoder_channels_array=[4, 8], decoder_channels_array=[4, 4], block_depth=1)),
                                          (nn.Conv2d(3, 7, 1), None)])
def test_other_architectures_train(dls, arch, params):
    learn = hier_learner(dls, arch, model_params=params)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert np.isfinite(learn.recorder.losses[-1])


def test_lr_find_restores_the_weights(learn):
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    assert learn.lr_find(num_it=5, show_plot=False).valley > 0
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())


def test_predict_get_preds_and_decoded(learn, data):
    image = sorted((data / 'JPEGImages').iterdir())[0]
    levels, tensor, probs = learn.predict(image)
    assert isinstance(levels, TensorHierLevels) and tensor.shape == (3, 32, 32) and probs.shape == (7, 32, 32)
    probs, truth, decoded = learn.get_preds(with_decoded=True)
    assert probs.shape == (4, 7, 32, 32) and truth.shape == (4, 32, 32) and decoded.shape == (4, 3, 32, 32)
    assert torch.equal(torch.as_tensor(decoded[:, -1]), probs.argmax(1))
    loss = learn.get_preds(with_loss=True)[-1]
    assert loss.shape == (4,)


def test_selector_is_carried_and_changes_every_answer(learn):
    learn.model.head.bias.data[1:] += torch.tensor([3., 2., 2.5, 1., 2.9, 2.])   # parts that sum to a body though background leads
    learn.model.head.bias.data[0] += 3.2
    simple, one = learn.get_preds(with_decoded=True)[2], learn.validate()
    learn.selector = 'smart'
    assert isinstance(learn.selector, SmartClassSelector) and learn.loss_func.selector is learn.selector
    smart, other = learn.get_preds(with_decoded=True)[2], learn.validate()
    assert not torch.equal(simple[:, 0], smart[:, 0]) and torch.equal(simple[:, 2], smart[:, 2])
    assert one[1] != other[1] and one[3] == other[3]
    with pytest.raises(ValueError, match='simple'):
        learn.selector = 'clever'


def test_validation_metric_is_miou_of_the_decoded_predictions(learn):
    scores = learn.validate()
    _, truth, decoded = learn.get_preds(with_decoded=True)
    tax = learn.taxonomy
    for level in range(3):
        t, p, ious = tax.lift[level][truth.numpy()], decoded[:, level].numpy(), []
        for k in range(1, tax.n_classes[level]):
            union = ((t == k) | (p == k)).sum()
            if union:
                ious.append(((t == k) & (p == k)).sum() / union)
        assert scores[1 + level] == pytest.approx(np.mean(ious))


def test_save_model_early_stopping_and_csv(learn, tmp_path):
    with learn.no_logging():
        learn.fit(2, 1e-3, cbs=[SaveModelCallback(monitor='miou_level_3'), EarlyStoppingCallback(monitor='miou_level_1', patience=5)])
    assert (tmp_path / 'models/model.pth').exists()
    learn.fit(1, cbs=CSVLogger())
    assert (tmp_path / 'history.csv').read_text().startswith('epoch,train_loss,valid_loss,miou_level_1')


def test_to_fp16_is_accepted(learn):
    learn.to_fp16()
    with learn.no_logging():
        learn.fit(1)
    assert all(p.dtype == torch.float32 for p in learn.model.parameters())


def test_autocast_gives_a_finite_loss_and_gradient(learn):
    x, y = learn.dls.one_batch()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = learn.loss_func(learn.model(x), y)
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in learn.model.parameters() if p.grad is not None)


def test_ctrl_c_runs_after_fit_and_reaches_the_caller(learn):
    class Stop(Callback):
        ended = False
        def after_batch(self):
            if self.training and self.epoch == 1:
                raise KeyboardInterrupt
        def after_fit(self): self.ended = True
    stop = Stop()
    with learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(3, cbs=stop)
    assert stop.ended and len(learn.recorder.values) == 1
    with learn.no_logging():
        learn.fit(1)            # and it goes on afterwards


def test_pictures(learn, monkeypatch):
    fig = learn.results_figure(max_n=2)
    assert sum(ax.get_title() in learn.taxonomy.level_names for ax in fig.axes) == 3
    plt.close('all')
    for draw in (lambda: learn.show_results(max_n=2), lambda: Interpretation.from_learner(learn).plot_top_losses(2)):
        mine = plt.figure()
        draw()
        assert plt.gcf() is mine and len(mine.axes) == 1            # in the current figure
    plt.close('all')


def test_an_ordinary_datablock_works(data):
    tax = Taxonomy(PERSON_TREE)
    valid = set((data / 'val_id.txt').read_text().split())
    block = DataBlock((ImageBlock, HierMaskBlock(tax)), get_items=lambda p: get_image_files(p / 'JPEGImages'),
                      get_y=lambda f: data / 'gt_masks' / f'{f.stem}.png', splitter=FuncSplitter(lambda f: f.stem in valid))
    dls = block.dataloaders(data, bs=4, num_workers=0)
    assert list(dls.vocab) == tax.vocab and dls.taxonomy == tax and dls.c == 7
    learn = hier_learner(dls, 'unet', model_params=TINY)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert np.isfinite(learn.recorder.losses[-1])


def test_class_weights_are_counted_once_for_every_level(dls):
    learn = hier_learner(dls, 'unet', model_params=TINY, class_weights='inverse')
    counts = np.zeros(7)
    for _, y in dls.train.new(shuffle=False, drop_last=False):
        pass
    from hierseg.data.files import read_mask
    for p in dls.train_ds.items:
        counts += np.bincount(read_mask(p.mask).ravel(), minlength=7)
    weights = learn.loss_func.class_weights
    np.testing.assert_allclose(weights[-1], counts.sum() / (7 * counts), rtol=1e-5)
    np.testing.assert_allclose(weights[0], counts.sum() / (2 * np.array([counts[0], counts[1:].sum()])), rtol=1e-5)


def test_same_seed_same_losses(data):
    def losses():
        seed_everything(5)
        dls = HierDataLoaders.from_folder(data, PERSON_TREE, size=32, bs=4, augment='study', num_workers=0, seed=5)
        learn = hier_learner(dls, 'unet', model_params=TINY)
        with learn.no_bar(), learn.no_logging():
            learn.fit(2)
        return [float(v) for v in learn.recorder.losses]
    assert losses() == losses()


@pytest.mark.parametrize('kwargs, says', [(dict(arch='vnet'), 'unet'), (dict(loss='mse'), 'hierarchical'), (dict(base_loss='mse'), 'dice'),
                                          (dict(selector='clever'), 'smart'), (dict(level_weights=[1]), '3 numbers'),
                                          (dict(class_weights='magic'), 'inverse'), (dict(model_params=dict(depth=3)), 'depth')])
def test_unknown_names_list_the_known(dls, kwargs, says):
    with pytest.raises(ValueError, match=says):
        hier_learner(dls, **{**dict(model_params=TINY), **kwargs})


def test_pictures_show_the_photographs(learn):
    from PIL import Image
    fig = learn.results_figure(max_n=1)
    photo = max((np.asarray(i.get_array()) for ax in fig.axes for i in ax.images), key=lambda a: len(np.unique(a)))
    path = learn.dls.valid_ds.items[0].image
    want = np.asarray(Image.open(path).convert('RGB').resize((32, 32), Image.LANCZOS))
    assert photo.shape == want.shape and np.abs(photo.astype(int) - want).max() <= 2
