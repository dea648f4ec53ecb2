"Images of other than three channels: the experiment, its ONNX file, its torch.export program and the tiles answer alike."
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

for package in ('onnx', 'onnxscript', 'onnxruntime'):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'hierseg[onnx]'")

from PIL import Image

from hierseg.core import DataError
from hierseg.data.loaders import HierDataLoaders
from hierseg.data.synthetic import synthetic_sample
from hierseg.data.transforms import fill_color, fit_image, whole_fit
from hierseg.evaluation import tiles  # noqa: F401  (adds predict_tiled)
from hierseg.evaluation.inference import predict_probs
from hierseg.evaluation.predictor import HierPredictor, Looks
from hierseg.evaluation.writing import write_predictions
from hierseg.export.onnx import export_onnx, export_torch
from hierseg.taxonomy.tree import PERSON_TREE
from hierseg.training.folder import ExperimentCallback
from hierseg.training.learner import hier_learner
from hierseg.training.run import seed_everything

KINDS = {'two of 8 bits': (2, np.uint8), 'four of 16 bits': (4, np.uint16), 'five floats': (5, np.float32)}


def bands(seed, size, n, dtype):
    "A drawn person in n channels, and its mask."
    image, mask = synthetic_sample(seed, size)
    x = np.asarray(image).astype(np.float32) / 255
    x = np.stack([x[..., c % 3] ** (1 + c / 3) for c in range(n)], -1)
    return (x if dtype == np.float32 else np.rint(x * np.iinfo(dtype).max)).astype(dtype), mask


@pytest.fixture(scope='module', params=KINDS)
def run(request, tmp_path_factory):
    "An experiment on such images, its learner, and one image more."
    (n, dtype), d = KINDS[request.param], tmp_path_factory.mktemp('bands')
    for name in ('images', 'masks'):
        (d / 'data' / name).mkdir(parents=True)
    for i in range(12):
        x, mask = bands(i, (40, 52), n, dtype)
        np.save(d / 'data/images' / f'{i}.npy', x)
        mask.save(d / 'data/masks' / f'{i}.png')
    seed_everything(0)
    dls = HierDataLoaders.from_folder(d / 'data', PERSON_TREE, size=(40, 48), method='pad', bs=4, num_workers=0)
    assert dls.in_channels == n
    learn = hier_learner(dls, 'unet', model_params=dict(channels_array=[8, 16], bottleneck_channels=16, block_depth=1))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2, cbs=ExperimentCallback(folder=d / 'run', n_triples=0))
    return d / 'run', learn, bands(99, (90, 70), n, dtype)[0]


@pytest.fixture(scope='module')
def file(run):
    return export_onnx(run[0], run[0].parent / 'm.onnx', say=None)


def test_the_predictor_is_the_learner(run, tmp_path):
    folder, learn, x = run
    p = HierPredictor.from_experiment(folder)
    assert p.channels == x.shape[2] and f'{p.channels} channels' in repr(p)
    [(_, want)] = predict_probs(learn, [x])
    np.save(tmp_path / 'x.npy', x)
    tensor = torch.from_numpy(x / np.float32(65535) if x.dtype == np.uint16 else x).permute(2, 0, 1)
    for form in (x, tmp_path / 'x.npy', tensor):
        answer = p.predict(form, probs=True)
        for a, b in zip(answer.probs, want):
            np.testing.assert_allclose(a, b[0].numpy(), atol=1e-6)
        shown = answer.overlay(form)
        assert shown.shape == (*x.shape[:2], 3) and shown.dtype == np.uint8 and shown.std() > 0
    with pytest.raises(DataError, match=f'has 3 channels, the data set {p.channels}'):
        p.predict(np.zeros((9, 9, 3), np.uint8))


def test_the_onnx_file_is_the_experiment(run, file):
    ours, theirs, x = HierPredictor.from_experiment(run[0]), HierPredictor.from_onnx(file), run[2]
    assert (theirs.channels, theirs.fill) == (ours.channels, ours.fill)
    for how in (dict(), dict(scale=1), dict(looks=Looks((1, 1.5)))):
        a, b = (p.predict(x, probs=True, **how) for p in (ours, theirs))
        for q, r in zip(a.probs, b.probs):
            np.testing.assert_allclose(q, r, atol=3e-5)
    a, b = (p.predict_tiled(x, tile=64, overlap=16, bs=2, probs=True) for p in (ours, theirs))
    for q, r in zip(a.probs, b.probs):
        np.testing.assert_allclose(q, r, atol=3e-5)
    whole = ours.predict_tiled(x, tile=128, overlap=16, probs=True)      # one tile
    for q, r in zip(whole.probs, ours.predict(x, probs=True, scale=1).probs):
        np.testing.assert_allclose(q, r, atol=1e-6)


def test_the_torch_program_is_the_experiment(run, tmp_path):
    said = []
    path = export_torch(run[0], tmp_path / 'm.pt2', say=said.append)
    assert 'agrees' in said[0]
    p, extra = HierPredictor.from_experiment(run[0]), {'hierseg.json': ''}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra['hierseg.json'])['in_channels'] == p.channels
    x = torch.rand(2, p.channels, 40, 56)
    with torch.no_grad():
        for a, b in zip(program(x), p.engine.run(list(x.permute(0, 2, 3, 1).numpy()))):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_folder_of_them_without_pytorch(run, file, tmp_path):
    (tmp_path / 'in').mkdir()
    np.save(tmp_path / 'in/a.npy', run[2])
    script = """
import sys
from hierseg.evaluation.predictor import HierPredictor
from hierseg.evaluation.writing import write_predictions
for tile in (None, 64):
    done = write_predictions(HierPredictor.from_onnx(sys.argv[1]), sys.argv[2] + '/in', sys.argv[2] + f'/out{tile}', tile=tile, overlap=16)
    assert not done.failed, done.failed
print('torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', script, str(file), str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == 'False', done.stderr[-2000:]
    want = HierPredictor.from_experiment(run[0]).predict(run[2]).mask()
    assert (np.asarray(Image.open(tmp_path / 'outNone/a.png')) != want).mean() < 2e-3
    assert np.asarray(Image.open(tmp_path / 'outNone/a_overlay.png')).shape[2] == 3
    masks = write_predictions(HierPredictor.from_experiment(run[0]), tmp_path / 'in', tmp_path / 'm', tile=64, overlap=16, overlays=False, area=False)
    assert not masks.failed
    assert (np.asarray(Image.open(tmp_path / 'm/a.png')) != np.asarray(Image.open(tmp_path / 'out64/a.png'))).mean() < 2e-3


def test_the_app_is_for_photographs(run):
    pytest.importorskip('gradio', reason="gradio is not installed: pip install 'hierseg[app]'")
    from hierseg.app import build_app
    with pytest.raises(DataError, match='run: takes images of . channels, and the app shows photographs'):
        build_app(run[0])


@pytest.mark.parametrize('dtype, border', [(np.uint8, (64, 191)), (np.float32, (.25, .75))])
def test_padding_looks_like_the_mean_in_the_values_of_the_image(dtype, border):
    x = np.zeros((4, 8, 2), dtype)
    fitted = fit_image(x, whole_fit((4, 8), (8, 8), 'pad'), 'nearest', fill_color(dict(mean=[.25, .75], std=[1, 1]), 2))
    assert (fitted[0] == np.array(border, dtype)).all() and (fitted[3:5] == 0).all()
