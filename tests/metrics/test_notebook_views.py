"What a count looks like in a notebook, and the confusion matrix as a picture."
import matplotlib.pyplot as plt
import pytest
import torch

from hierseg.metrics.confusion import LevelConfusion, plot_confusion
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON, batch


@pytest.fixture
def conf():
    tax = Taxonomy(PERSON)
    return LevelConfusion(tax, ['simple', 'smart']).update_output(*batch(tax, 1, (3, 8, 8)))


def test_repr_says_how_much_and_how_good(conf):
    text = repr(conf)
    assert text.startswith(f'LevelConfusion of 3 images, {conf.n_pixels:,} pixels on 3 levels\n')
    assert f'{conf.miou("level_2", selector="smart"):.3f}' in text and text.count('smart') == 3
    assert repr(LevelConfusion(conf.taxonomy)) == 'LevelConfusion of 0 images, 0 pixels on 3 levels'
    assert repr(LevelConfusion(conf.taxonomy, per_image=False)) == 'LevelConfusion of 0 pixels on 3 levels'


def test_html_escapes_names_and_holds_every_level(conf):
    tree = Taxonomy({'bg': 0, '<b>': {'x': 1, 'y': 2}})
    mine = LevelConfusion(tree, {'<i>': 'simple'}).update([torch.zeros(1, 2, 2).long()]*2, torch.zeros(1, 2, 2).long())
    assert '<i>' not in mine._repr_html_() and '&lt;i&gt;' in mine._repr_html_()
    html = conf._repr_html_()
    assert html.count('<tr>') == 1 + 2 * 3 and f'{conf.accuracy("level_1"):.3f}' in html
    assert '<td>' not in LevelConfusion(tree)._repr_html_()


@pytest.mark.parametrize('dpi', [50, 200])
def test_confusion_says_percent_and_keeps_its_names(conf, dpi):
    ax = plot_confusion(conf)
    assert '%' in ax.get_title()
    ax.figure.set_dpi(dpi)
    ax.figure.canvas.draw()
    inside = ax.figure.bbox
    for label in [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label]:
        box = label.get_window_extent()
        assert inside.x0 <= box.x0 and inside.y0 <= box.y0 and box.x1 <= inside.x1 and box.y1 <= inside.y1, label
    plt.close('all')


def test_all_names_of_a_large_tree_stay():
    tax = Taxonomy({'bg': 0, **{f'class_{i}': i for i in range(1, 120)}})
    y = torch.arange(120).view(1, 10, 12)
    ax = plot_confusion(LevelConfusion(tax).update([y], y))
    assert len(ax.get_xticklabels()) == 120 and max(ax.figure.get_size_inches()) <= 16
    plt.close('all')
