"""Plugins: loaded or refused in one line, gated and sampled as our own, and costing no cell but theirs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import made_machines
import numpy as np
import pytest
from extents import EXTENTS

from harness import api, cli, plugin
from harness.analysis.analysis import analyse
from harness.backends import registry, timer
from harness.backends.registry import Context
from harness.errors import UsageError
from harness.problem.models import parse_models
from harness.problem.operands import make_operands
from harness.problem.problem import LAYERS, Array, Layer, Problem
from harness.records.reader import Run, load_run
from harness.records.schema import CellRecord, ProviderRecord, SampleRecord
from harness.sweep import plan, processes
from harness.sweep import run as sweep_run
from harness.sweep.cell import make_cell
from harness.sweep.spec import SweepSpec

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "adding-an-implementation.md"

# One correct kernel, and what each of the others does to its process or its output beside it.
KERNELS = r"""
#define _POSIX_C_SOURCE 200809L
#include "ffk.h"
#include <math.h>
#include <time.h>
#include <unistd.h>

ffk_status good(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    const int64_t n_nodes = ((int64_t)2 << s->depth) - 1;
    for (int64_t b = 0; b < s->batch; ++b) {
        float *y = o->y + b * s->d_out;
        for (int64_t j = 0; j < s->d_out; ++j) y[j] = 0.0f;
        for (int64_t k = 0; k < s->trees; ++k)
            for (int64_t d = 0, node = 0; d <= s->depth; ++d) {
                const int64_t row = k * n_nodes + node;
                float z = 0.0f;
                for (int64_t i = 0; i < s->d_in; ++i)
                    z += o->x[b * s->d_in + i] * o->w_in[row * s->d_in + i];
                node = 2 * node + 1 + (z >= 0.0f);
                c->isa->gelu(1, &z);
                for (int64_t j = 0; j < s->d_out; ++j) y[j] += z * o->w_out[row * s->d_out + j];
            }
    }
    return FFK_OK;
}

ffk_status scratch(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    if (o->workspace_bytes < 4096 || (uintptr_t)o->workspace % FFK_ALIGNMENT != 0)
        return FFK_WORKSPACE_TOO_SMALL;
    for (int i = 0; i < 4096; ++i) ((volatile char *)o->workspace)[i] = 1;
    return good(s, o, c);
}

ffk_status wrong(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    const ffk_status status = good(s, o, c);
    for (int64_t j = 0; j < s->batch * s->d_out; ++j) o->y[j] *= 1.01f;
    return status;
}

ffk_status nans(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    (void)c;
    for (int64_t j = 0; j < s->batch * s->d_out; ++j) o->y[j] = NAN;
    return FFK_OK;
}

ffk_status lazy(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    (void)s, (void)o, (void)c;
    return FFK_OK;
}

ffk_status refuses(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    (void)s, (void)o, (void)c;
    return (ffk_status)77;
}

ffk_status segfaults(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    (void)s, (void)o, (void)c;
    *(volatile int *)8 = 1;
    return FFK_OK;
}

ffk_status hangs(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    (void)s, (void)o, (void)c;
    for (;;) pause();
}

/* Pass 1 is the gate, pass 2 the calibration (a pass is as long as a sample); each sample is a pass
 * to warm up and one that is timed: 6 is the timed pass of the second sample. */
ffk_status dies_late(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    static int calls;
    const struct timespec pause_of = {0, 25000000};
    if (++calls == 6) return segfaults(s, o, c);
    nanosleep(&pause_of, NULL);
    return good(s, o, c);
}
"""

DECLARE = """
from harness.plugin import register_c
for name, need in {names}:
    register_c(id="fff_planted_" + name, layer="fff", library="kernels.so", symbol=name,
               workspace_bytes=lambda problem, need=need: need)
"""

PYTHON = """
import numpy as np
from scipy.special import erf
from harness.plugin import register_python

def forward(x, w_in, w_out, y):
    depth = w_in.shape[1].bit_length() - 1
    y[:] = 0
    for k in range(len(w_in)):
        node = np.zeros(len(x), int)
        for d in range(depth + 1):
            z = np.einsum("bi,bi->b", x, w_in[k, node])
            a = 0.5 * z * (1 + erf(z / np.sqrt(2)))
            y += a[:, None] * w_out[k, node]
            node = np.where(z >= 0, 2 * node + 2, 2 * node + 1) if d < depth else node

