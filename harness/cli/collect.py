"""Own the command `collect`: what came of a submission, and its table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.exit_status import ExitStatus
from harness.cli.streams import print_error, print_notice, say
from harness.machine import slurm
from harness.records.submission import read_submission


def collect_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a submission, as `submit` prints it.")
    ],
) -> ExitStatus:
    """Say what came of a submission, and put its runs into one table, a row for each machine and shape.

    Each run is read and compared with what was asked for. What is missing, unfinished or wrong is named, with
    the command that makes it or takes it up, and is status 1; only runs that have ended are in the table. Of
    several dtypes each has a table of its own. Times of different machines are never compared.
    """
    from harness.analysis import submission as analysis
    from harness.report import merge as report_merge
    from harness.report import submission as report

    submission = read_submission(folder)
    outcomes = analysis.judge(submission, folder)
    queued = slurm.find_queued([number for job in submission.jobs for number in job.ids])
    say(report.format_outcomes(submission, outcomes, folder, queued))
    for host, nodes in analysis.find_shared_machines(outcomes):
        print_notice(f"notice: {', '.join(nodes)} are one machine, {host}")
    tables = analysis.merge_outcomes(outcomes)
    paths = report.write_tables(tables, folder)
    for _, runs, rows in tables:
        say("\n" + report_merge.format_merged(runs, rows))
    if paths:
        say(f"Written: {', '.join(map(str, paths))}")
    left = [o for o in outcomes if o.state != "complete"]
    if any(o.state != "wrong" for o in left):
        print_notice(
            f"`python -m harness submit --resume {shlex.quote(str(folder))}` submits what is left"
        )
    for outcome in left:
        print_error(f"{outcome.job.name} is {outcome.state}")
    return ExitStatus.BAD if left else ExitStatus.CLEAN
