"The metrics beside the ways they replace: boundary IoU, confusion matrices of all levels, the selector."
from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from pairs import Row, compare, device, missing

from hierseg.decoding.selectors import SimpleClassSelector
from hierseg.metrics.boundary import BoundaryIoU
from hierseg.metrics.confusion import LevelConfusion
from hierseg.taxonomy.tensors import decompose_mask
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy

try:
    import cv2
except ImportError:
    cv2 = None


def mask_to_boundary(mask, ratio=.02):
    "The band of one class's mask (H, W), uint8, as github.com/bowenc0221/boundary-iou-api makes it."
    h, w = mask.shape
    dilation = max(1, int(round(ratio * np.sqrt(h**2 + w**2))))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=dilation)
    return mask - eroded[1:h + 1, 1:w + 1]


def authors_boundary_iou(levels, truth, n_classes):
    "Intersections and unions of all classes of all levels, class by class."
    out = []
    for p, t, k in zip(levels, truth, n_classes):
        for c in range(k):
            dt, gt = (mask_to_boundary((m == c).astype(np.uint8)) for m in (p, t))
            out.append((((gt * dt) > 0).sum(), ((gt + dt) > 0).sum()))
    return np.array(out)


def blobs(n, h, w, seed):
    "(H, W) mask of n classes in smooth regions, as people label them."
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.normal(size=(h, w)).astype(np.float32), (0, 0), h / 12) for _ in range(n)]
    return np.argmax(noise, 0)


def boundary_pair(tax, h=375, w=500):
    "Boundary IoU of all levels of one image, both from masks of leaves to numbers."
    truth = torch.from_numpy(blobs(tax.n_leaves, h, w, 0))[None]
    pred = torch.from_numpy(np.roll(truth[0].numpy(), 4, 1))[None]
    levels, conf = decompose_mask(pred, tax), BoundaryIoU(tax)
    arrays = [[o[0].numpy() for o in decompose_mask(m, tax)] for m in (pred, truth)]
    both = authors_boundary_iou(*arrays, tax.n_classes)
    ours = np.concatenate([conf.reset().update(levels, truth).iou(l) for l in range(tax.n_levels)])
    np.testing.assert_allclose(ours, both[:, 0] / np.maximum(both[:, 1], 1))
    return lambda: conf.reset().update(levels, truth), lambda: authors_boundary_iou(*arrays, tax.n_classes)


def counting_pairs(tax, size=256, batch=8):
    "Confusion of all levels beside torchmetrics level by level; the Simple selector beside argmax and indexing."
    from torchmetrics.functional.classification import multiclass_confusion_matrix
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, tax.n_leaves, size, size, generator=gen).to(device())
    mask = torch.randint(0, tax.n_leaves, (batch, size, size), generator=gen).to(device())
    tables, select = [torch.tensor(up, device=device()) for up in tax.lift], SimpleClassSelector(tax)
    conf = LevelConfusion(tax, per_image=False)

    def plain(): return [t[logits.argmax(1)] for t in tables]

    def theirs():
        return [multiclass_confusion_matrix(p, t, k, ignore_index=-100)
                for p, t, k in zip(plain(), decompose_mask(mask, tax), tax.n_classes)]
    assert all(torch.equal(torch.from_numpy(conf.reset().update_output(logits, mask).confusion(l)), c.cpu())
               for l, c in enumerate(theirs()))
    return (lambda: conf.reset().update_output(logits, mask), theirs), (lambda: select(logits), plain)


def wide_tree():
    "150 leaves on three levels."
    return {f'a{i}': {f'b{j}': {f'c{k}': 30 * i + 6 * j + k for k in range(6)} for j in range(5)} for i in range(5)}


def rows(quick: bool) -> Iterable[Row]:
    "Boundary IoU, confusion matrices, the selector."
    tax, what = Taxonomy(PERSON_TREE), 'boundary IoU of all levels, 500×375'
    if cv2 is None:
        yield missing(what, "opencv erosions a class (the authors' way)", 'OpenCV is not installed', '<= .33')
    else:
        pair = boundary_pair(tax, *((48, 64) if quick else (375, 500)))
        yield compare(what, "opencv erosions a class (the authors' way)", *pair, '<= .33', quick)
    trees = [(tax, 8, 256), (Taxonomy(wide_tree()), 2, 128)]
    for tree, batch, size in [(o, 2, 32) for o, *_ in trees] if quick else trees:
        bound = '<= .1' if tree is tax else 'as measured'
        shape = f'{batch}×{tree.n_leaves}×{size}×{size}'
        try:
            confusion, selector = counting_pairs(tree, size, batch)
        except ImportError:
            yield missing('confusion of all levels', 'torchmetrics a level', 'torchmetrics is not installed', '<= .1')
            return
        yield compare(f'confusion of all levels, {shape}', 'torchmetrics a level', *confusion, bound, quick)
        yield compare(f'simple selector, {shape}', 'argmax and indexing', *selector, bound, quick)
