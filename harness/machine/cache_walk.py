"""Own the walk over working sets: how fast each is read, in a process set up as a measuring one is."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence

import numpy as np

from harness import native, package
from harness.errors import UnavailableError
from harness.machine import caches
from harness.machine import environment as machine_environment
from harness.machine.facts import Machine
from harness.native import Surroundings
from harness.problem.operands import Operands, make_aligned, make_untouched
from harness.problem.problem import Problem
from harness.records.facts import CacheWalk, ReadRate

MOST_S = 5.0
_READING_S = 4.0  # of them: the rest starts the process
_PATIENCE_S = 60.0  # more than starting a process takes anywhere
FIRST_BYTES = 256 << 10  # of a thread: within its second level
_REACH = 4  # the last set is this many times the last level that is told, within these bounds
_LEAST_REACH_BYTES, _MOST_REACH_BYTES = 1 << 30, 4 << 30
_SHARE_OF_AVAILABLE = 4
_ROW = 2048  # elements: the call and the last additions of a row of 8 KiB don't count
# Sets are walked twice and more within a pass: the parts of the threads stay theirs within one.
_LEAST_WALKS, _PASS_BYTES = 2, 64 << 20
# A disturbance of a moment meets one round; the first pass of two brings the set in. Neighbours hold parts of
# a shared last level for longer than a moment: sets of its size, which are soon read, get more rounds.
_ROUNDS, _PASSES = 2, 2
_MORE_ROUNDS, _MOST_BYTES_OF_MORE = 4, 128 << 20

ReadSet = Callable[
    [int], tuple[int, int]
]  # bytes of a set -> bytes read in a pass over it, and its ns


def choose_sets(machine: Machine, threads: int) -> list[int]:
    """Return the bytes of the sets of a walk: powers of two and their midpoints, the smallest first.

    They end at four times the last level that the system tells, and not below 1 GiB, above 4 GiB or above a
    quarter of the available memory. Empty where that leaves nothing beyond the caches.
    """
    told = machine.last_level_bytes(threads)
    most = min(
        max(_LEAST_REACH_BYTES, min(_REACH * told, _MOST_REACH_BYTES)),
        machine.available_bytes // _SHARE_OF_AVAILABLE,
    )
    sets = []
    size = FIRST_BYTES << (threads.bit_length() - 1)
    while size <= most:
        sets += [size, size + size // 2]
        size *= 2
    return [size for size in sets if size <= most]


def read_rates(sets: Sequence[int], read: ReadSet, left_s: Callable[[], float]) -> list[ReadRate]:
    """Return the rates of the sets that there was time for, of each the fastest pass.

    left_s: the seconds that are left. A round ends before a set that they would not last for, judged by the
    one before it.
    """
    best: dict[int, float] = {}
    soon_read = [size for size in sets if size <= _MOST_BYTES_OF_MORE]
    for round_sets in [sets] * _ROUNDS + [soon_read] * _MORE_ROUNDS:
        a_byte_s = 0.0
        for size in round_sets:
            before = left_s()
            if before <= a_byte_s * size:
                break
            for _ in range(_PASSES):
                moved, took_ns = read(size)
                best[size] = max(best.get(size, 0.0), moved / max(1, took_ns))
            a_byte_s = (before - left_s()) / size
    return [ReadRate(set_bytes=size, gbs=rate) for size, rate in sorted(best.items())]


def make_reader(most_bytes: int, threads: int, isa: str) -> ReadSet:
    """Return what reads sets of at most so many bytes, on some threads; sets share their first bytes."""
    around = Surroundings(isa=isa, threads=threads)
    none, buffer = make_aligned((0,), np.uint8), make_untouched((most_bytes // 4,))
    written = 0

    def read(size: int) -> tuple[int, int]:
        nonlocal written
        rows = size // (4 * _ROW)
        # Pages that were never written would all be one. Only those that are needed are: it takes long.
        buffer[written : rows * _ROW].fill(1.0)
        written = max(written, rows * _ROW)
        walks = max(_LEAST_WALKS, -(-threads * _PASS_BYTES // size))
        problem = Problem(layer="ceiling", batch=rows, d_in=_ROW, d_out=1, hidden=walks)
        w_in, w_out = (make_aligned(shape) for shape in problem.weight_shapes())
        operands = Operands(
            x=buffer[: rows * _ROW].reshape(rows, _ROW), w_in=w_in, w_out=w_out,
            y=make_aligned((rows, 1)),
        )  # fmt: skip
        _, time_passes = native.bind("ceiling_read", problem, operands, around, none)
        return walks * rows * 4 * _ROW, time_passes(1)

    return read


def main(*words: str) -> None:
    """Print the rates of sets as JSON, one line. words: threads, instruction set, seconds, sets in bytes."""
    threads, isa, most_s = int(words[0]), words[1], float(words[2])
    sets = [int(word) for word in words[3:]]
    ends = time.monotonic() + most_s
    rates = read_rates(sets, make_reader(sets[-1], threads, isa), lambda: ends - time.monotonic())
    print(json.dumps([[rate.set_bytes, rate.gbs] for rate in rates]))


def take(machine: Machine, *, threads: int, isa: str, keep_blas_env: bool) -> CacheWalk:
    """Return what a walk on some threads says of the caches; takes MOST_S at most on a machine at rest.

    isa: the instruction set of our own code by name, empty for the fastest.

    Raises UnavailableError where memory is too short for a walk, or its process fails.
    """
    sets = choose_sets(machine, threads)
    if not sets:
        available = machine.available_bytes >> 20
        raise UnavailableError(f"{available} MiB of available memory are too few for the sets")
    variables, _ = machine_environment.worker_environment(threads, keep_blas_env=keep_blas_env)
    words = [str(threads), isa, str(_READING_S), *map(str, sets)]
    began = time.monotonic()
    try:
        done = subprocess.run(
            package.command("harness.machine.cache_walk", *words), capture_output=True,
            text=True, timeout=_READING_S + _PATIENCE_S, check=True, stdin=subprocess.DEVNULL,
            env=variables,
        )  # fmt: skip
        curve = [ReadRate(set_bytes=size, gbs=rate) for size, rate in json.loads(done.stdout)]
    except (subprocess.SubprocessError, ValueError) as error:
        raise UnavailableError(f"the process that reads them failed: {error}") from None
    return caches.find_effective(
        machine.caches, curve, threads=threads, last_level_caches=machine.last_level_caches,
        seconds=round(time.monotonic() - began, 2),
    )  # fmt: skip