def writes_x(x, w_in, w_out, y):
    x[:] = 0

register_python(id="fff_cpu_numpy", layer="fff", function=forward)
register_python(id="fff_planted_writes_x", layer="fff", function=writes_x)
"""


def worker_path(*further: Path) -> dict[str, str]:
    """Return an environment in which other processes find this harness, and what stands in `further`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*further, ROOT)))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the compiled kernels and the plugins that declare them."""
    where = tmp_path_factory.mktemp("plugins")
    (where / "kernels.c").write_text(KERNELS, encoding="ascii")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    subprocess.run(
        [*compiler, "-std=c11", "-O1", "-shared", "-fPIC", f"-I{plugin.include_dir()}", "-o",
         "kernels.so", "kernels.c"], cwd=where, check=True,
    )  # fmt: skip
    kernels = {
        "kind.py": [("good", 0), ("scratch", 4096), ("dies_late", 0)],
        "unfit.py": [("wrong", 0), ("nans", 0), ("lazy", 0), ("refuses", 0), ("segfaults", 0),
                     ("hangs", 0)],
    }  # fmt: skip
    for file, names in kernels.items():
        text = DECLARE.format(names=names) + (PYTHON if file == "kind.py" else "")
        (where / file).write_text(text, encoding="ascii")
    return where


@contextmanager
def forgetting() -> Iterator[None]:
    """Forget in the end what plugins registered within."""
    registry.all()
    state = registry._known, plugin._origins, plugin._loaded, plugin._digests
    before = [s.copy() for s in state]
    yield
    for now, then in zip(state, before, strict=True):
        now.clear()
        now.update(then)
    plugin.load_installed.cache_clear()


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """Forget, after each test, what its plugins registered."""
    with forgetting():
        yield


class Silence:
    """Watch a sweep and say nothing."""

    def stage(self, text: str) -> None:
        """Hear what is being done."""

    def progress(self, elapsed_s: float, predicted_s: float) -> None:
        """Hear how far the sweep is."""

    def cell(self, record: CellRecord) -> None:
        """Hear the outcome of a cell's gate."""

    def sample(self, record: SampleRecord) -> None:
        """Hear a sample."""


@dataclass(frozen=True)
class Swept:
    """Hold a sweep's outcome and what it left on disk."""

    outcome: sweep_run.Outcome
    run: Run
    lines: list[CellRecord | SampleRecord]

    def status(self, name: str) -> str:
        """Return the status of an implementation's cell and its reason."""
        cell = self.run.cells.set_index("implementation").loc[name]
        return f"{cell['status']}: {cell['reason']}"

    def gates(self, name: str) -> list[CellRecord]:
        """Return the records of an implementation's gates."""
        return [x for x in self.lines if isinstance(x, CellRecord) and x.implementation == name]


