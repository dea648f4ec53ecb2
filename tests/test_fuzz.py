"Whatever a configuration, a data folder or an experiment's folder holds, it is used, or refused in one line."
import io
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from hierseg.config import MODEL, TrainConfig, checked_values, read_train_config, to_mapping
from hierseg.core import ExperimentError, printable, yaml_text
from hierseg.data.check import check_dataset
from hierseg.data.files import find_pairs
from hierseg.data.loaders import HierDataLoaders
from hierseg.data.synthetic import make_synthetic
from hierseg.evaluation.comparison import compare_experiments, plot_comparison
from hierseg.taxonomy.tree import Taxonomy
from hierseg.training.folder import may_train_into, read_history
from hierseg.training.run import as_config, data_of_experiment, learner_from_config, load_experiment, pairs_of_experiment, train
from strategies import PERSON, PLAIN

TINY = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)
KEYS = sorted({o.key or n for n, o in TrainConfig.options().items() if o.section is None} | {'data', 'bs', 'augment', 'hierseg'})
TYPICAL = st.sampled_from(['ce', 'dice', 'inverse', 'smart', 'auto', 'flip', 'all', 'best:2', '1e-3', '64x32', 'bfloat16', True, False, None, 1, 0, .5, 16, [1, 2], [.5, .5, 1.],
                           {'__class__': 'UNet'}, {'__class__': 'HierarchicalLoss', 'base_loss': 'ce'}, {'__class__': ['UNet']}, {'path': 'D'}, {'mean': [0., 0, 0], 'std': [1, 1, 1]}])


@pytest.fixture(scope='module', autouse=True)
def elsewhere(tmp_path_factory):
    "What a drawn value names, such as a cache's folder, is not made in the repository."
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp('elsewhere'))
    yield
    os.chdir(before)


def used_or_one_line(use, *names, kind=ValueError):
    "What `use` returns, or None where it refuses in one line that can be printed, and names what it should."
    try:
        return use()
    except kind as e:
        assert str(e) and printable(str(e)) == str(e) and '\n' not in str(e), repr(str(e))
        assert all(n in str(e) for n in names), str(e)


# configurations


@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), PLAIN | TYPICAL, max_size=5))
def test_any_mapping_is_a_configuration_or_one_line(mapping):
    values = used_or_one_line(lambda: checked_values(mapping, 'c.yaml'), 'c.yaml', kind=ExperimentError)
    config = values and used_or_one_line(lambda: TrainConfig.merge(values, {}))
    if config:
        assert repr(TrainConfig.merge(checked_values(to_mapping(config)), {})) == repr(config)         # written and read it is the same


@settings(max_examples=400)
@given(st.text(max_size=60) | st.dictionaries(st.sampled_from(KEYS), PLAIN | TYPICAL, max_size=4).map(yaml_text) | st.binary(max_size=30))
def test_any_file_is_a_configuration_or_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / 'any.yaml'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    used_or_one_line(lambda: read_train_config(path), 'any.yaml', kind=ExperimentError)
    used_or_one_line(lambda: as_config(path))


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp('data') / 'people', n_train=4, n_valid=2, size=32, seed=0)


@pytest.fixture(scope='module')
def dls(people):
    return HierDataLoaders.from_folder(people, PERSON, size=32, bs=2, augment='none', num_workers=0)


SMALL = st.recursive(st.one_of(st.integers(-2, 12), st.floats(), st.booleans(), st.none(), st.text(max_size=4), st.sampled_from(['ce', 'ReLU', 'GELU', 'torch.nn.SiLU'])),
                     lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(['__class__', 'a', 'weight', 'base_loss', 'block_depth']), v, max_size=3), max_leaves=6)
NETS = st.dictionaries(st.sampled_from(['__class__', 'channels_array', 'bottleneck_channels', 'block_depth', 'act_class', 'pool_kernel_size', 'conv_kernel_size',
                                        'enable_batchnorm', 'in_channels', 'out_channels', 'x']), SMALL | st.sampled_from(['UNet', 'SegNet', 'smp.FPN']), max_size=3)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([n for n in TrainConfig.names(MODEL) if n not in ('model_params', 'encoder', 'pretrained')]), SMALL | TYPICAL, max_size=3), NETS)
def test_any_model_and_loss_is_built_or_one_line(dls, options, params):
    def build():
        learn = learner_from_config({**options, 'model_params': {**TINY, **params}}, dls)
        assert learn.model is not None and learn.head.n_channels
    used_or_one_line(build)


# data folders


def png(array):
    Image.fromarray(array).save(b := io.BytesIO(), format='PNG')
    return b.getvalue()


