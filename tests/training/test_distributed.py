"Two processes train, score, write and stop as one; on processors, through gloo."
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('accelerate', reason="accelerate is not installed: pip install 'hierseg[distributed]'")

from hierseg.data.synthetic import make_synthetic
from hierseg.training.folder import read_history
from hierseg.training.run import data_of_experiment, load_experiment

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
        env = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=n, MASTER_ADDR='127.0.0.1', MASTER_PORT=port, OMP_NUM_THREADS=1, CUDA_VISIBLE_DEVICES='',
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


# --- started by the launcher itself

LAUNCHERS = {      # accelerate starts several processes with --multi_gpu only, GPUs or not
    'torchrun': lambda port: ['--nproc-per-node', '2', '--master-port', port],
    'accelerate': lambda port: ['launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no',
                                '--dynamo_backend', 'no', '--main_process_port', port],
}
ENV = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', HF_HUB_OFFLINE='1', NO_ALBUMENTATIONS_UPDATE='1', MPLBACKEND='agg')


@pytest.fixture(params=LAUNCHERS)
def command(request):
    "How this launcher starts `hierseg`; skips where it is not installed."
    name = request.param
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        pytest.skip(f"{name} is not installed: pip install 'hierseg[distributed]'")
    return [path, *LAUNCHERS[name](str(free_port())), '-m', 'hierseg']


def start(command, *argv):
    "A process group of its own, as a terminal has one."
    env = {**os.environ, **ENV, 'PYTHONPATH': os.pathsep.join(o for o in sys.path if o)}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([*command, *map(str, argv)], env=env, start_new_session=True, **pipes)


@pytest.mark.slow
def test_a_launched_training_is_one_training(command, people, tmp_path):
    p = start(command, *train_args(people, tmp_path / 'e', 2))
    out, err = p.communicate(timeout=500)
    assert p.returncode == 0, err
    assert err.count('writing to') == 1 and {f.name for f in tmp_path.iterdir()} == {'e'}
    rows = read_history(tmp_path / 'e')
    assert len(rows) == 2 and not list((tmp_path / 'e').glob('.*'))
    learn = load_experiment(tmp_path / 'e', data_of_experiment(tmp_path / 'e'))
    with learn.no_bar(), learn.no_logging():
        scores = learn.validate()[1:]      # one process on the same weights
    assert [f'{float(v):.6f}' for v in scores] == [rows[-1][f'miou_level_{i}'] for i in (1, 2, 3)]


@pytest.mark.slow
def test_ctrl_c_ends_all_and_one_process_goes_on(command, people, tmp_path):
    epochs = 40
    p = start(command, *train_args(people, tmp_path / 'e', epochs))
    end = time.time() + 400
    while len(read_history(tmp_path / 'e')) < 2 and time.time() < end and p.poll() is None:
        time.sleep(.05)
    os.killpg(p.pid, signal.SIGINT)      # the terminal's Ctrl-C goes to all of them
    _, err = p.communicate(timeout=300)
    with pytest.raises(ProcessLookupError):
        os.killpg(p.pid, 0)      # nobody is left
    done = len(read_history(tmp_path / 'e'))
    assert p.returncode != 0 and 2 <= done < epochs and '--resume' in err, err
    assert (tmp_path / 'e/resume.safetensors').exists() and not (tmp_path / 'e/.lock').exists()
    load_experiment(tmp_path / 'e')
    one = start([sys.executable, '-W', 'ignore', '-m', 'hierseg'], 'train', '--resume', tmp_path / 'e')
    _, err = one.communicate(timeout=500)
    assert one.returncode == 0, err
    rows = read_history(tmp_path / 'e')
    assert [int(r['epoch']) for r in rows] == list(range(epochs))