def make_spec(out: Path, plugins: list[Path], only: list[str]) -> SweepSpec:
    """Return a sweep of the smallest problem: two processes, three blocks."""
    return SweepSpec(
        levels=[1, 2, 3], device="cpu", models=parse_models("1x3"), batches=[5], widths=[8],
        only=only, skip=["ceiling*"], blas=["scipy"], threads=1, seed=0, passes=3, budget_s=60.0,
        processes=2, quick=True, keep_blas_env=True, out=out,
        plugins=[str(p) for p in plugins], timeout_s=4.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(folder: Path) -> Swept:
    """Sweep our own FFF beside plugins that are right, wrong, and fatal to their process."""
    files = [folder / "kind.py", folder / "unfit.py"]
    with forgetting():
        plugin.load_all(files)
        spec = make_spec(
            folder / "run", files, ["fff_l1_blas", "fff_l2_blas", "fff_planted_*", "fff_cpu_numpy"]
        )
        outcome = sweep_run.run(plan.make_plan(spec, made_machines.SMALL), Silence())
    run = load_run(outcome.folder)
    texts = (outcome.folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [
        kind.model_validate_json(text)
        for text in texts
        for kind in (CellRecord, SampleRecord)
        if f'"kind":"{kind.model_fields["kind"].default}"' in text
    ]
    return Swept(outcome, run, lines)


@pytest.mark.parametrize("name", ["fff_planted_good", "fff_planted_scratch", "fff_cpu_numpy"])
def test_right_plugin_is_gated_and_sampled_as_our_own(swept: Swept, name: str) -> None:
    """A right plugin passes the gate of each process and has as many blocks as our own kernel."""
    assert swept.status(name) == "ok: "
    assert {g.process for g in swept.gates(name)} == {0, 1}
    assert all(g.checked_tokens == 5 for g in swept.gates(name))
    samples = swept.run.samples
    blocks = {n: set(samples.loc[samples["implementation"] == n, "block"]) for n in
              (name, "fff_l1_blas")}  # fmt: skip
    assert blocks[name] == blocks["fff_l1_blas"] == {0, 1, 2}


def test_notes_say_what_was_timed_and_how(swept: Swept) -> None:
    """The record names the library with its digest and whose loop timed it."""
    c = swept.gates("fff_planted_good")[0].notes
    assert re.fullmatch(r"kernels\.so sha256:[0-9a-f]{12}", c["library"])
    assert c["timed_by"] == "C clock and loop"
    python = swept.gates("fff_cpu_numpy")[0].notes
    assert re.fullmatch(r"Python clock and loop, \d+ ns a pass of its own", python["timed_by"]), (
        python
    )
    assert python["plugin"].startswith("kind.py sha256:")


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("fff_planted_wrong", "wrong", "times the tolerance"),
        ("fff_planted_nans", "wrong", "not finite where the oracle is"),
        ("fff_planted_lazy", "wrong", "40 of 40 output elements were not written"),
        ("fff_planted_refuses", "failed", "fff_planted_refuses: status 77"),
        ("fff_planted_segfaults", "failed", "SIGSEGV"),
        ("fff_planted_hangs", "failed", "no answer within 4 s"),
        ("fff_planted_dies_late", "failed", "SIGSEGV"),
        ("fff_planted_writes_x", "failed", "read-only"),
    ],
)
def test_bad_plugin_costs_its_own_cell(swept: Swept, name: str, status: str, reason: str) -> None:
    """A plugin that is wrong, crashes or hangs is recorded once with its reason, and never tried again."""
    found = swept.status(name)
    assert found.startswith(f"{status}: ")
    assert reason in found
    bad = [g for g in swept.gates(name) if g.status != "ok"]
    assert len(bad) == 1
    assert bad[0].process == 0


def test_sweep_goes_on_and_counts_what_was_lost(swept: Swept) -> None:
    """The sweep completes, and its outcome counts three wrong and five failed cells."""
    assert (swept.outcome.reason, swept.outcome.wrong, swept.outcome.failed) == ("complete", 3, 5)
    assert swept.run.end is not None
    assert swept.run.warnings == []


def test_crash_while_sampling_keeps_its_samples_and_the_others_blocks(swept: Swept) -> None:
    """A crash after a good gate keeps the sample before it; its sibling is gated anew and misses no block."""
    samples = swept.run.samples
    late = samples[samples["implementation"] == "fff_planted_dies_late"]
    assert len(late) == 1
    sibling = [(g.process, g.status) for g in swept.gates("fff_planted_good")]
    assert sibling == [(0, "ok"), (0, "ok"), (1, "ok")]
    counts = samples.groupby(["implementation", "block"]).size().unstack(fill_value=0)
    whole = counts.drop(index="fff_planted_dies_late")
    assert (whole > 0).all().all()
    assert set(whole.index) == {
        "fff_l1_blas", "fff_l2_blas", "fff_planted_good", "fff_planted_scratch", "fff_cpu_numpy",
    }  # fmt: skip


def test_plugins_never_disturb_our_own_process(swept: Swept) -> None:
    """Our own cells are gated once a process: no plugin's crash made them begin again."""
    for name in ("fff_l1_blas", "fff_l2_blas"):
        assert [g.process for g in swept.gates(name)] == [0, 1]
    own = [p for p in swept.run.providers if isinstance(p, ProviderRecord)]
    assert [p.process for p in own] == [0, 1]


