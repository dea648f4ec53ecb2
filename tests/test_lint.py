"The linters' word on the generated modules: a finding here is mended in the notebook."
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command):
    return subprocess.run([sys.executable, '-m', *command], cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_ruff_finds_nothing():
    pytest.importorskip('ruff')
    done = run('ruff', 'check', '--no-cache', '--output-format', 'concise', 'hierseg', '.ci', 'setup.py')
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_pyright_finds_nothing():
    if importlib.util.find_spec('pyright') is None:
        pytest.skip('pyright is not installed')
    if run('pyright', '--version').returncode:
        pytest.skip('pyright cannot run here: it needs Node, pip install "pyright[nodejs]"')
    done = run('pyright', '--pythonpath', sys.executable)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
