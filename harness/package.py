"""Own this package as files: which they are, and a fresh Python that runs them and no others."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
_CODE = ("**/*.py", "_native*.so")

# The package is loaded from its folder, wherever the path of imports leads: a folder `harness` in the
# current one, or another installation, would be measured in its place.
_START = """
import importlib.util, sys
folder, module, *words = sys.argv[1:]
spec = importlib.util.spec_from_file_location("harness", folder + "/__init__.py")
sys.modules["harness"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["harness"])
importlib.import_module(module).main(*words)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Tell one harness from another: its folder, and a digest of its code, the compiled part included."""

    folder: str
    digest: str


@cache
def identify() -> Identity:
    """Return what this process runs, by its files as they are when it is first asked."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in _CODE for path in FOLDER.glob(pattern)):
        found.update(f"{path.relative_to(FOLDER)}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return Identity(folder=str(FOLDER), digest=found.hexdigest()[:12])


def why_another(found: Identity) -> str:
    """Return why what another process says of itself is not this harness, or an empty string."""
    own = identify()
    if found.folder != own.folder:
        return f"runs the harness in {found.folder}, not the one in {own.folder}"
    if found.digest != own.digest:
        return f"runs other code than this one ({found.digest}, not {own.digest}): {own.folder} was changed"
    return ""


def command(module: str, *words: str) -> list[str]:
    """Return the command line of a fresh Python that runs `main(*words)` of a module of this package.

    Neither the current folder nor that of a script is on its path (-P): nothing that lies there is run.
    """
    return [sys.executable, "-P", "-c", _START, str(FOLDER), module, *words]
