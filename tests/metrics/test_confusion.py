"Streaming tables against loops, torchmetrics and themselves."
import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from hierseg.losses.hierarchical import HierarchicalLoss
from hierseg.metrics.confusion import LevelConfusion, plot_confusion
from hierseg.metrics.columns import active_selector, miou_metrics
from hierseg.decoding.selectors import get_selector, lift_prediction
from hierseg.taxonomy.tree import Taxonomy
from hierseg.taxonomy.tensors import decompose_mask
from strategies import PERSON, STREET, batch, leaf_paths, logits_of, mask_of, trees

ALL = ['simple', 'smart', 'topdown', 'mincost', 'bestpath']


def brute(tax, preds, y):
    "Everything from loops over pixels: preds is a list of level masks."
    paths, y = leaf_paths(tax), y.numpy()
    preds, out = [p.numpy() for p in preds], {}
    for l, k in enumerate(tax.n_classes):
        conf = np.zeros((len(y), k, k), dtype=int)
        for b, i, j in np.ndindex(*y.shape):
            if y[b, i, j] >= 0: conf[b, paths[y[b, i, j]][l], preds[l][b, i, j]] += 1
        first = 0 if tax.bg_index is None else 1
        ious = lambda c: [c[v, v] / u for v in range(first, k) if (u := c[v].sum() + c[:, v].sum() - c[v, v])]
        images = [np.mean(o) for o in map(ious, conf) if o]
        out[l] = dict(confusion=conf.sum(0), miou=np.mean(ious(conf.sum(0)) or [np.nan]),
                      image=np.mean(images or [np.nan]),
                      se=np.std(images, ddof=1) / len(images)**.5 if len(images) > 1 else np.nan,
                      original=np.mean([sum(ious(c)) / (k - first) for c in conf]) if k > first else np.nan,
                      accuracy=np.trace(conf.sum(0)) / conf.sum() if conf.sum() else np.nan)
    return out


@given(trees(), st.integers(0, 1000), st.sampled_from([0, .3, 1]), st.sampled_from(ALL))
def test_readings_against_loops(tree, seed, void, name):
    tax = Taxonomy(tree)
    z, y = batch(tax, seed, (3, 3, 4), void)
    conf, preds = LevelConfusion(tax, name), get_selector(name, tax)(z)
    for i in range(3): conf.update_output(z[i:i+1], y[i:i+1])
    for l, want in brute(tax, preds, y).items():
        assert (conf.confusion(l) == want['confusion']).all()
        got = [conf.miou(l), conf.miou(l, 'image'), conf.standard_error(l), conf.miou(l, 'original'), conf.accuracy(l)]
        np.testing.assert_allclose(got, [want[k] for k in ('miou', 'image', 'se', 'original', 'accuracy')], rtol=1e-12)
    assert conf.n_pixels == (y >= 0).sum()
    other = LevelConfusion(tax).update(preds, y)                 # masks instead of the model's output
    assert all((other.confusion(l) == conf.confusion(l)).all() for l in range(tax.n_levels))


@given(trees(), st.integers(0, 1000), st.sampled_from(ALL))
def test_tree_readings_against_loops(tree, seed, name):
    tax = Taxonomy(tree)
    z, y = batch(tax, seed, (2, 3, 3))
    conf, paths = LevelConfusion(tax, name).update_output(z, y), leaf_paths(tax)
    preds = [p.numpy() for p in get_selector(name, tax)(z)]
    height, wrong, clash, both, a, b, n = 0, 0, 0, 0, 0, 0, 0
    for at in np.ndindex(*y.shape):
        if y[at] < 0: continue
        p, t = [m[at] for m in preds], y[at].item()
        h = sum(u != v for u, v in zip(paths[p[-1]], paths[t]))
        n, height, wrong = n + 1, height + h, wrong + (h > 0)
        clash += any(tax.parents[l][p[l]] != p[l-1] for l in range(1, tax.n_levels))
        alpha = {v for l in range(tax.n_levels) for v in [tax.level_nodes[l][p[l]]] if tax.node_depth[v] == l + 1}
        beta = set(np.flatnonzero(tax.ancestors[t]))
        both, a, b = both + len(alpha & beta), a + len(alpha), b + len(beta)
    div = lambda u, v: u / v if v else float('nan')
    got = [conf.mistake_height(), conf.mistake_height(mistakes_only=True), conf.inconsistency(),
           *conf.hierarchical_prf()[:2]]
    np.testing.assert_allclose(got, [div(height, n), div(height, wrong), div(clash, n), div(both, a), div(both, b)])
    if name != 'smart': assert conf.inconsistency() == 0 or not n


