"""What a loss on the tree costs beside a flat one, forward and backward: time and memory.

Run by `benchmarks/run.py`, or alone: `python benchmarks/losses.py [--quick]`.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from pairs import Row, compare, compare_memory, device, missing, set_up

from hierseg.losses import level_ce
from hierseg.losses.hierarchical import HierarchicalLoss
from hierseg.losses.kernel import can_run_native, native_kernel
from hierseg.losses.linear_ce import linear_level_cross_entropy
from hierseg.losses.pixel import get_base_loss
from hierseg.losses.published import TreeMinLoss
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy

CITYSCAPES = {'flat': ['road', 'sidewalk'], 'construction': ['building', 'wall', 'fence'],
              'object': ['pole', 'light', 'sign'], 'nature': ['vegetation', 'terrain'], 'sky': ['the sky'],
              'human': ['person', 'rider'], 'vehicle': ['car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle']}


def cityscapes() -> Taxonomy:
    "The 19 classes of Cityscapes under 7 groups."
    ids = iter(range(19))
    return Taxonomy({group: {name: next(ids) for name in names} for group, names in CITYSCAPES.items()})


def balanced(n_leaves: int, depth: int) -> Taxonomy:
    "A tree whose levels all split about alike."
    def grow(leaves, levels):
        if levels == 0:
            return leaves[0]
        parts = np.array_split(np.array(leaves), round(len(leaves)**(1 / levels)))
        return {f'l{levels}_{p[0]}': grow(p.tolist(), levels - 1) for p in parts}
    return Taxonomy(grow(list(range(n_leaves)), depth))


def lopsided(n_leaves: int, depth: int) -> Taxonomy:
    "A tree in which each level parts ten leaves from the rest: few nodes split."
    leaves = iter(range(n_leaves))

    def grow(level):
        if level == depth:
            return {f'c{k}': k for k in leaves}
        return {f'd{level}': {f'c{k}': k for _, k in zip(range(10), leaves)}, f'r{level}': grow(level + 1)}
    return Taxonomy(grow(1))


@contextmanager
def kernel(on: bool) -> Iterator[None]:
    "With the level cross-entropy in C, or in plain PyTorch."
    level_ce.can_run_native = can_run_native if on else lambda z: False
    try:
        yield
    finally:
        level_ce.can_run_native = can_run_native


def level_steps(taxonomy: Taxonomy, shape: tuple, weighted: bool = False, void: float = 0.) -> tuple[Callable, Callable]:
    "Ours and the flat loss, as steps forward and backward on the same logits."
    g, where = torch.Generator().manual_seed(0), device()
    z = torch.randn(shape, generator=g).to(where).requires_grad_()
    y = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=g)
    y[torch.rand(y.shape, generator=g) < void] = -100
    y = y.to(where)
    w = [torch.rand(k, generator=g) for k in taxonomy.n_classes] if weighted else None
    loss, flat_weight = HierarchicalLoss(taxonomy, class_weights=w), w[-1].to(where) if w else None

    def ours():
        torch.autograd.grad(loss(z, y), z)

    def flat():
        torch.autograd.grad(F.cross_entropy(z, y, flat_weight), z)
    return ours, flat


PERSON = "HierarchicalLoss('ce'), 3 levels, {}×7×{}×{}"
CASES = [       # name, tree, shape, what else, shape for a quick look
    (PERSON, lambda: Taxonomy(PERSON_TREE), (16, 7, 256, 256), {}, (2, 7, 16, 16)),
    (PERSON + ', class weights, 10 % void', lambda: Taxonomy(PERSON_TREE), (16, 7, 256, 256), dict(weighted=True, void=.1),
     (2, 7, 16, 16)),
    ('150 leaves, depth 3, {}×150×{}×{}', lambda: balanced(150, 3), (2, 150, 128, 128), {}, (1, 150, 8, 8)),
    ('1,000 leaves, depth 4, {}×1000×{}×{}', lambda: balanced(1000, 4), (2, 1000, 64, 64), {}, (1, 1000, 4, 4)),
]
LARGE = [
    ('10,000 leaves, depth 6, {}×10000×{}×{}', lambda: balanced(10_000, 6), (1, 10_000, 32, 32), {}, None),
    ('10,000 leaves, depth 12, {}×10000×{}×{}', lambda: balanced(10_000, 12), (1, 10_000, 32, 32), {}, None),
    ('10,000 leaves, depth 12, few split, {}×10000×{}×{}', lambda: lopsided(10_000, 12), (1, 10_000, 32, 32), {}, None),
]


def level_rows(quick: bool) -> Iterable[Row]:
    "Time and memory of the level cross-entropy beside the flat one."
    for name, tree, shape, kind, small in CASES if quick else CASES + LARGE:
        shape = small if quick else shape
        name = name.format(shape[0], *shape[2:])
        ours, flat = level_steps(tree(), shape, **kind)
        in_c, in_torch = ('<= 1.5', '<= 2.5') if name.startswith('Hier') else ('<= 2', '<= 2')
        beside = 'F.cross_entropy' + (' with weights' if kind else '')
        if device() == 'cpu' and native_kernel() is None:
            yield missing(name, beside, 'no C compiler here', in_c)
        else:
            yield compare(name, beside, ours, flat, in_c, quick)
            yield compare_memory(f'{name}, memory', beside, ours, flat, '<= 1.5')
        if device() == 'cpu':
            with kernel(False):
                yield compare(f'{name}, plain PyTorch', beside, ours, flat, in_torch, quick)
                yield compare_memory(f'{name}, plain PyTorch, memory', beside, ours, flat, 'as measured')


def base_rows(quick: bool) -> Iterable[Row]:
    "Dice and focal on all levels beside the same on the leaves alone."
    trees = [(Taxonomy(PERSON_TREE), (16, 7, 256, 256)), (balanced(150, 3), (2, 150, 128, 128))]
    for tax, shape in trees[:1] if quick else trees:
        shape = (2, 7, 16, 16) if quick else shape
        g = torch.Generator().manual_seed(0)
        z = torch.randn(shape, generator=g).to(device()).requires_grad_()
        y = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=g).to(device())
        for base in ('dice', 'focal'):
            ours, flat = HierarchicalLoss(tax, base), get_base_loss(base)
            name = f"HierarchicalLoss('{base}'), 3 levels, {'×'.join(map(str, shape))}"
            pair = [lambda f=f: torch.autograd.grad(f(z, y), z) for f in (ours, flat)]
            yield compare(name, f'{type(flat).__name__} on the leaves', *pair, 'as measured', quick)
            yield compare_memory(f'{name}, memory', f'{type(flat).__name__} on the leaves', *pair, 'as measured')


def last_layer_rows(quick: bool) -> Iterable[Row]:
    "The last 1×1 convolution in the loss beside the logits of it: time, memory, and memory beside a small tree's."
    def steps(n, side):
        tax, g, where = balanced(n, 4), torch.Generator().manual_seed(0), device()
        x = torch.randn(1, 64, side, side, generator=g).to(where).requires_grad_()
        y = torch.randint(0, n, (1, side, side), generator=g).to(where)
        conv = torch.nn.Conv2d(64, n, 1).to(where)
        sources, loss = (x, conv.weight, conv.bias), HierarchicalLoss(tax)

        def ours():
            return torch.autograd.grad(linear_level_cross_entropy(x, conv.weight, conv.bias, y, tax).sum(), sources)

        def whole(f):
            return torch.autograd.grad(f(conv(x), y), sources)
        for a, b in zip(ours(), whole(loss)):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        return ours, lambda: whole(F.cross_entropy)
    side = 16 if quick else 192
    ours, flat = steps(256 if quick else 1000, side)
    name = f'last 1×1 convolution and level loss in one, 1,000 leaves, 64×{side}×{side}'
    yield compare(name, 'the convolution, then F.cross_entropy', ours, flat, 'as measured', quick)
    yield compare_memory(f'{name}, memory', 'the convolution, then F.cross_entropy', ours, flat, '<= .2')
    small, _ = steps(81, side)
    yield compare_memory(f'{name}, memory beside fewer leaves', 'the same with 81 leaves', ours, small, '<= 1.1')


def straightforward(taxonomy: Taxonomy) -> Callable:
    "Tree-min as one would first write it: sigmoid, gathered minima and maxima, logarithms."
    up, down = ([np.flatnonzero(a) for a in table] for table in (taxonomy.ancestors, taxonomy.ancestors.T))
    depth = [torch.tensor(np.flatnonzero(taxonomy.node_depth == d + 1)) for d in range(taxonomy.n_levels)]
    on = torch.tensor(taxonomy.ancestors[:taxonomy.n_leaves].T)

    def loss(z, y):
        s, total = z.sigmoid(), 0
        low, high = torch.stack([s[:, u].amin(1) for u in up], 1), torch.stack([s[:, d].amax(1) for d in down], 1)
        for nodes in depth:
            true = on.to(y.device)[nodes][:, y].transpose(0, 1)
            yes, no = -(low[:, nodes] + 1e-8).log(), -(1 - high[:, nodes] + 1e-8).log()
            total = total + torch.where(true, yes, no).mean()
        return total
    return loss


def tree_min_row(quick: bool) -> Row:
    "Tree-min beside its first form; both give the same number."
    shape = (1, 26, 16, 16) if quick else (2, 26, 512, 512)
    tax, g = cityscapes(), torch.Generator().manual_seed(0)
    z = torch.randn(shape, generator=g).to(device()).requires_grad_()
    y = torch.randint(0, 19, (shape[0], *shape[2:]), generator=g).to(device())
    first, ours = straightforward(tax), TreeMinLoss(tax)
    assert abs(first(z, y) - ours(z, y)) < 1e-5 * first(z, y)
    return compare(f'tree-min, {shape[0]}×26×{shape[2]}×{shape[3]}', 'the straightforward form (gathered min, max)',
                   lambda: torch.autograd.grad(ours(z, y), z), lambda: torch.autograd.grad(first(z, y), z), '<= .33', quick)


def rows(quick: bool) -> Iterable[Row]:
    "The table's rows on losses."
    yield from level_rows(quick)
    yield from last_layer_rows(quick)
    yield from base_rows(quick)
    yield tree_min_row(quick)


if __name__ == '__main__':
    set_up('cpu', 1)
    for row in rows('--quick' in sys.argv):
        print(f'{row.name:70} {row.beside:45} {row.ours_ms:9.1f} {row.theirs_ms:9.1f} {row.unit:4} {row.ratio:6.2f} {row.bound}',
              flush=True)
