"""Own what a build says of itself: the flags that reach the compiler, and a digest of its sources.

Nothing but the standard library: the harness runs this file where it stands beside its sources.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

NATIVE = Path(__file__).resolve().parent

# What is compiled into the extension, or decides how. native/cuda is compiled when it is used, native/check
# is a program of its own.
_SUFFIXES = (".c", ".h", ".inc", ".txt", ".py")
_APART = ("cuda", "check")

# Flags that change values (reassociation, no NaN, subnormals flushed, other widths), and the only options
# that begin with -m and choose neither instructions nor a processor.
_VALUES = re.compile(
    r"-(Ofast$|ffast-math|f(no-)?(unsafe-math|finite-math|associative-math|reciprocal-math|honor-)|"
    r"fno-signed-zeros|fapprox-func|ffp-|fp-model|fdenormal-|fsingle-precision|frounding-math|"
    r"fexcess-precision|fcx-|fimf-)"
)
_MACHINE = re.compile(r"-m(?!64$|32$|abi|cmodel|branch-protection|(no-)?omit-|stack|indirect-|function-|"
                      r"harden-|tls-|llvm$)")  # fmt: skip


def is_foreign(flag: str) -> bool:
    """Say whether a flag changes values or the instruction set: the environment must bring none."""
    return bool(_VALUES.match(flag) or _MACHINE.match(flag))


def digest(root: Path = NATIVE) -> str:
    """Return a digest of the names and contents of the sources under `root`."""
    found = hashlib.sha256()
    for path in sorted(root.rglob("*"), key=lambda p: p.relative_to(root).as_posix()):
        name = path.relative_to(root)
        if (
            path.suffix in _SUFFIXES
            and not path.name.startswith(".")
            and name.parts[0] not in _APART
        ):
            content = path.read_bytes()
            found.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:16]


def make_literal(
    *, compiler: Iterable[str], linker: Iterable[str], isa_flags: Mapping[str, Iterable[str]]
) -> str:
    """Return the record of a build as a C string literal that holds JSON.

    compiler, linker: all their words. isa_flags: further words of the sources of an instruction set.
    """
    further = "; ".join(f"{name}: {' '.join(words)}" for name, words in isa_flags.items() if words)
    record = {"flags": " ".join(compiler), "link_flags": " ".join(linker), "isa_flags": further}
    for prefix in (sys.prefix, sys.base_prefix):  # where Python stands is nobody's business
        record = {name: text.replace(prefix, "{prefix}") for name, text in record.items()}
    text = json.dumps({**record, "digest": digest()})
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
