"A training through `hier_learner` beside a bare loop; what memory layout and bfloat16 do for a pretrained encoder."
from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Iterable

import torch
from pairs import Row, compare, device

import hierseg.all as hs


class Batches(list):
    "Batches in memory: neither side of a pair waits for files."
    def __init__(self, batches, like):
        super().__init__(batches)
        self.dataset, self.device, self.bs, self.n = like.dataset, like.device, like.bs, like.n

    def to(self, device):
        self.device = device
        return self


def embedded(folder, size, bs, n_train, n_valid):
    "Loaders of the embedded data set whose batches are in memory."
    data = hs.make_synthetic(folder, n_train, n_valid, size)
    dls = hs.HierDataLoaders.from_folder(data, data/'classes_hierarchy.yaml', size=size, augment='flip', bs=bs,
                                         num_workers=0, device=torch.device(device()))
    return dls


def in_memory(learn):
    "Freeze the learner's loaders into lists of batches."
    learn.dls.loaders = [Batches(list(dl), dl) for dl in learn.dls.loaders]
    return learn


def bare_loop(learn, lr):
    "The same model, loss, optimizer and batches, and the same counts on the validation set, without fastai."
    model, loss = copy.deepcopy(learn.model), copy.deepcopy(learn.loss_func)
    opt = learn.opt_func(list(model.parameters()), lr=lr)
    train, valid = learn.dls.loaders
    confusion = hs.LevelConfusion(learn.taxonomy, per_image=False)

    def epoch():
        model.train()
        for x, y in train:
            value = loss(model(x), y)
            value.backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        confusion.reset()
        total = 0
        with torch.no_grad():
            for x, y in valid:
                out = model(x)
                total += loss(out, y)
                confusion.update_output(out, y)
        return float(total) / len(valid), [confusion.miou(name) for name in learn.taxonomy.level_names]
    return epoch


def through_learner(learn, lr):
    "An epoch of `fit` with metrics, progress and seeding as `hierseg train` has them."
    learn.remove_cbs(learn.progress)
    learn.add_cbs([hs.SeedEpochs(0), hs.ConsoleProgress(file=io.StringIO())])

    def epoch():
        learn.fit(1, lr)
    return epoch


def step_row(quick):
    "The price of fastai's learner, callbacks and metrics over a bare loop."
    size, n = (32, 4) if quick else (96, 64)
    with tempfile.TemporaryDirectory() as folder:
        dls = embedded(folder, size, 2 if quick else 8, n, max(n // 8, 2))
        params = dict(channels_array=[16, 32, 64], bottleneck_channels=64)
        learn = in_memory(hs.hier_learner(dls, 'unet', model_params=params, wd_bn_bias=True))
        theirs, ours = bare_loop(learn, 1e-3), through_learner(learn, 1e-3)
        ours()
        same = [theirs()[0], learn.recorder.values[-1][1]]
        assert abs(same[0] - same[1]) < 1e-5 * same[0], f'the two trainings differ: {same}'
        return compare(f'training through hier_learner, UNet, {size} px', 'the same model, loss, optimizer, bare loop',
                       ours, theirs, '<= 1.03', quick, rounds=15, limit_s=60)


def encoder_step(size, bs, channels_last, bfloat16):
    "One training step of a Lite0 UNet on random images; the weights do not matter for its time."
    tax = hs.Taxonomy(hs.PERSON_TREE)
    loss = hs.HierarchicalLoss(tax).to(device())
    model = hs.create_model('unet', 3, tax.n_leaves, encoder='tf_efficientnet_lite0', pretrained=False)
    model = model.to(device()).train()
    x = torch.randn(bs, 3, size, size, device=device())
    y = torch.randint(0, tax.n_leaves, (bs, size, size), device=device())
    if channels_last:
        model, x = (o.to(memory_format=torch.channels_last) for o in (model, x))
    opt = torch.optim.AdamW(model.parameters(), 1e-4)

    def step():
        with torch.autocast(device(), torch.bfloat16, enabled=bfloat16):
            out = model(x)
        loss(out.float(), y).backward()
        opt.step()
        opt.zero_grad()
    return step


def encoder_rows(quick):
    "What layout and precision bring on this machine."
    size, bs = (32, 2) if quick else (128, 16)
    plain = encoder_step(size, bs, False, False)
    for name, how in {'channels_last': (True, False), 'bfloat16 autocast': (False, True),
                      'channels_last, bfloat16 autocast': (True, True)}.items():
        yield compare(f'Lite0 UNet, {size} px, training step, {name}', 'float32, channels first',
                      encoder_step(size, bs, *how), plain, 'as measured', quick, rounds=9, limit_s=40)


def rows(quick: bool) -> Iterable[Row]:
    "The learner's price, then the encoder's layouts."
    yield step_row(quick)
    yield from encoder_rows(quick)
