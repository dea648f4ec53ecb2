"""Speed of the hot paths as ratios, each pair measured in turn in one run so that a noisy machine disturbs both alike.

    python benchmarks/hot_paths.py [--threads 1] [--rounds 9]

A ratio above 1 says how many times faster hierseg's way is than the plain way named beside it. Medians over rounds.
"""
import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from hierseg.losses.hierarchical import HierarchicalLoss
from hierseg.metrics.confusion import LevelConfusion
from hierseg.decoding.selectors import SimpleClassSelector
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy
from hierseg.taxonomy.tensors import decompose_mask


def plain_loss(tax):
    "The level loss as one would first write it: softmax, sums by a matrix, log, NLL, level by level."
    tables = [F.one_hot(torch.tensor(tax.lift[l])).float() for l in range(tax.n_levels)]

    def loss(logits, mask):
        probs = logits.softmax(1)
        levels = [torch.einsum('bchw,ck->bkhw', probs, t).contiguous().clamp(min=1e-8).log() for t in tables]
        return sum(F.nll_loss(p, m, ignore_index=-100) for p, m in zip(levels, decompose_mask(mask, tax)))
    return loss


def plain_selector(tax):
    "Leaf argmax, lifted by indexing."
    tables = [torch.tensor(tax.lift[l]) for l in range(tax.n_levels)]
    return lambda logits: [t[logits.argmax(1)] for t in tables]


def torchmetrics_confusion(tax):
    "A torchmetrics confusion matrix for every level."
    from torchmetrics.functional.classification import multiclass_confusion_matrix
    select = plain_selector(tax)
    return lambda logits, mask: [multiclass_confusion_matrix(p, m, k, ignore_index=-100)
                                 for p, m, k in zip(select(logits), decompose_mask(mask, tax), tax.n_classes)]


def with_gradient(loss, logits, mask):
    z = logits.detach().requires_grad_()
    return lambda: loss(z, mask).backward()


def pairs(tax, size=256, batch=8):
    "What is compared: (name, the plain way's name, ours, theirs)."
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, tax.n_leaves, size, size, generator=gen)
    mask = torch.randint(0, tax.n_leaves, (batch, size, size), generator=gen)
    ours, select = HierarchicalLoss(tax), SimpleClassSelector(tax)
    confusion, theirs = LevelConfusion(tax, per_image=False), torchmetrics_confusion(tax)
    return [
        ('level loss, forward and backward', 'softmax, sum, log, NLL', with_gradient(ours, logits, mask), with_gradient(plain_loss(tax), logits, mask)),
        ('level loss against flat', 'flat cross-entropy (its cost for 1 level)', with_gradient(ours, logits, mask),
         with_gradient(lambda z, m: F.cross_entropy(z, m), logits, mask)),
        ('simple selector, all levels', 'argmax and indexing', lambda: select(logits), lambda f=plain_selector(tax): f(logits)),
        ('confusion of all levels', 'torchmetrics, level by level', lambda: confusion.update_output(logits, mask), lambda: theirs(logits, mask)),
    ]


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trees = {'7 leaves, 3 levels': Taxonomy(PERSON_TREE),
             '150 leaves, 3 levels': Taxonomy({f'a{i}': {f'b{j}': {f'c{k}': 30 * i + 6 * j + k for k in range(6)} for j in range(5)} for i in range(5)})}
    print(f"torch {torch.__version__}, {args.threads} thread(s), median of {args.rounds} rounds\n")
    print(f"{'tree':<22}{'what':<36}{'against':<44}{'ms':>8}{'ratio':>8}")
    for name, tax in trees.items():
        for what, other, ours, theirs in pairs(tax, *((256, 8) if tax.n_leaves < 50 else (128, 2))):
            ours(), theirs()
            both = [(seconds(ours), seconds(theirs)) for _ in range(args.rounds)]
            print(f"{name:<22}{what:<36}{other:<44}{1e3 * statistics.median(a for a, _ in both):>8.1f}{statistics.median(b / a for a, b in both):>8.2f}")
