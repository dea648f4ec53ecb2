"The study: its plans can be built, its intervals are what they say, and a run from end to end leaves what `report` reads."
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from hierseg.data.synthetic import make_synthetic
from hierseg.decoding.selectors import get_selector
from hierseg.losses.factory import get_loss

HERE = Path(__file__).resolve().parent.parent/'benchmarks'
pytestmark = pytest.mark.skipif(not HERE.exists(), reason="benchmarks/ lies in the repository only")
sys.path.insert(0, str(HERE))
PLANS = sorted(p.stem for p in (HERE/'study').glob('*.yaml'))
TINY = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)
PLAN = dict(title='A plan', hypotheses=['nothing is learnt'], selectors=['simple', 'smart', 'iou', 'iou path'],
            all=dict(size=32, resample='lanczos', augment='flip', bs=4, epochs=1, lr=1e-3, wd=.01, schedule='one-cycle',
                     model_params=TINY, seeds=[0, 1]),
            arms={'flat': dict(loss='ce'), 'some are coarse': dict(loss='marginal', fine=.25, coarse_level=1),
                  'few': dict(loss='ce', fine=.25, others='left out', seeds=[0])},
            contrasts=[dict(asks='coarse, over flat', of=['some are coarse', 'smart'], beside=['flat', 'simple']),
                       dict(asks='never run', of=['few', 'simple'], beside=['nothing', 'simple'])])


@pytest.fixture
def study():
    return importlib.import_module('study')


@pytest.mark.parametrize('name', PLANS)
def test_plans_say_what_can_be_built(study, name):
    plan, tax = study.read_plan(name), study.person_tree()
    assert plan['title'] and plan['hypotheses'] and plan['contrasts']
    for arm in plan['arms'].values():
        loss = get_loss(arm['loss'], tax, arm.get('base_loss', 'ce'), **{k: arm[k] for k in ('level_weights',) if k in arm})
        assert loss.taxonomy == tax
        assert {'size', 'resample', 'augment', 'bs', 'epochs', 'lr', 'wd', 'schedule', 'seeds'} <= set(arm)
    for s in plan['selectors']:
        assert get_selector(s.split()[0], tax) is not None
    for c in plan['contrasts']:
        for side in ('of', 'beside'):
            assert c[side][0] in plan['arms'] and c[side][1] in plan['selectors']


def test_a_plan_that_is_not_there(study):
    with pytest.raises(SystemExit, match='losses'):
        study.read_plan('nothing')


def test_interval_of_pooled_scores_by_brute_force(study):
    "The same draws, image by image."
    rng = np.random.default_rng(1)
    union = rng.integers(1, 50, (2, 2, 12, 3)).astype(float)
    found = np.floor(union * rng.random(union.shape))
    sides = [[(found[i, s], union[i, s]) for s in range(2)] for i in range(2)]
    mean, low, high = study.paired_interval(*sides, 0, seed=3)
    def miou(f, u): return np.mean([sum(f[:, k]) / sum(u[:, k]) for k in range(3)])
    diffs = [miou(*sides[0][s]) - miou(*sides[1][s]) for s in range(2)]
    assert mean == pytest.approx(np.mean(diffs)) and low < mean < high
    again = np.random.default_rng(3)
    draws = again.multinomial(12, np.full(12, 1 / 12), study.DRAWS)
    pick = again.integers(2, size=(study.DRAWS, 2))
    each = []
    for w, p in zip(draws, pick):
        at = np.repeat(np.arange(12), w)
        each.append(np.mean([miou(*(o[at] for o in sides[0][s])) - miou(*(o[at] for o in sides[1][s])) for s in p]))
    each = np.mean(each) + (np.array(each) - np.mean(each)) * 2**.5
    assert [low, high] == pytest.approx(np.quantile(each, [.025, .975]))


def test_equal_sides_differ_by_nothing(study):
    side = [(np.ones((5, 2)), np.full((5, 2), 2.))]
    assert study.paired_interval(side, side, 0) == (0, 0, 0)


@pytest.mark.parametrize('level, ids', [(0, {0, 10}), (1, {0, 11, 12})])
def test_coarse_masks_name_the_classes_of_one_level(study, tmp_path, level, ids):
    import hierseg.all as hs
    data, tax = make_synthetic(tmp_path/'d', 4, 2, 32, seed=0), study.person_tree()
    pairs = hs.find_pairs(data)
    for fine, coarse in zip(pairs, study.coarse_masks(pairs, tax, level, tmp_path/'coarse')):
        a, b = hs.read_mask(fine.mask), hs.read_mask(coarse.mask)
        assert set(np.unique(b)) <= ids and coarse.image == fine.image
        for raw in np.unique(a):
            parents = np.unique(b[a == raw])
            assert len(parents) == 1
            up, = [c for c in tax.level_classes[level] if raw in tax.ids_of(level, c)]
            assert parents[0] == {'bg': 0, 'body': 10, 'upper_body': 11, 'lower_body': 12}[up]


