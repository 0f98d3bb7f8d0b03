"""Own what a BLAS runs on, against what it could: the width of its vectors, the number of its threads."""

from __future__ import annotations

from collections.abc import Iterable

WIDTHS = ("baseline", "avx", "avx2", "avx512")

# By the names that OpenBLAS and BLIS (through threadpoolctl), MKL (by its kernel library) and torch use, in
# lower case. OpenBLAS's Zen is AVX2 code; processors since Zen 4 get SkylakeX or Cooperlake from it.
_OF_ARCHITECTURE = {
    "baseline": (
        "generic prescott katmai coppermine northwood banias core2 penryn dunnington nehalem athlon "
        "opteron opteron_sse3 barcelona nano bobcat atom def mc3 default"
    ),
    "avx": "sandybridge bulldozer piledriver steamroller excavator avx",
    "avx2": "haswell zen zen2 zen3 avx2",
    "avx512": "skylakex cooperlake sapphirerapids skx knl zen4 zen5 avx512 avx10",
}
_WIDTHS = {name: width for width, names in _OF_ARCHITECTURE.items() for name in names.split()}


def of_processor(isa: Iterable[str]) -> str:
    """Return the widest of WIDTHS that a processor's vector extensions allow."""
    features = set(isa)
    if "avx512f" in features:
        return "avx512"
    if {"avx2", "fma"} <= features:
        return "avx2"
    return "avx" if "avx" in features else "baseline"


def of_architecture(architecture: str) -> str:
    """Return the width of a kernel architecture, empty where the name says nothing here."""
    return _WIDTHS.get(architecture.lower(), "")


def is_narrower(architecture: str, isa: Iterable[str]) -> bool:
    """Say whether a kernel architecture is known to use narrower vectors than the processor has."""
    features, width = set(isa), of_architecture(architecture)
    if architecture.lower() == "generic":  # plain C, on any processor
        return bool(features)
    return bool(width) and WIDTHS.index(width) < WIDTHS.index(of_processor(features))


def is_veiled(architecture: str) -> bool:
    """Say whether the name hides what runs: MKL keeps its paths for AMD Zen in its `def` library."""
    return architecture.lower() in ("def", "mc3")


def format_threads(threads: int, asked: int) -> str:
    """Return on how many threads a library runs where others were asked for, in words."""
    if threads < asked:
        return f"{threads} of the {asked} threads asked for"
    return f"{threads} threads where {asked} {'was' if asked == 1 else 'were'} asked for"
