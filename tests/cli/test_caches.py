"""When the commands look at the caches, and what they plan with then."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_runs import Fake
from made_curves import make_curve
from made_machines import KIB, MIB, SMALL

from harness import cli
from harness.errors import UsageError
from harness.machine import cache_walk, caches
from harness.machine.facts import Machine
from harness.records.facts import CacheWalk
from harness.sweep.plan import Plan

SMALL_SWEEP = ["sweep", "--only", "ff_l1_blas", "--batch", "8", "--width", "16"]


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the threads of each look at the caches; it finds a last level of 8 MiB."""
    found: list[int] = []

    def take(machine: Machine, *, threads: int, **_: object) -> CacheWalk:
        found.append(threads)
        curve = make_curve([(128 * KIB, 60.0), (8 * MIB, 30.0)])
        return caches.find_effective(
            machine.caches, curve, threads=threads, last_level_caches=1, seconds=1.0
        )

    monkeypatch.setattr(cache_walk, "take", take)
    return found


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Return the plans that are about to be measured; none is."""
    found: list[Plan] = []

    def run(*values: object) -> None:
        found.extend(value for value in values if isinstance(value, Plan))
        raise UsageError("enough")

    monkeypatch.setattr("harness.sweep.run.run", run)
    return found


def test_a_sweep_plans_for_the_caches_that_it_saw(looked: list[int], measured: list[Plan]) -> None:
    """A sweep looks once, on its threads, and its plan, sets and tiles are for what a core gets."""
    with pytest.raises(UsageError, match="enough"):
        cli.run([*SMALL_SWEEP, "--threads", "2"])
    assert looked == [2]
    machine = measured[0].machine
    assert machine.caches["L3"] >= 8 * MIB
    assert machine.told_caches == SMALL.caches
    assert machine.cache_walk is not None


@pytest.mark.parametrize("command", [SMALL_SWEEP, ["explain"]])
def test_a_dry_run_looks_at_nothing_and_says_what_it_assumes(
    command: list[str], looked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan says how long a sweep looks at the caches, and which sizes it was made with."""
    assert cli.run([*command, "--dry-run"]) == 0
    assert looked == []
    text = " ".join(capsys.readouterr().out.split())
    assert "read, for at most 5 s" in text
    assert "what the system tells: L1d 32 KiB, L2 128 KiB, L3 1 MiB" in text


def test_what_cannot_be_planned_is_said_at_once(looked: list[int]) -> None:
    """No seconds are spent on the caches for a sweep that no machine with these processors could run."""
    with pytest.raises(UsageError, match="--threads"):
        cli.run([*SMALL_SWEEP, "--threads", "99"])
    assert looked == []


@pytest.mark.parametrize("walked", [True, False])
def test_a_resumed_sweep_goes_by_the_curve_of_its_run(
    walked: bool, tmp_path: Path, looked: list[int], measured: list[Plan]
) -> None:
    """A run is taken up with the caches that it began with, those told where it is older than the look."""
    curve = make_curve([(128 * KIB, 60.0), (4 * MIB, 30.0)])
    walk = caches.find_effective(SMALL.caches, curve, threads=1, last_level_caches=1, seconds=1.0)
    machine = {"cache_walk": walk.model_dump()} if walked else {}
    folder = Fake(machine=machine, end=None).write(tmp_path / "run")
    with pytest.raises(UsageError, match="enough"):
        cli.run(["sweep", "--resume", str(folder)])
    assert looked == []
    assert dict(measured[0].machine.caches) == (walk.caches if walked else SMALL.caches)
