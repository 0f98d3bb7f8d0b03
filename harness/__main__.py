"""Run the command line: `python -m harness`."""

from harness.entry import main

main()
