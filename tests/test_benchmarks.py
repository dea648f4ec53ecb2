"Every benchmark runs, keeps the contract of benchmarks/README.md, and the driver writes what it measured."
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent.parent/'benchmarks'
pytestmark = pytest.mark.skipif(not HERE.exists(), reason="benchmarks/ lies in the repository only")
sys.path.insert(0, str(HERE))
MODULES = [p.stem for p in sorted(HERE.glob('*.py')) if p.stem not in ('run', 'pairs', 'study')]


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')      # set_up changes it for good
    threads = torch.get_num_threads()
    run = importlib.import_module('run')
    run.pairs.set_up('cpu', 1)
    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize('name', MODULES)
def test_every_benchmark_runs(driver, name, monkeypatch):
    if not driver.has_rows(name):
        pytest.skip(f'benchmarks/{name}.py has no rows()')
    rows = list(importlib.import_module(name).rows(True))
    assert rows
    for row in rows:
        assert isinstance(row, driver.pairs.Row) and row.name and row.beside
        assert row.ratio is None and row.note or row.ratio > 0 and row.ours_ms > 0 and row.theirs_ms > 0


def test_modules_are_in_the_driver_s_list(driver):
    assert {m for m in MODULES if driver.has_rows(m)} <= set(driver.MODULES)


def test_compare_takes_the_median_of_pairs(driver, monkeypatch):
    pairs, clock = driver.pairs, iter([1., 4., 4., 2., 2., 6., 3., 3., 5., 7.])
    monkeypatch.setattr(pairs, 'seconds', lambda f: next(clock))
    row = pairs.compare('a', 'b', lambda: None, lambda: None, '<= 1', rounds=5)
    # odd rounds run the other side first: pairs 1/4, 2/4, 2/6, 3/3, 5/7
    assert row.ratio == 1 / 2 and row.holds and (row.ours_ms, row.theirs_ms) == (2000, 4000)


def test_bound_is_read_from_its_text(driver):
    Row = driver.pairs.Row
    assert Row('a', 'b', .3, bound='<= .33').holds
    assert not Row('a', 'b', 1.6, bound='<= 1.5 compiled').holds
    assert Row('a', 'b', 9., bound='as measured').holds is None
    assert driver.pairs.missing('a', 'b', 'no GPU', '<= 1').holds is None


def test_peak_memory_counts_what_lives_at_once(driver):
    x = torch.zeros(2**18)
    one = 4 * 2**18
    assert one <= driver.pairs.peak_bytes(lambda: x + 1) < 1.1 * one

    def three():
        a, b = x + 1, x + 2
        return a + b
    assert 3 * one <= driver.pairs.peak_bytes(three) < 3.1 * one

    def freed():
        for _ in range(4):
            x + 1
    assert one <= driver.pairs.peak_bytes(freed) < 1.1 * one


def test_driver_writes_results_and_tells_what_failed(driver, tmp_path, monkeypatch, capsys):
    (tmp_path/'good.py').write_text("from pairs import compare\ndef rows(quick):\n"
                                    "    yield compare('a | b', 'c', lambda: None, lambda: None, '<= 100', quick)\n")
    (tmp_path/'bad.py').write_text("def rows(quick):\n    raise OSError('no disk')\n    yield\n")
    (tmp_path/'other.py').write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(driver, 'HERE', tmp_path)
    monkeypatch.setattr(driver, 'MODULES', ['good', 'bad', 'other', 'absent'])
    monkeypatch.delenv('HIERSEG_DEBUG', raising=False)
    assert driver.main(['--quick', '--out', str(tmp_path/'out')]) == 1
    said = json.loads((tmp_path/'out'/'results.json').read_text())
    good, bad = said['rows']
    assert good['ratio'] > 0 and good['bound'] == '' and bad['note'] == 'failed: OSError: no disk' and said['quick']
    table = (tmp_path/'out'/'results.md').read_text()
    assert '| a / b | c |' in table and said['machine'] in table and f"torch {torch.__version__.split('+')[0]}" in table
    out, err = capsys.readouterr()
    assert 'other.py has no rows()' in err and 'absent.py is not here' in err and 'a | b' in out
    assert driver.main(['--quick', '--only', 'good']) == 0


def test_driver_names_no_host(driver):
    import platform
    said = driver.about(1, False)
    assert 'CPU machine' in said['machine'] and (not platform.node() or platform.node() not in str(said))


def test_rows_of_one_commit_come_together(driver, tmp_path):
    said, Row = driver.about(1, False), driver.pairs.Row
    driver.write([Row('a', 'x', 1.), Row('b', 'x', 2.)], tmp_path, said)
    driver.write([Row('b', 'x', 3.)], tmp_path, said, driver.before(tmp_path, said))
    rows = json.loads((tmp_path/'results.json').read_text())['rows']
    assert [(r['name'], r['ratio']) for r in rows] == [('a', 1), ('b', 3)]
    assert driver.before(tmp_path, {**said, 'commit': 'another'}) == [] == driver.before(tmp_path/'none', said)
    page = (tmp_path/'results.md').read_text()
    assert page.startswith('# ') and '| b | x | 3.00 |' in page and '{table}' not in page