def npy(array, **kwargs):
    np.save(b := io.BytesIO(), array, **kwargs)
    return b.getvalue()


RNG = np.random.default_rng(0)
PHOTO, MASK = png(RNG.integers(0, 255, (6, 8, 3), np.uint8)), png(RNG.integers(0, 3, (6, 8), np.uint8))
TREE = 'bg: 0\nbody: {head: 1, leg: 2}\n'
FILES = ['images/a.png', 'images/b.jpg', 'images/c.txt', 'images/.a.png', 'JPEGImages/a.png', 'masks/a.png', 'masks/b.png', 'masks/b.npy', 'masks/a.npz', 'gt_masks/a.png',
         'train_id.txt', 'val_id.txt', 'classes.txt', 'classes_hierarchy.yaml', 'taxonomy.yaml']
CONTENTS = st.sampled_from([PHOTO, MASK, MASK[:30], png(np.full((6, 8), 9, np.uint8)), png(np.zeros((3, 3), np.uint8)), npy(np.zeros((6, 8), int)), npy(np.full((6, 8), .5)),
                            npy(np.array([{}]), allow_pickle=True), b'', b'a\nb\n', b'a\n#x\n\n', b'0: bg\n', TREE.encode(), b'a: 0\nb: [1, 2, 9]\n', None]) | st.binary(max_size=20)
WHOLE = {'images/a.png': PHOTO, 'images/b.jpg': PHOTO, 'masks/a.png': MASK, 'masks/b.png': MASK, 'classes_hierarchy.yaml': TREE.encode()}


def lay_out(folder, files):
    "A folder with these files; None stands for a folder of that name."
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)
    folder.mkdir(exist_ok=True)
    return folder


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FILES), CONTENTS, max_size=6), st.booleans())
def test_any_folder_is_a_data_set_or_one_line(tmp_path_factory, files, whole):
    d = lay_out(tmp_path_factory.getbasetemp() / 'any', {**WHOLE, **files} if whole else files)
    for tree in (None, Taxonomy.from_text(TREE)):
        report = used_or_one_line(lambda: check_dataset(d, tree))
        assert report is None or str(report) and json.dumps(report.to_dict())
    used_or_one_line(lambda: find_pairs(d))

    def load():
        dls = HierDataLoaders.from_folder(d, Taxonomy.from_text(TREE), size=8, bs=2, augment='none', num_workers=0)
        return [dl.one_batch() for dl in dls.loaders if len(dl)]
    batches = used_or_one_line(load)
    if batches and report is not None and report.ok:
        assert all(set(y.unique().tolist()) <= {0, 1, 2, -100} for _, y in batches)
    if report is not None and report.ok:
        assert batches is not None                                   # what the check finds nothing wrong with can be loaded


# experiment folders


@pytest.fixture(scope='module')
def trained(people, tmp_path_factory):
    config = dict(model_params=TINY, size=32, batch_size=2, augmentations='none', epochs=2, num_workers=0, data=dict(path=str(people)), checkpoints='all')
    return train(config, tmp_path_factory.mktemp('runs') / 'whole')


def spoilt(text, data, at):
    "A file cut off, with bytes in between, or with a line replaced."
    at = at % (len(text) + 1)
    return text[:at] if data is None else text[:at] + data + text[at:] if isinstance(data, bytes) else data.encode()


@pytest.mark.slow
@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(['config.yaml', 'taxonomy.yaml', 'history.csv', 'train_id.txt', 'valid_id.txt', 'model.safetensors', 'scores.json', 'resume.safetensors']),
                       st.tuples(st.none() | st.binary(max_size=8) | st.text(max_size=20), st.integers(0, 10**6)), min_size=1, max_size=2),
       st.dictionaries(st.sampled_from(KEYS), PLAIN | TYPICAL, max_size=2))
def test_any_experiment_is_read_or_one_line(trained, tmp_path_factory, files, keys):
    folder = tmp_path_factory.getbasetemp() / 'spoilt'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained, folder)
    if keys:
        config = read_train_config(trained)
        (folder / 'config.yaml').write_text(yaml_text({**to_mapping(config), **keys}))
    for name, (data, at) in files.items():
        if name != 'config.yaml' or not keys:
            (folder / name).write_bytes(spoilt((folder / name).read_bytes() if (folder / name).is_file() else b'{}', data, at))
    may_train_into(folder)
    for use in (lambda: load_experiment(folder), lambda: data_of_experiment(folder), lambda: pairs_of_experiment(folder), lambda: compare_experiments([folder, trained]),
                lambda: plot_comparison([folder]), lambda: read_history(folder), lambda: load_experiment(folder, weights='epoch_001')):
        used_or_one_line(use)