def test_pooled_iou_against_torchmetrics():
    from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 1, (4, 16, 16))
    conf = LevelConfusion(tax, ALL).update_output(z, y)
    for name in ALL:
        for l, (p, t) in enumerate(zip(get_selector(name, tax)(z), decompose_mask(y, tax))):
            kw = dict(num_classes=tax.n_classes[l], ignore_index=-100)
            assert (conf.confusion(l, name) == multiclass_confusion_matrix(p, t, **kw).numpy()).all()
            np.testing.assert_allclose(conf.iou(l, name), multiclass_jaccard_index(p, t, average='none', **kw),
                                       rtol=1e-6)


def test_absent_classes_and_void_by_hand():
    tax = Taxonomy(PERSON)
    y = torch.tensor([[[2, 2, 0, 0, -100]], [[0, 0, 0, 0, 0]]])
    conf = LevelConfusion(tax).update(lift_prediction(torch.tensor([[[2, 4, 0, 0, 5]], [[0, 0, 0, 0, 0]]]), tax), y)
    assert np.isnan(conf.iou()[[1, 3, 5, 6]]).all() and conf.iou()[[0, 2, 4]].tolist() == [1, .5, 0]
    # the second image has no foreground
    assert conf.miou() == .25 and conf.miou('level_2') == 1 and conf.miou(reduction='image') == .25
    assert conf.miou(reduction='original') == pytest.approx(.5 / 6 / 2)
    assert conf.background() == dict(iou=1, predicted=7/9, true=7/9)


def test_stream_merge_and_state_equal_one_pass():
    tax = Taxonomy(STREET)
    z, y = batch(tax, 2)
    whole = LevelConfusion(tax, ALL).update_output(z, y)
    stream = LevelConfusion(tax, ALL)
    for i in (0, 2, 4): stream.update_output(z[i:i+2], y[i:i+2])
    a, b = LevelConfusion(tax, ALL).update_output(z[:2], y[:2]), LevelConfusion(tax, ALL).update_output(z[2:], y[2:])
    before = a.report()
    loaded = LevelConfusion(tax, ALL).load_state_dict(pickle.loads(pickle.dumps(whole.state_dict())))
    for other in (stream, a + b, loaded, pickle.loads(pickle.dumps(whole))): assert other.report() == whole.report()
    assert a.report() == before and a.merge(b).report() == whole.report()
    assert whole.reset().n_pixels == 0 and math.isnan(whole.miou())
    json.dumps(a.report(), allow_nan=False)


def test_bootstrap_covers_and_is_seeded():
    tax = Taxonomy(PERSON)
    conf = LevelConfusion(tax).update_output(*batch(tax, 3, (30, 8, 8)))
    low, high = conf.bootstrap()
    assert low < conf.miou() < high and conf.bootstrap() == (low, high) != conf.bootstrap(seed=1)
    narrow = conf.bootstrap(confidence=.5)
    assert low < narrow[0] < narrow[1] < high
    one = LevelConfusion(tax).update_output(*batch(tax, 3, (1, 8, 8)))
    assert one.bootstrap() == pytest.approx((one.miou(),)*2)


def test_bad_input():
    tax = Taxonomy(PERSON)
    z, y = batch(tax)
    conf = LevelConfusion(tax, ['simple', 'smart']).update_output(z, y)
    for call, message in [
        (lambda: LevelConfusion(tax, 'clever'), 'known are simple'),
        (lambda: conf.miou(reduction='macro'), 'pooled, image, original'),
        (lambda: conf.iou(0, 'mincost'), 'simple, smart were'),
        (lambda: conf.iou('level_7'), 'level_1, level_2, level_3'),
        (lambda: conf.update_output(z, y[:2]), 'do not fit'),
        (lambda: conf.update_output(z[:, :3], y), r'needs \(B, 7, H, W\)'),
        (lambda: conf.update_output(z, torch.full_like(y, 255)),
         'not raw ids'), (lambda: conf.update([y.clamp(0)], y), 'the taxonomy has 3'),
        (lambda: conf.update(dict(mincost=[y]*3), y), 'is not counted here'),
        (lambda: conf + LevelConfusion(tax), 'different things'),
        (lambda: LevelConfusion(tax, per_image=False).standard_error(), 'per_image=True')]:
        with pytest.raises(ValueError, match=message): call()


