"""Own the measuring process: one BLAS provider, its operands, and the requests of the sweep.

Requests and answers are JSON lines. Whatever a library prints on standard output goes to standard error,
so that it can't damage an answer.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import threadpoolctl

from harness import native, plugin
from harness.backends import blas, registry
from harness.backends.registry import Context, Implementation, Prepared
from harness.errors import UnavailableError, UsageError
from harness.gpu.device import CaptureError, Device
from harness.machine import environment as machine_environment
from harness.machine import resources
from harness.measure import clock, faults, gate, process_key, protocol
from harness.measure.buffers import Placed, Store
from harness.measure.gpu_clock import make_timer
from harness.measure.timing import DeviceTiming, HostTiming, Timing
from harness.problem import oracle, working_set
from harness.problem.check import Verdict, check
from harness.problem.problem import Problem

_HEAD_TOKENS = 64
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Hold an implementation prepared for a range of a problem's tokens."""

    implementation: str
    problem: Problem
    first: int  # token of the batch
    placed: Placed
    prepared: Prepared
    turn: int = 0  # set of weights that the last pass takes, where several are rotated


class Worker:
    """Answer the sweep's requests with one provider; cells share inputs, weights and workspace."""

    def __init__(self, provider: str, library: str = "", *, device: Device | None = None) -> None:
        """Load the provider and the library, each empty where no cell needs one. device: None for the CPU."""
        self.provider = blas.load(provider) if provider else None
        # Before the pools are looked at: a library brings its own.
        self.library = registry.library(library).load() if library else None
        self.isa = ""  # of our own vector code, one for all cells of a run; empty for the fastest
        self.threads, self.caches = 1, resources.caches()
        self.device, self.store = device, Store(device)
        self.timing: Timing = DeviceTiming(device) if device else HostTiming()
        self.nodes: dict[Problem, working_set.Touched] = {}
        self.truths: dict[object, oracle.Truth] = {}
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
        if self.library is not None:
            return {
                "provider": self.library,
                **shared,
                "variables": machine_environment.relevant_variables(),
            }
        if self.provider is None:
            return {"provider": None, **shared}
        facts = {k: getattr(self.provider, k) for k in self.provider.__slots__ if k != "table"}
        facts["path"] = blas.portable_path(facts["path"])
        return {"provider": facts, **shared, "variables": machine_environment.relevant_variables()}

    def context(self) -> Context:
        """Return what an implementation is prepared with in this process."""
        own: Any = {"device": "cuda", "timer": make_timer(self.device)} if self.device else {}
        return Context(
            provider=self.provider, workspace=self.store.workspace, isa=self.isa,
            threads=self.threads, caches=self.caches, **own,
        )  # fmt: skip

    def run_checked(
        self, piece: Piece, run: Callable[[Prepared], _Result]
    ) -> tuple[_Result, Verdict]:
        """Poison a piece's output, run it and compare with the oracle."""
        piece.placed.poison()
        result = run(piece.prepared)
        verdict = check(
            piece.problem,
            piece.placed.fetch(),
            seed=piece.problem.seed,
            implementation=piece.implementation,
            known=self.truths,
            key=(
                piece.problem,
                piece.first,
                piece.turn,
                piece.implementation if piece.problem.layer == "ceiling" else "",
            ),
        )
        return result, verdict

    def piece(self, implementation: Implementation, problem: Problem, tokens: slice) -> Piece:
        """Prepare an implementation for a range of a problem's tokens, on the problem's own buffers."""
        placed = self.store.operands(problem).tokens(tokens)
        part = replace(problem, batch=len(placed.host.x))
        return Piece(
            implementation=implementation.id, problem=part, first=tokens.start, placed=placed,
            prepared=implementation.prepare(part, placed.own, self.context()),
        )  # fmt: skip

    def run_rotated(
        self, implementation: Implementation, problem: Problem, sets: int
    ) -> tuple[Prepared, int, Verdict]:
        """Take an implementation through its gate on each of several sets of weights and on their round."""
        placed = [self.store.operands(problem, turn) for turn in range(sets)]
        return gate.gate_rotation(implementation, problem, placed, self.context())

    def describe_touched(self, problem: Problem) -> dict[str, Any]:
        """Return what a pass touches of its weights, for the record."""
        if problem.layer != "fff":
            return {"working_set_bytes": problem.weight_bytes()}
        if problem not in self.nodes:
            self.nodes[problem] = working_set.count_nodes(
                problem, self.store.operands(problem).host
            )
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
        self.store.workspace(implementation.workspace_bytes(problem))
        cell, head_only = request["cell"], request["head_only"]
        self.isa, self.threads = request["isa"], request["threads"]
        self.set_math(problem)
        try:
            gated, gate_ns, verdict = self._gate(implementation, problem, request)
            if request["launch"] == "graph" and verdict.ok:
                gated, verdict = self._capture(gated, request["weights"])
        except (gate.CannotRotateError, CaptureError) as error:
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
            flushed, loops = self.timing.flushed(gated.prepared, request["min_sample_ns"])
            gated = replace(gated, prepared=flushed)
            answer.update(notes=flushed.notes, loops=request["loops"] or loops, slices=1)
        elif not head_only:
            loops = self.timing.calibrate(gated.prepared, gate_ns, request["min_sample_ns"])
            most = clock.count_slices(problem.batch, implementation.token_block, gate_ns)
            answer["loops"] = request["loops"] or loops
            whole = request["weights"] != "hot" or request["launch"] == "graph"
            answer["slices"] = request["slices"] or (1 if whole else most)
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
            last = request["sets"] - 1
            made = Piece(
                implementation=implementation.id, problem=problem, first=0, prepared=prepared,
                placed=self.store.operands(problem, last), turn=last,
            )  # fmt: skip
            return made, gate_ns, verdict
        tokens = min(problem.batch, _HEAD_TOKENS) if request["head_only"] else problem.batch
        gated = self.piece(implementation, problem, slice(0, tokens))
        gate_ns, verdict = self.run_checked(gated, lambda prepared: prepared.time(1))
        return gated, gate_ns, verdict

    def _capture(self, piece: Piece, weights: str) -> tuple[Piece, Verdict]:
        """Capture a piece that passed its gate as a graph, and take the graph through the gate as well."""
        graph = self.timing.captured(piece.prepared, flushed=weights == "flushed")
        piece = replace(piece, prepared=graph)
        _, verdict = self.run_checked(piece, lambda prepared: prepared.time(prepared.sets))
        if not verdict.ok:
            verdict = replace(verdict, reason=f"replayed from a graph: {verdict.reason}")
        return piece, verdict

    def set_math(self, problem: Problem) -> None:
        """Choose how float32 products are computed on the device, as the problem says."""
        if self.device is not None:
            self.device.set_math(problem.math)

    def sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take one sample of a prepared cell, its slices in turn; check one that is not proved yet."""
        cell, turn = request["cell"], request["turn"] % len(self.cells[request["cell"]])
        piece = self.cells[cell][turn]
        self.set_math(piece.problem)

        def take(prepared: Prepared) -> clock.Sample:
            return self.timing.sample(prepared, request["loops"], request["expected_ns"])

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
        bench = faults.Bench(
            table=table, operands=lambda p: self.store.operands(p).host,
            workspace=self.store.workspace, known=self.gated,
        )  # fmt: skip
        return bench.run(kernel, problem, request["loops"], unwritten=request["unwritten"])

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request; pools of several threads are at rest before it is answered."""
        cell = {"prepare": self.prepare, "sample": self.sample, "published": self.published}
        if run := cell.get(request["op"]):
            done = run(request)
            if self.threads > 1:
                clock.rest()
            return done
        if request["op"] == "resident":
            peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return {"peak_resident_bytes": peak_kib * 1024}
        raise ValueError(f"unknown request {request['op']!r}")


def open_device(name: str) -> Device | None:
    """Return a device by name, None for the CPU. Raises UnavailableError with the reason."""
    if name == "cpu":
        return None
    # Here, since torch takes seconds and the CPU needs none of it.
    from harness.gpu.torch_cuda import TorchDevice

    return TorchDevice()


def main() -> None:
    """Serve requests from standard input until it ends."""
    send = protocol.open_channel()
    try:
        served = process_key.decode(sys.argv[1])
        if served.plugin:
            plugin.load(served.plugin)
        worker = Worker(served.provider, served.library, device=open_device(sys.argv[2]))
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
