"HierPredictor and the folder of predictions: equal to the learner, from any input, on any thread."
import csv
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from hierseg.data.loaders import HierDataLoaders
from hierseg.evaluation.predictor import HierPredictor, Looks, predictor_of, swap_orders
from hierseg.evaluation.writing import list_images, write_predictions
from hierseg.core import ExperimentError
from hierseg.training.folder import ExperimentCallback
from hierseg.training.run import load_experiment, seed_everything
from hierseg.core import DataError
from hierseg.data.files import read_mask
from hierseg.evaluation.inference import predict_masks, predict_probs
from hierseg.training.learner import hier_learner
from hierseg.taxonomy.tree import Taxonomy
from strategies import street_images

TREE = {'hierarchy': {'sky': 23, 'flat': {'road': 7, 'walk': [8, 300]},
                      'vehicle': {'car': 24, 'two': {'bike': 33, 'moto': 32}}}, 'ignore': 255}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return street_images(tmp_path_factory.mktemp('street'))


@pytest.fixture(scope='module', params=['squash', 'pad', 'crop'])
def run(request, folder, tmp_path_factory):
    seed_everything(0)
    out = tmp_path_factory.mktemp('runs') / request.param
    how = dict(size=(24, 32), bs=2, valid_pct=.4, num_workers=0, method=request.param)
    dls = HierDataLoaders.from_folder(folder, Taxonomy(TREE), **how)
    params = dict(channels_array=[8, 8], bottleneck_channels=8, block_depth=1)
    learn = hier_learner(dls, 'unet', model_params=params, selector='smart')
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-2, cbs=ExperimentCallback(folder=out, n_triples=0))
    return out


@pytest.mark.parametrize('selector', [None, 'simple', 'topdown', 'bestpath', 'mincost'])
def test_equal_to_predict_masks(run, folder, selector):
    learn, p, files = load_experiment(run), HierPredictor.from_experiment(run), list_images(folder / 'images')
    pairs = zip(predict_masks(learn, files, selector, bs=2), p.predict_many(files, bs=2, selector=selector))
    for (_, want), (_, got) in pairs:
        assert [o.tolist() for o in want] == [o.tolist() for o in got.levels]


def test_probabilities_equal_to_predict_probs(run, folder):
    learn, p, files = load_experiment(run), HierPredictor.from_experiment(run), list_images(folder / 'images')
    for (_, want), f in zip(predict_probs(learn, files, bs=1), files):
        for a, b in zip(want, p.predict(f, probs=True).probs):
            assert a[0].numpy().tobytes() == b.tobytes()


def test_one_photograph_in_every_form(run, folder):
    p, f = HierPredictor.from_experiment(run), folder / 'images/1.png'
    x = np.asarray(Image.open(f))
    tensor = torch.tensor(x).permute(2, 0, 1)
    want = p.predict(f)
    for form in (str(f), Image.open(f), x, tensor, tensor / 255):
        assert all((a == b).all() for a, b in zip(p.predict(form).levels, want.levels))
    for bad in (tensor[None], tensor.float(), tensor.int(), x[None], 'none.png'):
        with pytest.raises(DataError):
            p.predict(bad)


def test_threads_share_a_predictor(run, folder):
    p, files = HierPredictor.from_experiment(run), list_images(folder / 'images') * 4
    alone = [p.predict(f, selector='topdown').levels for f in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda f: p.predict(f, selector='topdown').levels, files))
    assert all((a == b).all() for x, y in zip(alone, together) for a, b in zip(x, y))


def test_a_learner_that_trains_on_changes_nothing(folder):
    dls = HierDataLoaders.from_folder(folder, Taxonomy(TREE), size=24, bs=2, num_workers=0)
    learn = hier_learner(dls, 'unet', model_params=dict(channels_array=[8], bottleneck_channels=8, block_depth=1))
    p, f = HierPredictor.from_learner(learn), folder / 'images/0.png'
    before = p.predict(f, probs=True).probs
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, .1)
    assert learn.model.training or any(o.requires_grad for o in learn.model.parameters())
    assert all((a == b).all() for a, b in zip(before, p.predict(f, probs=True).probs))


