"The bootstrap interval holds the true value as often as it says, also with few images."
import numpy as np
import pytest
import torch

from hierseg.metrics.confusion import LevelConfusion
from hierseg.taxonomy.tree import Taxonomy


def population(rng, n, classes=6):
    "(n, 3, classes) sizes of images: objects of all sizes, and a skill that an image's classes share."
    true = ((rng.random((n, classes)) < .75) * rng.lognormal(6, 1, (n, classes))).round()
    skill = rng.beta(6, 2, (n, 1))
    found = (true * np.clip(skill + rng.normal(0, .1, (n, classes)), .02, .98)).round()
    extra = (rng.lognormal(4.3, 1, (n, classes)) * (rng.random((n, classes)) < .6) * (1.3 - skill)).round()
    return np.stack([found, found + extra, true], 1).astype(np.int64)


@pytest.mark.parametrize('images', [5, 10, 30])
def test_coverage_with_few_images(images):
    tax, rng = Taxonomy({f'c{i}': i for i in range(6)} | {'background': 6}), np.random.default_rng(images)
    found, pred, true = population(rng, 200_000).sum(0)
    truth, hits, runs = np.mean(found / (pred + true - found)), 0, 300
    for _ in range(runs):
        conf = LevelConfusion(tax)
        # background first
        sizes = np.concatenate([np.zeros((images, 3, 1), dtype=np.int64), population(rng, images)], 2)
        conf.images['simple'] = [torch.from_numpy(sizes)]
        low, high = conf.bootstrap(n=300)
        assert 0 <= low < high <= 1
        hits += low <= truth <= high
    assert .91 <= hits / runs <= .99, hits / runs


def test_interval_of_images_that_do_not_differ():
    tax = Taxonomy({'bg': 0, 'a': 1, 'b': 2})
    y = torch.tensor([[[0, 1, 1, 2]]]).repeat(5, 1, 1)
    conf = LevelConfusion(tax).update([torch.tensor([[[0, 1, 2, 2]]]).repeat(5, 1, 1)], y)
    assert conf.bootstrap() == pytest.approx((conf.miou(),)*2)
    assert LevelConfusion(tax).update([y], y).bootstrap() == (1, 1)
    assert np.isnan(LevelConfusion(tax).bootstrap()).all()


def test_the_report_says_when_an_interval_rests_on_few_images():
    tax = Taxonomy({'bg': 0, 'a': 1, 'b': 2})
    def level(n):
        y = torch.randint(0, 3, (n, 2, 4), generator=torch.Generator().manual_seed(n))
        return LevelConfusion(tax).update([y.flip(2)], y).report()['selectors']['simple']['levels']['level_1']
    assert level(49)['miou_interval_note'] == 'from 49 images only: a rough interval'
    assert 'miou_interval_note' not in level(50)
