"""Own the measuring process: one BLAS provider, its operands, and the requests of the sweep.

Requests and answers are JSON lines. Whatever a library prints on standard output goes to standard error,
so that it can't damage an answer.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TextIO, TypeVar

import numpy as np
import threadpoolctl

from harness import (
    blas,
    clock,
    faulty,
    locality,
    machine,
    native,
    oracle,
    plugin,
    registry,
    routing,
)  # fmt: skip
from harness.check import Verdict, check, poison
from harness.errors import UnavailableError, UsageError
from harness.problem import Array, Operands, Problem, make_aligned, make_weights, make_x
from harness.registry import Context, Implementation, Prepared

_HEAD_TOKENS = 64
_Result = TypeVar("_Result")


class Arena:
    """Lend one aligned, touched buffer to all cells: only one of them runs at a time."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._buffer = make_aligned((0,), np.uint8)

    def take(self, size: int) -> Array:
        """Return the first `size` bytes; a larger request than any before makes a new buffer."""
        if size > self._buffer.nbytes:
            self._buffer = make_aligned((size,), np.uint8)
        return self._buffer[:size]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Hold an implementation prepared for a range of a problem's tokens."""

    implementation: str
    problem: Problem
    first: int  # token of the batch
    operands: Operands
    prepared: Prepared


