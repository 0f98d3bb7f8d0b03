"""Own the command `explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness import axes, ladder, plan, sweep
from harness.cli import options
from harness.cli.asked import make_spec
from harness.console import Display
from harness.reader import load_run


def explain_command(
    run: Annotated[
        Path | None,
        typer.Argument(help="Folder of a ladder's run, to write its page anew.", metavar="[RUN]"),
    ] = None,
    quick: options.Quick = False,
    blas_names: options.Blas = None,
    batch: Annotated[str | None, options.batch(ladder.QUICK_BATCH)] = None,
    width: options.Width = str(axes.PAPER_WIDTH),
    seed: options.Seed = 0,
    passes: options.Passes = None,
    budget: Annotated[float | None, options.budget(ladder.BUDGET_S, ladder.QUICK_BUDGET_S)] = None,
    processes: options.Processes = plan.PROCESSES,
    out: options.Out = None,
) -> int:
    """Say what the published speedup is made of: from its protocol to a strict one, a fault at a time.

    Measures UltraFastBERT-1x11 against the fastest FF first as the benchmark published with the paper did,
    then with one fault mended after the other, and writes the page explain.md with a table and a figure.
    """
    from harness import explain

    if run is not None:
        loaded = load_run(run)
        files = explain.write_page(loaded)
        print(files[0].read_text(encoding="utf-8"))
        print(f"Written: {', '.join(map(str, files))}")
        return 0
    default_budget = ladder.QUICK_BUDGET_S if quick else ladder.BUDGET_S
    spec = ladder.ask(
        make_spec(
            models=ladder.FFF_MODEL, batch=batch or (str(ladder.QUICK_BATCH) if quick else None),
            width=width, blas_names=blas_names, seed=seed, passes=passes,
            budget=budget or (None if passes else default_budget), processes=processes,
            quick=quick, out=out,
        )
    )  # fmt: skip
    made = ladder.make_ladder(spec)
    with Display() as display:
        outcome = sweep.run(spec, made, display)
    loaded = load_run(outcome.folder)
    files = explain.write_page(loaded)
    print(files[0].read_text(encoding="utf-8"))
    print(f"Written to {outcome.folder}: {', '.join(p.name for p in files)}")
    if outcome.reason == "interrupted":
        return 130
    return 1 if outcome.wrong or outcome.failed else 0
