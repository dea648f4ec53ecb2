"The house: rooms that import only from rooms before them, no private name across a border, no hidden imports."
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'hierseg'
ROOMS = ['core', 'taxonomy', 'config', 'plotting', 'data', 'decoding', 'losses', 'metrics', 'models', 'training', 'evaluation', 'export', 'app',
         'demo', 'cli', 'all']
MODULES = sorted(p for p in PACKAGE.rglob('*.py') if p.name not in ('_modidx.py', '_moved.py', '__main__.py'))
# imported inside a function: what is optional, or so slow that it waits until somebody asks for it
LATE = {'timm', 'segmentation_models_pytorch', 'albumentations', 'cv2', 'IPython', 'tifffile', 'huggingface_hub', 'onnx', 'onnxruntime', 'onnxscript',
        'gradio', 'torchmetrics', 'accelerate', 'tqdm', 'scipy', 'matplotlib', 'pyvips'}
# these keep `hierseg --help` from waiting for torch, and let an ONNX file be run without it
LATE_TORCH = {'core', 'cli', 'taxonomy.tree', 'evaluation.predictor', 'evaluation.tiles', 'evaluation.writing', 'app'}


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def room_of(module):
    return module.split('.')[0]


def imports(path):
    "(imported module, names, is it at the top) of every import of hierseg in a module, absolute names."
    package = name_of(path).split('.')[:None if path.name == '__init__.py' else -1]
    tree = ast.parse(path.read_text())
    top = {id(n) for n in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            module = '.'.join([*base, *(node.module or '').split('.')]).strip('.')
            if node.level or module.split('.')[0] == 'hierseg':
                yield module.removeprefix('hierseg').strip('.'), [a.name for a in node.names], id(node) in top


def graph():
    return {name_of(p): {m for m, _, _ in imports(p) if m and m != '_moved'} for p in MODULES if p.name != '__init__.py'}


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_a_room_imports_only_rooms_before_it(path):
    here = name_of(path)
    if not here:
        return
    for module, names, _ in imports(path):
        if module in ('_moved', ''):
            continue
        assert ROOMS.index(room_of(module)) <= ROOMS.index(room_of(here)), f'{here} imports {module}, which stands behind it'


def test_no_module_needs_itself():
    edges, done = graph(), set()
    while len(done) < len(edges):
        free = {m for m, needs in edges.items() if m not in done and not (needs & set(edges)) - done}
        assert free, f'these import each other: {sorted(set(edges) - done)}'
        done |= free


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_no_private_name_crosses_a_border(path):
    crossing = [(m, n) for m, names, _ in imports(path) for n in names if n.startswith('_') and n != '_moved' and m != '_moved']
    assert not crossing


def late_imports(path):
    tree = ast.parse(path.read_text())
    for f in ast.walk(tree):
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            for node in ast.walk(f):
                if isinstance(node, ast.Import):
                    yield from (a.name for a in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield ('hierseg.' if node.level else '') + (node.module or '')


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_imports_stand_at_the_top(path):
    here = name_of(path)
    late = {m for m in late_imports(path) if m.split('.')[0] not in LATE}
    if here in LATE_TORCH:
        late = {m for m in late if m.split('.')[0] not in ('torch', 'hierseg')}
    assert not late, f'{here} imports these inside a function'


@pytest.mark.parametrize('path', [p for p in MODULES if p.name != '__init__.py'], ids=name_of)
def test_no_line_is_longer_than_120(path):
    text = re.sub(r"(?s)^__all__ = \[.*?\]$", "", path.read_text(), flags=re.M)        # nbdev writes this one, to 130
    long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("# %%")]
    assert not long


def test_every_package_says_what_it_exports():
    import importlib
    for path in PACKAGE.glob('*/__init__.py'):
        package = importlib.import_module(f'hierseg.{path.parent.name}')
        missing = [n for n in package.__all__ if not hasattr(package, n)]
        assert package.__all__ and not missing
        for module in path.parent.glob('*.py'):
            if module.name == '__init__.py':
                continue
            m = importlib.import_module(f'hierseg.{path.parent.name}.{module.stem}')
            assert not [n for n in m.__all__ if not hasattr(package, n)], f'hierseg/{path.parent.name}/__init__.py leaves out names of {module.name}'


def test_names_of_0_1_still_work_with_a_warning():
    import importlib
    from hierseg import _moved
    for old, places in _moved.MODULES.items():
        with pytest.warns(DeprecationWarning, match='has moved to'):
            import sys
            sys.modules.pop(f'hierseg.{old}', None)
            module = importlib.import_module(f'hierseg.{old}')
        for name in module.__all__:
            assert getattr(module, name) is not None
    for where, names in _moved.RENAMED.items():
        for old, new in names.items():
            module = importlib.import_module(f'hierseg.{where}')
            with pytest.warns(DeprecationWarning, match=new):
                assert getattr(module, old) is getattr(module, new)
