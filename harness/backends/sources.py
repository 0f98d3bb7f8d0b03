"""Own where the sources lie that are shipped with the package: the public header and the CUDA kernels."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UnavailableError


def find_folder(name: str, pattern: str) -> Path:
    """Return the folder of shipped sources by its name under `native/`, which holds files of a pattern.

    It stands beside the modules where the package is installed, in the source tree where it runs from there.

    Raises UnavailableError where the installation lacks it.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / name, package.parent / "native" / name):
        if any(folder.glob(pattern)):
            return folder
    raise UnavailableError(f"{pattern} is missing in {package / name}: install fff-harness again")
