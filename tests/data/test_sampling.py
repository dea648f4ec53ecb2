"Fine images for a share of an epoch: which are fine, how often each is drawn, and that loaders and trainings draw them so."
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fastai.callback.core import Callback
from fastai.torch_core import set_seed
from hypothesis import given, strategies as st
from PIL import Image
from safetensors.torch import load_file

from hierseg.cli import main
from hierseg.core import DataError
from hierseg.data.files import Pair
from hierseg.data.loaders import HierDataLoaders
from hierseg.data.sampling import FineShare, fine_images, open_leaves
from hierseg.taxonomy.tree import Taxonomy
from hierseg.training.run import train
from strategies import trees

TREE = 'hierarchy:\n  bg: 0\n  body: {arm: 1, leg: 2}\n  hat: 3\ncoarse: {body: 9}\n'
SMALL = dict(model_params=dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1), size=16, bs=3)


@given(st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda f: len(set(f)) == 2), st.floats(.01, .99), st.integers(1, 90), st.integers(0, 99))
def test_an_epoch_has_the_share_and_takes_turns(fine, share, n, seed):
    drawn = FineShare(fine, share)(n, random.Random(seed))
    assert len(drawn) == n == len(set(drawn)), 'every one has a number of its own'
    times = Counter(i % len(fine) for i in drawn)
    assert sum(c for i, c in times.items() if fine[i]) == round(share * n)
    for kind in (True, False):
        counts = [times[i] for i, f in enumerate(fine) if f == kind]
        assert max(counts) - min(counts) <= 1
    for i, c in times.items():
        assert {j for j in drawn if j % len(fine) == i} == {i + t * len(fine) for t in range(c)}