def test_run_names_its_plugins(swept: Swept, folder: Path) -> None:
    """The head of the run has the plugins' files, so that the run can be repeated."""
    assert swept.run.head.sweep.plugins[0] == str(folder / "kind.py")
    assert swept.run.head.sweep.timeout_s == 4.0


def test_table_has_a_row_for_a_plugin_and_the_reason_of_a_failed_one(swept: Swept) -> None:
    """The table shows a plugin's time and, for a failed one, what happened."""
    from harness.report import table

    text = table.format_markdown(analyse(swept.run))
    assert re.search(r"\| fff_planted_good +\| UltraFastBERT-1x3 +\| – +\| [\d.]+ [nu]s", text)
    assert re.search(r"\| fff_planted_hangs .*FAILED: no answer within 4 s", text)


# ---- patience -----------------------------------------------------------------------------------


def test_patience_ends_a_hang_while_its_user_waits() -> None:
    """A request may take 50 times its prediction, at least 30 s (quick: 20 s), or what --timeout says."""
    problem = Problem(layer="fff", batch=4, d_in=8, d_out=8, depth=1, trees=1)
    cell = make_cell(registry.get("fff_l1_blas"), problem, "ultrafastbert-1x1", "scipy")

    def patience(predicted_s: float, **changes: object) -> float:
        spec = make_spec(Path("unused"), [], [])
        spec = SweepSpec(**{**{n: getattr(spec, n) for n in spec.__slots__}, **changes})
        return processes.patience_s(spec, cell, predicted_s)

    assert patience(0.001) == 4.0
    assert patience(1000.0) == 4.0
    assert patience(0.001, timeout_s=0.0) == pytest.approx(20, abs=0.1)
    assert patience(0.001, timeout_s=0.0, quick=False) == pytest.approx(30, abs=0.1)
    assert patience(2.0, timeout_s=0.0) == pytest.approx(100, abs=0.1)


# ---- declarations -------------------------------------------------------------------------------

GOOD = 'register_c(id="fff_cpu_x", layer="fff", library="kernels.so", symbol="good")'

UNASKABLE = """from harness.plugin import Implementation, register
register(Implementation(id="fff_x", layer="fff", level=None, devices=("cpu",), summary="", prepare=None,
    workspace_bytes=lambda p: 0, unavailable=lambda: 1 / 0))
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
        ("x = 1", "registers no implementation"),
        ("def (", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        (GOOD.replace("fff_cpu_x", "fff_l1_blas"), "'fff_l1_blas' is registered already"),
        (GOOD.replace("fff_cpu_x", "cpu_x"), "id must begin with its layer"),
        (GOOD.replace("fff_cpu_x", "fff_a/b"), "letters, digits"),
        (GOOD.replace('"fff"', '"fff_cpu"'), "layer must be one of ff, fff, leaf"),
        (GOOD.replace("kernels.so", "none.so"), "compile it first"),
        (GOOD.replace("kernels.so", "kernels.c"), "can't be loaded"),
        (f"{GOOD[:-1]}, token_block='a')", "TypeError"),
        (UNASKABLE, "unloadable.py:4: ZeroDivisionError"),
        (GOOD.replace('"good"', '"absent"'), "has no symbol 'absent'"),
    ],
)
def test_unfit_plugin_is_refused_in_one_line(folder: Path, text: str, reason: str) -> None:
    """What can't be loaded is a usage error of one line that names the file."""
    file = folder / "unloadable.py"
    file.write_text(f"from harness.plugin import register_c\n{text}\n", encoding="ascii")
    with pytest.raises(UsageError, match=re.escape(reason)) as caught:
        plugin.load(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message


def test_changed_file_is_compiled_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was changed within a second, to as many bytes, is not run as it was before."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = folder / "changed.py"
    for word in ("first", "other"):
        file.write_text(f"raise ValueError('{word}')\n", encoding="ascii")
        os.utime(file, (1e9, 1e9))
        with pytest.raises(UsageError, match=word):
            plugin.load(file)


def test_line_of_the_mistake_is_named(folder: Path) -> None:
    """An error names the plugin's own line that raised."""
    file = folder / "line.py"
    file.write_text("\n\n1 / 0\n", encoding="ascii")
    with pytest.raises(UsageError, match=r"line\.py:3: ZeroDivisionError: division by zero"):
        plugin.load(file)


def test_workspace_that_raises_is_a_usage_error(folder: Path) -> None:
    """A declaration whose workspace_bytes raises ends the plan in one line."""
    file = folder / "workspace.py"
    raising = GOOD.replace(")", ", workspace_bytes=lambda p: p.nothing)")
    file.write_text(f"from harness.plugin import register_c\n{raising}\n", encoding="ascii")
    plugin.load(file)
    spec = make_spec(folder / "never", [file], ["fff_cpu_x"])
    with pytest.raises(UsageError, match="fff_cpu_x: its workspace_bytes raised AttributeError"):
        plan.make_plan(spec, made_machines.SMALL)


def test_loading_twice_is_loading_once(folder: Path) -> None:
    """The same file named twice registers once."""
    plugin.load_all([folder / "kind.py", folder / "kind.py"])
    assert plugin.origin("fff_planted_good") == str(folder / "kind.py")
    assert plugin.origin("fff_l1_blas") == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["sweep", "--plugin", "absent.py"], "--plugin: there is no file 'absent.py'"),
        (["list", "--plugin", "absent.py"], "--plugin: there is no file 'absent.py'"),
        (["sweep", "--timeout", "0"], "--timeout: need a number above 0, got 0"),
    ],
)
def test_command_line_refuses_a_mistake(arguments: list[str], reason: str) -> None:
    """A mistake in naming a plugin is a usage error, before anything is measured."""
    with pytest.raises(UsageError, match=re.escape(reason)):
        cli.run(arguments)


