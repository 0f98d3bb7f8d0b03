"""What the reports say of runs that stand still: the texts are those whose digests are kept.

A change that means to change a text renews the digests and says so:
`PYTHONPATH=.:tests/fabricate python tests/report/test_reference.py`; a run that begins to be shipped is named
behind it, by its folder in results/. Other runs may lie there: whoever works here has some of their own.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fabricated_runs import Fake

from harness.analysis import compare, merge
from harness.analysis.analysis import analyse
from harness.records.reader import load_run
from harness.report import compare as report_compare
from harness.report import ladder as report_ladder
from harness.report import merge as report_merge
from harness.report.files import write_tables

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
DIGESTS = DATA / "report_digests.json"
MADE_UP = [DATA / name for name in ("run-v1", "run-gpu", "run-ladder")]
KEPT: dict[str, str] = json.loads(DIGESTS.read_text(encoding="utf-8"))


def find_shipped(digests: Iterable[str], further: Iterable[str] = ()) -> list[Path]:
    """Return the folders of the runs whose texts have digests, and of further ones by name."""
    names = {run for name in digests for run, slash, _ in [name.partition("/")] if slash}
    return [ROOT / "results" / n for n in sorted({*names, *further} - {p.name for p in MADE_UP})]


SHIPPED = find_shipped(KEPT)
if __name__ == "__main__":  # of a run that is gone nothing is kept
    SHIPPED = [run for run in find_shipped(KEPT, sys.argv[1:]) if run.is_dir()]


def _copy(run: Path, folder: Path) -> Path:
    target = folder / run.name
    target.mkdir()
    for name in ("run.json", "records.jsonl"):
        shutil.copy(run / name, target)
    return target


def _digest(text: str) -> str:
    """Return a text's digest; of plain numbers nine digits count, since processors differ in the last."""
    rounded = re.sub(r"\d+\.\d{9,}(e-?\d+)?", lambda found: f"{float(found[0]):.9g}", text)
    return hashlib.sha256(rounded.encode()).hexdigest()[:16]


def _tables(run: Path, folder: Path) -> dict[str, str]:
    files = write_tables(analyse(load_run(_copy(run, folder))))
    return {f"{run.name}/{path.name}": path.read_text(encoding="utf-8") for path in files}


def _ladder(folder: Path) -> dict[str, str]:
    files = report_ladder.write_page(analyse(load_run(_copy(DATA / "run-ladder", folder))))
    texts = [path for path in files if path.suffix in (".md", ".csv")]
    return {f"run-ladder/{path.name}": path.read_text(encoding="utf-8") for path in texts}


def _merged(folder: Path) -> dict[str, str]:
    runs = [load_run(run) for run in SHIPPED[:2]]
    files = report_merge.write_merged(runs, merge.merged_rows(runs), folder)
    return {path.name: path.read_text(encoding="utf-8") for path in files}


def _compared(folder: Path) -> dict[str, str]:
    b = Fake(seed=1, factors={"fff_l1": 1.5, "ff_l3": 0.8}, wrong=("ff_l2_blas/bert-base-4095",))
    found = compare.compare(load_run(Fake().write(folder / "A")), load_run(b.write(folder / "B")))
    texts = {
        "compare.md": report_compare.format_comparison(found),
        "compare.csv": report_compare.format_comparison_csv(found),
        "compare.json": report_compare.format_comparison_json(found),
    }
    return {name: text.replace(str(folder), "") for name, text in texts.items()}


MAKERS: dict[str, Callable[[Path], dict[str, str]]] = {
    **{run.name: lambda folder, run=run: _tables(run, folder) for run in SHIPPED + MADE_UP},
    "ladder page": _ladder, "merge": _merged, "compare": _compared,
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_texts_are_those_whose_digests_are_kept(name: str, tmp_path: Path) -> None:
    """Tables, ladder page, merge and comparison of runs that stand still say what they said."""
    made = {text: _digest(content) for text, content in MAKERS[name](tmp_path).items()}
    assert made == {text: KEPT.get(text) for text in made}, "meant? this file's head renews them"


def test_runs_of_ones_own_are_not_those_that_are_shipped() -> None:
    """The runs are those with digests, whatever else lies in results/: what its page lists as shipped."""
    assert find_shipped(KEPT) == SHIPPED
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert [run.name for run in SHIPPED] == re.findall(r"^\| \[(\S+)\]", page, flags=re.M)
    assert all((run / "run.json").is_file() for run in SHIPPED)
    more = find_shipped(KEPT, ["mine"])
    assert [run.name for run in more if run not in SHIPPED] == ["mine"]


def _renew() -> None:
    digests: dict[str, str] = {}
    for make in MAKERS.values():
        with TemporaryDirectory() as folder:
            digests |= {text: _digest(content) for text, content in make(Path(folder)).items()}
    DIGESTS.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _renew()