def test_what_a_prediction_says(run, folder):
    answer = HierPredictor.from_experiment(run).predict(folder / 'images/0.png', probs=True)
    tax = answer.taxonomy
    assert (tax.encode(answer.mask()) == answer.levels[-1]).all() and answer.mask().dtype == np.uint8
    assert answer.shape == (40, 52) and answer.names == tax.level_classes and len(answer) == tax.n_levels
    for l, name in enumerate(tax.level_names):
        rows = [r for r in answer.area() if r['level'] == name]
        assert [r['pixels'] for r in rows] == [int((answer.levels[l] == k).sum()) for k in range(tax.n_classes[l])]
        assert sum(r['share'] for r in rows) == pytest.approx(1)
    there = answer.at(51, 39)
    want = [float(p[m[39, 51], 39, 51]) for p, m in zip(answer.probs, answer.levels)]
    assert [r['probability'] for r in there] == pytest.approx(want)
    assert 'Prediction of 0.png, 52x40 pixels' in repr(answer) and answer._repr_html_().count('<img') == tax.n_levels
    with pytest.raises(IndexError, match='52x40'):
        answer.at(52, 0)


# looks: a network whose answer is known
class Red(torch.nn.Module):
    "Left half of the picture: class 1, right half: class 3, wherever red is; else class 0."
    def forward(self, x):
        left = (torch.arange(x.shape[-1]) < x.shape[-1] / 2).float()
        red = (x[:, :1] > .5).float()
        return 9 * torch.cat([1 - red, red * left, 0 * red, red * (1 - left), 0 * red], 1)


SIDES_TREE = {'bg': 0, 'left': {'left_arm': 1, 'left_leg': 2}, 'right': {'right_arm': 3, 'right_leg': 4}}
SIDES = Taxonomy(SIDES_TREE)


def sides():
    from hierseg.evaluation.engine import TorchEngine
    from hierseg.decoding.heads import LeafHead
    return HierPredictor(TorchEngine(Red(), LeafHead(SIDES)), dict(size=None))


def test_a_mirror_exchanges_left_and_right():
    x = np.zeros((6, 8, 3), np.uint8)
    x[2:4, :, 0] = 255
    plain = sides().predict(x, probs=True)
    looks = Looks(hflip=True, vflip=True, swap=[(1, 3), (2, 4)])
    # the network calls what lies left 'left': with the exchange, the mirrored answers contradict the plain ones
    # and are averaged
    got = sides().predict(x, probs=True, looks=looks)
    # without the exchange a mirrored answer says 'right' of the left half after one mirror across the middle
    left = plain.probs[-1][:, 2, 0]
    assert left.argmax() == 1
    h = sides().predict(x, probs=True, looks=Looks(hflip=True, swap=[(1, 3), (2, 4)]))
    none = sides().predict(x, probs=True, looks=Looks(hflip=True))
    np.testing.assert_allclose(h.probs[-1][:, 2, 0], left, atol=1e-6)            # right in the mirror, exchanged: left
    np.testing.assert_allclose(none.probs[-1][[1, 3], 2, 0], [.5 * left[1] + .5 * left[3]] * 2, atol=1e-6)
    np.testing.assert_allclose(h.probs[0][:, 2, 0], plain.probs[0][:, 2, 0], atol=1e-6)
    # upside down alone is exchanged although left stays left, and both mirrors together are a turn,
    # which exchanges nothing
    want = (left + left + left[[0, 3, 4, 1, 2]] + left[[0, 3, 4, 1, 2]]) / 4
    np.testing.assert_allclose(got.probs[-1][:, 2, 0], want, atol=1e-6)


