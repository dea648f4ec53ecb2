"Colours of a taxonomy, coloured masks, figures."
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from skimage.color import rgb2lab

from hierseg.plotting.colors import BACKGROUND_COLOR, VOID_COLOR, colorize, node_colors, oklab, taxonomy_colors
from hierseg.plotting.pictures import (_split_preds, _to_pyplot, legend_handles, mask_picture, overlay, plot_taxonomy,
                                       save_figure, show_legend, show_pairs, show_triples)
from hierseg.plotting.curves import _curves, plot_history
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy
from strategies import CITYSCAPES, STREET, trees

PERSON = Taxonomy(PERSON_TREE)
WIDE = Taxonomy({f'branch {b}': {f'a rather long class name {b} {i}': 25*b + i for i in range(25)} for b in range(4)})
FLAT = Taxonomy({f'c{i}': i for i in range(100)})
DEEP = Taxonomy({'a': {'b': {'c': {'d': {'e': 1, 'f': 2}, 'g': 3}}}})
ALL = dict(person=PERSON, street=Taxonomy(STREET), city=Taxonomy(CITYSCAPES), wide=WIDE, flat=FLAT, deep=DEEP)


def hue(rgb):
    "Hue in degrees by scikit-image's CIELAB"
    l, a, b = rgb2lab(np.asarray(rgb, float)/255)
    return np.rad2deg(np.arctan2(b, a))


def circular(a, b): return abs((a - b + 180) % 360 - 180)


def draw(fig):
    assert isinstance(fig, Figure)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.array(canvas.buffer_rgba())


# colours

@given(trees())
def test_levels_have_distinct_colors(tree):
    tax = Taxonomy(tree)
    nodes = node_colors(tax)
    assert nodes.dtype == np.uint8 and len(np.unique(nodes, axis=0)) == tax.n_nodes
    for l in range(tax.n_levels):
        c = taxonomy_colors(tax, l)
        assert c.shape == (tax.n_classes[l], 3) and (c == nodes[tax.level_nodes[l]]).all()
        assert not (c == VOID_COLOR).all(1).any()
    assert (nodes == node_colors(Taxonomy(tree))).all()


@pytest.mark.parametrize('tax', ALL.values(), ids=ALL.keys())
def test_colors_can_be_told_apart(tax):
    lab = oklab(taxonomy_colors(tax))
    d = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 9*np.eye(len(lab))
    assert d.min() > (.12 if tax is PERSON else .05 if tax.n_leaves < 20 else .005)
    assert np.linalg.norm(lab - oklab(VOID_COLOR), axis=-1).min() > .08


CAMVID = [
    {
        'static': {'sky': 21, 'building': 4, 'pole': 8, 'road': 17, 'sidewalk': 19, 'tree': 26, 'sign': 20, 'fence': 9},
        'moving': {'car': 5, 'pedestrian': 16, 'bicyclist': 2},
    },
    {
        'outside': {
            'ground': {'road': 1, 'sidewalk': 2},
            'sky': 3,
            'static': {'building': 4, 'fence': 5, 'pole': 6, 'tree': 8},
        },
        'moving': {'car': 10, 'person': 11, 'bike': 13},
    },
]


@pytest.mark.parametrize('tree', CAMVID, ids=['flat roots', 'deep root'])
def test_classes_under_few_roots_differ(tree):
    tax = Taxonomy(tree)
    lab = oklab(taxonomy_colors(tax))
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(len(lab))
    assert apart.min() > .08
    for a, b in (('road', 'sky'), ('building', 'fence')):
        assert apart[tax.vocab.index(a), tax.vocab.index(b)] > .1
    hues = [hue(c) for c in taxonomy_colors(tax)]
    middle = [tax.lift[0] == k for k in range(2)]
    assert min(circular(a, b) for a, k in zip(hues, middle[0]) if k for b, j in zip(hues, middle[1]) if j) > 15


def test_thousand_classes_differ():
    tax = Taxonomy({'top': {f'c{i}': i for i in range(1000)}, 'other': 1000})
    assert len(np.unique(node_colors(tax), axis=0)) == 1002