def test_few_fine_images_and_as_many_steps(study, tmp_path):
    import hierseg.all as hs
    pairs = hs.find_pairs(make_synthetic(tmp_path/'d', 20, 4, 32, seed=0))
    arm = dict(fine=.25, coarse_level=1)
    mixed = study.train_pairs(arm, pairs, study.person_tree(), 0, tmp_path)
    alone = study.train_pairs({**arm, 'others': 'left out'}, pairs, study.person_tree(), 0, tmp_path)
    fine = [p for p in mixed if p in pairs]
    assert len(mixed) == len(pairs) == len(alone) and len(fine) == 6 and set(map(str, alone)) == set(map(str, fine))
    often = study.train_pairs({**arm, 'fine_share': .5}, pairs, study.person_tree(), 0, tmp_path)
    again = [p for p in often if p in pairs]
    assert len(often) == len(pairs) == 2 * len(again) and {*map(str, again)} == {*map(str, fine)}
    assert len({p.stem for p in often if p not in pairs}) == 12 and not {p.stem for p in again} & {p.stem for p in often if p not in pairs}
    other = study.train_pairs(arm, pairs, study.person_tree(), 1, tmp_path)
    assert [p for p in other if p in pairs] != fine


def test_from_plan_to_report(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, 'PLANS', tmp_path/'plans')
    monkeypatch.setattr(study, 'PAGE', tmp_path/'page.ipynb')
    (tmp_path/'plans').mkdir()
    (tmp_path/'plans/p.yaml').write_text(yaml.safe_dump({**PLAN, 'curves': True}))
    data = make_synthetic(tmp_path/'d', 20, 4, 32, seed=0)
    out = ['--data', str(data), '--out', str(tmp_path/'out')]
    assert 'Nothing has been run yet' in study.report('p', tmp_path/'out')
    study.main(['run', 'p', *out, '--budget', '0'])
    assert 'the budget is spent' in capsys.readouterr().out
    study.main(['run', 'p', *out, '--only', 'flat'])
    assert len(capsys.readouterr().out.splitlines()) == 2
    study.main(['run', 'p', *out])
    assert len(capsys.readouterr().out.splitlines()) == 3                  # what was there is not done again
    study.main(['report', 'p', *out])
    results = json.loads((tmp_path/'plans/p.json').read_text())
    text = (tmp_path/'plans/p.md').read_text()
    assert len(results) == 5 and (tmp_path/'images/study_p.png').stat().st_size > 1000
    assert '5 of 5 planned runs' in text and '| coarse, over flat | 2 |' in text and 'never run' not in text
    assert 'In truth it has' in text and '## The best epoch' in text and '1 of 1' in text
    by = {(r['arm'], r['seed']): r for r in results}
    assert [by['few', 0]['images'], by['flat', 1]['images']] == [[16, 2, 4], [18, 2, 4]]
    scores = by['flat', 0]['val']
    arrays = np.load(tmp_path/'out/p/flat__0.npz')
    for s in PLAN['selectors']:
        for l in range(3):
            assert scores[s]['miou'][l] == pytest.approx(float(study.pooled(
                np.ones((1, 4)), arrays[f'{s}|{l}|found'], arrays[f'{s}|{l}|union'])[0]), abs=1e-4)


def test_selectors_that_decide_alike_are_the_same_not_undecided(study):
    rng = np.random.default_rng(0)
    def arrays():
        arms = dict.fromkeys(('simple', 'smart'), [np.sort(rng.integers(1, 9, (2, 6, 2)), 0) for _ in range(3)])
        arms['smart'] = [a + [[[2]], [[0]]] if l < 2 else a for l, a in enumerate(arms['smart'])]
        return {f'{s}|{l}|{o}': sizes[l][k] for s, sizes in arms.items() for l in range(3)
                for k, o in enumerate(('found', 'union'))}
    found = {('a', s): (dict(val=dict(simple={}, smart={})), arrays()) for s in (0, 1)}
    plan = dict(contrasts=[dict(asks='smart, over simple', of=['a', 'smart'], beside=['a', 'simple'])])
    (_, seeds, body, middle, leaves), = study.contrast_rows(plan, found)
    assert seeds == '2' and body.startswith('+') and middle.startswith('+') and leaves == 'the same'


