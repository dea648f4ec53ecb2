"Two processes report what one reports, whether the images can be shared out evenly or not."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hierseg.metrics.boundary import BoundaryIoU
from hierseg.metrics.calibration import Calibration
from hierseg.metrics.columns import not_repeated
from hierseg.metrics.confusion import LevelConfusion
from hierseg.metrics.levels import LevelIoU
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON, batch

ROOT = Path(__file__).resolve().parents[2]

# what each process runs: the same weights, its part of the images through fastai's DistributedDL, and bare counts
PROCESS = '''
import json, sys
import torch, torch.distributed as dist
from fastai.data.core import DataLoaders
from fastai.distributed import DistributedDL
from test_distributed import bare, report_of, the_learner

rank, world, images, store, out = int(sys.argv[1]), 2, int(sys.argv[2]), sys.argv[3], sys.argv[4]
dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=world)

class Shared(DistributedDL):
    def _broadcast(self, t, rank): return t      # fastai's wants CUDA; the validation set is in order anyway

learn = the_learner(images)
learn.dls = DataLoaders(*[Shared(dl, rank, world) for dl in learn.dls.loaders], device='cpu')
own = torch.arange(images)[rank::world]          # as torch's DistributedSampler shares out, without what fills up
result = dict(columns=report_of(learn), bare=bare(images, own))
with open(f'{out}/{rank}.json', 'w') as f: json.dump(result, f)
dist.destroy_process_group()
'''


def the_learner(images):
    "A learner whose model answers with the logits that it is given; validation in batches of 2."
    import fastai.callback.progress  # noqa: F401 (gives Learner its no_bar)
    from fastai.data.core import Datasets
    from fastai.learner import Learner
    from hierseg.losses.hierarchical import HierarchicalLoss
    from hierseg.metrics.columns import miou_metrics
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 4, (images, 8, 8))
    dsets = Datasets(range(images), [[lambda i: z[i]], [lambda i: y[i]]], splits=[range(images), range(images)])
    dls = dsets.dataloaders(bs=2, val_bs=2, num_workers=0, device='cpu')
    metrics = miou_metrics(tax, ('active', 'smart'), accuracy=True, tree=True) + miou_metrics(tax, reduction='image')
    model = torch.nn.Conv2d(tax.n_leaves, tax.n_leaves, 1, bias=False)
    torch.nn.init.dirac_(model.weight)
    return Learner(dls, model, loss_func=HierarchicalLoss(tax), metrics=metrics)


def report_of(learn):
    with learn.no_bar(), learn.no_logging(): return [float(v) for v in learn.validate()[1:]]


def bare(images, own):
    "Counts of some images, put together: confusion (dense and sparse), calibration, outlines, and the torchmetrics form."
    from hierseg.metrics import counting
    tax = Taxonomy(PERSON)
    z, y = batch(tax, 5, (images, 8, 8))
    counts = [LevelConfusion(tax, ['simple', 'smart']), Calibration(tax), BoundaryIoU(tax, ['simple', 'smart'])]
    for c in counts:
        for i in own: c.update_output(z[i:i+1], y[i:i+1])
    counting.DENSE_LEAVES = 0
    counts.append(LevelConfusion(tax, ['simple', 'smart'], per_image=False).update_output(z[own], y[own]))
    counting.DENSE_LEAVES = 256
    wholes = [c.all_reduce() for c in counts]
    assert len(counts[0].images['simple']) == len(own)      # what goes on counting has its own part only
    readings = [c.report() for c in wholes]
    for levels in readings[0]['selectors'].values():        # intervals draw images by their order
        for level in levels['levels'].values(): del level['miou_interval']
    metric = LevelIoU(tax, ['simple', 'smart'])
    metric.update(z[own], y[own])
    return [*readings, {k: v.item() for k, v in metric.compute().items()}]


@pytest.mark.slow
@pytest.mark.parametrize('images', [8, 5])
def test_two_processes_report_what_one_does(images, tmp_path):
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT/'tests'), str(Path(__file__).parent)]),
           'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': 'lo'}
    args = [str(images), str(tmp_path/'store'), str(tmp_path)]
    both = [subprocess.Popen([sys.executable, '-W', 'ignore', '-c', PROCESS, str(r), *args], env=env, cwd=ROOT,
                             stderr=subprocess.PIPE, text=True) for r in (0, 1)]
    for p in both:
        error = p.communicate(timeout=300)[1]
        assert p.returncode == 0, error[-3000:]
    found = [json.loads((tmp_path/f'{r}.json').read_text()) for r in (0, 1)]
    assert found[0]['columns'] == found[1]['columns'] == report_of(the_learner(images))
    want = json.loads(json.dumps(bare(images, torch.arange(images))))
    for f in found: assert close(f['bare'], want)


def close(a, b):
    "Equal, numbers up to the rounding of a sum in another order."
    if isinstance(a, dict): return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, list): return len(a) == len(b) and all(map(close, a, b))
    return a == b or (isinstance(a, float) and a == pytest.approx(b, rel=1e-12))


@pytest.mark.parametrize('n,world', [(8, 2), (5, 2), (7, 3), (2, 4)])
def test_what_fills_up_is_left_out(n, world):
    pytest.importorskip('accelerate')      # fastai.distributed calls it
    from fastai.data.load import DataLoader
    from fastai.distributed import DistributedDL
    class Shared(DistributedDL):
        def _broadcast(self, t, rank): return t
    from fastai.data.core import TfmdDL
    seen = []
    for rank in range(world):
        dl = Shared(TfmdDL(list(range(n)), bs=2, num_workers=0), rank, world, device=torch.device('cpu'))
        for b in dl: seen += b[:not_repeated(dl, len(b))].tolist()
    assert sorted(seen) == list(range(n))
    assert not_repeated(DataLoader(list(range(5)), bs=2), 2) == 2


def test_one_process_is_the_whole():
    tax = Taxonomy(PERSON)
    conf = LevelConfusion(tax).update_output(*batch(tax))
    assert conf.all_reduce() is conf
