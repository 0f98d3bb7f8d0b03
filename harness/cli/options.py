"""Own the options that several commands take: one annotated type each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.exit_status import ExitStatus
from harness.errors import UnknownNameError, UsageError
from harness.paper.published import PAPER_BATCH
from harness.problem import axes
from harness.problem.axes import Axis
from harness.problem.models import PAPER_MODELS
from harness.report.drawing import STYLES

Blas = Annotated[
    list[str] | None,
    typer.Option(
        "--blas",
        help="BLAS provider: scipy, mkl, openblas, blis, aocl, or a path to a .so. Repeatable; each "
        "gets a measuring process of its own. [default: scipy]",
    ),
]
Width = Annotated[str, typer.Option(help="d_in = d_out, a list.")]
Seed = Annotated[int, typer.Option(help="Seed of the operands and of the order.")]
Threads = Annotated[
    int, typer.Option(help="Threads of the provider's pool, and of our own kernels.")
]
Passes = Annotated[
    int | None, typer.Option(help="Blocks to sample; each samples every cell at least once.")
]
Processes = Annotated[
    int, typer.Option(help="Fresh measuring processes a provider, one after the other.")
]
Quick = Annotated[bool, typer.Option("--quick", help="A minute, a small batch; not for quoting.")]
KeepBlasEnv = Annotated[
    bool,
    typer.Option(
        "--keep-blas-env",
        help="Keep variables that change a library's kernels, precision, threads or memory "
        "(docs/doctor.md lists them).",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan and its predicted time; run nothing.")
]
Figures = Annotated[
    bool,
    typer.Option("--figures/--no-figures", help="Draw the figures; `plot RUN` draws them later."),
]
DrawingStyleName = Annotated[
    str,
    typer.Option(
        "--style",
        help="Style of the figures: screen, or paper, for a column of 3.3 inches in Computer Modern.",
    ),
]
Page = Annotated[
    bool,
    typer.Option("--page/--no-page", help="Write the page; `report RUN` writes it later."),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the run. [default: results/<UTC time>-<host>-<commit>]"),
]
Levels = Annotated[str, typer.Option(help="BLAS levels to measure, a list of 1, 2, 3.")]
DeviceName = Annotated[str, typer.Option("--device", help="Device to measure on: cpu or cuda.")]
PAPER = ",".join(PAPER_MODELS)
Models = Annotated[
    str,
    typer.Option(
        help="Layer shapes: bert-base-4095, bert-base-3072, ultrafastbert-1x11, ff-HIDDEN, KxD (K trees "
        "of depth D), leaf-WIDTHxD (the original FFF), `family` for the paper's twelve from 3072x0 to 1x11, "
        "ffp-table1 or ffp-figure for the layers of arXiv 2308.14711; the controls topk-K, hash-K, peer-K, "
        "moe-NxWIDTH-kK (docs/controls.md)."
    ),
]
Controls = Annotated[
    bool,
    typer.Option(
        "--controls/--no-controls",
        help="Measure beside each FFF what uses as many neurons by other means: a dense layer of so many, "
        "the largest logits, a hashed path, product keys, a mixture of experts (docs/controls.md).",
    ),
]
Baseline = Annotated[
    str,
    typer.Option(
        help="FF that every ratio is over, such as ff-49152; it is measured too, and limits are computed "
        "from it."
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Implementations to measure, ids or globs: 'fff*'. Repeatable."),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(help="Implementations to leave out, ids or globs. Repeatable."),
]
Isa = Annotated[
    str,
    typer.Option(
        help="Instruction set of our own kernels and ceilings, by name, such as avx2 or generic. "
        "[default: the fastest that this processor has]"
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds that a measuring process may take to answer before its cell is given up. "
        "[default: 30, with --quick 20, or 50 times the prediction where that is longer]"
    ),
]
CheckSeed = Annotated[
    int,
    typer.Option(
        help="Seed of the tokens that are compared, as a record has it; 0 draws them anew."
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        help="Python file that declares implementations of your own. Repeatable; see "
        "docs/adding-an-implementation.md.",
        metavar="FILE.py",
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(help="Folder of a run, as a sweep prints it.", metavar="RUN")
]


def batch(quick: int) -> Any:
    """Return the option --batch of a command whose batch with --quick is that."""
    return typer.Option(
        help="Batches (tokens): a list with ranges, such as 1,16,2^4..2^14. "
        f"[default: {PAPER_BATCH}; with --quick {quick}]"
    )


def budget(usual: float, quick: float) -> Any:
    """Return the option --budget of a command with these defaults, in seconds."""
    return typer.Option(
        help="Seconds for the whole of it, instead of --passes. "
        f"[default: {usual:g}; with --quick {quick:g}]"
    )


def describe_axis(axis: Axis) -> str:
    """Return what --help says of an axis: its values, and what is measured where none is asked for."""
    values = [*axis.values.items(), *((f"{start}FILE", says) for start, says in axis.files.items())]
    known = ", ".join(f"{value} ({says})" if says else value for value, says in values)
    usual = [axis.default]
    usual += [f"on {device} {','.join(found)}" for device, found in axis.usual.items()]
    return f"{axis.asks}: a list of {known}. [default: {'; '.join(usual)}]"


def take_axes(command: Callable[..., ExitStatus], *, behind: str) -> Callable[..., ExitStatus]:
    """Give a command that takes words by name (`**asked`) an option for each axis, behind one of its own."""
    parameters = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            parameters.append(parameter)
        if parameter.name == behind:
            parameters += [
                parameter.replace(
                    name=axis.name, default=None,
                    annotation=Annotated[str | None, typer.Option(help=describe_axis(axis))],
                )
                for axis in axes.AXES
            ]  # fmt: skip
    # The signature is where typer looks for a command's options.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def find_given(context: typer.Context) -> dict[str, str]:
    """Return what stands on the command line itself: the names of parameters, and the option of each."""
    found = {}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            found[parameter.name or ""] = parameter.opts[0]
    return found


def require_style(style: str) -> None:
    """Raise UsageError where figures have no such style."""
    if style not in STYLES:
        raise UnknownNameError("style", style, STYLES)


def require_positive(option: str, value: float | None) -> None:
    """Raise UsageError where a number was given that is not above 0."""
    if value is not None and value <= 0:
        raise UsageError(f"{option}: need a number above 0, got {value:g}")


def split_patterns(texts: list[str] | None) -> list[str]:
    """Return the parts of a repeatable option whose values may be lists."""
    return [part for text in texts or [] for part in text.split(",") if part]
