"""What a loss on the tree costs beside a flat one: forward and backward, time and memory, side by side in one run.

    python benchmarks/losses.py [--rounds 15] [--threads 1] [--only WORD] [--json FILE] [--markdown FILE]

Each row takes turns between its ways, so that a noisy machine disturbs all alike; the figures are medians over rounds.
A ratio above 1 says how many times slower hierseg is than the plain way it is named beside. Memory is the most that
PyTorch holds during a step above what it held before, in sizes of the logits (the kernel's own tiles, 2 MB, aside).
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

os.environ.setdefault('KINETO_LOG_LEVEL', '99')      # the profiler talks

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from hierseg.core import text_table, write_atomic
from hierseg.losses import level_ce
from hierseg.losses.hierarchical import HierarchicalLoss
from hierseg.losses.kernel import can_run_native, native_kernel
from hierseg.losses.published import TreeMinLoss
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy

CITYSCAPES = {'flat': ['road', 'sidewalk'], 'construction': ['building', 'wall', 'fence'], 'object': ['pole', 'light', 'sign'],
              'nature': ['vegetation', 'terrain'], 'sky': ['the sky'], 'human': ['person', 'rider'],
              'vehicle': ['car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle']}


def cityscapes():
    "The 19 classes of Cityscapes under 7 groups."
    ids = iter(range(19))
    return Taxonomy({group: {name: next(ids) for name in names} for group, names in CITYSCAPES.items()})


def balanced(n_leaves, depth):
    "A tree whose levels all split about alike."
    def grow(leaves, levels):
        if levels == 1 or len(leaves) == 1:
            return {f'c{k}': k for k in leaves} if levels > 1 or len(leaves) > 1 else leaves[0]
        width = max(2, round(len(leaves)**(1 / levels)))
        parts = np.array_split(np.array(leaves), width)
        return {f'n{levels}_{p[0]}': grow(p.tolist(), levels - 1) for p in parts if len(p)}
    return Taxonomy(grow(list(range(n_leaves)), depth))


def lopsided(n_leaves, depth):
    "A tree in which each level parts ten leaves from the rest: few nodes split."
    leaves = iter(range(n_leaves))
    def grow(level):
        if level == depth:
            return {f'c{k}': k for k in leaves}
        return {f'd{level}': {f'c{k}': k for _, k in zip(range(10), leaves)}, f'r{level}': grow(level + 1)}
    return Taxonomy(grow(1))


def kernel_on(f):
    "A step with the kernel in C."
    def step():
        level_ce.can_run_native = can_run_native
        f()
    return step


def kernel_off(f):
    "A step in plain PyTorch."
    def step():
        level_ce.can_run_native = lambda z: False
        f()
    return step


def medians(steps, rounds):
    "Milliseconds of each step, and its ratio to the first, taken in turn."
    for f in steps:
        f()
    rows = []
    for _ in range(rounds):
        row = []
        for f in steps:
            start = time.perf_counter()
            f()
            row.append(time.perf_counter() - start)
        rows.append(row)
    return [(statistics.median(r[i] for r in rows) * 1e3, statistics.median(r[i] / r[0] for r in rows)) for i in range(len(steps))]


def peak(f):
    "The most bytes that PyTorch holds during a step above those it held before."
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        f()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == '[memory]']
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(0, int(np.cumsum(sizes).max())) if sizes else 0


def level_case(taxonomy, shape, weighted=False, void=0.):
    "Flat cross-entropy, ours in C, ours in PyTorch, as steps forward and backward on the same logits."
    g = torch.Generator().manual_seed(0)
    z = torch.randn(shape, generator=g).requires_grad_()
    y = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=g)
    y[torch.rand(y.shape, generator=g) < void] = -100
    w = [torch.rand(k, generator=g) for k in taxonomy.n_classes] if weighted else None
    loss, flat_weight = HierarchicalLoss(taxonomy, class_weights=w), w[-1] if weighted else None
    def ours(): torch.autograd.grad(loss(z, y), z)
    def flat(): torch.autograd.grad(F.cross_entropy(z, y, flat_weight), z)
    return [flat, kernel_on(ours), kernel_off(ours)], z


def straightforward(taxonomy):
    "Tree-min as one would first write it: sigmoid, gathered minima and maxima, logarithms."
    up, down = ([np.flatnonzero(a) for a in table] for table in (taxonomy.ancestors, taxonomy.ancestors.T))
    depth = [torch.tensor(np.flatnonzero(taxonomy.node_depth == d + 1)) for d in range(taxonomy.n_levels)]
    on = torch.tensor(taxonomy.ancestors[:taxonomy.n_leaves].T)
    def loss(z, y):
        s, total = z.sigmoid(), 0
        low, high = torch.stack([s[:, u].amin(1) for u in up], 1), torch.stack([s[:, d].amax(1) for d in down], 1)
        for nodes in depth:
            true = on[nodes][:, y].transpose(0, 1)
            total = total + torch.where(true, -(low[:, nodes] + 1e-8).log(), -(1 - high[:, nodes] + 1e-8).log()).mean()
        return total
    return loss


def tree_min_case(shape=(2, 26, 512, 512)):
    "Tree-min as first written, and ours."
    tax, g = cityscapes(), torch.Generator().manual_seed(0)
    z, y = torch.randn(shape, generator=g).requires_grad_(), torch.randint(0, 19, (shape[0], *shape[2:]), generator=g)
    first, ours = straightforward(tax), TreeMinLoss(tax)
    assert abs(first(z, y) - ours(z, y)) < 1e-5 * first(z, y)
    return [lambda: torch.autograd.grad(first(z, y), z), lambda: torch.autograd.grad(ours(z, y), z)]


LEVEL_CASES = [
    ('16×7×256×256, 3 levels', lambda: Taxonomy(PERSON_TREE), (16, 7, 256, 256), {}),
    ('the same, class weights, 10 % void', lambda: Taxonomy(PERSON_TREE), (16, 7, 256, 256), dict(weighted=True, void=.1)),
    ('150 leaves, depth 3: 2×150×128×128', lambda: balanced(150, 3), (2, 150, 128, 128), {}),
    ('1,000 leaves, depth 4: 2×1000×64×64', lambda: balanced(1000, 4), (2, 1000, 64, 64), {}),
    ('10,000 leaves, depth 6: 1×10000×32×32', lambda: balanced(10_000, 6), (1, 10_000, 32, 32), {}),
    ('10,000 leaves, depth 12: 1×10000×32×32', lambda: balanced(10_000, 12), (1, 10_000, 32, 32), {}),
    ('10,000 leaves, depth 12, few split', lambda: lopsided(10_000, 12), (1, 10_000, 32, 32), {}),
]


def measure(rounds, only=''):
    "Rows of the table, as mappings."
    for name, tree, shape, kind in LEVEL_CASES:
        if only not in name:
            continue
        steps, z = level_case(tree(), shape, **kind)
        (flat, _), (c, c_ratio), (plain, plain_ratio) = medians(steps, rounds)
        memory = [statistics.median(peak(f) for _ in range(3)) / z.nbytes for f in steps]
        yield dict(case=name, beside='F.cross_entropy', beside_ms=flat, ms=c, ratio=c_ratio, plain_ms=plain, plain_ratio=plain_ratio,
                   beside_memory=memory[0], memory=memory[1], plain_memory=memory[2])
    if only in 'tree-min':
        (first, _), (ours, ratio) = medians(tree_min_case(), max(3, rounds // 3))
        yield dict(case='tree-min, 2×26×512×512', beside='gathered minima and maxima', beside_ms=first, ms=ours, ratio=ratio)


def about():
    "When, on what, and of which commit the figures are."
    try:
        commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ''
    return dict(date=f'{datetime.date.today()}', machine=f'{platform.machine()}, {torch.get_num_threads()} thread(s)', torch=torch.__version__,
                python=platform.python_version(), kernel=native_kernel() is not None, commit=commit)


HEADER = ('loss, forward and backward', 'beside', 'ms', 'in C', 'ratio', 'PyTorch', 'ratio', 'memory beside', 'in C', 'PyTorch')
KEYS = ('case', 'beside', 'beside_ms', 'ms', 'ratio', 'plain_ms', 'plain_ratio', 'beside_memory', 'memory', 'plain_memory')


def table(rows):
    "The rows as markdown: times in ms, memory in sizes of the logits."
    short = lambda v: f'{v:.1f}' if isinstance(v, float) and v >= 10 else f'{v:.2f}' if isinstance(v, float) else v
    return text_table([[short(r.get(k)) for k in KEYS] for r in rows], HEADER)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--only', default='', help='cases whose name holds this')
    parser.add_argument('--json', type=Path)
    parser.add_argument('--markdown', type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows, facts = list(measure(args.rounds, args.only)), about()
    text = f"{table(rows)}\n\n" + ', '.join(f'{k} {v}' for k, v in facts.items())
    print(text)
    if args.json:
        write_atomic(args.json, json.dumps(dict(about=facts, rows=rows), indent=1))
    if args.markdown:
        write_atomic(args.markdown, text + '\n')


if __name__ == '__main__':
    main()