def test_plot_confusion_keeps_siblings_together():
    tax = Taxonomy(PERSON)
    ax = plot_confusion(LevelConfusion(tax).update_output(*batch(tax)))
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert sorted(names) == sorted(tax.vocab) and {names.index('low_leg'), names.index('up_leg')} in ({1, 2}, {5, 6})
    import matplotlib.pyplot as plt
    plt.close('all')


# --- inside a fastai Learner ---

@pytest.fixture(scope='module')
def tax(): return Taxonomy(PERSON)


def learner(tax, selectors=('active', 'smart'), loss=None):
    import fastai.callback.progress  # noqa: F401 (gives Learner its no_bar)
    from fastai.data.core import Datasets
    from fastai.learner import Learner
    z, y = batch(tax, 4, (8, 8, 8))
    dsets = Datasets(range(8), [[logits_of], [mask_of]], splits=[range(8), range(8)])
    dls = dsets.dataloaders(bs=3, val_bs=3, num_workers=0, device='cpu')
    model = torch.nn.Conv2d(tax.n_leaves, tax.n_leaves, 1)
    torch.nn.init.dirac_(model.weight); torch.nn.init.zeros_(model.bias)
    learn = Learner(dls, model, loss_func=loss or HierarchicalLoss(tax),
                    metrics=miou_metrics(tax, selectors, accuracy=True), lr=0.)
    return learn, z, y


def test_metrics_in_a_learner(tax):
    learn, z, y = learner(tax)
    want = LevelConfusion(tax, ['simple', 'smart']).update_output(z, y)
    miou = lambda s: [want.miou(l, selector=s) for l in range(3)]
    with learn.no_bar(), learn.no_logging():
        got = learn.validate()
        assert list(got[1:7]) == miou('simple') + miou('smart') and got[7] == want.accuracy(0)
        names = [f'miou_level_{i}' for i in (1, 2, 3)]
        assert learn.recorder.metric_names[3:9] == names + [f'{n}_smart' for n in names]
        learn.selector = 'smart'
        assert list(learn.validate()[1:4]) == miou('smart')
        learn.selector = get_selector('simple', tax)
        learn.fit(2)
        assert list(learn.recorder.values[-1][2:8]) == pytest.approx(miou('simple') + miou('smart'))
        preds, targs = learn.get_preds()
        torch.testing.assert_close(preds, z.softmax(1), atol=1e-4, rtol=1e-4)
        assert learn.get_preds(with_loss=True)[2].shape == (8,)
        assert (targs == y).all()


def test_active_selector_comes_from_the_loss_and_head_too(tax):
    loss = HierarchicalLoss(tax, selector='smart')
    learn, z, y = learner(tax, ('active',), loss)
    assert active_selector(learn, tax) is loss.selector
    with learn.no_bar(), learn.no_logging(): got = learn.validate()
    assert got[1] == LevelConfusion(tax, 'smart').update_output(z, y).miou(0)
    loss.selector = 'mincost'
    with learn.no_bar(), learn.no_logging(): got = learn.validate()
    assert got[1] == LevelConfusion(tax, 'mincost').update_output(z, y).miou(0)


def test_trackers_export_and_load(tax, tmp_path):
    from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
    from fastai.learner import load_learner
    learn, z, y = learner(tax)
    learn.path = tmp_path
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=[SaveModelCallback(monitor='miou_level_3'),
                          EarlyStoppingCallback(monitor='miou_level_1_smart')])
        assert (tmp_path/'models'/'model.pth').exists()
        before = learn.validate()
        learn.export('e.pkl')
        again = load_learner(tmp_path/'e.pkl')
        dl = learn.dls.valid
        with again.no_bar(), again.no_logging(): assert list(again.validate(dl=dl)) == list(before)


def test_metrics_copy_and_train_metrics(tax):
    learn, z, y = learner(tax)
    mets = copy.deepcopy(learn.metrics)
    assert mets[0].stream is mets[-1].stream and mets[0].value is None
    learn.recorder.train_metrics = True
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert 'train_miou_level_1' in learn.recorder.metric_names and len(learn.recorder.values[-1]) == 2 * 13
