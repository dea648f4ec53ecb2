"Interpretation against loops over pixels and images."
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from hierseg.data.loaders import HierDataLoaders
from hierseg.evaluation.interpretation import HierInterpretation
from hierseg.training.learner import hier_learner
from hierseg.losses.hierarchical import HierarchicalLoss
from hierseg.metrics.confusion import LevelConfusion
from hierseg.losses.published import TotalVariationLoss
from hierseg.decoding.selectors import lift_prediction
from hierseg.data.synthetic import make_synthetic
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON, STREET, leaf_paths, trees

WITH_VOID = Taxonomy({'bg': 0, 'upper': {'arm': {'low_hand': 1, 'up_hand': 6}, 'torso': 2}, 'lower': {'up_leg': 5}}, ignore=[3, 4])


@pytest.fixture(scope='module')
def data(tmp_path_factory): return make_synthetic(tmp_path_factory.mktemp('data')/'d', n_train=4, n_valid=5, size=24, seed=2)


def make(data, tax=PERSON, size=24, bs=2, **kwargs):
    dls = HierDataLoaders.from_folder(data, tax, size=size, bs=bs, num_workers=0)
    torch.manual_seed(0)
    learn = hier_learner(dls, nn.Conv2d(3, dls.c, 3, padding=1), selector='smart', **kwargs)
    learn.remove_cb(learn.progress)
    return learn


@pytest.mark.parametrize('tree', [PERSON, WITH_VOID], ids=['person', 'with void'])
def test_everything_against_loops(data, tree):
    learn = make(data, tree)
    tax, table = learn.taxonomy, HierInterpretation.from_learner(learn)
    paths, first, total = leaf_paths(tax), 0 if tax.bg_index is None else 1, [np.zeros((k, k), int) for k in tax.n_classes]
    rows = table.per_image()
    for i, (x, y) in enumerate(learn.dls.valid.new(bs=1)):
        assert rows['id'][i] == learn.dls.split_ids['valid'][i]
        with torch.no_grad(): out = learn.model(x)
        assert rows['loss'][i] == pytest.approx(learn.loss_func(out, y).item(), rel=1e-4)
        pred, y = [p[0].numpy() for p in learn.selector(out)], y[0].numpy()
        valid = list(zip(*np.nonzero(y >= 0)))
        wrong = sum(any(tax.parents[l][pred[l][at]] != pred[l-1][at] for l in range(1, tax.n_levels)) for at in valid)
        assert rows['inconsistent'][i] == pytest.approx(wrong / len(valid))
        for l, name in enumerate(tax.level_names):
            c = np.zeros_like(total[l])
            for at in valid: c[paths[y[at]][l], pred[l][at]] += 1
            ious = [c[v, v] / u for v in range(first, len(c)) if (u := c[v].sum() + c[:, v].sum() - c[v, v])]
            assert rows[f'miou_{name}'][i] == pytest.approx(np.mean(ious), rel=1e-9)
            total[l] += c
    assert len(rows) == 5 and all((table.confusion(l) == total[l]).all() for l in range(tax.n_levels))
    if tree is WITH_VOID: assert table.report()['pixels'] < 5 * 24 * 24


@given(trees(), st.integers(0, 1000))
def test_siblings_and_cousins_against_paths(tree, seed):
    tax, g = Taxonomy(tree), torch.Generator().manual_seed(seed)
    pred, y = torch.randint(0, tax.n_leaves, (2, 1, 5, 5), generator=g)
    it = HierInterpretation(None, None, LevelConfusion(tax).update(lift_prediction(pred, tax), y), [0.], [0.])
    for l in range(tax.n_levels):
        paths = [tax.node_paths[v] for v in tax.level_nodes[l]]
        t, p = tax.lift[l][y.numpy()].ravel(), tax.lift[l][pred.numpy()].ravel()
        want = {'siblings': {}, 'cousins': {}}
        for a, b in zip(t, p):
            if a == b: continue
            kind = want['siblings' if paths[a][:-1] == paths[b][:-1] else 'cousins']
            kind[a, b] = kind.get((a, b), 0) + 1
        names = tax.level_classes[l]
        for kind, pairs in want.items():
            got = it.most_confused(l, kind, k=999)
            assert {(c.truth, c.prediction): c.pixels for c in got} == {(names[a], names[b]): n for (a, b), n in pairs.items()}
            assert [c.pixels for c in got] == sorted(pairs.values(), reverse=True)
            for c in got: assert c.share == c.pixels / (t == names.index(c.truth)).sum()
        assert sum(c.pixels for c in it.most_confused(l, 'all', k=999)) == (t != p).sum()


