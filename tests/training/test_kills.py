"""Whatever moment a process is killed at, its folder is complete or one command away from it.

40 moments; `HIERSEG_KILLS=200 pytest -m slow tests/training/test_kills.py` for more of them, or fewer."""
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# One process imports everything, and a fork of it is what is killed: a kill costs a second, not ten.
SERVER = r'''
import os, random, shutil, signal, sys, time
from pathlib import Path
import hierseg.cli, hierseg.training.run, hierseg.evaluation.report, hierseg.plotting.curves, hierseg.evaluation.writing
from hierseg.data.synthetic import make_synthetic
from hierseg.training.folder import may_train_into

root, moments, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
people, rng = root/'people', random.Random(seed)
OPTIONS = ['--size', '32', '--bs', '4', '--epochs', '3', '--num-workers', '0', '--seed', '1', '--augment', 'none', '--monitor', 'miou_level_1',
           '--checkpoints', 'best:2', '--model-params', '{channels_array: [4, 8], bottleneck_channels: 8, block_depth: 1}']

def start(*argv):
    "The command line in a fork of this process."
    pid = os.fork()
    if pid: return pid
    log = os.open(root/'log.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1); os.dup2(log, 2)
    try: code = hierseg.cli.main([str(a) for a in argv])
    except SystemExit as e: code = e.code
    except BaseException as e: print(repr(e), flush=True); code = 99
    sys.stdout.flush()
    os._exit(code or 0)

def end(pid): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def timed(*argv):
    t = time.time()
    assert end(start(*argv)) == 0, (argv, (root/'log.txt').read_text()[-2000:])
    return time.time() - t

def killed(seconds, *argv):
    "Kill the command at some moment of it; whether it was still running."
    pid = start(*argv)
    time.sleep(rng.uniform(0, 1.05 * seconds))
    os.kill(pid, signal.SIGKILL)
    return end(pid) == -signal.SIGKILL

def contents(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()} if folder.is_dir() else {}

def same(folder, whole):
    "Whether a folder holds what that of a run without kills holds; pictures and times may differ."
    a, b = contents(folder), contents(whole)
    exact = [n for n in b if n.endswith(('.safetensors', '.txt')) or n == 'taxonomy.yaml' or 'mask' in str(folder)]
    return a.keys() == b.keys() and all(a[n] == b[n] for n in exact)

def train(folder): return 'train', people, '--out', folder, *OPTIONS
def go_on(folder): return train(folder) if may_train_into(folder) else ('train', '--resume', folder)

make_synthetic(people, n_train=8, n_valid=4, size=32, seed=0)
whole, masks = root/'whole', root/'masks'
took = dict(train=timed(*train(whole)))
predict = lambda out: ('predict', whole, people/'JPEGImages', '--out', out, '--levels')
took['predict'], took['validate'] = timed(*predict(masks)), timed('validate', whole)
scored = contents(whole)

hits = {}
for i in range(moments):
    kind = ('train', 'train', 'resume', 'predict', 'validate')[i % 5]
    folder = root/f'{i}_{kind}{"_masks" if kind == "predict" else ""}'
    if kind in ('train', 'resume'):
        hit = killed(took['train'], *train(folder))
        if kind == 'resume' and not same(folder, whole) and not (folder/'scores.json').exists(): hit = killed(took['train'], *go_on(folder))
        if hit: assert end(start(*go_on(folder))) in (0, 2), (i, kind)                 # one command; 2 says: it is finished
        ref = {k: v for k, v in scored.items() if k != 'scores.json'}
        now = contents(folder)
        assert now.keys() == ref.keys(), (i, kind, sorted(now.keys() ^ ref.keys()), (root/'log.txt').read_text()[-1500:])
        assert now['model.safetensors'] == ref['model.safetensors'] and now['best.safetensors'] == ref['best.safetensors'], (i, kind)
    elif kind == 'predict':
        hit = killed(took['predict'], *predict(folder))
        assert end(start(*predict(folder))) == 0
        assert contents(folder) == contents(masks), (i, kind)
    else:
        (whole/'scores.json').unlink(missing_ok=True)
        hit = killed(took['validate'], 'validate', whole)
        assert {k: v for k, v in contents(whole).items() if k in scored and k != 'scores.json'} == {k: v for k, v in scored.items() if k != 'scores.json'}
        assert end(start('validate', whole)) == 0
        assert contents(whole) == scored, (i, kind)
    hits[kind] = hits.get(kind, 0) + hit
print('killed', hits)
'''


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='forks')
def test_kills_at_random_moments(tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', 'NO_ALBUMENTATIONS_UPDATE': '1', 'MPLBACKEND': 'agg'}
    moments = int(os.environ.get('HIERSEG_KILLS', 40))
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', SERVER, str(tmp_path), str(moments), str(seed)], env=env, capture_output=True, text=True, timeout=75 * moments)
    assert done.returncode == 0, f'seed {seed}: {done.stdout}{done.stderr[-3000:]}'
    hits = dict(re.findall(r"'(\w+)': (\d+)", done.stdout))
    print(seed, hits)
    assert 2 * sum(map(int, hits.values())) >= moments, hits           # most were still at work
    shutil.rmtree(Path(tmp_path))
