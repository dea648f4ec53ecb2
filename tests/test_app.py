"The app: what it answers, and a browser that drops a photograph and clicks."
import os
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('gradio', reason="gradio is not installed: pip install 'hierseg[app]'")
os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'

from hierseg.app import Answers, build_app, legend_html, pixel_html, run_app
from hierseg.data.loaders import HierDataLoaders
from hierseg.evaluation.predictor import HierPredictor, Prediction
from hierseg.training.folder import ExperimentCallback
from hierseg.training.run import seed_everything
from hierseg.training.learner import hier_learner
from hierseg.data.synthetic import make_synthetic, synthetic_sample
from hierseg.taxonomy.tree import Taxonomy


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    seed_everything(0)
    d = tmp_path_factory.mktemp('app')
    data = make_synthetic(d / 'data', n_train=60, n_valid=4, size=(64, 64), seed=0)
    dls = HierDataLoaders.from_folder(data, data / 'classes_hierarchy.yaml', size=64, bs=8, num_workers=0)
    learn = hier_learner(dls, 'unet', model_params=dict(channels_array=[8, 16], bottleneck_channels=16, block_depth=1))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(4, 1e-2, cbs=ExperimentCallback(folder=d / 'run', n_triples=0))
    return d / 'run'


def test_answers_are_the_predictors(run):
    p = HierPredictor.from_experiment(run)
    page, photo = Answers(p), synthetic_sample(12, (120, 90))[0]
    for selector in page.selectors:
        picture, answer = page.ask(photo, selector)
        want = p.predict(photo, selector=selector, probs=True)
        assert all((a == b).all() for a, b in zip(answer.levels, want.levels))
        for level in p.taxonomy.level_names:
            shown, legend = page.show(picture, answer, level, .7)
            assert (shown == want.overlay(photo, level, .7)).all()
            for r in want.area():
                listed = f"{r['class']} {100 * r['share']:.1f} %" in legend
                assert r['level'] != level or listed == (r['pixels'] > 0)
    text = page.click(answer, 30, 40)
    assert all(f"{r['class']}</td>" in text and f"{r['probability']:.3f}" in text for r in want.at(30, 40))
    assert page.ask(None, 'simple') == (None, None) and page.show(None, None, 'level_1', .5) == (None, '')
    assert 'Click' in page.click(None, 0, 0)
    assert Answers(p, most=60).ask(photo, 'simple')[0].shape == (45, 60, 3)


def test_names_cannot_be_markup():
    tree, probs = Taxonomy({'<script>': {'x': 1, 'y': 2}, 'c': 3}), [np.ones((2, 2, 2)), np.ones((3, 2, 2))]
    odd = Prediction([np.zeros((2, 2), int)] * 2, tree, probs)
    assert '<script>' not in legend_html(odd, 0) + pixel_html(odd, 1, 1) and '&lt;script&gt;' in legend_html(odd, 0)


def test_the_page_is_built_from_a_folder(run):
    app = build_app(run)
    labels = {c.get('props', {}).get('label') for c in app.get_config_file()['components']}
    assert {'Photograph', 'Level', 'Selector', 'Opacity', 'Classes'} <= labels


@pytest.mark.slow
@pytest.mark.parametrize('size', [(1280, 900), (390, 844)], ids=['desktop', 'phone'])
def test_in_a_browser(run, tmp_path, size):
    api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if chromium is None:
        pytest.skip('no Chromium on this machine')
    photo = synthetic_sample(12, (480, 360))[0]
    photo.save(tmp_path / 'photo.png')
    want = HierPredictor.from_experiment(run).predict(photo, probs=True)
    app = run_app(run, open_browser=False, block=False)
    try:
        with api.sync_playwright() as p:
            browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
            page = browser.new_page(viewport=dict(width=size[0], height=size[1]))
            page.goto(app.local_url)
            page.set_input_files('#photo input[type=file]', str(tmp_path / 'photo.png'), timeout=60_000)
            page.wait_for_selector('#legend .hs-item', timeout=60_000)
            said = page.inner_text('#legend')
            there = {r['class'] for r in want.area() if r['level'] == 'level_3' and r['pixels']}
            lines = page.locator('#legend .hs-item').all_inner_texts()
            assert there == {line.rsplit(' ', 2)[0] for line in lines}, said
            image = page.locator('#classes img').first
            image.scroll_into_view_if_needed()
            box = image.bounding_box()
            image.click(position=dict(x=box['width'] / 2, y=box['height'] / 2))
            page.wait_for_selector('#pixel table')
            rows = page.locator('#pixel tr').all_inner_texts()[1:]
            x, y = (int(o.strip(',')) for o in page.inner_text('#pixel').split('\n')[0].split()[1:3])
            assert abs(x - 240) <= 2 and abs(y - 180) <= 2
            told = [[r['level'], r['class'], f"{r['probability']:.3f}"] for r in want.at(x, y)]
            assert [r.split() for r in rows] == told
            page.get_by_label('level_1').click()
            page.wait_for_function("document.querySelector('#legend').innerText.includes('body')", timeout=30_000)
            assert page.evaluate('document.documentElement.scrollWidth') <= size[0], 'the page is wider than the window'
            browser.close()
    finally:
        app.close()
