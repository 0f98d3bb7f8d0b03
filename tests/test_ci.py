"""The examples of continuous integration: their shell is run as it stands, over made-up runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import junitparser
import pytest
import yaml
from fabricated_runs import Fake

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "ci"
GITHUB, GITLAB = EXAMPLES / "github-actions.yml", EXAMPLES / "gitlab-ci.yml"
# What the services set; nothing else of a service is in the shell.
SHA = "0123456789abcdef"
# Measures nothing: a sweep is a copy of a run, into the folder that its last word names.
STAND_IN = """#!/bin/sh
if [ "$1" = sweep ]; then
    echo "$@" >words
    while [ $# -gt 1 ]; do shift; done
    cp -r "$MADE" "$1"
else
    exec "$PYTHON" -m harness "$@"
fi
"""


def read(path: Path) -> dict:
    """Return an example as YAML 1.1 has it, in which `on` is no text but true."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def github_shell() -> list[str]:
    """Return the commands of the workflow's steps after the installation, each a shell of its own."""
    [job] = read(GITHUB)["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step and step["name"] != "Install"]


def gitlab_shell() -> list[str]:
    """Return the commands of the job behind its before_script."""
    return read(GITLAB)["speed"]["script"]


@dataclass(frozen=True)
class Service:
    """Run an example's shell in a folder, with the variables that the service sets."""

    folder: Path
    shell: Callable[[], list[str]]

    def run(self, made: Path, **variables: str) -> int:
        """Run the steps, whose sweep is a run made before; return the status of the first that failed."""
        program = self.folder / "bin" / "fff-harness"
        program.parent.mkdir(exist_ok=True)
        program.write_text(STAND_IN, encoding="utf-8")
        program.chmod(0o755)
        known = {
            "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(self.folder), "MADE": str(made),
            "PYTHON": sys.executable, "PYTHONPATH": str(ROOT),
            "GITHUB_ENV": str(self.folder / "env"), "GITHUB_SHA": SHA, "CI_COMMIT_SHORT_SHA": SHA[:8],
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"), **self.defaults(), **variables,
        }  # fmt: skip
        for commands in self.shell():
            if (self.folder / "env").exists():
                lines = (self.folder / "env").read_text(encoding="utf-8").splitlines()
                known |= dict(line.split("=", 1) for line in lines)
            done = subprocess.run(
                ["bash", "-e", "-c", commands],
                cwd=self.folder,
                env=known,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                return done.returncode
        return 0

    def defaults(self) -> dict[str, str]:
        """Return the variables that the example itself sets."""
        own = (
            read(GITHUB)["env"]
            if self.shell is github_shell
            else read(GITLAB)["speed"]["variables"]
        )
        return {name: "" if "${{" in value else value for name, value in own.items()}


@pytest.fixture(params=[github_shell, gitlab_shell], ids=["github", "gitlab"])
def service(request, tmp_path) -> Service:
    """Return each service in a folder of its own."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    return Service(folder, request.param)


def make(folder: Path, day: int, factor: float = 1.0) -> Path:
    """Write a run of a day, in which one kernel takes that many times as long."""
    fake = Fake(seed=day, started=f"2026-01-{day:02d}T00:00:00+00:00", noise=0.004, process_noise=0.002,
                factors={"fff_l1": factor}, machine={"commit": f"c{day:02d}"})  # fmt: skip
    return fake.write(folder / f"made{day}")


@pytest.mark.parametrize("path", [GITHUB, GITLAB], ids=lambda path: path.stem)
def test_shell_is_sound(path):
    """Every step's shell parses, and no text of the service is pasted into it."""
    for commands in [*github_shell(), *gitlab_shell()]:
        assert "${{" not in commands
        subprocess.run(["bash", "-n", "-c", commands], check=True)
    assert read(path)


def test_a_regression_is_posted():
    """Table and JUnit's XML are posted whatever the status: as summary and artifact, as a report of tests."""
    [job] = read(GITHUB)["jobs"].values()
    post = next(step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert "reports" in post["with"]["path"].split()
    assert post["if"] == "${{ !cancelled() }}"
    assert any("GITHUB_STEP_SUMMARY" in commands for commands in github_shell())
    artifacts = read(GITLAB)["speed"]["artifacts"]
    assert artifacts["when"] == "always"
    assert artifacts["reports"]["junit"] == "reports/junit.xml"


@pytest.mark.slow
def test_same_passes_and_slower_fails(service, tmp_path):
    """The first run has nothing to be compared with; a like one passes; one that is 30 % slower fails."""
    reports = service.folder / "reports"
    (service.folder / "fff.c,ff_l3.c").touch()  # what a pattern of files would find
    assert service.run(make(tmp_path, 1), SWEEP="--only fff*,ff_l3*") == 0
    assert not (reports / "history.md").exists()
    assert "--only fff*,ff_l3*" in (service.folder / "words").read_text(encoding="utf-8")
    (first,) = (service.folder / "runs").iterdir()
    first.rename(
        first.with_name(f"20260101T000000Z-{SHA[:8]}")
    )  # two runs in one second had one name
    assert service.run(make(tmp_path, 2)) == 0
    (second,) = sorted((service.folder / "runs").iterdir())[1:]
    second.rename(second.with_name(f"20260102T000000Z-{SHA[:8]}"))
    (service.folder / "env").unlink(missing_ok=True)  # a file of each job
    assert service.run(make(tmp_path, 3, 1.3)) == 1
    [suite] = junitparser.JUnitXml.fromstring((reports / "junit.xml").read_bytes())
    assert [case.name for case in suite if case.result] == [
        "fff_l1_blas/ultrafastbert-1x11/b64/w32/scipy"
    ]
    table = (reports / "history.md").read_text(encoding="utf-8")
    assert "1 slower" in table
    if service.shell is github_shell:
        assert table in (service.folder / "summary.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_pinned_baseline_outlasts_the_last_run(tmp_path):
    """A kernel that was slow in the last run too still fails against a run that is named."""
    runs = tmp_path / "checkout" / "runs"
    runs.mkdir(parents=True)
    for day, factor in ((1, 1.0), (2, 1.3)):
        make(tmp_path, day, factor).rename(runs / f"2026010{day}T000000Z-x")
    service = Service(runs.parent, gitlab_shell)
    assert service.run(make(tmp_path, 3, 1.3), BASELINE="20260101T000000Z-x", KEEP="2") == 1
    assert [run.name for run in sorted(runs.iterdir())][:-1] == ["20260102T000000Z-x"]
