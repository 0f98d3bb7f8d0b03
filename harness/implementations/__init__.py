"""Register every implementation: importing this package imports each family once."""

from harness.implementations import native_cpu

__all__ = ["native_cpu"]
