"A dozen drawn people, and a function that makes equal learners of them."
import pytest
import torch

from hierseg.data.loaders import HierDataLoaders
from hierseg.data.synthetic import make_synthetic
from hierseg.training.learner import hier_learner

TINY = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp('data') / 'people', n_train=8, n_valid=4, size=32, seed=0)


@pytest.fixture(scope='module')
def new_learner(people):
    dls = HierDataLoaders.from_folder(people, people / 'classes_hierarchy.yaml', size=32, bs=4, augment='none', num_workers=0)

    def make(**kwargs):
        torch.manual_seed(0)
        return hier_learner(dls, 'unet', model_params=TINY, **kwargs)
    return make
