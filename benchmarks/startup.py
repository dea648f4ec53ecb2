"How long a user waits before anything happens: the star import of a notebook, the help of the command line."
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

from pairs import Row, compare


def python(code: str):
    "A call that runs a line in an interpreter of its own, byte code kept as on any user's machine."
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONDONTWRITEBYTECODE'}
    env['PYTHONPATH'] = os.pathsep.join(p for p in sys.path if p)

    def call():
        subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env, check=True, stdout=subprocess.DEVNULL)
    return call


# what the installed command does, without the file that pip writes
HELP = "import sys; from hierseg.cli import main; sys.exit(main(['--help']))"


def rows(quick: bool) -> Iterable[Row]:
    "Two rows; a quick run leaves out the imports of seconds."
    yield compare('`hierseg --help`', '`python -c pass`', python(HELP), python('pass'), '<= 3', quick, rounds=31)
    if not quick:
        ours, theirs = python('import hierseg.all'), python('import fastai.vision.all')
        yield compare('import hierseg.all', 'import fastai.vision.all', ours, theirs, '<= 1.1', rounds=9, limit_s=90)
