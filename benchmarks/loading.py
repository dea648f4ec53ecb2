"""Loading: the first epoch beside a bare `DataLoader` of the same libraries, later epochs from a cache beside uncached.

The bare loader opens, resizes (Lanczos), flips (albumentations) and normalises, and looks the mask up in a table; it does
not turn photographs upright, refuse unknown ids or compare sizes, which ours does.
"""
import tempfile
from pathlib import Path

import numpy as np
import torch
from pairs import compare, missing
from PIL import Image

from hierseg.data.loaders import HierDataLoaders
from hierseg.data.synthetic import make_synthetic
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy

MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((.485, .456, .406), (.229, .224, .225)))


class Bare(torch.utils.data.Dataset):
    "What one would write by hand for this data set."
    def __init__(self, items, size, transform):
        self.items, self.size, self.transform = items, (size, size), transform
        self.codes = np.zeros(256, np.uint8)
        self.codes[:7] = np.arange(1, 8)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        image = Image.open(self.items[i].image).convert('RGB').resize(self.size, Image.Resampling.LANCZOS)
        mask = Image.open(self.items[i].mask).resize(self.size, Image.Resampling.NEAREST)
        out = self.transform(image=np.asarray(image), mask=self.codes[np.asarray(mask)])
        x = torch.from_numpy(np.ascontiguousarray(out['image'])).permute(2, 0, 1).float().div_(255)
        return x.sub_(MEAN).div_(STD), torch.from_numpy(out['mask'].astype(np.int64) - 1)


def epoch(loader):
    "A function that goes through a loader once."
    def run():
        for _ in loader:
            pass
    return run


def rows(quick):
    "Yield the rows of this module."
    try:
        import albumentations as A
        import cv2
    except ImportError as e:
        yield missing('first epoch of loading, 128 px, Lanczos + flip', 'a bare DataLoader', str(e), '<= 1.05')
        return
    cv2.setNumThreads(1)
    n, size, photo = (8, 32, (64, 48)) if quick else (64, 128, (500, 375))
    with tempfile.TemporaryDirectory() as d:
        path = make_synthetic(Path(d)/'people', n, 4, photo)

        def loaders(**kwargs):
            return HierDataLoaders.from_folder(path, Taxonomy(PERSON_TREE), size=size, resample='lanczos', augment='flip',
                                               bs=min(16, n), num_workers=0, device='cpu', **kwargs)
        ours = loaders().train
        flip = A.Compose([A.HorizontalFlip(p=.5)])
        bare = torch.utils.data.DataLoader(Bare(ours.dataset.items, size, flip), min(16, n), shuffle=True, drop_last=True)
        yield compare(f'first epoch of loading, {photo[0]}×{photo[1]} to {size} px, Lanczos + flip, no worker',
                      'a bare DataLoader, same libraries', epoch(ours), epoch(bare), '<= 1.05', quick)
        for where in 'memory', Path(d)/'cache':
            cached = loaders(cache=where).train
            epoch(cached)()
            name = 'memory' if where == 'memory' else 'disk'
            yield compare(f"later epochs with cache='{name}', {size} px", 'uncached', epoch(cached), epoch(ours),
                          '<= .1', quick)
