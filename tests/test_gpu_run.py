"""The script of a GPU machine, rehearsed where there is none and on a device that is made up."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import device_worker
import pytest

from harness.records.reader import load_run

SCRIPT = Path(__file__).parent.parent / "tools" / "gpu_run"
TINY = [
    "--batch", "9", "--width", "16", "--models", "bert-base-4095,2x3", "--budget", "3", "--processes", "1",
    "--only", "ff_torch_native,fff_torch_bmm", "--dtype", "float32", "--math", "ieee",
    "--skip", "ceiling*",  # made-up passes may be faster than made-up ceilings
]  # fmt: skip


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_without_a_gpu_one_line_says_what_is_missing(tmp_path: Path) -> None:
    """Where no run is possible the script ends with status 2 and one line, before any stage."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho torch is not installed; exit 2\n", encoding="utf-8")
    python.chmod(0o755)
    done = _run(str(tmp_path / "out"), "--python", str(python))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == "gpu_run: no run on a GPU here: torch is not installed"
    assert not (tmp_path / "out" / "quick").exists()


def test_a_dry_run_prints_the_stages(tmp_path: Path) -> None:
    """Every stage is printed with its seconds, which add up to those given, and nothing is run or written."""
    done = _run(str(tmp_path / "out"), "--seconds", "540", "--dry-run", "--", "--skip", "ceiling*")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert sum(int(line.split()[0]) for line in lines) == pytest.approx(540, abs=2)
    assert ["-m gpu" in lines[0], "--quick" in lines[1]] == [True, True]
    assert all("--device cuda" in line and "'ceiling*'" in line for line in lines[1:])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_whole_script_on_a_made_up_device(tmp_path: Path) -> None:
    """A stage that fails leaves the others their time; each sweep leaves a run that reads, all is packed."""
    python = device_worker.stand_in(tmp_path)
    out = tmp_path / "out"
    done = _run(str(out), "--seconds", "200", "--python", str(python), "--", *TINY)
    assert done.returncode == 1  # the stand-in runs no tests
    summary = (out / "summary.txt").read_text(encoding="utf-8").splitlines()
    ended = {line.split()[0]: line.split(maxsplit=1)[1].partition(",")[0] for line in summary}
    assert ended == {"tests": "exit status 1", "quick": "ok", "default": "ok", "by-batch": "ok"}
    for name in ("quick", "default", "by-batch"):
        assert not load_run(out / name).samples.empty
        assert (out / name / "table.md").is_file()
    with tarfile.open(tmp_path / "out.tar.gz") as archive:
        names = archive.getnames()
    assert {"out/summary.txt", "out/default/records.jsonl", "out/default.log"} <= set(names)


def test_a_stage_ends_with_its_time(tmp_path: Path) -> None:
    """A stage that hangs is ended, with what it started, and the next one runs."""
    python = tmp_path / "python"
    cases = "*find_cuda*) echo a GPU;; *'-m pytest'*) exec sleep 600;; *) echo done"
    python.write_text(f'#!/bin/sh\ncase "$*" in {cases};; esac\n', encoding="utf-8")
    python.chmod(0o755)
    done = _run(str(tmp_path / "out"), "--python", str(python), "--seconds", "8")
    assert done.returncode == 1
    summary = (tmp_path / "out" / "summary.txt").read_text(encoding="utf-8").splitlines()
    assert "ended after its" in summary[0]
    assert all(" ok, " in line for line in summary[1:])