def test_a_shallow_leaf_is_the_sibling_of_its_siblings_only():
    tax = Taxonomy(STREET)                                    # flat/{road, sidewalk}, vehicle/{car, two_wheeler/{…}}, sky
    at = {n: i for i, n in enumerate(tax.vocab)}
    def confused(t, p, kind):
        y, pred = (torch.full((1, 1, 1), at[n]) for n in (t, p))
        conf = LevelConfusion(tax).update(lift_prediction(pred, tax), y)
        return len(HierInterpretation(None, None, conf, [0.], [0.]).most_confused(-1, kind))
    assert (confused('car', 'bicycle', 'siblings'), confused('car', 'bicycle', 'cousins')) == (0, 1)
    assert (confused('motorcycle', 'bicycle', 'siblings'), confused('motorcycle', 'bicycle', 'cousins')) == (1, 0)
    assert (confused('sky', 'road', 'siblings'), confused('sky', 'road', 'cousins')) == (0, 1)


def test_the_share_brings_rare_classes_to_the_top():
    tax = Taxonomy({'a': 0, 'b': 1, 'c': 2})
    y, pred = torch.tensor([[[0] * 10 + [1] * 2]]), torch.tensor([[[1] * 3 + [0] * 7 + [2] * 2]])
    it = HierInterpretation(None, None, LevelConfusion(tax).update([pred], y), [0.], [0.])
    assert it.most_confused() == [('a', 'b', 3, .3), ('b', 'c', 2, 1.)]
    assert it.most_confused(by='share')[0] == ('b', 'c', 2, 1.) and len(it.most_confused(k=1)) == 1


def test_worst(data):
    it = HierInterpretation.from_learner(make(data))
    rows = it.per_image()
    assert it.worst(5)['loss'].tolist() == sorted(rows['loss'], reverse=True) == it.worst(5, 'loss')['loss'].tolist()
    for level, col in [(0, 'miou_level_1'), ('level_2', 'miou_level_2'), (-1, 'miou_level_3')]:
        assert it.worst(2, level=level)[col].tolist() == sorted(rows[col])[:2]
        assert it.worst(2, by=col).equals(it.worst(2, level=level))
    assert it.worst(2, 'miou').equals(it.worst(2, level='level_3'))
    assert it.worst(1, 'inconsistent')['inconsistent'].item() == rows['inconsistent'].max()
    it.losses[2] = float('nan')
    assert it.worst(5).index[-1] == 2
    for args, says in [(dict(k=0), 'k=0'), (dict(by='iou'), 'miou_level_2'), (dict(by='loss', level=0), 'leave level= out'), (dict(level='level_9'), 'level_9')]:
        with pytest.raises(ValueError, match=says): it.worst(**args)


def test_pictures(data):
    it = HierInterpretation.from_learner(make(data))
    for k in (1, 3, 99):                                      # 3 images and 3 levels: shapes alone could not tell them apart
        fig = it.plot_worst(k, level='level_2')
        titles = [t for t in (ax.get_title() for ax in fig.axes) if 'miou' in t]
        assert titles == [f"{r['id']}, miou level 2 {r['miou_level_2']:.3f}" for _, r in it.worst(k, level='level_2').iterrows()]
    assert it.plot_confusion('level_2').get_title() == 'level_2: % of each true class'


