"""Make the traces of trained routing that `--routing trained` reads: `python -m tools.traces`."""
