"""Own the check of what a measuring process runs: on operands known to be whole and on poisoned buffers.

What an output must be is found before the first pass over its operands, which a pass may spoil, together with
a digest of them; they are compared with it again after the passes that a check runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from harness.backends.registry import Prepared
from harness.measure.buffers import Placed, Store
from harness.problem.check import MAX_TOKENS, Expected, Verdict, expect, judge
from harness.problem.problem import Problem

# Tokens that a second pass is compared on: it is to show a memory of the first, which is in all of them.
_OTHER_TOKENS = 16
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Hold an implementation prepared for a range of a problem's tokens.

    first: token of the batch. turn: set of weights that the last pass takes, where several are rotated.
    workspace_bytes: what its passes may use. check_seed: draws the tokens that are compared.
    """

    implementation: str
    problem: Problem
    first: int
    placed: Placed
    prepared: Prepared
    workspace_bytes: int
    check_seed: int
    turn: int = 0

    def operands_key(self) -> tuple[object, ...]:
        """Return what the truth about its output hangs on: the pieces of one key are compared with one."""
        ceiling = self.implementation if self.problem.layer == "ceiling" else ""
        return (self.problem, self.first, self.turn, ceiling, self.check_seed)


class Checker:
    """Compare outputs with the oracle, and operands with what they were, in one process."""

    def __init__(self, store: Store) -> None:
        """Begin with nothing expected of anything."""
        self._store = store
        self._expected: dict[object, Expected] = {}
        self._digests: dict[object, dict[str, int]] = {}

    def expect(
        self, piece: Piece, *, most: int = MAX_TOKENS, projected: bool = True, negated: bool = False
    ) -> Expected:
        """Return what a piece's output must be for its operands as they are now, found once for them.

        most, projected: see problem/check.py. negated: whether x is, so that its truth is another.
        """
        key = (piece.operands_key(), most, projected, negated)
        if key not in self._expected:
            self._expected[key] = expect(
                piece.problem, piece.placed.host, seed=piece.check_seed, most=most,
                implementation=piece.implementation, projected=projected,
            )  # fmt: skip
        return self._expected[key]

    def run(
        self, piece: Piece, passes: Callable[[Prepared], _Result], *, most: int = MAX_TOKENS
    ) -> tuple[_Result, Verdict]:
        """Run passes on poisoned buffers, and judge what they left behind and what became of the operands."""
        self._note_operands(piece)
        expected = self.expect(piece, most=most)
        result = self._run_poisoned(piece, passes)
        # First, since a projection that looks wrong is looked at again by the operands.
        changed = self._find_changed(piece)
        return result, changed or judge(piece.problem, piece.placed.fetch(), expected)

    def run_on_other_inputs(self, piece: Piece) -> Verdict:
        """Run a round of passes once more, x negated where it lies, and judge it: no pass may remember.

        An FFF then takes every other turn. x is as it was afterwards.
        """
        self._note_operands(piece)
        piece.placed.negate_x()
        try:
            expected = self.expect(piece, most=_OTHER_TOKENS, projected=False, negated=True)
            self._run_poisoned(piece, lambda prepared: prepared.time(prepared.sets))
            verdict = judge(piece.problem, piece.placed.fetch(), expected)
        finally:
            piece.placed.negate_x()
        if verdict.ok:
            return self._find_changed(piece) or verdict
        return replace(verdict, reason=f"in a second pass, on other inputs: {verdict.reason}")

    def _run_poisoned(self, piece: Piece, passes: Callable[[Prepared], _Result]) -> _Result:
        self._store.poison_workspace(piece.workspace_bytes)
        piece.placed.poison()
        return passes(piece.prepared)

    def _note_operands(self, piece: Piece) -> None:
        """Keep a digest of operands, before the first pass; a ceiling is ours, and its set may be of GiB."""
        if piece.operands_key() not in self._digests:
            read = piece.problem.layer != "ceiling"
            self._digests[piece.operands_key()] = piece.placed.digest_host() if read else {}

    def _find_changed(self, piece: Piece) -> Verdict | None:
        changed = piece.placed.find_changed(self._digests[piece.operands_key()])
        if not changed:
            return None
        reason = (
            f"its passes, or others of its process, changed their operands: {', '.join(changed)}"
        )
        return Verdict(ok=False, reason=reason, worst=0.0, tokens=0, near_ties=0, unwritten=0)