def test_shades_of_one_hue_under_one_parent():
    tax = Taxonomy(CITYSCAPES)
    colors = taxonomy_colors(tax)
    parent = tax.lift[0]
    within = max(
        circular(hue(colors[i]), hue(colors[j])) for i in range(19) for j in range(19) if parent[i] == parent[j] == 6
    )
    assert within < 75
    upper, lower = taxonomy_colors(PERSON)[[1, 2, 4, 6]], taxonomy_colors(PERSON)[[3, 5]]
    assert min(circular(hue(a), hue(b)) for a in upper for b in lower) > 90


@pytest.mark.parametrize('matrix', [  # Machado et al. 2009, table 1, severity 1: deuteranopia, protanopia
    [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
    [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]]])
def test_colour_blind_tell_branches_apart(matrix):
    def seen(rgb):
        x = rgb/255
        x = np.clip(np.where(x <= .04045, x/12.92, ((x + .055)/1.055)**2.4) @ np.transpose(matrix), 0, 1)
        return 255*np.where(x <= .0031308, 12.92*x, 1.055*x**(1/2.4) - .055)
    tops = Taxonomy({'bg': 0, **{f'c{i}': i for i in range(1, 9)}})
    for tax, level in [(PERSON, 0), (PERSON, 1), (PERSON, 2), (tops, 0)]:
        lab = oklab(seen(taxonomy_colors(tax, level).astype(float)))
        assert (np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(len(lab))).min() > .09


def test_background_is_dark_and_only_background():
    assert tuple(taxonomy_colors(PERSON)[0]) == BACKGROUND_COLOR
    assert all(tuple(taxonomy_colors(PERSON, l)[0]) == BACKGROUND_COLOR for l in range(3))
    assert not (node_colors(Taxonomy(PERSON_TREE, background=None)) == BACKGROUND_COLOR).all(1).any()


def test_shallow_leaf_keeps_its_color():
    tax = Taxonomy(STREET)
    sky = [taxonomy_colors(tax, l)[tax.level_classes[l].index('sky')] for l in range(tax.n_levels)]
    assert (np.ptp(sky, axis=0) == 0).all()


def test_overrides():
    tax = Taxonomy(
        {'a': {'x': 1, 'y': 2}, 'b': {'x': 3, 'z': 4}}, colors={'x': '#102030', 'b/x': '#405060', 'b': '#ff0000'}
    )
    by = dict(zip(map('/'.join, tax.node_paths), node_colors(tax).tolist()))
    assert by['a/x'] == [16, 32, 48] and by['b/x'] == [64, 80, 96] and by['b'] == [255, 0, 0]
    assert circular(hue(by['b/z']), hue(by['b'])) < 45
    assert Taxonomy(tax.to_dict()) == tax and (node_colors(Taxonomy(tax.to_dict())) == node_colors(tax)).all()


def test_override_never_hits_another_class():
    free = node_colors(PERSON)
    tax = Taxonomy(PERSON_TREE, colors={'up_leg': '#' + bytes(free[2].tolist()).hex()})
    assert len(np.unique(node_colors(tax), axis=0)) == tax.n_nodes
    assert (node_colors(tax)[5] == free[2]).all()


@pytest.mark.parametrize('level', [3, -4, 'level_9', 1.0, True, None])
def test_bad_level(level):
    with pytest.raises(ValueError, match='0 .coarsest. to 2'): taxonomy_colors(PERSON, level)


# masks

@given(st.integers(0, 10**6), trees())
def test_colorize_is_a_lookup(seed, tree):
    tax, rng = Taxonomy(tree), np.random.default_rng(seed)
    l = int(rng.integers(tax.n_levels))
    mask = rng.integers(0, tax.n_classes[l], (5, 7))
    mask[0, :2] = tax.ignore_index
    rgb, colors = colorize(mask, tax, l), taxonomy_colors(tax, l)
    for (y, x), c in np.ndenumerate(mask): assert tuple(rgb[y, x]) == (VOID_COLOR if c == -100 else tuple(colors[c]))
    for form in (torch.tensor(mask), mask.astype(np.int16)):
        assert (colorize(form, tax, tax.level_names[l]) == rgb).all()


def test_colorize_takes_pillow_and_bool():
    mask = np.eye(4, dtype=np.uint8)
    assert (colorize(Image.fromarray(mask), PERSON) == colorize(mask, PERSON)).all()
    assert (colorize(mask.astype(bool), PERSON, 0) == colorize(mask, PERSON, 0)).all()


