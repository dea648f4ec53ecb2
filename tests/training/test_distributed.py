"Two processes train, score, write and stop as one; on processors, through gloo."
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('accelerate')

from hierseg.data.synthetic import make_synthetic
from hierseg.training.folder import read_history
from hierseg.training.run import load_experiment

TINY = '{channels_array: [4, 8], bottleneck_channels: 8, block_depth: 1}'


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp('data') / 'people', n_train=8, n_valid=5, size=32, seed=0)      # 5 is odd


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def launch(*argv, n=2):
    "The command line in several processes, as a launcher starts them."
    port = free_port()

    def start(rank):
        env = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=n, MASTER_ADDR='127.0.0.1', MASTER_PORT=port, ACCELERATE_USE_CPU='true', OMP_NUM_THREADS=1,
                   HF_HUB_OFFLINE=1, NO_ALBUMENTATIONS_UPDATE=1, MPLBACKEND='agg', PYTHONPATH=os.pathsep.join(sys.path))
        command = [sys.executable, '-W', 'ignore', '-c', 'import sys; from hierseg.cli import main; sys.exit(main())', *map(str, argv)]
        return subprocess.Popen(command, env={**os.environ, **{k: str(v) for k, v in env.items()}}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return [start(r) for r in range(n)]


def train_args(people, folder, epochs):
    return ['train', people, '--out', folder, '--size', 32, '--bs', 2, '--epochs', epochs, '--num-workers', 0, '--model-params', TINY, '--augment', 'none']


def test_two_processes_train_as_one(people, tmp_path):
    processes = launch(*train_args(people, tmp_path / 'e', 2))
    said = [p.communicate(timeout=300) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], said
    assert said[1][0] == '' and str(tmp_path / 'e') in said[0][0]                   # the second says nothing
    assert {p.name for p in tmp_path.iterdir()} == {'e'}
    rows = read_history(tmp_path / 'e')
    assert len(rows) == 2 and (tmp_path / 'e/curves.png').exists() and not list((tmp_path / 'e').glob('.*'))
    from hierseg.training.run import data_of_experiment
    learn = load_experiment(tmp_path / 'e', data_of_experiment(tmp_path / 'e'))
    with learn.no_bar(), learn.no_logging():
        scores = learn.validate()[1:]
    assert [f'{float(v):.6f}' for v in scores] == [rows[-1][f'miou_level_{i}'] for i in (1, 2, 3)]


def test_ctrl_c_in_one_process_ends_all(people, tmp_path):
    processes = launch(*train_args(people, tmp_path / 'e', 500))
    end = time.time() + 240
    while len(read_history(tmp_path / 'e')) < 2 and time.time() < end and processes[0].poll() is None:
        time.sleep(.2)
    processes[1].send_signal(signal.SIGINT)
    said = [p.communicate(timeout=240) for p in processes]
    assert [p.returncode for p in processes] == [130, 130], said
    assert '--resume' in said[0][1] and 'Traceback' not in said[0][1] + said[1][1]
    assert (tmp_path / 'e/resume.safetensors').exists() and (tmp_path / 'e/curves.png').exists() and not (tmp_path / 'e/.lock').exists()
    load_experiment(Path(tmp_path / 'e'))
