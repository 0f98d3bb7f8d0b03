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
from dataclasses import asdict, replace
from typing import Any, TextIO

import numpy as np
import threadpoolctl

from harness import blas, clock, faulty, machine, registry, routing
from harness.check import Verdict, check, poison
from harness.errors import UnavailableError, UsageError
from harness.problem import Array, Operands, Problem, make_aligned, make_weights, make_x
from harness.registry import Context, Implementation, Prepared

_HEAD_TOKENS = 64


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


class Worker:
    """Answer the sweep's requests with one provider; cells share inputs, weights and workspace."""

    def __init__(self, provider: str) -> None:
        """Load the provider; an empty name means that no cell here needs one."""
        self.provider = blas.load(provider) if provider else None
        self.workspace, self.outputs = Arena(), Arena()
        self.inputs: dict[tuple[Any, ...], Array] = {}
        self.weights: dict[tuple[Any, ...], tuple[Array, Array]] = {}
        self.nodes: dict[Problem, int] = {}
        self.prepared: dict[str, Prepared] = {}
        self.unproved: dict[str, tuple[Implementation, Problem]] = {}
        self.gated: dict[tuple[str, Problem], Verdict] = {}

    def hello(self) -> dict[str, Any]:
        """Return what this process really loaded."""
        pools = [
            {k: v for k, v in pool.items() if k != "prefix"}
            for pool in threadpoolctl.threadpool_info()
        ]
        if self.provider is None:
            return {"provider": None, "pools": pools}
        facts = {k: getattr(self.provider, k) for k in self.provider.__slots__ if k != "table"}
        return {"provider": facts, "pools": pools, "variables": machine.relevant_variables()}

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
        self, implementation: Implementation, problem: Problem, run: Callable[[Prepared], int]
    ) -> tuple[Prepared, int, Verdict]:
        """Prepare an implementation, poison its output, run it and compare with the oracle."""
        operands = self.operands(problem)
        context = Context(provider=self.provider, workspace=self.workspace.take)
        prepared = implementation.prepare(problem, operands, context)
        poison(operands.y)
        elapsed_ns = run(prepared)
        return prepared, elapsed_ns, check(problem, operands, seed=problem.seed)

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Prepare a cell, check its output on the buffers that will be timed, warm up and calibrate.

        With `head_only` (a long pass, in a second or later process) the pass that is checked here is one
        over the first tokens of the same buffers; the whole output is then checked behind the first
        sample, which counts only if it is right.
        """
        problem = Problem(**request["problem"])
        implementation = registry.get(request["implementation"])
        gated = problem
        if request["head_only"]:
            gated = replace(problem, batch=min(problem.batch, _HEAD_TOKENS))
        # The whole problem is bound first, so that both use the same buffers.
        self.operands(problem)
        self.workspace.take(implementation.workspace_bytes(problem))
        prepared, gate_ns, verdict = self.run_checked(implementation, gated, lambda p: p.time(1))
        answer: dict[str, Any] = {
            "verdict": asdict(verdict), "gate_ns": gate_ns, "notes": prepared.notes,
            "loops": request["loops"], "nodes_touched": 0,
        }  # fmt: skip
        if not verdict.ok:
            return answer
        cell = request["cell"]
        if request["head_only"]:
            self.unproved[cell] = (implementation, problem)
            return answer
        if problem.layer == "fff" and request["count_nodes"]:
            if problem not in self.nodes:
                self.nodes[problem] = routing.count_nodes(problem, self.operands(problem))
            answer["nodes_touched"] = self.nodes[problem]
        loops = clock.calibrate(prepared.time, gate_ns, request["min_sample_ns"])
        answer["loops"] = request["loops"] or loops
        self.prepared[cell] = prepared
        return answer

    def sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take one sample of a prepared cell; the first of a cell gated by its head is checked whole."""
        cell, loops = request["cell"], request["loops"]
        if cell not in self.unproved:
            return asdict(clock.sample(self.prepared[cell].time, loops))
        taken: list[clock.Sample] = []

        def run(prepared: Prepared) -> int:
            taken.append(clock.sample(prepared.time, loops))
            return taken[0].elapsed_ns

        prepared, _, verdict = self.run_checked(*self.unproved.pop(cell), run)
        if not verdict.ok:
            return {"verdict": asdict(verdict)}
        self.prepared[cell] = prepared
        return asdict(taken[0])

    def published(self, request: dict[str, Any]) -> dict[str, Any]:
        """Check a kernel of the ladder against its own definition, then take one cold sample of it."""
        problem, kernel = Problem(**request["problem"]), request["kernel"]
        table = None if self.provider is None else self.provider.table
        bench = faulty.Bench(
            table=table, operands=self.operands, workspace=self.workspace.take, known=self.gated
        )
        return bench.run(
            kernel, problem, request["loops"], unwritten=request["unwritten"], look=request["look"]
        )

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
        worker = Worker(sys.argv[1])
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