def test_unfit_plugin_ends_with_one_line_and_status_2(folder: Path) -> None:
    """The command line prints one line for a plugin that can't be loaded, and exits with 2."""
    (folder / "empty.py").write_text("", encoding="ascii")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "sweep", "--plugin", "empty.py"], cwd=folder, text=True,
        env=worker_path(), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: --plugin: empty.py: it registers no implementation\n"


def test_forward_runs_a_plugin_on_the_callers_arrays(folder: Path) -> None:
    """`harness.forward` computes with a loaded plugin what it computes with our own kernel."""
    plugin.load(folder / "kind.py")
    operands = make_operands(
        Problem(layer="fff", batch=3, d_in=5, d_out=7, depth=2, trees=2, seed=1)
    )
    got, want = (api.forward(i, operands.x, operands.w_in, operands.w_out)
                 for i in ("fff_planted_scratch", "fff_l1_blas"))  # fmt: skip
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_entry_point_of_an_installed_package_is_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package's entry point is listed and measured, in a process that loads it by its name."""
    site = tmp_path / "site"
    (site / "mine-1.0.dist-info").mkdir(parents=True)
    (site / "mine-1.0.dist-info" / "METADATA").write_text("Name: mine\nVersion: 1.0\n")
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text(
        "[harness.implementations]\nours = mine_kernels:declare\n"
    )
    body = GOOD.replace("kernels.so", str(folder / "kernels.so"))
    (site / "mine_kernels.py").write_text(
        f"from harness.plugin import register_c\ndef declare():\n    {body}\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", worker_path(site)["PYTHONPATH"])
    plugin.load_installed.cache_clear()
    assert "fff_cpu_x" in [i.id for i in api.implementations()]
    spec = make_spec(tmp_path / "run", [], ["fff_cpu_x"])
    outcome = sweep_run.run(plan.make_plan(spec, made_machines.SMALL), Silence())
    cells = load_run(outcome.folder).cells
    assert cells[["implementation", "status"]].values.tolist() == [["fff_cpu_x", "ok"]]


