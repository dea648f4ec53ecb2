"A stranger's way: source distribution, wheel made from it, installed where nothing else is."
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path

import pytest

import hierseg

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {'onnx', 'app', 'hub', 'distributed', 'large', 'torchmetrics', 'tracking', 'dev', 'all'}
# `python -m build` without the environments of its own that would need a network
BUILD = """import sys
from pathlib import Path
from setuptools import build_meta
print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))"""
METADATA = """import json, sys
from importlib import metadata
m = metadata.metadata('hierseg')
print(json.dumps(dict(version=metadata.version('hierseg'), summary=m['Summary'], needs=metadata.requires('hierseg'),
                      scripts=[e.value for e in metadata.entry_points(group='console_scripts') if e.name == 'hierseg'],
                      files=[str(f) for f in metadata.files('hierseg')])))"""


def call(*args, cwd, **kwargs):
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run([str(a) for a in args], cwd=cwd, env=env, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def build(kind, source, out):
    "Built with the setuptools at hand; gives the file."
    out.mkdir(exist_ok=True)
    return out / call(sys.executable, '-c', BUILD, kind, out, cwd=source).split()[-1]


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    "A source distribution of a clean copy of the checkout, so that no list of an earlier build leaks in."
    setuptools = pytest.importorskip('setuptools')
    if int(setuptools.__version__.split('.')[0]) < 77:
        pytest.skip('building needs setuptools 77 for the licence field')
    tmp = tmp_path_factory.mktemp('sdist')
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT,
                            capture_output=True, text=True)
    if listed.returncode:
        pytest.skip('no git checkout')
    for name in filter(None, listed.stdout.split('\0')):
        if (ROOT/name).is_file():
            (tmp/'source'/name).parent.mkdir(parents=True, exist_ok=True)
            (tmp/'source'/name).write_bytes((ROOT/name).read_bytes())
    return build('sdist', tmp/'source', tmp/'dist')


@pytest.fixture(scope='module')
def unpacked(sdist):
    with tarfile.open(sdist) as tar:
        if hasattr(tarfile, 'data_filter'):
            tar.extractall(sdist.parent, filter='data')
        else:
            tar.extractall(sdist.parent)
    return sdist.parent / sdist.name.removesuffix('.tar.gz')


@pytest.fixture(scope='module')
def wheel(unpacked):
    return build('wheel', unpacked, unpacked.parent/'wheel')


@pytest.fixture(scope='module')
def metadata(wheel):
    with zipfile.ZipFile(wheel) as z:
        return Parser().parsestr(z.read(f'hierseg-{hierseg.__version__}.dist-info/METADATA').decode())


def test_sdist_holds_what_a_build_and_its_tests_need(unpacked):
    for name in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CITATION.cff',
                 'tests/conftest.py', 'tests/strategies.py', '.ci/build_docs.py', 'nbs/index.ipynb', 'nbs/_quarto.yml'):
        assert (unpacked/name).is_file(), f'{name} is missing in the source distribution: see MANIFEST.in'
    tests = {p.name for p in (ROOT/'tests').rglob('*.py')}
    assert tests <= {p.name for p in (unpacked/'tests').rglob('*.py')}


def test_wheel_from_sdist_holds_every_file_of_the_package(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT/'hierseg').rglob('*'):
        if path.is_file() and '__pycache__' not in path.parts and path.suffix != '.pyc':
            assert path.relative_to(ROOT).as_posix() in inside
    assert not [n for n in inside if n.startswith(('tests', 'nbs', 'benchmarks'))]


def test_metadata_says_who_what_and_where(metadata):
    assert metadata['Version'] == hierseg.__version__
    assert metadata['License-Expression'] == 'Apache-2.0' and metadata['Summary']
    assert metadata['Requires-Python'] == '>=3.10'
    urls = dict(u.split(', ', 1) for u in metadata.get_all('Project-URL'))
    assert {'Repository', 'Documentation', 'Issues', 'Changelog'} <= set(urls)
    assert 'Programming Language :: Python :: 3.10' in metadata.get_all('Classifier')
    assert not [c for c in metadata.get_all('Classifier') if c.startswith('License')]   # the SPDX field stands instead
    assert set(metadata.get_all('Provides-Extra')) == EXTRAS


def test_readme_is_complete_where_no_other_file_is(metadata):
    for alt, link in re.findall(r'!\[([^\]]*)\]\(([^)]+)\)', metadata.get_payload()):
        assert link.startswith('https://') and alt
    for link in re.findall(r'(?<!!)\[[^\]]*\]\(([^)]+)\)', metadata.get_payload()):
        assert re.match(r'https://|#', link), f'{link}: a package index has no such file'


def test_every_extra_is_explained():
    page = (ROOT/'nbs/install.qmd').read_text()
    for extra in EXTRAS:
        assert f'| `{extra}` |' in page


def test_requirements_stand_once():
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini')
    for key in cfg['DEFAULT']:
        if key.endswith('requirements'):
            names = [re.split(r'[<>=!~ ;\[]', line.strip())[0] for line in cfg['DEFAULT'][key].splitlines()]
            names = [n for n in names if n and not n.startswith('#')]
            assert len(names) == len(set(names)), key


def test_workflows_run_on_every_declared_python(metadata):
    yaml = pytest.importorskip('yaml')
    flows = {p.stem: yaml.safe_load(p.read_text()) for p in (ROOT/'.github/workflows').glob('*.yml')}
    declared = {c.split(' :: ')[-1] for c in metadata.get_all('Classifier') if re.search(r':: 3\.\d+$', c)}
    assert declared <= set(flows['tests']['jobs']['test']['strategy']['matrix']['python'])
    for flow in flows.values():
        for job in flow['jobs'].values():
            before = ''
            for run in (s['run'] for s in job['steps'] if 'run' in s):
                if 'setup.py' in run: assert 'setuptools' in before      # Python 3.12 comes without it
                for script in re.findall(r'(?:python|pytest) ([\w./]+\.py)', run): assert (ROOT/script).is_file(), script
                before += run


def test_citation_names_this_version():
    assert f'\nversion: {hierseg.__version__}\n' in (ROOT/'CITATION.cff').read_text()


@pytest.mark.slow
def test_wheel_in_a_fresh_environment(wheel, tmp_path):
    call(sys.executable, '-m', 'venv', tmp_path/'venv', cwd=tmp_path)
    python = tmp_path/'venv'/('Scripts' if os.name == 'nt' else 'bin')/'python'
    call(python, '-m', 'pip', 'install', '--no-deps', '--no-index', wheel, cwd=tmp_path)
    seen = json.loads(call(python, '-c', METADATA, cwd=tmp_path))
    assert seen['version'] == hierseg.__version__ and seen['scripts'] == ['hierseg.cli:main'] and seen['summary']
    assert any(n.startswith('torch') for n in seen['needs'])
    assert {'hierseg/__init__.py', 'hierseg/cli.py', 'hierseg/_modidx.py'} <= set(seen['files'])
    assert call(python, '-c', 'import hierseg; print(hierseg.__version__)', cwd=tmp_path).strip() == seen['version']
