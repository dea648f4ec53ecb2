"Hypothesis strategies and example trees that the tests share."
import numpy as np
import torch
from PIL import Image
from hypothesis import strategies as st

from hierseg.taxonomy.tree import PERSON_TREE as PERSON, Taxonomy

STREET = {'flat': {'road': 7, 'sidewalk': [8, 9]}, 'vehicle': {'car': 24, 'two_wheeler': {'bicycle': 33, 'motorcycle': 32}}, 'sky': 23}
CITYSCAPES = {'flat': {'road': 0, 'sidewalk': 1}, 'construction': {'building': 2, 'wall': 3, 'fence': 4},
              'object': {'pole': 5, 'light': 6, 'sign': 7}, 'nature': {'vegetation': 8, 'terrain': 9}, 'sky': {'sky': 10},
              'human': {'person': 11, 'rider': 12},
              'vehicle': {'car': 13, 'truck': 14, 'bus': 15, 'train': 16, 'motorcycle': 17, 'bicycle': 18}}


def shapes(max_depth=3):
    "Nested lists whose leaves are the number of raw ids of a leaf."
    leaf = st.integers(1, 2)
    return st.recursive(leaf, lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=9)


@st.composite
def trees(draw, background=None):
    "A random nested dict with at least two leaves: ragged depth, scattered ids, lists of ids, repeated names."
    tops = draw(st.lists(shapes(), min_size=2, max_size=4))
    count = sum(_n_ids(t) for t in tops) + 1
    ids = iter(draw(st.lists(st.integers(0, 400), min_size=count, max_size=count, unique=True)))
    names = 'abcd' if draw(st.booleans()) else 'wxyz'
    tree = {names[i]: _fill(t, ids, names) for i, t in enumerate(tops)}
    if background if background is not None else draw(st.booleans()):
        tree = {'bg': next(ids), **tree}
    return tree


def _n_ids(shape):
    return shape if isinstance(shape, int) else sum(map(_n_ids, shape))


def _fill(shape, ids, names):
    if isinstance(shape, int):
        return next(ids) if shape == 1 else [next(ids) for _ in range(shape)]
    return {names[i]: _fill(s, ids, names) for i, s in enumerate(shape)}


def leaf_paths(tax):
    "For each leaf its class on every level, from the names of the tree alone."
    out = []
    for leaf in range(tax.n_leaves):
        path = tax.node_paths[leaf]
        out.append([[tax.node_paths[n] for n in tax.level_nodes[l]].index(path[:l + 1]) for l in range(tax.n_levels)])
    return out


PLAIN = st.recursive(
    st.one_of(st.integers(-3, 70000), st.floats(), st.booleans(), st.none(), st.text(max_size=4)),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3),
    max_leaves=8,
)


def wave(*shape): return (torch.sin(torch.arange(np.prod(shape), dtype=torch.float64) * .7) * 3).reshape(shape)


def batch(tax, seed=0, shape=(5, 6, 7), void=.2):
    "Logits that know something of the truth, and a truth that lacks some classes in each image."
    g = torch.Generator().manual_seed(seed)
    z, y = torch.randn(shape[0], tax.n_leaves, *shape[1:], generator=g) * 2, torch.randint(0, tax.n_leaves, shape, generator=g)
    y = torch.where(torch.rand(shape, generator=g) < .5, y[:, :1, :1], y)
    z.scatter_add_(1, y.unsqueeze(1), torch.full_like(z[:, :1], 2.))
    y[torch.rand(shape, generator=g) < void] = -100
    return z, y


def random_batch(tax, seed=0, shape=(3, 4, 5), void=.2, dtype=torch.float32, n_channels=None):
    "Logits and truth that have nothing to do with each other; one channel a leaf unless told."
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(shape[0], n_channels or tax.n_leaves, *shape[1:], generator=g, dtype=dtype) * 2
    y = torch.randint(0, tax.n_leaves, shape, generator=g)
    y[torch.rand(shape, generator=g) < void] = -100
    return z, y


def inputs(loss, seed=0, shape=(2, 3, 4), void=.2, dtype=torch.float64):
    "The same, with the channels that a loss asks for."
    return random_batch(loss.taxonomy, seed, shape, void, dtype, loss.head.n_channels)


def street_images(path):
    "Images of different sizes with void under `path`; ids of STREET's kind, of which 32 never occurs."
    rng = np.random.default_rng(1)
    for d in ('images', 'masks'):
        (path / d).mkdir()
    for i, (h, w) in enumerate([(40, 52), (33, 61), (40, 52), (70, 30), (25, 25)]):
        mask = np.kron(rng.choice([7, 8, 24, 33, 23, 255], (5, 5)), np.ones((14, 13), int))[:h, :w].astype(np.uint8)
        Image.fromarray(np.stack([mask, 255 - mask, mask // 3], -1)).save(path / f'images/{i}.png')
        Image.fromarray(mask).save(path / f'masks/{i}.png')
    return path


def logits_of(i): return batch(Taxonomy(PERSON), 4, (8, 8, 8))[0][i]


def mask_of(i): return batch(Taxonomy(PERSON), 4, (8, 8, 8))[1][i]