class Worker:
    """Answer the sweep's requests with one provider; cells share inputs, weights and workspace."""

    def __init__(self, provider: str) -> None:
        """Load the provider; an empty name means that no cell here needs one."""
        self.provider = blas.load(provider) if provider else None
        self.isa = ""  # of our own vector code, one for all cells of a run; empty for the fastest
        self.threads, self.caches = 1, machine.caches()
        self.workspace, self.outputs = Arena(), Arena()
        self.inputs: dict[tuple[Any, ...], Array] = {}
        self.weights: dict[tuple[Any, ...], tuple[Array, Array]] = {}
        self.nodes: dict[Problem, routing.Touched] = {}
        self.truths: dict[object, oracle.Truth] = {}
        self.flusher: locality.Flusher | None = None
        self.cells: dict[str, list[Piece]] = {}  # by cell, a piece for each slice of the batch
        self.proved: dict[str, list[bool]] = {}  # by cell and slice: its output has been checked
        self.gated: dict[tuple[str, Problem], Verdict] = {}

    def hello(self) -> dict[str, Any]:
        """Return what this process really loaded."""
        pools = [
            {
                **{k: v for k, v in pool.items() if k != "prefix"},
                "filepath": blas.portable_path(pool["filepath"]),
            }
            for pool in threadpoolctl.threadpool_info()
        ]
        shared = {"pools": pools, "flush_to_zero": native.flush_to_zero()}
        if self.provider is None:
            return {"provider": None, **shared}
        facts = {k: getattr(self.provider, k) for k in self.provider.__slots__ if k != "table"}
        facts["path"] = blas.portable_path(facts["path"])
        return {"provider": facts, **shared, "variables": machine.relevant_variables()}

    def operands(self, problem: Problem, turn: int = 0) -> Operands:
        """Return a problem's operands; problems of one recipe share the bytes, smaller batches the head.

        turn: which set of weights, where several are rotated.
        """
        x_key = problem.input_key()
        x = self.inputs.get(x_key)
        if x is None or len(x) < problem.batch:
            x = self.inputs[x_key] = make_x(problem)
        w_key = locality.weight_key(problem, turn)
        if w_key not in self.weights:
            self.weights[w_key] = make_weights(problem, turn)
        w_in, w_out = self.weights[w_key]
        size = problem.item_bytes * problem.batch * problem.d_out
        y = self.outputs.take(size).view(problem.stored)
        return Operands(
            x=x[: problem.batch], w_in=w_in, w_out=w_out,
            y=y.reshape(problem.batch, problem.d_out),
        )  # fmt: skip

    def run_checked(
        self, piece: Piece, run: Callable[[Prepared], _Result]
    ) -> tuple[_Result, Verdict]:
        """Poison a piece's output, run it and compare with the oracle."""
        poison(piece.operands.y)
        result = run(piece.prepared)
        verdict = check(
            piece.problem,
            piece.operands,
            seed=piece.problem.seed,
            implementation=piece.implementation,
            known=self.truths,
            key=(
                piece.problem,
                piece.first,
                piece.implementation if piece.problem.layer == "ceiling" else "",
            ),
        )
        return result, verdict

    def context(self) -> Context:
        """Return what every cell of this process is prepared with."""
        return Context(
            provider=self.provider, workspace=self.workspace.take, isa=self.isa,
            threads=self.threads, caches=self.caches,
        )  # fmt: skip

    def piece(self, implementation: Implementation, problem: Problem, tokens: slice) -> Piece:
        """Prepare an implementation for a range of a problem's tokens, on the problem's own buffers."""
        whole = self.operands(problem)
        own = Operands(x=whole.x[tokens], w_in=whole.w_in, w_out=whole.w_out, y=whole.y[tokens])
        part = replace(problem, batch=len(own.x))
        context = self.context()
        return Piece(
            implementation=implementation.id,
            problem=part,
            first=tokens.start,
            operands=own,
            prepared=implementation.prepare(part, own, context),
        )

    def run_rotated(
        self, implementation: Implementation, problem: Problem, sets: int
    ) -> tuple[Prepared, int, Verdict]:
        """Take an implementation through its gate on each of several sets of weights and on their round."""
        context = self.context()
        operands = [self.operands(problem, turn) for turn in range(sets)]
        return locality.gate_rotation(implementation, problem, operands, context)

    def calibrate(self, prepared: Prepared, gate_ns: int, min_sample_ns: int) -> int:
        """Return the passes of a sample; this is the warm-up too."""
        loops = clock.calibrate(prepared.time, gate_ns, min_sample_ns)
        return locality.rotate_loops(loops, prepared.sets)

    def make_flushed(self, prepared: Prepared, min_sample_ns: int) -> tuple[Prepared, int]:
        """Return the preparation with every pass timed alone from flushed caches, and its passes a sample."""
        if self.flusher is None:
            self.flusher = locality.Flusher.make(machine.last_level_bytes())
        time = self.flusher.singles(prepared.time)
        pass_ns = max(1.0, time(2) / 2)
        notes = {**prepared.notes, "weights": self.flusher.note(pass_ns)}
        loops = locality.flushed_loops(pass_ns, min_sample_ns)
        return replace(prepared, time=time, notes=notes), loops

    def describe_touched(self, problem: Problem) -> dict[str, Any]:
        """Return what a pass touches of its weights, for the record."""
        if problem.layer != "fff":
            return {"working_set_bytes": problem.weight_bytes()}
        if problem not in self.nodes:
            self.nodes[problem] = routing.count_nodes(problem, self.operands(problem))
        touched = asdict(self.nodes[problem])
        return {"nodes_touched": touched.pop("nodes"), **touched}

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Prepare a cell, check its output on the buffers that will be timed, warm up and calibrate.

        With `head_only` (a long pass, in a second or later process) the pass that is checked here is one
        over the first tokens of the same buffers; each slice of the output is then checked behind its first
        sample, which counts only if it is right.
        """
        problem = Problem(**request["problem"])
        implementation = registry.get(request["implementation"])
        # The largest workspace is taken first, so that all pieces share it.
        self.workspace.take(implementation.workspace_bytes(problem))
        cell, head_only = request["cell"], request["head_only"]
        self.isa, self.threads = request["isa"], request["threads"]
        try:
            gated, gate_ns, verdict = self._gate(implementation, problem, request)
        except locality.CannotRotateError as error:
            return {"unavailable": str(error)}
        answer: dict[str, Any] = {
            "verdict": asdict(verdict), "gate_ns": gate_ns, "notes": gated.prepared.notes,
            "loops": request["loops"], "slices": request["slices"],
        }  # fmt: skip
        if not verdict.ok:
            return answer
        if request["count_nodes"] and problem.layer != "ceiling" and not head_only:
            answer.update(self.describe_touched(problem))
        if request["weights"] == "flushed":
            flushed, loops = self.make_flushed(gated.prepared, request["min_sample_ns"])
            gated = replace(gated, prepared=flushed)
            answer.update(notes=flushed.notes, loops=request["loops"] or loops, slices=1)
        elif not head_only:
            loops = self.calibrate(gated.prepared, gate_ns, request["min_sample_ns"])
            most = clock.count_slices(problem.batch, implementation.token_block, gate_ns)
            answer["loops"] = request["loops"] or loops
            answer["slices"] = request["slices"] or (most if request["weights"] == "hot" else 1)
        if answer["slices"] == 1 and not head_only:
            self.cells[cell], self.proved[cell] = [gated], [True]
            return answer
        size = problem.batch // answer["slices"]
        self.cells[cell] = [
            self.piece(implementation, problem, slice(i * size, (i + 1) * size))
            for i in range(answer["slices"])
        ]
        self.proved[cell] = [not head_only] * answer["slices"]
        return answer

    def _gate(
        self, implementation: Implementation, problem: Problem, request: dict[str, Any]
    ) -> tuple[Piece, int, Verdict]:
        """Run and check what the request asks for: the batch, its head, or each of several sets."""
        if request["weights"] == "rotated":
            prepared, gate_ns, verdict = self.run_rotated(implementation, problem, request["sets"])
            own = self.operands(problem)
            made = Piece(
                implementation=implementation.id,
                problem=problem,
                first=0,
                operands=own,
                prepared=prepared,
            )
            return made, gate_ns, verdict
        tokens = min(problem.batch, _HEAD_TOKENS) if request["head_only"] else problem.batch
        gated = self.piece(implementation, problem, slice(0, tokens))
        gate_ns, verdict = self.run_checked(gated, lambda prepared: prepared.time(1))
        return gated, gate_ns, verdict

    def sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take one sample of a prepared cell, its slices in turn; check one that is not proved yet."""
        cell, turn = request["cell"], request["turn"] % len(self.cells[request["cell"]])
        piece = self.cells[cell][turn]

        def take(prepared: Prepared) -> clock.Sample:
            return clock.sample(prepared.time, request["loops"], request["expected_ns"])

        if self.proved[cell][turn]:
            return asdict(take(piece.prepared))
        taken, verdict = self.run_checked(piece, take)
        if not verdict.ok:
            return {"verdict": asdict(verdict)}
        self.proved[cell][turn] = True
        return asdict(taken)

    def published(self, request: dict[str, Any]) -> dict[str, Any]:
        """Check a kernel of the ladder against its own definition, then take one cold sample of it."""
        problem, kernel = Problem(**request["problem"]), request["kernel"]
        table = None if self.provider is None else self.provider.table
        bench = faulty.Bench(
            table=table, operands=self.operands, workspace=self.workspace.take, known=self.gated
        )
        return bench.run(kernel, problem, request["loops"], unwritten=request["unwritten"])

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        if request["op"] == "prepare":
            return self.prepare(request)
        if request["op"] == "sample":
            return self.sample(request)
        if request["op"] == "published":
            return self.published(request)
        if request["op"] == "resident":
            peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return {"peak_resident_bytes": peak_kib * 1024}
        raise ValueError(f"unknown request {request['op']!r}")


def _private_output() -> TextIO:
    """Return the pipe to the sweep, and point standard output at standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def main() -> None:
    """Serve requests from standard input until it ends."""
    channel = _private_output()

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        provider, source = plugin.split_seat(sys.argv[1])
        if source:
            plugin.load(source)
        worker = Worker(provider)
        send(worker.hello())
    except (UsageError, UnavailableError) as error:
        send({"refused": str(error)})
        return
    for line in sys.stdin:
        try:
            send(worker.answer(json.loads(line)))
        # Whatever an implementation raises is that cell's failure; the process goes on serving.
        except Exception as error:
            send({"failed": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
