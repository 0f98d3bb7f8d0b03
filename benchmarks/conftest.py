"""Benchmarks are collected by `pytest --benchmark-only` alone: a plain run of the tests stays fast."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave this folder out of a run that is not for benchmarks."""
    return None if config.getoption("benchmark_only") else True
