"""Plant a 5 % slowdown and a 30 % drift, and see what `compare` says: `python tests/fabricate/plant.py`.

Four quick sweeps of the same cells: as it is, with one kernel 5 % slower, and both again while others take
a quarter of every processor for half of the sweep. The slower kernel must be called slower; nothing else may
be called different, with the load or without. Under the load, which comes in turns about as long as a
sample, the intervals widen, and the slower kernel may be called ambiguous. About three minutes; nothing
else should run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.analysis import compare
from harness.plugin import include_dir
from harness.records.reader import Run, load_run
from harness.sweep.defaults import QUICK_BUDGET_S

ROOT = Path(__file__).resolve().parents[2]
PLANTED = "fff_cpu_planted"
CELLS = "ff_l3_blas,fff_l1_blas,fff_cpu_planted"
PERIOD_S = 0.02
# What may be called different in each comparison with the run as it is.
WANTED: dict[str, list[dict[str, str]]] = {
    "slower kernel": [{PLANTED: "slower"}],
    "load alone": [{}],
    "slower kernel under load": [{PLANTED: "slower"}, {}],
}

# The FFF in plain C. MORE of every 100 tokens are computed a second time, long after the first.
KERNEL = """
#include "ffk.h"
static void token(const ffk_shape *s, const ffk_operands *o, const ffk_context *c, int64_t b) {
    const float *restrict x = o->x + b * s->d_in;
    float *restrict y = o->y + b * s->d_out;
    float a[32];
    int64_t row[32], node = 0;
    for (int64_t d = 0; d <= s->depth; ++d) {
        const float *restrict w = o->w_in + node * s->d_in;
        float z = 0.0f;
#pragma omp simd reduction(+ : z)
        for (int64_t i = 0; i < s->d_in; ++i) z += x[i] * w[i];
        row[d] = node;
        a[d] = z;
        node = 2 * node + 1 + (z >= 0.0f);
    }
    c->isa->gelu(s->depth + 1, a);
    for (int64_t j = 0; j < s->d_out; ++j) y[j] = 0.0f;
    for (int64_t d = 0; d <= s->depth; ++d) {
        const float *restrict w = o->w_out + row[d] * s->d_out;
        for (int64_t j = 0; j < s->d_out; ++j) y[j] += a[d] * w[j];
    }
}
ffk_status planted(const ffk_shape *s, const ffk_operands *o, const ffk_context *c) {
    for (int64_t t = 0; t < s->batch + s->batch * MORE / 100; ++t) token(s, o, c, t % s->batch);
    return FFK_OK;
}
"""
PLUGIN = """
from harness.plugin import register_c
register_c(id="fff_cpu_planted", layer="fff", library="planted.so", symbol="planted", summary="planted")
"""


def build(folder: Path, more: int) -> Path:
    """Compile the kernel with so many percent of work added, and return its plugin."""
    folder.mkdir()
    (folder / "planted.c").write_text(KERNEL, encoding="utf-8")
    (folder / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    subprocess.run(
        ["cc", "-std=c11", "-O3", "-march=native", "-fopenmp-simd", "-shared", "-fPIC",
         f"-DMORE={more}", f"-I{include_dir()}", "-o", str(folder / "planted.so"),
         str(folder / "planted.c")], check=True,
    )  # fmt: skip
    return folder / "plugin.py"


def spin(duty: float, processor: int) -> None:
    """Take a share of one processor, in short turns, until killed; unpinned, two would share one."""
    os.sched_setaffinity(0, {processor})
    while True:
        end = time.perf_counter() + duty * PERIOD_S
        while time.perf_counter() < end:
            pass
        time.sleep((1 - duty) * PERIOD_S)


def sweep(plugin: Path, out: Path, duty: float) -> Run:
    """Carry out a quick sweep with the default statistics, under load in its second half where asked."""
    words = ["sweep", "--quick", "--only", CELLS, "--models", "bert-base-4095,ultrafastbert-1x11"]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *words, "--plugin", str(plugin), "--out", str(out)],
        cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    spinners: list[subprocess.Popen[bytes]] = []
    try:
        if duty:
            time.sleep(QUICK_BUDGET_S / 2)
            words = [sys.executable, __file__, "--duty", str(duty), "--spin"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            spinners = [
                subprocess.Popen([*words, str(processor)], env=environment)
                for processor in sorted(os.sched_getaffinity(0))
            ]
        assert process.wait(timeout=300) == 0
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
    return load_run(out)


def drift(run: Run) -> float:
    """Return how much longer the reference takes in the last processes than in the first ones."""
    cell = run.cells.loc[run.cells["implementation"] == "ceiling_sgemm", "cell"].iloc[0]
    own = run.samples[run.samples["cell"] == cell]
    times = own.groupby(["process", "block"])["pass_ns"].mean().groupby(level="process").median()
    return float(times.tail(2).mean() / times.head(2).mean())


def verdicts(a: Run, b: Run, name: str) -> dict[str, str]:
    """Print the comparison of two runs and return its verdicts by implementation."""
    found = {}
    print(f"{name} (the reference drifts by {100 * (drift(b) - 1):+.0f} % within B)")
    for c in compare.compare(a, b).changes:
        found[c.cell.split("/")[0]] = c.verdict
        if c.change is not None:
            percent = [100 * (x - 1) for x in (c.change.value, c.change.low, c.change.high)]
            print(
                f"  {c.cell}: {c.verdict}, {percent[0]:+.1f} % [{percent[1]:+.1f}, {percent[2]:+.1f}]"
            )
    sys.stdout.flush()
    return found


def main() -> None:
    """Make the four runs and judge them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--percent", type=int, default=5, help="how much slower the kernel is made")
    parser.add_argument(
        "--duty", type=float, default=0.25, help="share of each processor that is taken"
    )
    parser.add_argument("--keep", type=Path, help="folder to leave the runs in")
    parser.add_argument("--spin", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.spin is not None:
        spin(asked.duty, asked.spin)
    with tempfile.TemporaryDirectory() as scratch:
        base = asked.keep or Path(scratch)
        base.mkdir(parents=True, exist_ok=True)
        plain, slow = build(base / "plain", 0), build(base / "slow", asked.percent)
        a = sweep(plain, base / "a", 0.0)
        runs = {
            "slower kernel": sweep(slow, base / "b", 0.0),
            "load alone": sweep(plain, base / "c", asked.duty),
            "slower kernel under load": sweep(slow, base / "d", asked.duty),
        }
        bad = []
        for name, run in runs.items():
            found = verdicts(a, run, name)
            called = {i: v for i, v in found.items() if v in ("faster", "slower", "broken")}
            if called not in WANTED[name]:
                bad.append(f"{name}: {called or 'nothing'} was called different")
    print("\n".join(bad) or "as planted")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
