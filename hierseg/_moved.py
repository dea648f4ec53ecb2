"""Names of hierseg 0.1 that have moved or are called something else: they still work, and say where to look.

Written by hand; remove a line when its name has warned for two releases.
"""
import ast
import importlib
import importlib.machinery
import sys
import warnings
from pathlib import Path

# modules of 0.1 that are several now, or lie elsewhere: where their names are looked for
MODULES = {
    'selectors': ('decoding.selectors', 'decoding.heads'),
    'published_losses': ('losses.published',),
    'extra_metrics': ('metrics.calibration', 'metrics.boundary'),
    'files': ('data.files', 'core'),
    'transforms': ('data.transforms',),
    'dataset_check': ('data.check',),
    'synthetic': ('data.synthetic',),
    'learner': ('training.learner',),
    'callbacks': ('training.callbacks', 'training.learner'),
    'experiment': ('training.run', 'training.folder', 'core', 'data.transforms'),
    'inference': ('evaluation.inference', 'evaluation.report'),
    'interpretation': ('evaluation.interpretation',),
    'comparison': ('evaluation.comparison', 'plotting.curves'),
}
# names of 0.1 that are called something else now, by the module or package that they are asked of
RENAMED = {
    'selectors': {'selectors': 'list_selectors'},
    'losses': {'losses': 'list_losses', 'OtherLoss': 'WrappedLoss'},
    'models': {'models': 'list_models'},
    'metrics': {'level_mious': 'miou_metrics'},
    'files': {'pairs': 'find_pairs'}, 'data': {'pairs': 'find_pairs'},
    'experiment': {'less_is_better': 'lower_is_better'},
    'all': {'level_mious': 'miou_metrics', 'less_is_better': 'lower_is_better', 'OtherLoss': 'WrappedLoss', 'pairs': 'find_pairs',
            'losses': 'list_losses', 'selectors': 'list_selectors'},
}


def lazily(package, *modules):
    "A module-level `__getattr__` that looks in `modules` of hierseg when a name is asked for, and knows its older name."
    short = package.removeprefix('hierseg.')

    def __getattr__(name):
        if name.startswith('__'):
            raise AttributeError(name)
        new = RENAMED.get(short, {}).get(name)
        if new is not None:
            warnings.warn(f'hierseg: {short}.{name} is called {new} now', DeprecationWarning, stacklevel=2)
            return getattr(sys.modules[package], new)
        for module in modules:
            found = getattr(importlib.import_module(f'hierseg.{module}'), name, None)
            if found is not None:
                return found
        raise AttributeError(f'module {package!r} has no attribute {name!r}')
    return __getattr__


def names_in(*modules):
    "The public names of some modules of hierseg, read from their text: nothing is imported."
    out = []
    for module in modules:
        text = (Path(__file__).parent / (module.replace('.', '/') + '.py')).read_text(encoding='utf-8')
        out += next(ast.literal_eval(o.value) for o in ast.parse(text).body
                    if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__')
    return out


class _OldModules:
    "Finds the modules of 0.1 under their old names, with a warning."
    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.partition('.')
        return importlib.machinery.ModuleSpec(fullname, self) if package == 'hierseg' and name in MODULES else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        name = module.__name__.removeprefix('hierseg.')
        places = ' and '.join(f'hierseg.{m}' for m in MODULES[name])
        warnings.warn(f'hierseg: {module.__name__} has moved to {places}', DeprecationWarning, stacklevel=2)
        found = [importlib.import_module(f'hierseg.{m}') for m in MODULES[name]]
        module.__all__ = list(dict.fromkeys(n for m in found for n in m.__all__))
        module.__getattr__ = lazily(module.__name__, *MODULES[name])


def install():
    "Make the old module names importable."
    if not any(isinstance(f, _OldModules) for f in sys.meta_path):
        sys.meta_path.append(_OldModules())