def test_a_mirror_exchanges_what_the_tree_pairs():
    from hierseg.decoding.heads import LeafHead
    from hierseg.evaluation.engine import TorchEngine
    x = np.zeros((6, 8, 3), np.uint8)
    x[2:4, :, 0] = 255
    tree = Taxonomy(SIDES_TREE, swap=[['left_arm', 'right_arm'], ['left_leg', 'right_leg']])
    paired = HierPredictor(TorchEngine(Red(), LeafHead(tree)), dict(size=None))
    named = sides().predict(x, probs=True, looks=Looks(swap=[(1, 3), (2, 4)]))
    for a, b, c in zip(paired.predict(x, probs=True, looks=True).probs, named.probs,
                       sides().predict(x, probs=True, looks=True).probs):
        assert (a == b).all() and (a != c).any()
    unpaired = paired.predict(x, probs=True, looks=Looks(swap=()))
    assert (unpaired.probs[-1] == sides().predict(x, probs=True, looks=True).probs[-1]).all()


def test_a_predictor_of_whatever_is_named(run):
    p = HierPredictor.from_experiment(run)
    assert predictor_of(p) is p and predictor_of(str(run), selector='topdown').spec == 'topdown'
    with pytest.raises(DataError, match='no.onnx: no such file'):
        predictor_of('no.onnx')
    with pytest.raises(ExperimentError, match='config.yaml'):
        predictor_of(run.parent)


def test_an_exchange_that_tears_a_class_is_refused():
    assert [o.tolist() for o in swap_orders(SIDES, [(1, 3), (2, 4)])] == [[0, 2, 1], [0, 3, 4, 1, 2]]
    torn, no_pair = [(1, 3)], ([(1, 1)], [(1, 3), (3, 2)], [(0, 7)])
    for swap, text in ((torn, 'would tear left'), *((s, 'no pair') for s in no_pair)):
        with pytest.raises(ValueError, match=text):
            swap_orders(SIDES, swap)


def test_looks_are_averaged_at_native_size(run, folder):
    p, f = HierPredictor.from_experiment(run), folder / 'images/1.png'
    x = np.asarray(Image.open(f))
    both = p.predict(f, probs=True, looks=True).probs
    if p.method == 'squash':
        mirrored = p.predict(x[:, ::-1].copy(), probs=True).probs
        for a, b, c in zip(both, p.predict(f, probs=True).probs, mirrored):
            # Pillow's filters are not mirrored to the bit
            np.testing.assert_allclose(a, (b + c[..., ::-1]) / 2, atol=2e-2)
    for o in p.predict(f, probs=True, looks=Looks((.5, 1, 1.7), vflip=True)).probs:
        np.testing.assert_allclose(o.sum(0), 1, atol=1e-5)


def test_folder_says_what_it_holds(run, folder, tmp_path):
    p = HierPredictor.from_experiment(run)
    done = write_predictions(p, folder / 'images', tmp_path / 'out', levels=True, probs=True, bs=2)
    assert done.ok and len(done.done) == 5 and len(done.files) == 5 * 6
    about = json.loads((tmp_path / 'out/classes.json').read_text())
    for (f, answer) in p.predict_many(list_images(folder / 'images'), probs=True, bs=2):
        assert (read_mask(tmp_path / f'out/{f.stem}.png') == answer.mask()).all()
        with np.load(tmp_path / f'out/{f.stem}_probs.npz') as z:
            for l, n in enumerate(p.taxonomy.level_names):
                np.testing.assert_allclose(z[n], answer.probs[l], atol=1e-3)
                written = {c['written']: c['class'] for c in about['levels'][n]}
                mask = read_mask(tmp_path / f'out/{f.stem}_{n}.png')
                classes = {p.taxonomy.level_classes[l][k] for k in np.unique(answer.levels[l])}
                assert {written[i] for i in np.unique(mask)} == classes
        rows = [r for r in csv.DictReader(open(tmp_path / 'out/area.csv')) if r['image'] == f.stem]
        table = [[(r['level'], r['class'], int(r['pixels'])) for r in o] for o in (rows, answer.area())]
        assert table[0] == table[1]
        wide = Image.open(tmp_path / f'out/{f.stem}_overlay.png')
        assert wide.size[0] > answer.shape[1]
        assert (np.asarray(wide)[:answer.shape[0], :answer.shape[1]] == answer.overlay(f)).all()


