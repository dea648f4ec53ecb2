"""Every speed that hierseg promises, beside what it is measured against, in one run.

    python benchmarks/run.py [--only NAME] [--quick] [--device cuda] [--threads 1] [--clock cpu] [--out FOLDER]

Prints a table, and writes results.json and results.md, a page of the documentation, after each module. README.md
holds the contract of a module.
"""
from __future__ import annotations

import argparse
import ast
import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [p for p in (str(HERE), str(HERE.parent)) if p not in sys.path]

import pairs  # noqa: E402

MODULES = ['losses', 'metrics', 'loading', 'training', 'tiles', 'startup']
LIBRARIES = ['torch', 'torchvision', 'fastai', 'fastcore', 'albumentations', 'timm', 'segmentation-models-pytorch',
             'torchmetrics', 'numpy', 'Pillow', 'opencv-python-headless']
PAGE = HERE / 'page.md'
HEADER = ['', 'beside', 'ratio', 'bound', 'hierseg', 'the other', '']


def has_rows(name: str) -> bool | None:
    "Does a module keep the contract? None where there is no such file."
    path = HERE / f'{name}.py'
    if not path.exists():
        return None
    return any(isinstance(n, ast.FunctionDef) and n.name == 'rows' for n in ast.parse(path.read_text()).body)


def measured(name: str, quick: bool):
    "The rows of a module, without bounds where sizes are tiny; where it fails, a last row that says so."
    try:
        for row in importlib.import_module(name).rows(quick):
            yield replace(row, bound='') if quick else row
    except Exception as e:
        if os.environ.get('HIERSEG_DEBUG'):
            raise
        yield pairs.missing(f'{name}.py', '', f'failed: {type(e).__name__}: {e}')


def cells(row: pairs.Row) -> list[str]:
    "A row of the table as text."
    def number(v):
        return '–' if v is None else f'{v:,.0f}' if v >= 100 else f'{v:.3g}'
    ratio = '–' if row.ratio is None else f'{row.ratio:.2f}' if row.ratio >= .1 else f'{row.ratio:.3f}'
    mark = {True: '', False: 'above', None: ''}[row.holds]
    times = [f'{number(v)} {row.unit}' if v is not None else '–' for v in (row.ours_ms, row.theirs_ms)]
    return [row.name, row.beside, ratio, row.bound, *times, '; '.join(t for t in (mark, row.note) if t)]


def markdown(rows: list, about: dict) -> str:
    "The table, and under it where and when it was measured."
    lines = [HEADER, ['---', '---', '--:', '---', '--:', '--:', '---'], *map(cells, rows)]
    table = '\n'.join('| ' + ' | '.join(c.replace('|', '/') for c in line) + ' |' for line in lines)
    versions = ', '.join(f'{k} {v}' for k, v in about['versions'].items())
    return (f"{table}\n\n*Medians of interleaved pairs; a ratio above 1: hierseg is slower, or larger. "
            f"{about['date']}, {about['machine']}, {about['threads']} thread(s), {about['clock']} clock, commit {about['commit']}; "
            f"Python {about['python']}, {versions}.*\n")


def git(*args) -> str:
    "What git says of this checkout; '' outside of one."
    try:
        told = subprocess.run(['git', '-C', str(HERE), *args], capture_output=True, text=True, check=True)
        return told.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ''


def machine() -> str:
    "The kind of machine, without its name."
    if pairs.device().startswith('cuda'):
        import torch
        return f'one {torch.cuda.get_device_name()}'
    n = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f"{n}-core {platform.machine().replace('_', '-')} CPU machine"


def about(threads: int, quick: bool) -> dict:
    "Date, machine, versions and commit."
    commit = git('rev-parse', '--short', 'HEAD') or 'unknown'
    changed = ' with changes' if git('status', '--porcelain', '--untracked-files=no') else ''
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            pass
    how = dict(device=pairs.device(), threads=threads, clock=pairs.CLOCK, quick=quick)
    return dict(date=datetime.date.today().isoformat(), machine=machine(), **how, commit=commit + changed,
                python=platform.python_version(), versions=versions)


def chosen(only: str | None) -> tuple[list, str]:
    "The modules to run, and the word that a row's name must contain."
    if only is None:
        return MODULES, ''
    return ([only], '') if only in MODULES else (MODULES, only)


def run(modules: list, quick: bool = False, then=lambda rows: None) -> list:
    "Measure, print each row when it is there, and call `then` with all rows after each module."
    rows = []
    for name in modules:
        there = has_rows(name)
        if not there:
            why = 'is not here' if there is None else 'has no rows()'
            print(f'skipped: benchmarks/{name}.py {why}', file=sys.stderr, flush=True)
            continue
        for row in measured(name, quick):
            if pairs.wanted(row.name) or row.note.startswith('failed'):
                rows.append(row)
                name_, beside, ratio, bound, ours, theirs, note = cells(row)
                print(f'{name_:<58} {beside:<40} {ratio:>6}  {bound:<12} {ours:>10} {theirs:>10}  {note}', flush=True)
        then(rows)
    return rows


def write(rows: list, out: Path, said: dict, kept: list | None = None):
    "results.json, and results.md, a page of the documentation; `kept` are rows of before."
    from hierseg.core import write_atomic
    out.mkdir(parents=True, exist_ok=True)
    new = {r.name for r in rows}
    rows = [r for r in kept or [] if r.name not in new] + rows
    content = dict(**said, rows=[dict(**asdict(r), holds=r.holds) for r in rows])
    write_atomic(out / 'results.json', json.dumps(content, indent=1, ensure_ascii=False) + '\n')
    page = PAGE.read_text(encoding='utf-8')
    write_atomic(out / 'results.md', page.replace('{table}', markdown(rows, said).strip()))


def before(out: Path, said: dict) -> list:
    "The rows of results that lie there, if they are of the same commit, machine and clock."
    try:
        there = json.loads((out / 'results.json').read_text())
    except (OSError, ValueError):
        return []
    same = all(there.get(k) == v for k, v in said.items() if k != 'date')
    return [pairs.Row(**{k: v for k, v in r.items() if k != 'holds'}) for r in there['rows']] if same else []


def main(argv: list | None = None) -> int:
    "0, or 1 where a module failed."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', metavar='NAME', help=f"a module ({', '.join(MODULES)}) or a part of a row's name")
    parser.add_argument('--quick', action='store_true', help="tiny sizes and one round: does it run?")
    parser.add_argument('--device', default='cpu', help="cpu or cuda")
    parser.add_argument('--threads', type=int, default=1, help="threads of PyTorch, NumPy and OpenCV")
    parser.add_argument('--clock', default='wall', choices=['wall', 'cpu'],
                        help="seconds on the wall, or of processor where others use the machine at the same time")
    parser.add_argument('--out', type=Path, metavar='FOLDER', help="where the results go: benchmarks/, unless --quick or --only is given; with --only, rows "
                        "of the same commit and machine that lie there stay")
    args = parser.parse_args(argv)
    modules, word = chosen(args.only)
    pairs.set_up(args.device, args.threads, args.clock, word)
    out = args.out or (None if args.quick or args.only else HERE)
    said = about(args.threads, args.quick)

    def keep(rows):
        if out is not None:
            write(rows, out, said, before(out, said) if args.only else None)
    rows = run(modules, args.quick, keep)
    return int(any(r.note.startswith('failed') for r in rows))


if __name__ == '__main__':
    raise SystemExit(main())
