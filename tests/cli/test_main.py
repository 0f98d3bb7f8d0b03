"""The command line as a user meets it: statuses, one-line errors, nothing run by mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from made_machines import MACHINES

from harness import cli
from harness.cli import machine, main
from harness.errors import UsageError
from harness.machine import facts
from harness.machine.facts import Machine
from harness.machine.inspection import LoadedProvider
from harness.measure.process import ProcessDiedError
from harness.sweep import preflight
from harness.sweep import run as sweep_run

ROOT = Path(main.__file__).parents[2]


def _run(
    words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run a command line through the way in, in this process."""
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    with pytest.raises(SystemExit) as ended:
        main.main()
    captured = capsys.readouterr()
    return int(str(ended.value.code)), captured.out, captured.err


BAD: dict[str, tuple[list[str], str]] = {
    "level": (["sweep", "--levels", "4"], "unknown level '4'; known: 1, 2, 3"),
    "no level": (["sweep", "--levels", ","], "--levels: need at least one"),
    "model": (["sweep", "--models", "gpt-2"], "unknown model 'gpt-2'; known: bert-base-4095"),
    "implementation": (
        ["sweep", "--only", "ff_l9"],
        "unknown implementation 'ff_l9'; known: ff_l1_blas",
    ),
    "skip": (["sweep", "--skip", "none*"], "unknown implementation 'none*'"),
    "provider": (
        ["sweep", "--blas", "abacus"],
        "unknown BLAS provider 'abacus'; known: scipy, mkl",
    ),
    "path": (["sweep", "--blas", "/no/such/lib.so"], "there is no file '/no/such/lib.so'"),
    "device": (["sweep", "--device", "tpu"], "--device: nothing here runs on 'tpu'"),
    "memory": (["sweep", "--models", "64x20", "--width", "12288"], "GiB are available"),
    "depth": (["sweep", "--models", "1x21"], "depth 0 to 20, got '1x21'"),
    "trees": (["sweep", "--models", "0x3"], "need 1 to 1048576 trees"),
    "batch 0": (["sweep", "--batch", "0"], "--batch: "),
    "batch negative": (["sweep", "--batch", "-4"], "--batch: need numbers"),
    "batch text": (["sweep", "--batch", "many"], "--batch: need numbers"),
    "batch range": (["sweep", "--batch", "8..2"], "--batch: need a rising range"),
    "width": (["sweep", "--width", "0"], "--width: "),
    "hidden": (["sweep", "--models", "ff-0"], "hidden must be at least 1"),
    "threads 0": (["sweep", "--threads", "0"], "--threads: need a number above 0, got 0"),
    "threads": (["sweep", "--threads", "100000"], "--threads: need 1 to "),
    "isa": (["sweep", "--isa", "vax"], "unknown instruction set of this processor 'vax'; known: "),
    "seed": (["sweep", "--seed", "-1"], "--seed: need 0 or more"),
    "passes": (["sweep", "--passes", "0"], "--passes: need a number above 0"),
    "budget": (["sweep", "--budget", "-3"], "--budget: need a number above 0"),
    "processes": (["sweep", "--processes", "0"], "--processes: need a number above 0"),
    "both": (
        ["sweep", "--passes", "1", "--budget", "5"],
        "--passes and --budget: give one of them",
    ),
    "no number": (["sweep", "--threads", "two"], "'--threads'"),
    "option": (["sweep", "--lvels", "1"], "--lvels"),
    "command": (["swepe"], "swepe"),
    "no run": (["table"], "RUN"),
    "not a run": (["table", "/"], "/ is not a run: it has no run.json"),
    "not a run, plot": (["plot", "/nowhere"], "/nowhere is not a run"),
    "level against only": (["sweep", "--levels", "1", "--only", "ff_l3_blas"], "is of level 3"),
    "nothing": (["sweep", "--models", "ff-8", "--only", "fff*"], "nothing is left to measure"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake ends with status 2 and one line on standard error that says what was wrong."""
    words, what = BAD[name]
    # Were a mistake to pass, nothing must be measured.
    monkeypatch.setattr(sweep_run, "run", lambda *_: pytest.fail("a sweep was begun"))
    status, out, err = _run(words, monkeypatch, capsys)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    assert what in err


def _subprocess(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "harness", *words], capture_output=True, text=True, check=False,
        cwd=cwd, env=environment,
    )  # fmt: skip


def test_bad_input_in_a_process_of_its_own() -> None:
    """Run as a user runs it, a mistake is status 2, one line, no traceback."""
    done = _subprocess("sweep", "--levels", "7")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --levels: unknown level '7'; known: 1, 2, 3\n"


@pytest.mark.parametrize("kind", ["another run", "below a file"])
def test_output_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of another run, or one that can't be made, is status 2 and one line."""
    out = tmp_path / "run"
    if kind == "another run":
        out.mkdir()
        (out / "run.json").write_text("{}", encoding="utf-8")
    else:
        out.write_text("a file", encoding="utf-8")
        out = out / "deeper"
    words = ["sweep", "--only", "fff_l1_blas", "--skip", "ceiling*", "--batch", "1", "--width", "8",
             "--passes", "1", "--out", str(out)]  # fmt: skip
    status, _, err = _run(words, monkeypatch, capsys)
    assert status == 2
    assert err.count("\n") == 1, err
    assert err.startswith("error: --out: ")


def test_library_that_lacks_symbols(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A library without BLAS in it is refused by its measuring process: status 2, one line, no run."""
    library = find_spec("harness._native")
    assert library is not None
    words = ["sweep", "--blas", str(library.origin), "--batch", "1", "--width", "8", "--passes", "1",
             "--skip", "ceiling*", "--out", str(tmp_path / "run")]  # fmt: skip
    status, out, err = _run(words, monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1, err
    assert "lacks sdot, saxpy, sgemv, sgemm under every known decoration" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [[], ["--help"], ["sweep", "--help"], ["table", "--help"]])
def test_help(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help is status 0 on standard output; no words at all ask for it."""
    status, out, err = _run(words, monkeypatch, capsys)
    assert (status, err) == (0, "")
    assert "Usage: python -m harness" in out
    if not words or words == ["--help"]:
        for command in ("sweep", "table", "plot", "report", "list"):
            assert command in out


def test_dry_run_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run prints each cell and the predicted time, starts no process and makes no folder."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr("harness.sweep.processes.MeasuringProcess", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    out = tmp_path / "run"
    words = ["sweep", "--dry-run", "--models", "1x11", "--out", str(out)]
    status, printed, err = _run(words, monkeypatch, capsys)
    assert status == 0
    assert "fff_l2_blas/ultrafastbert-1x11/b16384/w768/scipy" in printed
    assert "ff_l3_tiled/bert-base-4095/b16384/w768/scipy" in printed
    assert "predicted" in printed
    assert str(out) in printed.replace("\n", "")
    assert not out.exists()
    assert "bert-base-4095 is measured too" in err


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "--dry-run"],
        ["sweep", "--dry-run", "--quick", "--weights", "hot,rotated,flushed"],
        ["explain", "--dry-run"],
        ["doctor", "--json", "--blas", "scipy"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_every_machine_is_served(
    words: list[str], machine: Machine, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whatever a machine has or does not tell, its plans are printed and its facts are judged."""
    monkeypatch.setattr(facts, "read_machine", lambda **_: machine)
    monkeypatch.setattr(
        preflight, "_ask", lambda name, **_: LoadedProvider(name=name, asked_for=True)
    )
    status, out, _ = _run(words, monkeypatch, capsys)
    if words[0] == "doctor":
        assert status in (0, 1)
        assert "--json" not in words or json.loads(out)["machine"]["caches"] == machine.caches
    else:
        assert status == 0
        assert "fff_l2_blas/ultrafastbert-1x11/" in out
        assert "predicted" in out


def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The list has every implementation and provider, with a reason for one that is unavailable."""
    monkeypatch.setattr(machine, "_describe", lambda name: (f"facts of {name}", ""))
    monkeypatch.setattr(
        "harness.backends.blas.find_missing",
        lambda names: {n: "is not on this machine" for n in names if n != "scipy"},
    )
    status, out, _ = _run(["list"], monkeypatch, capsys)
    assert status == 0
    for words in (
        "ff_l1_blas",
        "fff_l2_blas",
        "ceiling_sgemm",
        "facts of scipy",
        "is not on this machine",
    ):
        assert words in out


def test_describe_asks_the_library() -> None:
    """What the list says of a provider comes from a process that loaded it."""
    facts, why = machine._describe("scipy")
    assert why == ""
    assert "32-bit" in facts
    assert ".so" in facts


def test_list_goes_on_where_a_library_crashes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that ends its process as it is loaded costs its own row, which says how, and no other."""

    def start(name: str, **_: object) -> None:
        raise ProcessDiedError(f"{name} ended the measuring process with signal SIGILL")

    monkeypatch.setattr(machine, "MeasuringProcess", start)
    monkeypatch.setattr("harness.backends.blas.names", lambda: ["openblas", "blis"])
    monkeypatch.setattr("harness.backends.blas.find_missing", lambda names: {})
    status, out, _ = _run(["list"], monkeypatch, capsys)
    assert status == 0
    rows = [line.split("│")[1:4] for line in out.splitlines() if "SIGILL" in line]
    assert [(name.strip(), can.strip()) for name, can, _ in rows] == [
        ("openblas", "no"),
        ("blis", "no"),
    ]


def test_brackets_in_a_list_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An extra's name, and brackets in a plugin's summary or a library's path, are printed as they are."""
    monkeypatch.setattr(machine, "_describe", lambda name: ("/opt/[bold]/libblas.so", ""))
    monkeypatch.setattr(machine, "_availability", lambda i: "pip install 'fff-harness[cuda]' [/x]")
    status, out, _ = _run(["list"], monkeypatch, capsys)
    assert status == 0
    assert "'fff-harness[cuda]'" in out
    assert "[/x]" in out
    assert "/opt/[bold]/libblas.so" in out


def test_table_and_plot(
    golden_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`table` and `plot` write a run's files from its samples, and say which."""
    monkeypatch.setattr("harness.report.files._FORMATS", ("svg",))
    status, out, err = _run(["table", str(golden_run)], monkeypatch, capsys)
    assert (status, err) == (0, "")
    assert out.startswith("# Speedups of conditional over dense")
    assert "table.tex" in out
    status, out, err = _run(["plot", str(golden_run)], monkeypatch, capsys)
    assert (status, err) == (0, "")
    assert "speedup.svg" in out
    assert (golden_run / "time_per_token.svg").stat().st_size > 1000


def test_options_reach_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, repeats and defaults of the command line become the spec of the sweep."""
    specs = []

    def refuse(spec: object, _machine: object) -> None:
        specs.append(spec)
        raise UsageError("enough")

    monkeypatch.setattr("harness.sweep.plan.make_plan", refuse)
    for words in (
        ["sweep"],
        ["sweep", "--quick"],
        ["sweep", "--blas", "mkl,scipy", "--blas", "mkl", "--batch", "1,2^2..2^3", "--passes", "2",
         "--only", "ff_*,fff_*", "--only", "x", "--levels", "3,1", "--keep-blas-env", "--seed", "7"],
    ):  # fmt: skip
        with pytest.raises(UsageError, match="enough"):
            cli.run(words)
    default, quick, full = specs
    assert (default.batches, default.widths, default.blas) == ([16384], [768], ["scipy"])
    assert (default.threads, default.processes, default.passes) == (1, 5, 0)
    assert not default.quick
    assert quick.quick
    assert quick.batches[0] < default.batches[0]
    assert quick.budget_s < 60 < default.budget_s < 360
    assert full.blas == ["mkl", "scipy"]
    assert full.batches == [1, 4, 8]
    assert full.levels == [1, 3]
    assert full.only == ["ff_*", "fff_*", "x"]
    assert (full.passes, full.processes, full.seed, full.keep_blas_env) == (2, 2, 7, True)


def test_interrupt_before_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C outside of a sweep is status 130 and one word."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupt)
    assert _run(["list"], monkeypatch, capsys) == (130, "", "interrupted\n")


def test_missing_compiled_part() -> None:
    """A source tree without its compiled part says in one line what to do."""
    code = (
        "import sys; sys.modules['harness._native'] = None; sys.argv = ['harness', 'list']\n"
        "from harness.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "the compiled part of harness is missing" in done.stderr
    assert "pip install -e ." in done.stderr