@pytest.mark.parametrize(
    'mask, word',
    [
        (np.zeros((1, 2, 2), int), r'shape \(1, 2, 2\)'),
        (np.zeros((2, 2)), 'float64'),
        (np.full((2, 2), 7), 'class 7'),
        (np.full((2, 2), -1), 'class -1'),
        (np.full((2, 2), 255, np.uint8), 'class 255'),
    ],
)
def test_bad_masks(mask, word):
    with pytest.raises(ValueError, match=word): colorize(mask, PERSON)
    with pytest.raises(ValueError, match=word): overlay(np.zeros((2, 2, 3)), mask, PERSON)


def test_overlay_blends():
    image, mask = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8), np.zeros((40, 50), int)
    mask[10:20], mask[30:] = 2, -100
    out = overlay(image, mask, PERSON, alpha=.4)
    assert out.dtype == np.uint8 and (out[:10] == image[:10]).all()
    assert np.abs(out[10:20] - (.6*image[10:20] + .4*taxonomy_colors(PERSON)[2])).max() <= .51
    changed = (out[30:] != image[30:]).any(-1).mean()
    assert 0 < changed < .6                                              # hatched, not filled
    assert (overlay(image, mask, PERSON, alpha=1)[10:20] == taxonomy_colors(PERSON)[2]).all()
    no_bg = Taxonomy({'a': 0, 'b': 1})
    assert (overlay(image, np.zeros((40, 50), int), no_bg, alpha=1) == taxonomy_colors(no_bg)[0]).all()


def test_overlay_reads_images_of_all_kinds():
    rgb, mask = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8), np.ones((6, 9), int)
    want = overlay(rgb, mask, PERSON)
    forms = [
        Image.fromarray(rgb),
        rgb / 255,
        np.moveaxis(rgb, -1, 0),
        torch.tensor(np.moveaxis(rgb, -1, 0) / 255),
        np.dstack([rgb, rgb[..., :1]]),
    ]
    for f in forms: assert (overlay(f, mask, PERSON) == want).all()
    gray = np.dstack([rgb[..., 0]]*3)
    for f in (gray[..., 0], gray[..., :1], gray[None, ..., 0], Image.fromarray(gray[..., 0])):
        assert (overlay(f, mask, PERSON) == overlay(gray, mask, PERSON)).all()


@pytest.mark.parametrize(
    'image, word',
    [
        (np.zeros((2, 3, 3)), 'image is 3 x 2 pixels but its mask 2 x 2'),
        (np.zeros((5, 2, 2)), 'expected .height, width, 3.'),
        (np.zeros(3), 'expected'),
    ],
)
def test_bad_images(image, word):
    with pytest.raises(ValueError, match=word): overlay(image, np.zeros((2, 2), int), PERSON)


@pytest.mark.parametrize('alpha', [-.1, 1.1, float('nan')])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match='alpha='):
        overlay(np.zeros((2, 2, 3)), np.zeros((2, 2), int), PERSON, alpha=alpha)


# legends and the tree

def test_legend_handles_follow_the_tree():
    labels = [h.get_label() for h in legend_handles(PERSON)]
    assert labels == [
        'bg',
        'body',
        '   upper_body',
        '      low_hand',
        '      up_hand',
        '      torso',
        '      head',
        '   lower_body',
        '      low_leg',
        '      up_leg',
    ]
    assert [h.get_label() for h in legend_handles(PERSON, 0)] == ['bg', 'body']
    colors = {
        h.get_label().strip(): np.rint(255 * np.array(h.get_facecolor()[:3])).astype(int).tolist()
        for h in legend_handles(PERSON)
    }
    assert colors['torso'] == taxonomy_colors(PERSON)[2].tolist()


@pytest.mark.parametrize('tax', ALL.values(), ids=ALL.keys())
def test_taxonomy_drawing_names_everything(tax):
    fig = plot_taxonomy(tax)
    draw(fig)
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert set(tax.level_names) <= set(texts) and len(texts) == tax.n_nodes + tax.n_leaves + tax.n_levels + 1


@given(trees())
@settings(max_examples=8)
def test_taxonomy_drawing_of_any_tree(tree):
    plot_taxonomy(Taxonomy(tree), width=5)


def test_show_legend_in_any_axes():
    fig = Figure()
    ax = fig.add_subplot()
    show_legend(ax, WIDE, void=True)
    assert draw(fig).std() > 0
    assert len(ax.patches) == WIDE.n_nodes + 1 and ax.texts[-1].get_text() == 'void'


