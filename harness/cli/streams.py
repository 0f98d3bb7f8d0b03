"""Own the standard streams: what is printed arrives whatever their encoding, or the loss is told."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from harness.records.text import visible


def prepare() -> bool:
    """Make the streams take any character, and say whether standard output is open.

    A character that an encoding lacks is replaced. Where a stream was closed by the caller the next file that
    is opened would become it, so that what is printed would end in that file: both are given a place.
    """
    is_open = sys.stdout is not None
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    # The type says that there always are streams; a closed one is None.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    return is_open


def abandon_output() -> None:
    """Let what standard output still holds go, so that the end of the process does not try it again."""
    with suppress(OSError, ValueError):  # it may have no number, or be closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Print lines of text, of which no character steers a terminal."""
    print("\n".join(map(visible, text.split("\n"))))


def print_notice(text: str) -> None:
    """Print a line where it does not mix with the output."""
    print(visible(text), file=sys.stderr)


def print_error(text: str) -> None:
    """Print a line of trouble where it does not mix with the output."""
    print_notice(f"error: {text}")