@given(trees(), st.data())
def test_open_leaves_are_those_under_a_coarse_id(tree, data):
    plain = Taxonomy(tree)
    inner = ['/'.join(p) for p in plain.node_paths[plain.n_leaves:]]
    chosen = data.draw(st.lists(st.sampled_from(inner), unique=True)) if inner else []
    tax = Taxonomy(tree, coarse={key: 60000 + i for i, key in enumerate(chosen)})
    want = [any('/'.join(p).startswith(f'{key}/') for key in chosen) for p in tax.node_paths[:tax.n_leaves]]
    assert open_leaves(tax).tolist() == want and open_leaves(tax).shape == (tax.n_leaves,)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Ten images that tell their number: two with parts, six with bodies, one with neither, one with a hat; two to validate."
    d = tmp_path_factory.mktemp('fine') / 'data'
    for k in 'images', 'masks':
        (d / k).mkdir(parents=True)
    ids = [[0, 1], [0, 1, 2, 9], *[[0, 9]] * 6, [0], [3, 0, 9], [1, 2], [0, 2]]
    for i, choice in enumerate(ids):
        m = np.random.default_rng(i).choice(choice, (4, 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        m[0, :len(choice)] = choice
        Image.fromarray(m).save(d / f'masks/{i:02}.png')
        image = np.full((16, 16, 3), 20 * i, np.uint8)
        image[:, :8, 1:] = 255 - 20 * i                          # a flip can be seen
        Image.fromarray(image).save(d / f'images/{i:02}.png')
    (d / 'classes_hierarchy.yaml').write_text(TREE)
    (d / 'train_id.txt').write_text('\n'.join(f'{i:02}' for i in range(10)))
    (d / 'val_id.txt').write_text('10\n11\n')
    return d


def loaders(folder, **kwargs):
    kwargs = {**dict(size=16, bs=2, augment='none', normalize=False, device='cpu', num_workers=0, fine_share=.6), **kwargs}
    return HierDataLoaders.from_folder(folder, folder / 'classes_hierarchy.yaml', **kwargs)


def numbers(batch):
    "Which image each row is, by its red channel, and whether it is flipped."
    x = batch[0].as_subclass(torch.Tensor) * 255
    return [(int(i[0].max().round()) // 20, bool(i[1, 0, 0] != 255 - i[0].max().round())) for i in x]


def test_which_masks_are_fine(folder):
    dls = loaders(folder)
    assert dls.train.sampling.fine == [0, 1] and fine_images(dls.items, dls.taxonomy).tolist() == [True] * 2 + [False] * 8 + [True] * 2
    bad = Pair('x', Path('x.jpg'), folder / 'masks/none.png')
    with pytest.raises(DataError, match='none.png'):
        fine_images([bad], dls.taxonomy)


@pytest.mark.parametrize('cache', [None, 'memory'])
def test_batches_hold_what_was_drawn(folder, cache):
    dls = loaders(folder, cache=cache)
    seen = [Counter(i for b in dls.train for i, _ in numbers(b)) for _ in range(30)]
    assert all(c[0] == c[1] == 3 and sum(c.values()) == 10 and max(c[i] for i in range(2, 10)) == 1 for c in seen)
    assert set().union(*seen) == set(range(10)), 'the others come by turns'
    masks = {i: Image.open(folder / f'masks/{i:02}.png') for i in range(10)}
    for batch in dls.train:
        for (i, _), y in zip(numbers(batch), batch[1].as_subclass(torch.Tensor)):
            assert (y.numpy() == dls.taxonomy.encode(np.asarray(masks[i]))).all()
    assert [numbers(b)[0][0] for b in dls.valid] == [10] and len(dls.valid_ds) == 2
    assert sorted(i for b in dls.train.new(shuffle=False, drop_last=False) for i, _ in numbers(b)) == list(range(10))


def test_an_image_that_comes_again_is_augmented_anew(folder):
    dls = loaders(folder, augment='flip', bs=10)
    set_seed(0)
    flips = [[flip for i, flip in numbers(dls.train.one_batch()) if i == 0] for _ in range(20)]
    assert any(len(set(f)) == 2 for f in flips)


def test_the_number_of_loading_processes_changes_nothing(folder):
    def run(n):
        dls = loaders(folder, augment='flip', num_workers=n)
        set_seed(7)
        return [numbers(b) for _ in range(2) for b in dls.train]
    first = run(0)
    assert first == run(2) and first[:5] != first[5:]


def test_an_epoch_of_fewer_images_and_other_items(folder):
    dls = loaders(folder, n=5)
    assert Counter(i % 10 in (0, 1) for i in dls.train.get_idxs()) == {True: 3, False: 2}
    slow = dls.train.new(after_item=[*dls.train.after_item.fs, lambda o: o])      # fastai's way, one transform after the other
    slow.sampling = dls.train.sampling
    assert slow._fast() is None and Counter(i in (0, 1) for b in slow for i, _ in numbers(b)) == {True: 6, False: 4}


@pytest.mark.parametrize('kwargs, said', [(dict(fine_share=0), 'fraction between'), (dict(fine_share=True), 'of type bool'),
                                          (dict(fine_share='half'), 'of type str'), (dict(shuffle=False), 'shuffle=True'),
                                          (dict(train_ids=['00', '01'], valid_ids=['10']), 'every training image is fine'),
                                          (dict(train_ids=['02', '08'], valid_ids=['10']), 'no mask of the training images names a class below')])
def test_what_cannot_be_drawn_is_refused_in_one_line(folder, kwargs, said):
    with pytest.raises(ValueError, match=said) as e:
        loaders(folder, **kwargs)
    assert '\n' not in str(e.value)


def test_from_the_command_line(folder, tmp_path, capsys):
    small = ['--model-params', yaml.safe_dump(SMALL['model_params'], default_flow_style=True).strip(), '--size', '16', '--bs', '3', '--epochs', '1']
    out = tmp_path / 'e'
    assert main(['train', str(folder), '--loss', 'marginal', '--fine-share', '.6', '--out', str(out), *small]) == 0
    assert '10 images to train on' in (said := capsys.readouterr().err) and '2 fine ones drawn for 0.6 of the steps' in said
    assert yaml.safe_load((out / 'config.yaml').read_text())['fine_share'] == .6
    (tree := tmp_path / 'plain.yaml').write_text(TREE.split('coarse')[0].replace('leg: 2', 'leg: [2, 9]'))
    for more, what in ((['--fine-share', '60'], 'fraction between 0 and 1'), (['--fine-share', '.5', '--taxonomy', str(tree)], 'no coarse ids')):
        try:
            code = main(['train', str(folder), '--out', str(tmp_path / 'no'), *more, *small])
        except SystemExit as e:
            code = e.code
        err = capsys.readouterr().err
        assert code and what in err and 'Traceback' not in err and not (tmp_path / 'no').exists()


class InterruptAt(Callback):
    order = 90
    def __init__(self, epoch): self.at = epoch

    def after_batch(self):
        if self.training and self.epoch == self.at:
            raise KeyboardInterrupt


def test_resumed_to_the_same_weights(folder, tmp_path):
    config = dict(data=dict(path=str(folder)), loss='marginal', fine_share=.6, epochs=3, seed=1, augmentations='flip', **SMALL)
    config['batch_size'] = config.pop('bs')
    whole = train(config, tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / 'cut', cbs=[InterruptAt(1)])
    assert main(['train', '--resume', str(tmp_path / 'cut')]) == 0
    a, b = (load_file(f / 'model.safetensors') for f in (whole, tmp_path / 'cut'))
    assert a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())
    other = load_file(train({**config, 'fine_share': .2}, tmp_path / 'other') / 'model.safetensors')
    assert not all(torch.equal(v, other[k]) for k, v in a.items()), 'the share makes a difference'
