"""Own the gate of a cell: prepared on the buffers that will be timed, checked there, made ready to sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from harness.backends import blas, registry
from harness.backends.registry import Context, Implementation, Prepared
from harness.gpu.device import CaptureError, Device
from harness.measure import clock, locality
from harness.measure.buffers import Store
from harness.measure.checker import Checker, Piece
from harness.measure.clock import Calibration
from harness.measure.gpu_clock import make_timer
from harness.measure.protocol import GateAnswer, GateRequest, Unavailable
from harness.measure.timing import DeviceTiming, HostTiming, Timing
from harness.problem import working_set
from harness.problem.check import Verdict
from harness.problem.operands import Operands
from harness.problem.problem import Problem
from harness.problem.working_set import Touched

_HEAD_TOKENS = 64
_AGAIN_TOKENS = 16  # of a second pass, where one over the whole batch is long
_SET_TOKENS = 64  # compared with the oracle per set of weights


class CannotRotateError(RuntimeError):
    """Say that an implementation takes one set of weights only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCell:
    """Hold a cell that can be sampled: a piece for each slice of its batch, and which outputs are proved."""

    pieces: list[Piece]
    proved: list[bool]


class Gate:
    """Take cells through their gate; they share inputs, weights, workspace and the oracle's answers."""

    def __init__(
        self, provider: blas.Provider | None, store: Store, device: Device | None = None
    ) -> None:
        """Begin with nothing prepared. provider: the BLAS of this process. device: None for the CPU."""
        self.timing: Timing = DeviceTiming(device) if device else HostTiming()
        self._provider, self._store, self._device = provider, store, device
        self.checker = Checker(store)
        self._touched: dict[Problem, Touched] = {}

    def context(self, request: GateRequest) -> Context:
        """Return what the implementation of a request is prepared with in this process."""
        own: Any = {"device": "cuda", "timer": make_timer(self._device)} if self._device else {}
        return Context(
            provider=self._provider, workspace=self._store.workspace, isa=request.isa,
            threads=request.threads, caches=request.caches, tile=request.tile,
            far_weights=request.weights != "hot", **own,
        )  # fmt: skip

    def prepare(self, request: GateRequest) -> tuple[GateAnswer | Unavailable, ReadyCell | None]:
        """Prepare a cell, check its output on the buffers that will be timed, warm up and calibrate.

        With `head_only` (a long pass, in a second or later process) the pass that is checked here is one
        over the first tokens of the same buffers; each slice of the output is then checked behind its first
        sample, which counts only if it is right. The cell is None where there is nothing to sample.
        """
        implementation = registry.get(request.implementation)
        # The largest workspace is taken first, so that all pieces share it.
        self._store.workspace(self._workspace_bytes(implementation, request.problem))
        self.set_math(request.problem)
        try:
            piece, gate_ns, verdict = self._check(implementation, request)
        except (CannotRotateError, CaptureError) as error:
            return Unavailable(reason=str(error)), None
        answer = GateAnswer(
            verdict=verdict, gate_ns=gate_ns, notes=piece.prepared.notes, loops=request.loops,
            slices=request.slices,
        )  # fmt: skip
        if not verdict.ok:
            return answer, None
        if request.count_nodes and request.problem.layer != "ceiling" and not request.head_only:
            answer = replace(answer, touched=self._describe_touched(request.problem))
        return self._make_ready(implementation, request, piece, answer)

    def _make_ready(
        self, implementation: Implementation, request: GateRequest, piece: Piece, answer: GateAnswer
    ) -> tuple[GateAnswer, ReadyCell]:
        """Warm up and calibrate what passed its gate, and cut a long pass into slices."""
        if request.head_only:
            pieces = self._cut(implementation, request, request.slices)
            return answer, ReadyCell(pieces=pieces, proved=[False] * request.slices)
        if request.weights == "flushed":
            flushed, found = self.timing.flushed(
                piece.prepared, request.min_sample_ns, request.caches, request.threads
            )
            piece = replace(piece, prepared=flushed)
            pieces = [piece]
        else:
            pieces, found = self._calibrate(implementation, request, piece, answer.gate_ns)
        # Whole rounds of this preparation: how many passes share a graph is measured in each process.
        loops = locality.rotate_loops(request.loops or found.loops, piece.prepared.sets)
        slices = len(pieces)
        answer = replace(
            answer, notes=piece.prepared.notes, loops=loops, slices=slices,
            pass_ns=slices * found.pass_ns,
        )  # fmt: skip
        return answer, ReadyCell(pieces=pieces, proved=[slices == 1] * slices)

    def _calibrate(
        self, implementation: Implementation, request: GateRequest, piece: Piece, gate_ns: int
    ) -> tuple[list[Piece], Calibration]:
        """Return the slices of the batch that samples take in turn, and the calibration of one of them.

        Their number is judged again by a pass behind the gate's, which may have compiled: that pass is over
        one slice, so that a truly long one is not run whole a second time.
        """

        def count(pass_ns: float) -> int:
            whole = request.weights != "hot" or request.launch == "graph"
            block = 0 if whole else implementation.token_block
            return request.slices or clock.count_slices(request.problem.batch, block, pass_ns)

        slices = count(gate_ns)
        while True:
            pieces = self._cut(implementation, request, slices) if slices > 1 else [piece]
            found = self.timing.calibrate(pieces[0].prepared, request.min_sample_ns)
            again = count(slices * found.pass_ns)
            if again >= slices:
                return pieces, found
            slices = again

    def _cut(
        self, implementation: Implementation, request: GateRequest, slices: int
    ) -> list[Piece]:
        """Prepare each of so many equal parts of the batch."""
        size = request.problem.batch // slices
        return [
            self._piece(implementation, request, slice(i * size, (i + 1) * size))
            for i in range(slices)
        ]

    # ---- checking -------------------------------------------------------------------------------

    def _check(
        self, implementation: Implementation, request: GateRequest
    ) -> tuple[Piece, int, Verdict]:
        """Return what is to be timed, the time of its first pass, and the verdict on it.

        A pass over what the request asks for is checked (the batch, its head, or each of several sets), then
        the same from a graph where it is one that is timed, then a second pass on other inputs.
        """
        problem = request.problem
        if problem.data == "zeros":
            # Zeros are right by doing nothing: what is timed on them is proved on random data before.
            drawn = replace(problem, data="random")
            piece, gate_ns, verdict = self._check(implementation, replace(request, problem=drawn))
            if not verdict.ok:
                return piece, gate_ns, replace(verdict, reason=f"on random data: {verdict.reason}")
        if request.weights == "rotated":
            piece, gate_ns, verdict = self.check_rotation(implementation, request)
        else:
            tokens = min(problem.batch, _HEAD_TOKENS) if request.head_only else problem.batch
            piece = self._piece(implementation, request, slice(0, tokens))
            gate_ns, verdict = self.checker.run(piece, lambda prepared: prepared.time(1))
        if request.launch == "graph" and verdict.ok:
            piece, verdict = self._capture(piece, request.weights)
        if verdict.ok and problem.layer != "ceiling" and problem.data != "zeros":
            again = self._check_again(implementation, request, piece, gate_ns)
            verdict = verdict if again.ok else again
        return piece, gate_ns, verdict

    def _check_again(
        self, implementation: Implementation, request: GateRequest, piece: Piece, gate_ns: int
    ) -> Verdict:
        """Return the verdict on a second pass, on other inputs; one that is long is run over its head."""
        eager = request.weights != "rotated" and request.launch == "eager"
        if eager and gate_ns > clock.MAX_SAMPLE_NS and piece.problem.batch > _AGAIN_TOKENS:
            piece = self._piece(implementation, request, slice(0, _AGAIN_TOKENS))
        return self.checker.run_on_other_inputs(piece)

    def check_rotation(
        self, implementation: Implementation, request: GateRequest
    ) -> tuple[Piece, int, Verdict]:
        """Check an implementation on each of several sets of weights, then on one round of all of them.

        After the round the output must be the last set's: so the passes really took the sets in turn. The
        time is the mean of a pass of the round.

        Raises CannotRotateError where the implementation takes one set only.
        """
        sets = request.sets
        for turn in range(sets):
            piece = self._piece(implementation, request, slice(0, request.problem.batch), turn)
            _, verdict = self.checker.run(
                piece, lambda prepared: prepared.time(1), most=_SET_TOKENS
            )
            if not verdict.ok:
                reason = f"weight set {turn + 1} of {sets}: {verdict.reason}"
                return piece, 0, replace(verdict, reason=reason)
            request = replace(request, tile=piece.prepared.notes.get("tile", ""))  # for all sets
        placed = [self._store.operands(request.problem, turn) for turn in range(sets)]
        rotation = tuple(p.own.weights() for p in placed[1:])
        prepared = self._prepare(
            implementation, request, request.problem, replace(placed[0].own, rotation=rotation)
        )
        if prepared.sets != sets:
            raise CannotRotateError(
                f"{implementation.id} takes one set of weights: it can't rotate several"
            )
        held = sets * request.problem.weight_bytes() / 2**20
        notes = {**prepared.notes, "weights": f"{sets} sets in turn, {held:.0f} MiB held"}
        piece = replace(piece, prepared=replace(prepared, notes=notes))  # the last set's
        round_ns, verdict = self.checker.run(
            piece, lambda prepared: prepared.time(sets), most=_SET_TOKENS
        )
        if not verdict.ok:
            verdict = replace(verdict, reason=f"after a round of all weight sets: {verdict.reason}")
        return piece, round_ns // sets, verdict

    def _prepare(
        self, implementation: Implementation, request: GateRequest, problem: Problem,
        operands: Operands,
    ) -> Prepared:  # fmt: skip
        return self.timing.watched(implementation.prepare(problem, operands, self.context(request)))

    def _piece(
        self, implementation: Implementation, request: GateRequest, tokens: slice, turn: int = 0
    ) -> Piece:
        """Prepare an implementation for a range of a problem's tokens, on the problem's own buffers."""
        placed = self._store.operands(request.problem, turn).tokens(tokens)
        part = replace(request.problem, batch=len(placed.host.x))
        return Piece(
            implementation=implementation.id, problem=part, first=tokens.start, placed=placed,
            prepared=self._prepare(implementation, request, part, placed.own), turn=turn,
            workspace_bytes=self._workspace_bytes(implementation, part), check_seed=request.check_seed,
        )  # fmt: skip

    def _capture(self, piece: Piece, weights: str) -> tuple[Piece, Verdict]:
        """Capture a piece that passed its gate as a graph, and take the graph through the gate as well."""
        graph = self.timing.captured(piece.prepared, flushed=weights == "flushed")
        piece = replace(piece, prepared=graph)
        _, verdict = self.checker.run(piece, lambda prepared: prepared.time(prepared.sets))
        if not verdict.ok:
            verdict = replace(verdict, reason=f"replayed from a graph: {verdict.reason}")
        return piece, verdict

    def _workspace_bytes(self, implementation: Implementation, problem: Problem) -> int:
        return implementation.memory_bytes(problem, "cuda" if self._device else "cpu")[0]

    def set_math(self, problem: Problem) -> None:
        """Choose how float32 products are computed on the device, as the problem says."""
        if self._device is not None:
            self._device.set_math(problem.math)

    def _describe_touched(self, problem: Problem) -> Touched:
        """Return what a pass touches of its weights, for the record."""
        if problem.layer == "ff":
            return Touched(nodes=0, entropy_bits=[], working_set_bytes=problem.weight_bytes())
        if problem not in self._touched:
            operands = self._store.operands(problem).host
            self._touched[problem] = working_set.count_nodes(problem, operands)
        return self._touched[problem]
