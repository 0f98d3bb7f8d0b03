"""A ReFrame test that carries out one whole sweep of fff-harness on a node of its own.

    reframe -c fff_harness.py -r
    reframe -c fff_harness.py -r -S FffSweep.options='--blas openblas --threads 4' -P dtype=float32,bfloat16

The cells of a ratio are always of one job: parameters go over dtypes, never over implementations. Sanity:
the sweep ended with 0, so that no cell was wrong, failed or impossible, and its run is complete. Performance:
every speedup of its table, by model, column and shape, for a `reference` of one's own in a derived class.
"""

from __future__ import annotations

import csv
import re
import shlex
import sys
from pathlib import Path

import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import (
    parameter,
    performance_function,
    run_before,
    sanity_function,
    variable,
)

RUN = "run"  # the run's folder, in the test's stage directory
_INTERRUPTED = 75  # the run is kept, and can be taken up


@rfm.simple_test
class FffSweep(rfm.RunOnlyRegressionTest):
    """Measure conditional against dense feedforward layers, whole sweep by whole sweep.

    options: those of `python -m harness sweep`, but for --out, --dtype and --threads. threads: of the sweep,
    and the processors that the job asks for. interpreter: the Python that has fff-harness.
    """

    descr = "Speedups of conditional (FFF) over dense (FF) feedforward layers"
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    options = variable(str, value="--quick")
    threads = variable(int, value=1)
    interpreter = variable(str, value=sys.executable)
    dtype = parameter(["float32"])
    exclusive_access = True
    num_tasks = 1
    num_tasks_per_node = 1
    keep_files = [RUN]
    sourcesdir = None
    time_limit = "1h"

    @run_before("run")
    def set_command(self) -> None:
        """Name the sweep: what stands in the job script can be repeated by hand."""
        self.num_cpus_per_task = self.threads
        self.executable = self.interpreter
        words = ["-m", "harness", "sweep", *shlex.split(self.options)]
        words += ["--threads", str(self.threads), "--dtype", self.dtype, "--out", RUN]
        self.executable_opts = [shlex.quote(word) for word in words]

    @sanity_function
    def is_clean_and_whole(self) -> bool:
        """Hold the sweep to its exit status and to its run."""
        status = self.job.exitcode
        errors = (Path(self.stagedir) / str(self.job.stderr)).read_text(errors="replace")
        last = [line for line in errors.splitlines() if line.startswith("error:")][-1:]
        said = ": ".join([f"the sweep ended with {status}", *last])
        if status == _INTERRUPTED:
            said = f"the sweep was interrupted; `--resume {Path(self.stagedir) / RUN}` goes on from there"
        return sn.all(
            [
                sn.assert_eq(status or 0, 0, msg=said),
                sn.assert_found(
                    r'"kind":"end".*"reason":"(complete|budget)"', f"{RUN}/records.jsonl",
                    msg="the run has not ended by itself",
                ),
            ]
        )  # fmt: skip

    @run_before("performance")
    def take_speedups(self) -> None:
        """Take every speedup of the run's table, a performance variable each."""
        with (Path(self.stagedir) / RUN / "table.csv").open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["speedup"]]
        self.perf_variables = {_name(row): _speedup(row["speedup"]) for row in rows}


@performance_function("x")
def _speedup(text: str) -> float:
    """Return a speedup of the table."""
    return float(text)


def _name(row: dict[str, str]) -> str:
    """Return the name of a speedup: all that tells its row from others, in letters that a name may have."""
    shape = f"b{row['batch']}_w{row['width']}"
    parts = [row["model"], row["column"], row["provider"], shape]
    parts += [row[name] for name in ("math", "data", "rows", "routing", "weights", "launch")]
    return re.sub(r"\W+", "_", "_".join(filter(None, parts)))