def test_a_broken_file_is_passed_over_and_resume_does_the_rest(run, folder, tmp_path):
    p, photos, said = HierPredictor.from_experiment(run), tmp_path / 'photos', []
    photos.mkdir()
    for f in list_images(folder / 'images'):
        (photos / f.name).write_bytes(f.read_bytes())
    whole = (photos / '2.png').read_bytes()
    (photos / '2.png').write_bytes(whole[:60])
    done = write_predictions(p, photos, tmp_path / 'out', say=said.append)
    assert not done.ok and [f.name for f in done.failed] == ['2.png'] and len(done.done) == 4 and '2.png' in said[0]
    assert not (tmp_path / 'out/2.png').exists()
    (photos / '2.png').write_bytes(whole)
    (tmp_path / 'out/3.png').unlink()
    table = (tmp_path / 'out/area.csv').read_text()
    (tmp_path / 'out/area.csv').write_text(table[:table.rindex('4,')] + '4,lev')      # switched off while writing
    before = (tmp_path / 'out/0.png').stat().st_mtime_ns
    again = write_predictions(p, photos, tmp_path / 'out', resume=True)
    assert [f.name for f in again.done] == ['2.png', '3.png', '4.png']
    assert [f.name for f in again.skipped] == ['0.png', '1.png']
    assert (tmp_path / 'out/0.png').stat().st_mtime_ns == before
    rows = list(csv.DictReader(open(tmp_path / 'out/area.csv')))
    assert len(rows) == 5 * sum(p.taxonomy.n_classes) and {r['image'] for r in rows} == set('01234')
    with pytest.raises(DataError, match='classes.json.*another selector'):
        write_predictions(p, photos, tmp_path / 'out', resume=True, selector='topdown')


def test_tiles_in_a_folder(run, folder, tmp_path):
    p = HierPredictor.from_experiment(run)
    done = write_predictions(p, folder / 'images', tmp_path / 'out', tile=48, overlap=16, overlays=False)
    assert done.ok
    f = folder / 'images/3.png'
    assert (read_mask(tmp_path / 'out/3.png') == p.predict_tiled(f, tile=48, overlap=16).mask()).all()


def test_answers_never_go_into_a_data_set(run, folder, tmp_path):
    p = HierPredictor.from_experiment(run)
    for out, text in ((folder / 'images', 'holds the photographs'), (folder / 'masks', 'belongs to the data set'),
                      (folder / 'images/new', 'belongs to the data set'),
                      (folder / 'images/0.png', 'is a file')):
        with pytest.raises(DataError, match=text):
            write_predictions(p, [folder / 'images/0.png'], out)
    (tmp_path / 'a').mkdir(), (tmp_path / 'b').mkdir()
    for d in 'ab':
        Image.new('RGB', (9, 9)).save(tmp_path / d / 'x.png')
    with pytest.raises(DataError, match='different folders'):
        write_predictions(p, [tmp_path / 'a', tmp_path / 'b'], tmp_path / 'out')


def test_images_are_found(folder, tmp_path):
    names = [f.name for f in list_images(folder / 'images')]
    assert names == [f'{i}.png' for i in range(5)]
    assert [f.name for f in list_images(f'{folder}/**/*.png')] == names + names
    assert list_images([folder / 'images', folder / 'images/1.png']) == list_images(folder / 'images')
    odd = tmp_path / 'a[1].png'
    Image.new('RGB', (4, 4)).save(odd)
    assert list_images([odd]) == [odd]


def test_a_folder_that_lacks_something_is_named(run, tmp_path):
    with pytest.raises(ExperimentError, match='best.safetensors.*there are weights of model'):
        HierPredictor.from_experiment(run, 'best')
    with pytest.raises(ExperimentError, match='config.yaml: no such file'):
        HierPredictor.from_experiment(tmp_path)