@pytest.mark.parametrize('draw', [lambda it: it.plot_worst(1, level='level_1'), lambda it: it.plot_top_losses(1)], ids=['plot_worst', 'plot_top_losses'])
def test_they_are_drawn_in_the_current_figure(data, draw):
    import io
    import matplotlib.pyplot as plt
    from PIL import Image
    it = HierInterpretation.from_learner(make(data))
    plt.close('all')
    first = draw(it)
    assert plt.gcf() is first and plt.get_fignums() == [1]                                  # none was open: this one is current now
    assert {'level_1', 'level_2', 'level_3'} <= {ax.get_title() for ax in first.axes}
    assert 'upper_body' in [t.get_text() for ax in first.axes for t in ax.texts]            # the legend
    mine = plt.figure(layout='constrained')
    assert draw(it) is mine and len(mine.axes) == len(first.axes) and (mine.get_size_inches() == first.get_size_inches()).all()
    plt.savefig(b := io.BytesIO(), dpi=40)
    assert np.asarray(Image.open(b).convert('L')).std() > 20
    assert draw(it) is plt.gcf() and len(mine.axes) == len(first.axes) and len(plt.get_fignums()) == 3     # what holds a picture is left alone
    plt.close('all')


def test_the_picture_is_of_the_selector_that_was_counted(data, monkeypatch):
    import hierseg.training.learner as drawing
    learn = make(data)
    it = HierInterpretation.from_learner(learn)
    learn.selector, drawn = 'simple', []
    monkeypatch.setattr(drawing, 'show_triples', lambda i, t, preds, *a, **k: drawn.append(preds))
    it.plot_worst(1)
    x = next(iter(learn.dls.valid.new(bs=1, get_idxs=lambda: [int(it.worst(1).index[0])])))[0]
    with torch.no_grad(): out = learn.model(x)
    assert (np.stack([o[0] for o in it.selector(out)]) == drawn[0][0]).all()
    assert any((a != b).any() for a, b in zip(it.selector(out), learn.selector(out)))


def test_images_of_different_sizes(data, tmp_path):
    from PIL import Image
    for sub in ('images', 'masks'): (tmp_path/sub).mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(20, 30), (16, 16), (24, 12), (16, 20)]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path/'images'/f'{i}.png')
        Image.fromarray(rng.integers(0, 7, size, dtype=np.uint8)).save(tmp_path/'masks'/f'{i}.png')
    learn = make(tmp_path, size=None, bs=1)
    it = HierInterpretation.from_learner(learn, dl=learn.dls.test_dl(learn.dls.items, with_labels=True))
    assert it.report()['pixels'] == 600 + 256 + 288 + 320
    assert len(it.plot_worst(3).axes) == 3 * 7 + 1


def test_the_learner_is_left_alone(data):
    learn = make(data, loss=HierarchicalLoss(Taxonomy(PERSON)) + .1 * TotalVariationLoss())
    learn.fit(1)
    learn.model.train()
    values, metrics = learn.recorder.values, list(learn.metrics)
    it = HierInterpretation.from_learner(learn, ds_idx=0, selector='simple')
    assert len(it) == 4 and (it.inconsistent == 0).all() and learn.selector.name == 'smart'
    assert learn.model.training and learn.loss_func.reduction == 'mean' and learn.recorder.values is values
    assert it.per_image()['id'].tolist() == learn.dls.split_ids['train']       # in the order of the data set, though the loader shuffles


def test_report_is_plain(data):
    import json
    r = HierInterpretation.from_learner(make(data)).report(k=2)
    back = json.loads(json.dumps(r))
    assert back['images'] == 5 and set(back['levels']) == set(back['confused']) == {'level_1', 'level_2', 'level_3'}
    assert len(back['worst']) == 2 and back['confused']['level_1']['cousins'] == []


def test_refused(data):
    learn = make(data)
    with pytest.raises(ValueError, match='with_labels=True'): HierInterpretation.from_learner(learn, dl=learn.dls.test_dl(learn.dls.valid_ds.items))
    with pytest.raises(ValueError, match='no images'): HierInterpretation.from_learner(learn, dl=learn.dls.test_dl([], with_labels=True))
    with pytest.raises(ValueError, match='known are simple'): HierInterpretation.from_learner(learn, selector='clever')
    it = HierInterpretation.from_learner(learn)
    with pytest.raises(ValueError, match='siblings, cousins, all'): it.most_confused(kind='uncles')
    with pytest.raises(ValueError, match='pixels, share'): it.most_confused(by='area')
    learn.loss_func = nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match='no taxonomy'): HierInterpretation.from_learner(learn)
