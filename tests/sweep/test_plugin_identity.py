"""The plugin of a run is one code: what changes it between processes or before a resume is found."""

from __future__ import annotations

import json
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


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the file of a plugin."""
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="ascii")
    return path


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget in the end what plugins registered."""
    monkeypatch.setattr("harness.measure.clock.MIN_SAMPLE_NS", 1000)
    monkeypatch.setattr("harness.report.files.write_plots", lambda run: [])
    registry.all()
    for module, name in ((registry, "_known"), (plugin, "_origins")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setattr(plugin, "_loaded", set())
    monkeypatch.setattr(plugin, "_digests", {})


def sweep(out: Path, file: Path) -> int:
    """Sweep the plugin beside an FF of our own, over two processes."""
    return cli.run(
        [
            "sweep", "--batch", "9", "--width", "16", "--models", "bert-base-4095", "--only",
            f"ff_l1_blas,{PLUGIN}", "--skip", "ceiling*", "--passes", "2",
            "--processes", "2", "--plugin", str(file), "--out", str(out),
        ]
    )  # fmt: skip


def cut(run: Path) -> None:
    """Leave of a run what a kill in its second process would have left."""
    lines = run / "records.jsonl"
    kept = lines.read_text(encoding="utf-8").splitlines(keepends=True)[:-3]
    lines.write_text("".join(kept), encoding="utf-8")


def test_the_digest_is_part_of_the_run(tmp_path: Path, file: Path) -> None:
    """The head names what each plugin's files were."""
    assert sweep(tmp_path / "run", file) == 0
    head = load_run(tmp_path / "run").head
    assert head.sweep.plugins == [str(file)]
    assert list(head.sweep.plugin_digests) == [str(file)]
    assert len(head.sweep.plugin_digests[str(file)]) == 12


def test_a_change_between_processes_fails_the_cell(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that is edited while its sweep runs fails, with both digests; all others are sampled."""
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


def test_resume_refuses_another_plugin(tmp_path: Path, file: Path) -> None:
    """A run that was begun with another version of its plugin is not taken up."""
    run = tmp_path / "run"
    assert sweep(run, file) == 0
    cut(run)
    plugin._digests[str(file)] = "0123456789ab"  # as a file that was edited since would be loaded
    with pytest.raises(
        UsageError, match=r"was measured with another plugin: its .*mine\.py sha256"
    ):
        cli.run(["sweep", "--resume", str(run), "--plugin", str(file)])


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_resume_runs_no_code_because_a_folder_names_it(
    tmp_path: Path, file: Path, words: list[str]
) -> None:
    """A plugin that a run names is loaded where who resumes names it too, and not before."""
    run = tmp_path / "run"
    assert sweep(run, file) == 0
    cut(run)
    plugin._loaded.discard(str(file))
    file.with_suffix(".ran").unlink()
    with pytest.raises(UsageError, match=r"was begun with --plugin .*mine\.py; give it again"):
        cli.run(["sweep", "--resume", str(run), *words])
    assert not file.with_suffix(".ran").exists()


def test_resume_loads_no_library_because_a_folder_names_it(tmp_path: Path, file: Path) -> None:
    """A BLAS library that a run names by its path is loaded where who resumes names it too."""
    run = tmp_path / "run"
    assert sweep(run, file) == 0
    cut(run)
    head = run / "run.json"
    told = json.loads(head.read_text(encoding="utf-8"))
    told["sweep"]["blas"] = ["/somewhere/libpayload.so"]
    head.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"was begun with --blas /somewhere/libpayload\.so; give it again"
    ):
        cli.run(["sweep", "--resume", str(run), "--plugin", str(file)])


def test_resume_goes_on_with_the_same_plugin(tmp_path: Path, file: Path) -> None:
    """With the plugin named again and unchanged, the run is taken up and ends."""
    run = tmp_path / "run"
    assert sweep(run, file) == 0
    cut(run)
    assert cli.run(["sweep", "--resume", str(run), "--plugin", str(file)]) == 0