# boards of images

def samples(n=3, shape=(24, 32), tax=PERSON, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((n, *shape, 3)), rng.integers(0, tax.n_leaves, (n, *shape))


def image_axes(fig): return [ax for ax in fig.axes if ax.images]


@pytest.mark.parametrize('tax', ALL.values(), ids=ALL.keys())
def test_triples_of_any_tree(tax):
    images, truths = samples(2, tax=tax)
    fig = show_triples(images, truths, [np.stack([tax.lift[l][t] for t in truths]) for l in range(tax.n_levels)], tax)
    draw(fig)
    assert len(image_axes(fig)) == 2*(1 + 2*tax.n_levels)
    assert [ax.get_title() for ax in image_axes(fig) if ax.get_title()] == tax.level_names


def test_triples_show_what_they_are_given():
    images, truths = samples(2)
    truths[0, :4] = -100
    preds = [np.random.default_rng(1).integers(0, k, (2, 24, 32)) for k in PERSON.n_classes]  # inconsistent on purpose
    shown = [
        ax.images[0].get_array()
        for ax in image_axes(show_triples(images, truths, preds, PERSON, titles=['one', 'two']))
    ]
    for k in range(2):
        block = shown[7*k:7*k + 7]
        assert (block[0] == np.rint(255*images[k]).astype(np.uint8)).all()
        for l in range(3):
            truth = np.where(truths[k] < 0, -100, PERSON.lift[l][np.maximum(truths[k], 0)])
            assert (block[1 + 2 * l] == mask_picture(truth, PERSON, l)).all()
            assert (block[1 + 2 * l] == colorize(truth, PERSON, l))[truth >= 0].all()
            assert (block[2 + 2 * l] == colorize(preds[l][k], PERSON, l)).all()


@pytest.mark.parametrize('n', [1, 3, 5])
def test_forms_of_predictions(n):
    _, truths = samples(n)
    levels = [np.stack([PERSON.lift[l][t] for t in truths]) for l in range(3)]
    shapes = [t.shape for t in truths]
    for form in (
        levels,
        [torch.tensor(p) for p in levels],
        np.stack(levels, 1),
        torch.tensor(np.stack(levels, 1)),
        truths,
        list(truths),
        [np.stack([p[k] for p in levels]) for k in range(n)] if n != 3 else levels,
    ):
        got = _split_preds(form, PERSON, shapes)
        assert len(got) == n and all((got[k][l] == levels[l][k]).all() for k in range(n) for l in range(3))


def test_images_of_different_sizes():
    a, b = samples(1, (20, 30)), samples(1, (40, 16))
    fig = show_triples([a[0][0], b[0][0]], [a[1][0], b[1][0]], [a[1][0], b[1][0]], PERSON)
    draw(fig)
    assert len(image_axes(fig)) == 14
    draw(show_pairs([a[0][0], b[0][0]], [a[1][0], b[1][0]], PERSON))


@pytest.mark.parametrize(
    'change, word',
    [
        (lambda i, t, p: (i[:2], t, p), '2 images, 3 truths'),
        (lambda i, t, p: (i, t, p[:2]), 'expected 3 arrays'),
        (lambda i, t, p: (i[:0], t[:0], p), '0 images'),
        (lambda i, t, p: (i, t, [o[:, 1:] for o in p]), 'do not fit'),
        (lambda i, t, p: (i[:, 1:], t, p), 'image 0 is 32 x 23'),
        (lambda i, t, p: (i, t + 7, p), 'mask 0: class'),
        (lambda i, t, p: (i, t, [p[2], p[1], p[2]]), 'prediction 0: class . is not on level_1'),
    ],
)
def test_triples_refuse(change, word):
    images, truths = samples()
    preds = [np.stack([PERSON.lift[l][t] for t in truths]) for l in range(3)]
    with pytest.raises(ValueError, match=word): show_triples(*change(images, truths, preds), PERSON)


@pytest.mark.parametrize('level', [0, 'level_2', -1])
def test_pairs(level):
    images, truths = samples(5)
    l = PERSON.level_names.index(level) if isinstance(level, str) else level
    fig = show_pairs(images, PERSON.lift[l][truths], PERSON, level, titles=list('abcde'))
    draw(fig)
    assert len(image_axes(fig)) == 10 and [ax.get_title() for ax in image_axes(fig)][::2] == list('abcde')
    with pytest.raises(ValueError, match='5 images, 5 masks, 1 titles'):
        show_pairs(images, truths, PERSON, titles=['a'])


# curves

def history(n=6, levels=3, suffix='_smart'):
    e = np.arange(n)
    return {'epoch': list(e), 'train_loss': list(2/(e + 1)), 'valid_loss': list(2.2/(e + 1)), 'time': ['00:01']*n,
            **{f'miou_level_{l+1}{s}': list((.8 - .2*l)*e/n) for l in range(levels) for s in ('', suffix)}}


def lines(ax):
    return [
        (np.asarray(o.get_xdata()), np.asarray(o.get_ydata()), o.get_linestyle())
        for o in ax.lines
        if len(o.get_xdata()) > 1
    ]


def test_history_forms_draw_the_same(tmp_path):
    h = history()
    with open(tmp_path/'h.csv', 'w', newline='') as f: csv.writer(f).writerows([list(h), *zip(*h.values())])
    figs = [plot_history(f, PERSON) for f in (h, pd.DataFrame(h), tmp_path/'h.csv', str(tmp_path/'h.csv'))]
    images = [draw(f) for f in figs]
    assert len(figs[0].axes) == 2 and all((i == images[0]).all() for i in images)
    drawn = lines(figs[0].axes[1])
    assert len(drawn) == 6 and sorted(s for *_, s in drawn) == ['-']*3 + ['--']*3
    assert np.allclose(drawn[0][1], h['miou_level_1'])


def test_history_with_gaps():
    h = history()
    h['miou_level_1'] = ['', None, .5, 'nan', .7, .6]
    fig = plot_history(h)
    x, y, _ = lines(fig.axes[1])[0]
    assert x.tolist() == [2, 4, 5] and y.tolist() == [.5, .7, .6]
    assert any('0.700' in t.get_text() for t in fig.axes[1].texts)
    draw(plot_history({'train_loss': [1.]}))
    draw(plot_history({'miou_a': [np.nan, np.nan]}))


def test_level_names_that_begin_alike():
    tax = Taxonomy({'a': {'x': 1, 'y': 2}, 'b': 3}, levels=['part', 'part_fine'])
    cols = ['miou_part', 'miou_part_fine', 'miou_part_smart', 'miou_part_fine_smart']
    assert _curves(cols, tax) == {
        'part': [('miou_part', ''), ('miou_part_smart', 'smart')],
        'part_fine': [('miou_part_fine', ''), ('miou_part_fine_smart', 'smart')],
    }


def test_runs_are_compared_by_level():
    fig = plot_history(dict(flat=history(), other=pd.DataFrame(history(levels=2, suffix='_soft'))))
    draw(fig)
    assert len(fig.axes) == 4 and [len(lines(ax)) for ax in fig.axes] == [4, 4, 4, 2]


@pytest.mark.parametrize(
    'bad, word',
    [
        ({'epoch': [1]}, 'no train_loss.*has: epoch'),
        ({}, 'has: nothing'),
        ('gone.csv', 'gone.csv: no such'),
        (dict(a={'x': [1]}), 'no train_loss'),
    ],
)
def test_bad_history(bad, word):
    with pytest.raises(ValueError, match=word): plot_history(bad)


# files

@pytest.mark.parametrize('suffix', ['.png', '.pdf', '.svg', '.jpg', '.PNG'])
def test_save_figure(tmp_path, suffix):
    path = save_figure(plot_taxonomy(PERSON), tmp_path/'deep'/f'a{suffix}', dpi=40)
    assert path.stat().st_size > 500 and [p.name for p in path.parent.iterdir()] == [f'a{suffix}']


def test_save_figure_keeps_the_old_file_on_failure(tmp_path):
    path = tmp_path/'a.png'
    path.write_bytes(b'old')
    class Broken(Figure):
        def savefig(self, f, **kw):
            Path(f).write_bytes(b'half')
            raise RuntimeError('disk')
    with pytest.raises(RuntimeError): save_figure(Broken(), path)
    assert path.read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 1
    for name in ('a.xyz', 'a'):
        with pytest.raises(ValueError, match='unknown picture format'): save_figure(Figure(), tmp_path/name)


def test_needs_neither_torch_nor_pyplot():
    code = """if True:
        import io, sys, numpy as np
        from hierseg.plotting import *
        from hierseg.taxonomy import Taxonomy, PERSON_TREE
        t, mask = Taxonomy(PERSON_TREE), np.zeros((1, 8, 8), int)
        show_triples(np.zeros((1, 8, 8, 3)), mask, mask, t).savefig(io.BytesIO())
        plot_taxonomy(t).savefig(io.BytesIO())
        print('torch' in sys.modules, 'matplotlib.pyplot' in sys.modules)"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ['False', 'False']


# what issue 11 asked for


@pytest.mark.parametrize('dpi', [30, 90, 240])
def test_the_legend_survives_saving_from_pyplot(dpi):
    import matplotlib.pyplot as plt
    images, truths = samples(2)
    plt.close('all')
    _to_pyplot(show_pairs(images, truths, PERSON), plt.figure())
    b = io.BytesIO()
    plt.gcf().savefig(b, dpi=dpi)
    plt.close('all')
    saved = np.asarray(Image.open(b).convert('RGB')).astype(int)
    legend = saved[:, int(saved.shape[1] * .8):]
    upper = taxonomy_colors(PERSON)[2].astype(int)
    assert (np.abs(legend - upper).max(-1) < 30).any() and len(plt.get_fignums()) == 0


def test_void_is_seen_in_small_pictures_on_any_background():
    mask = np.zeros((48, 48), int)
    mask[:, 24:] = -100
    for shade in (0, 128, 255):
        out = overlay(np.full((48, 48, 3), shade, np.uint8), mask, PERSON, alpha=.6).astype(int)
        assert (out[:, :24] == shade).all() and np.ptp(out[:, 24:]) > 70
    small = np.asarray(Image.fromarray(mask_picture(mask, PERSON)).resize((16, 16))).astype(int)
    assert small[:, 9:].std() > 5 and (mask_picture(mask[:, 24:], PERSON) != 250).any()


def test_curves_say_that_the_number_is_the_best_value():
    fig = plot_history({'train_loss': [1, 2, 3], 'miou_a': [.2, .7, .5]})
    assert [t.get_text() for t in fig.axes[1].texts] == ['a  best 0.700']


def test_coarse_pixels_are_painted_as_their_class():
    tax = Taxonomy(PERSON_TREE, coarse={'upper_body': 11})
    mask = tax.encode(np.array([[2, 11, 0, 3]]))
    assert (colorize(mask, tax)[0, 1] == taxonomy_colors(tax, 1)[1]).all()
    draw(show_pairs([np.zeros((1, 4, 3))], [mask], tax))
    fig = show_triples([np.zeros((1, 4, 3))], [mask], [[np.array([tax.lift[l][[2, 1, 0, 3]]])] for l in range(3)], tax)
    draw(fig)
    level_3, level_2 = (image_axes(fig)[1 + 2 * l].images[0].get_array() for l in (2, 1))
    assert (level_2[0, 1] == taxonomy_colors(tax, 1)[1]).all()
    assert tuple(level_3[0, 1]) in (VOID_COLOR, (90, 90, 96))


@pytest.mark.parametrize('name', ['03_plotting.colors', '03a_plotting.pictures', '03b_plotting.curves'])
def test_every_picture_of_the_notebooks_has_alt_text(name):
    nb = json.loads((Path(__file__).resolve().parents[2] / 'nbs' / f'{name}.ipynb').read_text())
    for cell in nb['cells']:
        shown = [o for o in cell.get('outputs', []) if any(k.startswith('image/') for k in o.get('data', {}))]
        assert not shown or ''.join(cell['source']).startswith('#| fig-alt: '), ''.join(cell['source'])


def test_many_classes_are_coloured_once():
    tax = Taxonomy({f'b{k}': {f'c{i}': 100 * k + i for i in range(100)} for k in range(20)})
    first = node_colors(tax)
    first[:] = 0
    assert node_colors(tax).any() and ('node_colors' in tax._cached)


def test_trees_that_no_picture_can_show_are_refused_with_the_size():
    with pytest.raises(ValueError, match='2,000 leaves would be 20 m high'):
        plot_taxonomy(Taxonomy({f'c{i}': i for i in range(2000)}))


def test_many_flat_classes_have_their_own_colours():
    tax = Taxonomy({f'c{i}': i for i in range(5000)})
    assert len(np.unique(node_colors(tax), axis=0)) == 5000
