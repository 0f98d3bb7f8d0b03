"""Run the command line: `python -m harness`."""

from __future__ import annotations

from harness.cli.main import main

main()
