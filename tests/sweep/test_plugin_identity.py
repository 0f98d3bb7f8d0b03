"""The plugin of a run is one code: what changes it between processes or before a resume is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import cli, plugin
from harness.backends import registry
from harness.errors import UsageError
from harness.records.reader import load_run
from harness.sweep.journal import Journal

SOURCE = """
from pathlib import Path
from scipy.special import erf
from harness.plugin import register_python

Path(__file__).with_suffix(".ran").touch()

def forward(x, w_in, w_out, y):
    z = x @ w_in.T
    y[...] = (0.5 * z * (1 + erf(z / 2**0.5))) @ w_out

register_python(id="ff_numpy_plugin", layer="ff", function=forward)
"""
PLUGIN = "ff_numpy_plugin"


@contextmanager
def forgetting() -> Iterator[None]:
    """Forget in the end what plugins registered."""
    registry.all()
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((registry, "_known"), (plugin, "_origins")):
            patch.setattr(module, name, dict(getattr(module, name)))
        patch.setattr(plugin, "_loaded", set())
        patch.setattr(plugin, "_digests", {})
        yield


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Know, in each test, no plugin of another one."""
    with forgetting():
        yield


def write(folder: Path) -> Path:
    """Write the plugin into a folder and return its file."""
    path = folder / "mine.py"
    path.write_text(SOURCE, encoding="ascii")
    return path


def sweep(out: Path, file: Path) -> int:
    """Sweep the plugin beside an FF of our own, over two processes."""
    return cli.run(
        [
            "sweep", "--batch", "9", "--width", "16", "--models", "bert-base-4095", "--only",
            f"ff_l1_blas,{PLUGIN}", "--skip", "ceiling*", "--passes", "2",
            "--processes", "2", "--no-figures", "--plugin", str(file), "--out", str(out),
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a plugin, mine.py, and of a whole run with it, `run`."""
    folder = tmp_path_factory.mktemp("swept")
    with forgetting():
        assert sweep(folder / "run", write(folder)) == 0
    return folder


@pytest.fixture
def file(swept: Path) -> Path:
    """Return the file of the plugin, which was run by nobody since."""
    path = swept / "mine.py"
    path.with_suffix(".ran").unlink(missing_ok=True)
    return path


@pytest.fixture
def run(swept: Path, tmp_path: Path) -> Path:
    """Return what a kill in the second process would have left of the run."""
    folder = shutil.copytree(swept / "run", tmp_path / "run")
    cut(folder)
    return folder


def cut(run: Path) -> None:
    """Leave of a run what a kill in its second process would have left."""
    lines = run / "records.jsonl"
    kept = lines.read_text(encoding="utf-8").splitlines(keepends=True)[:-3]
    lines.write_text("".join(kept), encoding="utf-8")


def test_the_digest_is_part_of_the_run(swept: Path, file: Path) -> None:
    """The head names what each plugin's files were."""
    head = load_run(swept / "run").head
    assert head.sweep.plugins == [str(file)]
    assert list(head.sweep.plugin_digests) == [str(file)]
    assert len(head.sweep.plugin_digests[str(file)]) == 12


@pytest.mark.slow
def test_a_change_between_processes_fails_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that is edited while its sweep runs fails, with both digests; all others are sampled."""
    file = write(tmp_path)
    begin = Journal.begin_processes

    def edit(journal: Journal) -> None:
        file.write_text(SOURCE + "# edited\n", encoding="ascii")
        begin(journal)

    monkeypatch.setattr(Journal, "begin_processes", edit)
    assert sweep(tmp_path / "run", file) == 1
    run = load_run(tmp_path / "run")
    cells = run.cells[run.cells["role"] == "layer"].set_index("implementation")
    assert cells.loc["ff_l1_blas", "status"] == "ok"
    assert cells.loc[PLUGIN, "status"] == "failed"
    assert "mine.py was changed while the sweep ran: its sha256 was" in cells.loc[PLUGIN, "reason"]
    assert set(run.samples.loc[run.samples["implementation"] == PLUGIN, "process"]) == {0}


def test_resume_refuses_another_plugin(run: Path, file: Path) -> None:
    """A run that was begun with another version of its plugin is not taken up."""
    plugin.load_all([file])
    plugin._digests[str(file)] = "0123456789ab"  # as a file that was edited since would be loaded
    with pytest.raises(
        UsageError, match=r"was measured with another plugin: its .*mine\.py sha256"
    ):
        cli.run(["sweep", "--resume", str(run), "--plugin", str(file)])


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_resume_runs_no_code_because_a_folder_names_it(
    run: Path, file: Path, words: list[str]
) -> None:
    """A plugin that a run names is loaded where who resumes names it too, and not before."""
    with pytest.raises(UsageError, match=r"was begun with --plugin .*mine\.py; give it again"):
        cli.run(["sweep", "--resume", str(run), *words])
    assert not file.with_suffix(".ran").exists()


def test_resume_loads_no_library_because_a_folder_names_it(run: Path, file: Path) -> None:
    """A BLAS library that a run names by its path is loaded where who resumes names it too."""
    head = run / "run.json"
    told = json.loads(head.read_text(encoding="utf-8"))
    told["sweep"]["blas"] = ["/somewhere/libpayload.so"]
    head.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"was begun with --blas /somewhere/libpayload\.so; give it again"
    ):
        cli.run(["sweep", "--resume", str(run), "--plugin", str(file)])


def test_resume_goes_on_with_the_same_plugin(run: Path, file: Path) -> None:
    """With the plugin named again and unchanged, the run is taken up and ends."""
    assert cli.run(["sweep", "--resume", str(run), "--plugin", str(file), "--no-figures"]) == 0
