"Two ways of doing the same, timed in turn, so that a busy machine disturbs both alike."
from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

DEVICE = 'cpu'      # `run.py --device` sets it; read it through `device()`
ONLY = ''           # rows whose name does not contain this word are not measured
CLOCK = 'wall'      # or 'cpu': seconds of processor, for a machine that others use at the same time


def device() -> str:
    "Where the tensors of a benchmark are to live: 'cpu' or 'cuda'."
    return DEVICE


def set_up(where: str, threads: int, clock: str = 'wall', only: str = ''):
    "Where to measure, with how many threads (child processes included), by which clock, and which rows."
    global DEVICE, CLOCK, ONLY
    DEVICE, CLOCK, ONLY = where, clock, only.lower()
    quiet = dict(NO_ALBUMENTATIONS_UPDATE='1', HF_HUB_OFFLINE='1', MPLBACKEND='agg', KINETO_LOG_LEVEL='5')
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), **quiet)
    import torch
    torch.set_num_threads(threads)
    with contextlib.suppress(ImportError):
        import cv2
        cv2.setNumThreads(threads)


@dataclass
class Row:
    "One line of the table; what could not be measured has a note instead of numbers."
    name: str                       # what is timed
    beside: str                     # what it is compared with
    ratio: float | None             # ours through theirs; above 1 hierseg is slower, or larger
    ours_ms: float | None = None    # median of ours, milliseconds (MiB where unit says so)
    theirs_ms: float | None = None  # median of theirs
    bound: str = ''                 # what the project asks for: '<= 1.05', 'as measured'; the first number is read
    note: str = ''                  # the reason where the bound is missed or nothing was measured
    unit: str = 'ms'                # of the two medians

    @property
    def holds(self) -> bool | None:
        "Is the ratio within the bound? None where there is no number on either side."
        limit = next((float(w) for w in self.bound.split() if w.replace('.', '', 1).isdigit()), None)
        return None if self.ratio is None or limit is None else self.ratio <= limit


def wanted(name: str) -> bool:
    "Was this row asked for?"
    return ONLY in name.lower()


def wait():
    "Until the accelerator has done what it was given."
    if DEVICE.startswith('cuda'):
        import torch
        torch.cuda.synchronize()


def now() -> float:
    "Seconds on the clock: the wall's, or what the processor worked for this process and its finished children."
    if CLOCK == 'wall':
        return time.perf_counter()
    import resource
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def seconds(f: Callable) -> float:
    "Seconds of one call."
    wait()
    start = now()
    f()
    wait()
    return now() - start


def compare(
    name: str, beside: str,         # as in `Row`
    ours: Callable, theirs: Callable,   # called without arguments
    bound: str = '',                # as in `Row`
    quick: bool = False,            # one round, to see that it runs
    rounds: int = 21,               # pairs at most
    limit_s: float = 20,            # no new round after so many seconds; three at least
    warm: int = 1,                  # calls of each before the clock starts (compilation, caches)
    **more,                         # note
) -> Row:
    "Median of the ratios of interleaved pairs; the order of a pair alternates."
    if not wanted(name):
        return missing(name, beside, 'not asked for', bound)
    for _ in range(warm):
        ours()
        theirs()
    a, b, start = [], [], time.perf_counter()
    for i in range(1 if quick else rounds):
        if i >= 3 and time.perf_counter() - start > limit_s:
            break
        for f, times in ((ours, a), (theirs, b))[::-1 if i % 2 else 1]:
            times.append(seconds(f))
    ratio = statistics.median(x / max(y, 1e-9) for x, y in zip(a, b))
    return Row(name, beside, ratio, 1e3 * statistics.median(a), 1e3 * statistics.median(b), bound, **more)


def peak_bytes(f: Callable) -> int:
    """Bytes of tensors that a call needs at once above what was there before.

    On the CPU the profiler records every allocation and release of PyTorch's allocator, the backward pass and C++
    operators included. On CUDA it is the allocator's own peak.
    """
    import torch
    if DEVICE.startswith('cuda'):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        f()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof:
        f()
    return _peak(prof)


def _peak(prof):
    "The highest sum of the allocations and releases that the profiler saw, in bytes."
    kinds = ((e.start_ns(), e.nbytes()) for e in prof.profiler.kineto_results.events() if e.name() == '[memory]')
    return max(itertools.accumulate((n for _, n in sorted(kinds, key=lambda e: e[0])), initial=0))


def compare_memory(
    name: str, beside: str, ours: Callable, theirs: Callable, bound: str = '', **more,
) -> Row:
    "Peak memory of two ways above what was there before; the two middle numbers are MiB."
    if not wanted(name):
        return missing(name, beside, 'not asked for', bound)
    ours()
    theirs()
    a, b = peak_bytes(ours), peak_bytes(theirs)
    return Row(name, beside, a / max(b, 1), a / 2**20, b / 2**20, bound, unit='MiB', **more)


def missing(name: str, beside: str, why: str, bound: str = '') -> Row:
    "A row that cannot be measured here, saying why."
    return Row(name, beside, None, bound=bound, note=why)
