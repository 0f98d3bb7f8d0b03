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

from harness import blas, clock, machine, native, plugin, registry, routing
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
    operands: Operands
    prepared: Prepared


class Worker:
    """Answer the sweep's requests with one provider; cells share inputs, weights and workspace."""

    def __init__(self, provider: str) -> None:
        """Load the provider; an empty name means that no cell here needs one."""
        self.provider = blas.load(provider) if provider else None
        self.workspace, self.outputs = Arena(), Arena()
        self.inputs: dict[tuple[Any, ...], Array] = {}
        self.weights: dict[tuple[Any, ...], tuple[Array, Array]] = {}
        self.nodes: dict[Problem, int] = {}
        self.cells: dict[str, list[Piece]] = {}  # by cell, a piece for each slice of the batch
        self.proved: dict[str, list[bool]] = {}  # by cell and slice: its output has been checked

    def hello(self) -> dict[str, Any]:
        """Return what this process really loaded."""
        pools = [
            {k: v for k, v in pool.items() if k != "prefix"}
            for pool in threadpoolctl.threadpool_info()
        ]
        shared = {"pools": pools, "flush_to_zero": native.flush_to_zero()}
        if self.provider is None:
            return {"provider": None, **shared}
        facts = {k: getattr(self.provider, k) for k in self.provider.__slots__ if k != "table"}
        return {"provider": facts, **shared, "variables": machine.relevant_variables()}

    def operands(self, problem: Problem) -> Operands:
        """Return a problem's operands; problems of one recipe share the bytes, smaller batches the head."""
        x_key = (problem.d_in, problem.data, problem.seed)
        x = self.inputs.get(x_key)
        if x is None or len(x) < problem.batch:
            x = self.inputs[x_key] = make_x(problem)
        w_key = (problem.layer, *problem.weight_shapes(), problem.used_neurons, problem.seed)
        if w_key not in self.weights:
            self.weights[w_key] = make_weights(problem)
        w_in, w_out = self.weights[w_key]
        y = self.outputs.take(4 * problem.batch * problem.d_out).view(np.float32)
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
        )
        return result, verdict

    def piece(self, implementation: Implementation, problem: Problem, tokens: slice) -> Piece:
        """Prepare an implementation for a range of a problem's tokens, on the problem's own buffers."""
        whole = self.operands(problem)
        own = Operands(x=whole.x[tokens], w_in=whole.w_in, w_out=whole.w_out, y=whole.y[tokens])
        part = replace(problem, batch=len(own.x))
        context = Context(provider=self.provider, workspace=self.workspace.take)
        return Piece(
            implementation=implementation.id,
            problem=part,
            operands=own,
            prepared=implementation.prepare(part, own, context),
        )

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
        tokens = min(problem.batch, _HEAD_TOKENS) if request["head_only"] else problem.batch
        gated = self.piece(implementation, problem, slice(0, tokens))
        gate_ns, verdict = self.run_checked(gated, lambda prepared: prepared.time(1))
        answer: dict[str, Any] = {
            "verdict": asdict(verdict), "gate_ns": gate_ns, "notes": gated.prepared.notes,
            "loops": request["loops"], "slices": request["slices"], "nodes_touched": 0,
        }  # fmt: skip
        if not verdict.ok:
            return answer
        if not request["head_only"]:
            self._settle(answer, request, gated, implementation)
        slices = answer["slices"]
        size = problem.batch // slices
        self.cells[request["cell"]] = [
            self.piece(implementation, problem, slice(i * size, (i + 1) * size))
            for i in range(slices)
        ]
        self.proved[request["cell"]] = [not request["head_only"]] * slices
        return answer

    def _settle(
        self,
        answer: dict[str, Any],
        request: dict[str, Any],
        gated: Piece,
        implementation: Implementation,
    ) -> None:
        """Warm up, and decide what is not decided yet: loops, slices, the nodes that are touched."""
        problem = gated.problem
        if problem.layer == "fff" and request["count_nodes"]:
            if problem not in self.nodes:
                self.nodes[problem] = routing.count_nodes(problem, gated.operands)
            answer["nodes_touched"] = self.nodes[problem]
        loops = clock.calibrate(gated.prepared.time, answer["gate_ns"], request["min_sample_ns"])
        slices = clock.count_slices(problem.batch, implementation.token_block, answer["gate_ns"])
        answer["loops"] = answer["loops"] or loops
        answer["slices"] = answer["slices"] or slices

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

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        if request["op"] == "prepare":
            return self.prepare(request)
        if request["op"] == "sample":
            return self.sample(request)
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
