"""Keep the ledger of skipped tests over all environments of continuous integration.

    python tools/skips.py ENVIRONMENT=JUNIT.xml...
    python tools/skips.py --again ENVIRONMENT=JUNIT.xml...    print the files to run in another environment
    python -m pytest -p tools.skips --ran=JUNIT.xml FILE...    run of them what passed in no environment

A test that ran in no environment fails the run: nothing proves what it claims. Tests with the marker `gpu`
need a real GPU, those with the marker `slurm` a Slurm that can be started; they are counted and listed.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the ledger itself is read without it
    import pytest


# What a test may need that no environment of continuous integration has to have, by its marker.
NEEDS = {"gpu": "a real GPU", "slurm": "a Slurm that can be started"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Hold what one environment says of one test. reason: why it was skipped, empty where it ran.

    needs: the marker of what not every machine has, empty for none.
    """

    environment: str
    module: str
    name: str
    reason: str
    needs: str

    @property
    def id(self) -> str:
        """Return the test's name; empty behind the module for a module that was skipped whole."""
        return f"{self.module}::{self.name}" if self.name else self.module


def read(environment: str, path: Path) -> list[Outcome]:
    """Return the outcomes of a JUnit file of pytest's."""
    found = []
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        skipped = case.find("skipped")
        reason = ""
        if skipped is not None:
            # The text ends in the reason; the message of a module that was skipped names no more.
            reason = (skipped.text or skipped.get("message") or "").rpartition(": ")[2].strip()
            reason = reason.strip("()'") or "skipped"
        module, name = case.get("classname", ""), case.get("name", "")
        if not module:  # pytest's form of a module that skipped itself as it was collected
            module, name = name, ""
        marks = {p.get("name") for p in case.iter("property")}
        found.append(
            Outcome(
                environment=environment, module=module, name=name, reason=reason,
                needs=next((need for need in NEEDS if need in marks), ""),
            )
        )  # fmt: skip
    if not found:
        sys.exit(f"{path} holds no test: the ledger of {environment} would be empty")
    return found


def never_ran(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the tests, and modules skipped whole, that ran in no environment, each once."""
    outcomes = list(outcomes)
    ran = {o.id for o in outcomes if not o.reason}
    seen = {o.module for o in outcomes if o.name}  # modules that were collected somewhere
    lost = {
        o.id: o for o in outcomes
        if o.reason and o.id not in ran and (o.name or o.module not in seen)
    }  # fmt: skip
    return [lost[key] for key in sorted(lost)]


def files_to_run_again(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the files of which an environment skipped a test."""
    return sorted({o.module.split("::")[0].replace(".", "/") + ".py" for o in outcomes if o.reason})


def _id(node: str) -> str:
    """Return a test's id, as an outcome has it, by pytest's name for it."""
    path, bracket, parameters = node.partition("[")
    module, *names = path.split("::")
    *classes, name = names or [""]
    home = ".".join([module.removesuffix(".py").replace("/", "."), *classes])
    return f"{home}::{name}{bracket}{parameters}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the reports of other environments."""
    parser.addoption("--ran", action="append", default=[], help="leave out what passed in a report")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what passed in another environment."""
    reports = [o for path in config.getoption("--ran") for o in read("", Path(path))]
    passed = {o.id for o in reports if not o.reason}
    left = [item for item in items if _id(item.nodeid) in passed]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if _id(item.nodeid) not in passed]


def main(words: list[str]) -> int:
    """Print the ledger; return 1 where a test ran nowhere that needs nothing rare."""
    if words[:1] == ["--again"]:
        parted = [word.partition("=") for word in words[1:]]
        skipped = [o for name, _, path in parted for o in read(name, Path(path))]
        print(*files_to_run_again(skipped), sep="\n")
        return 0
    outcomes: list[Outcome] = []
    for word in words:
        environment, _, path = word.partition("=")
        own = read(environment, Path(path))
        outcomes += own
        skipped = sum(bool(o.reason) for o in own)
        print(f"{environment}: {len(own) - skipped} ran, {skipped} skipped")
    lost = never_ran(outcomes)
    unproved = [o for o in lost if not o.needs]
    for need, what in NEEDS.items():
        found = [o for o in lost if o.needs == need]
        print(f"{len(found)} need {what} and ran in no environment:")
        for o in found:
            print(f"  {o.id}" + (f" ({o.reason})" if need != "gpu" else ""))
    for o in unproved:
        print(f"error: {o.id} ran in no environment ({o.environment}: {o.reason})")
    return 1 if unproved else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
