"""Write what a wheel installs under `share`: the manual page, and the completion scripts of shells.

    python tools/share.py [FOLDER, default share]

All of it is made from the command line's own help. `tools/wheels` runs this before it builds; setup.py
installs what lies in `share`, and does without where there is nothing.
"""

from __future__ import annotations

import datetime
import os
import re
import sys
from pathlib import Path
from typing import Any

from harness.cli import COMMANDS, read_commands
from harness.cli.completion import PROGRAM, make_script
from harness.cli.exit_status import ExitStatus
from harness.machine.record import release

ROOT = Path(__file__).resolve().parent.parent
COMPLETIONS = {
    "bash": f"bash-completion/completions/{PROGRAM}",
    "zsh": f"zsh/site-functions/_{PROGRAM}",
    "fish": f"fish/vendor_completions.d/{PROGRAM}.fish",
}
MANUAL = f"man/man1/{PROGRAM}.1"
_WHAT = "measures conditional against dense feedforward layers"


def roff(text: str) -> str:
    """Return a text as it stands in roff, as one line: none of it is a request or an escape."""
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    # Words as they are typed stand in bold, as in the README.
    escaped = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", escaped)
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a docstring, each with a request before it."""
    found = []
    for paragraph in text.split("\n\n"):
        found += [".PP", roff(paragraph)]
    return found


def _command(name: str, command: Any) -> list[str]:
    """Return the part of the page on a command: how it is called, what it does, what it takes."""
    context = command.make_context(f"{PROGRAM} {name}", [], resilient_parsing=True)
    lines = [
        f".SS {roff(name)}",
        ".B " + roff(context.command.get_usage(context).partition(": ")[2]),
    ]
    lines += _paragraphs(command.help or COMMANDS[name][1])
    for param in command.params:
        record = param.get_help_record(context)
        if record is not None:
            lines += [".TP", f".B {roff(record[0])}", roff(record[1])]
    return lines


def make_manual() -> str:
    """Return the manual page: every command with its options, exit statuses, where to read on."""
    when = int(os.environ.get("SOURCE_DATE_EPOCH") or datetime.datetime.now().timestamp())
    day = datetime.datetime.fromtimestamp(when, datetime.UTC).strftime("%Y-%m-%d")
    lines = [
        f'.TH {PROGRAM.upper()} 1 "{day}" "{PROGRAM} {release()}" "User Commands"',
        ".SH NAME", f"{roff(PROGRAM)} \\- {_WHAT}",
        ".SH SYNOPSIS", f".B {roff(PROGRAM)}", ".I COMMAND", "[OPTIONS] [ARGUMENTS]",
        ".SH DESCRIPTION",
        roff("Measures conditional feedforward layers (FFF) against dense ones (FF) on this machine: every "
             "result is checked against a float64 oracle before it is timed, every ratio has an interval, "
             "and each figure stands beside the published one. Begin with `fff-harness sweep --quick`."),
        ".SH COMMANDS",
    ]  # fmt: skip
    for name, command in read_commands().items():
        lines += _command(name, command)
    lines.append(".SH EXIT STATUS")
    for status in ExitStatus:
        lines += [".TP", f".B {status:d}", roff(status.meaning)]
    lines += [
        ".SH FILES", ".TP", r"\fIresults/\fR",
        roff("The folders of runs, where no other is named: the machine's record, every raw sample, tables, "
             "figures."),
        ".SH SEE ALSO",
        roff("The pages of docs, of which docs/measuring.md says what is inside the timed region, and "
             "docs/runs.md what a run folder holds."),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def write_share(folder: Path) -> list[Path]:
    """Write the manual page and the scripts into a folder, each where its reader looks, and return them."""
    texts = {MANUAL: make_manual()}
    texts |= {place: make_script(shell) for shell, place in COMPLETIONS.items()}
    for place, text in texts.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [folder / place for place in texts]


if __name__ == "__main__":
    for written in write_share(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "share"):
        print(written)