def test_broken_entry_point_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed package whose plugin can't be imported is named in one line."""
    (tmp_path / "odd-1.0.dist-info").mkdir()
    (tmp_path / "odd-1.0.dist-info" / "METADATA").write_text("Name: odd\nVersion: 1.0\n")
    (tmp_path / "odd-1.0.dist-info" / "entry_points.txt").write_text(
        "[harness.implementations]\nours = odd_kernels_that_are_not_there\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plugin.load_installed.cache_clear()
    with pytest.raises(UsageError, match=r"entry point odd:ours of .*ModuleNotFoundError"):
        plugin.load_installed()


# ---- the Python clock ---------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_a_function_gets_all_of_a_layers_weights(layer: Layer, tmp_path: Path) -> None:
    """A plugin may be of any layer: its function gets x, each of the layer's weights and y, in that order."""
    problem = Problem(layer=layer, batch=3, d_in=5, d_out=4, **EXTENTS[layer])
    operands = make_operands(problem)
    got: list[Array] = []
    found = plugin.register_python(
        id=f"{layer}_planted_{tmp_path.name}",
        layer=layer,
        function=lambda *given: got.extend(given),
    )
    found.prepare(problem, operands, Context(provider=None, workspace=lambda size: None)).forward()
    assert len(got) == 2 + len(problem.weights())
    for array, given in zip((operands.x, *operands.weights()), got, strict=False):
        assert np.shares_memory(array, given)
        assert not given.flags.writeable
    assert got[-1] is operands.y


def test_python_timer_runs_the_passes_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python timer makes `loops` passes between two readings of the clock."""
    readings, passes = iter([100, 1700]), []
    monkeypatch.setattr(timer, "perf_counter_ns", lambda: next(readings))
    assert timer.make_python_timer(lambda: passes.append(1))(4) == 1600
    assert len(passes) == 4


def test_python_overhead_is_measured() -> None:
    """The loop's own cost is a positive time a pass."""
    assert timer.python_overhead_ns() > 0


# ---- the document -------------------------------------------------------------------------------

# The document's sweeps, made small.
SMALL = (
    " --batch 8 --width 16 --models bert-base-4095,1x3 --passes 2 --processes 1 --skip 'ceiling*'"
    " --no-figures"
)


@pytest.mark.slow
def test_document_leads_to_a_row_in_the_table(tmp_path: Path) -> None:
    """The files and commands of the document, taken as they stand, put both examples into the table."""
    text = DOCUMENT.read_text(encoding="utf-8")
    files = re.findall(r"^```\w+ (\S+)\n(.*?)^```", text, flags=re.M | re.S)
    assert [name for name, _ in files] == ["fff_mine.c", "mine.py", "numpy_fff.py"]
    for name, body in files:
        (tmp_path / name).write_text(body, encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S)
    commands = [line for block in blocks for line in block.splitlines()]
    compiling, first, second = commands
    python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}'
    script = "\n".join(["set -e", python, compiling, f"{first}{SMALL} --dry-run", second + SMALL])
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=worker_path(), text=True, capture_output=True,
        timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    planned, _, table = done.stdout.partition("The run would stand in run-mine.")
    assert "fff_cpu_mine/ultrafastbert-1x3" in planned
    for name in ("fff_cpu_mine", "fff_cpu_numpy"):
        assert re.search(
            rf"\| UltraFastBERT-1x3 +\| {name} +\| – +\| (no difference \()?~?[\d.]+x", table
        )


def test_document_refuses_what_it_says_the_gate_refuses() -> None:
    """The reasons that the document lists are those that the harness gives."""
    text = DOCUMENT.read_text(encoding="utf-8")
    sources = "".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "harness").rglob("*.py"))
    )
    for words in ("output elements were not written", "are not finite where the oracle is",
                  "the largest error is", "the measuring process ended with",
                  "no answer within"):  # fmt: skip
        assert words in text
        assert words in sources


def test_installed_package_carries_the_header(tmp_path: Path) -> None:
    """What is built for an install has ffk.h where `include-dir` looks for it first."""
    pytest.importorskip("setuptools", "77", reason="the build's own requirement")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    shipped = tmp_path / "harness" / "include" / "ffk.h"
    assert shipped.read_bytes() == (ROOT / "native" / "include" / "ffk.h").read_bytes()
    assert (tmp_path / "harness" / "plugin.py").is_file()
