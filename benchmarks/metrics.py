"""The metrics beside the ways they replace, each pair measured in turn in one run so that a noisy machine disturbs both.

    python benchmarks/metrics.py [--threads 1] [--rounds 15] [--json FILE]

The ratio is hierseg's time over the other's, the median over rounds of the ratio within a round: below 1 hierseg is faster.
With one thread it is the processor's time, which other work on the machine does not stretch.
"""
import argparse
import json
import statistics
import time

import cv2
import numpy as np
import torch

from hierseg.decoding.selectors import SimpleClassSelector
from hierseg.metrics.boundary import BoundaryIoU
from hierseg.metrics.confusion import LevelConfusion
from hierseg.taxonomy.tensors import decompose_mask
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy


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
    logits = torch.randn(batch, tax.n_leaves, size, size, generator=gen)
    mask = torch.randint(0, tax.n_leaves, (batch, size, size), generator=gen)
    tables, select = [torch.tensor(up) for up in tax.lift], SimpleClassSelector(tax)
    conf = LevelConfusion(tax, per_image=False)

    def plain(): return [t[logits.argmax(1)] for t in tables]

    def theirs():
        return [multiclass_confusion_matrix(p, t, k, ignore_index=-100)
                for p, t, k in zip(plain(), decompose_mask(mask, tax), tax.n_classes)]
    assert all(torch.equal(torch.from_numpy(conf.reset().update_output(logits, mask).confusion(l)), c)
               for l, c in enumerate(theirs()))
    return (lambda: conf.reset().update_output(logits, mask), theirs), (lambda: select(logits), plain)


def measure(ours, theirs, rounds, clock):
    "(median seconds of ours, of theirs, median ratio of a round)."
    def seconds(f):
        start = clock()
        f()
        return clock() - start
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return *(statistics.median(o) for o in zip(*pairs)), statistics.median(a / b for a, b in pairs)


def main(args):
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    tax = Taxonomy(PERSON_TREE)
    (confusion, selector), bounds = counting_pairs(tax), {}
    rows = [('boundary IoU of all levels, 500×375', 'opencv erosions a class (the authors\' way)', boundary_pair(tax), .33),
            ('confusion of all levels', 'torchmetrics a level', confusion, .05),
            ('Simple selector', 'argmax and indexing', selector, .06)]
    print(f"| what | beside | ours, ms | theirs, ms | ratio | bound |\n|{'---|' * 6}")
    for name, other, pair, bound in rows:
        a, b, ratio = measure(*pair, args.rounds, time.process_time if args.threads == 1 else time.perf_counter)
        bounds[name] = dict(beside=other, ours=a, theirs=b, ratio=ratio, bound=bound)
        print(f'| {name} | {other} | {1000*a:.2f} | {1000*b:.2f} | {ratio:.3f} | {bound} |', flush=True)
    if args.json:
        with open(args.json, 'w') as f: json.dump(bounds, f, indent=1)
    return bounds


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--json', help='write the figures there')
    main(parser.parse_args())