def test_share_of_the_background_is_that_of_the_confusion(study):
    import torch
    from hierseg.metrics.confusion import LevelConfusion
    tax, g = study.person_tree(), torch.Generator().manual_seed(0)
    conf = LevelConfusion(tax, ['simple'])
    for _ in range(3):
        pred, true = (torch.randint(0, tax.n_leaves, (2, 9, 7), generator=g) for _ in range(2))
        conf.update({'simple': [up[pred] for up in map(torch.as_tensor, tax.lift)]}, true)
    arrays, count = study.sizes_by_image(conf, 'simple'), study.pixels_of(conf)
    assert count['all'] == 3 * 2 * 9 * 7
    assert study.share_of_background(arrays, 'simple', count) == pytest.approx(conf.background()['predicted'])


def test_the_best_epoch_is_told_beside_the_last(study):
    def history(*leaves): return [dict(miou_level_3=v, train_loss=1., valid_loss=1.5) for v in leaves]
    plan = dict(arms={'a': {}, 'b': {}, 'not run': {}})
    found = {('a', 0): (dict(history=history(.1, .4, .3)), None), ('b', 0): (dict(history=history(.1, .2, .3)), None)}
    assert [*study.best_epoch_rows(plan, found)] == [['a', '0.300', '0.400', '2 of 3', '+0.100', '+0.500'],
                                                     ['b', '0.300', '0.300', '3 of 3', '+0.000', '+0.500']]


def test_a_run_that_another_process_has_is_left_to_it(study, tmp_path):
    import os
    lock = tmp_path/'a.running'
    assert study.claim(lock) and lock.read_text() == str(os.getpid())
    assert not study.claim(lock)
    lock.write_text('999999999')
    assert study.claim(lock)


def test_reports_go_into_the_guide(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study, 'PLANS', tmp_path)
    (tmp_path/'p_q.md').write_text('# A plan\n\n## Scores\n\n| a |\n')
    cells = [['why'], ['<!-- study p_q -->\n', 'old'], ['<!-- study q -->\n', 'not run']]
    page = tmp_path/'page.ipynb'
    page.write_text(json.dumps(dict(cells=[dict(cell_type='markdown', source=s) for s in cells])))
    study.write_page(page)
    after = [''.join(c['source']) for c in json.loads(page.read_text())['cells']]
    assert after == ['why', '<!-- study p_q -->\n## A plan\n\n### Scores\n\n| a |', '<!-- study q -->\nnot run']


def test_wrong_calls_end_in_one_line(study, capsys, monkeypatch):
    monkeypatch.delenv('HIERSEG_PASCAL_PART', raising=False)
    for argv in ['report', 'losses'], ['run', 'losses', '--out', 'x']:
        with pytest.raises(SystemExit):
            study.main(argv)
        assert 'Traceback' not in capsys.readouterr().err


def test_the_guide_shows_the_last_reports(study):
    "What stands on the page is what `report` wrote."
    if not study.PAGE.exists():
        pytest.skip('no page')
    cells = [''.join(c['source']) for c in json.loads(study.PAGE.read_text())['cells']]
    for name in PLANS:
        md = HERE/f'study/{name}.md'
        if md.exists():
            body = md.read_text().split('## Differences')[1].strip().split('\n\n## ')[0]
            assert any(body.replace('\n## ', '\n### ') in c for c in cells), f'run benchmarks/study.py page: {name}'


def test_a_run_of_another_plan_with_the_same_config_and_seed_is_not_run_again(study, tmp_path, monkeypatch):
    plan = dict(selectors=['simple'], arms={'flat': dict(loss='ce', epochs=2, seeds=[1, 0]), 'long': dict(loss='ce', epochs=3, seeds=[0])})
    (tmp_path/'first').mkdir()
    result = dict(plan='first', arm='ce', seed=0, config=dict(loss='ce', epochs=2, seeds=[0]), val=dict(simple=dict(miou=[.5] * 3), smart={}))
    (tmp_path/'first'/'ce__0.json').write_text(json.dumps(result))
    np.savez(tmp_path/'first'/'ce__0.npz', a=np.ones(2))
    assert study.adopt_twin(plan, 'second', 'flat', 0, tmp_path)
    got = json.loads((tmp_path/'second'/'flat__0.json').read_text())
    assert (got['plan'], got['arm'], got['val']) == ('second', 'flat', result['val'])
    assert (np.load(tmp_path/'second'/'flat__0.npz')['a'] == 1).all()
    assert not study.adopt_twin(plan, 'second', 'flat', 1, tmp_path)          # another seed
    assert not study.adopt_twin(plan, 'second', 'long', 0, tmp_path)          # another config
    assert not study.adopt_twin({**plan, 'selectors': ['mincost']}, 'third', 'flat', 0, tmp_path)   # a selector it was not scored with
