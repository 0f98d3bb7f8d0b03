"""Judge the BLAS: forced or narrow kernels, thread pools, the variables that reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.machine.inspection import Check, Inspection, LoadedProvider, one
from harness.records import blas_kernels
from harness.records.blas_kernels import format_threads
from harness.records.facts import Finding
from harness.records.variables import Effect, find_foreign


def _forces_narrower(name: str, value: str, isa: Sequence[str]) -> bool:
    """Say whether a forced kernel is narrower than the processor, or its name does not tell."""
    if name not in ("OPENBLAS_CORETYPE", "BLIS_ARCH_TYPE"):
        return True
    # The widths are of x86; elsewhere no forced name is known to be the right one.
    is_x86 = any(feature.startswith(("sse", "avx")) for feature in isa)
    return (
        not is_x86
        or not blas_kernels.of_architecture(value)
        or blas_kernels.is_narrower(value, isa)
    )


_WHY: dict[Effect, str] = {
    "kernel": "a baseline on a kernel that is not the processor's best is slower, and every speedup larger",
    "precision": "products of another precision stand under the name of the one that was asked for",
    "threads": "a library then runs on other threads than --threads says, or they wait otherwise",
    "affinity": "the runtime binds the process to some of its processors as it is loaded; threads made "
    "later inherit that",
    "pages": "the size of the pages decides how often scattered weight rows miss the TLB",
    "tracing": "each call prints, waits or is watched: the shorter it is, the more it pays",
}
_BLAS = ("OpenBLAS", "MKL", "BLIS", "AOCL's BLIS", "NVPL", "ArmPL", "FlexiBLAS", "Accelerate")


def _is_read(library: str, providers: Sequence[LoadedProvider]) -> bool:
    """Say whether a library may be among those that the measuring processes load."""
    loaded = [p for p in providers if p.has_blas and not p.reason]
    if library not in _BLAS or not loaded:
        return True
    for provider in loaded:
        told = [n for n in ("openblas", "mkl", "blis") if n in provider.version.lower()]
        if not told or any(name in library.lower() for name in told):
            return True
    return False


def foreign_variables(seen: Inspection) -> list[Finding]:
    """Find variables that turn a library from what it does by itself, and say what becomes of them."""
    environment = seen.machine.environment
    foreign = {n: f for n, f in find_foreign(environment).items() if f.fate == "dropped"}
    read = {n: f for n, f in foreign.items() if _is_read(f.library, seen.providers)}
    found = []
    for effect in _WHY:
        names = {n: environment[n] for n, f in read.items() if f.effect == effect}
        if names:
            found += _judge_variables(seen, effect, names)
    if not any(f.effect == "kernel" for f in read.values()):
        found += one("blas-forced", "ok", "no variable forces a BLAS kernel",
                      "each library chooses for this processor")  # fmt: skip
    if unread := [f"{n}={environment[n]}" for n in foreign if n not in read]:
        found += one("unread-variables", "note", f"of libraries that are not loaded: {', '.join(unread)}",
                      "")  # fmt: skip
    return found


def _judge_variables(
    seen: Inspection, effect: Effect, variables: Mapping[str, str]
) -> list[Finding]:
    """Judge the variables of one effect."""
    id = "blas-forced" if effect == "kernel" else f"forced-{effect}"
    names = ", ".join(f"{k}={v}" for k, v in variables.items())
    if seen.keep_blas_env is False:
        return one(id, "note", f"{names}: taken out of the measuring processes", _WHY[effect])
    harmless = effect == "kernel" and not any(
        _forces_narrower(k, v, seen.machine.isa) for k, v in variables.items()
    )
    fate = "kept by --keep-blas-env" if seen.keep_blas_env else (
        "taken out of the measuring processes, unless --keep-blas-env keeps it"
    )  # fmt: skip
    return one(
        id, "warning" if harmless or effect == "pages" else "serious", f"{names}: {fate}",
        _WHY[effect], f"unset {' '.join(variables)}",
    )  # fmt: skip


def kernel_architecture(seen: Inspection) -> list[Finding]:
    """Compare the kernels that each provider chose with the processor."""
    loaded = [p for p in seen.providers if p.has_blas and not p.reason]
    return [finding for provider in loaded for finding in _judge_architecture(seen, provider)]


def _judge_architecture(seen: Inspection, provider: LoadedProvider) -> list[Finding]:
    id, isa = f"blas-kernels-{provider.name}", seen.machine.isa
    what = (
        f"{provider.name}: {provider.version or 'unknown version'}, {provider.architecture} kernels"
    )
    has = blas_kernels.of_processor(isa)
    if not provider.architecture:
        return one(id, "note", f"{provider.name} does not tell which kernels it chose",
                    "a wrong choice can't be seen", "compare its sgemm rate in the run")  # fmt: skip
    if not blas_kernels.is_narrower(provider.architecture, isa):
        return one(id, "ok", what, "as wide as the processor, as far as the name tells")
    why = "narrower vectors do down to half of the flops a cycle: the FF is slow, every speedup too large"
    if blas_kernels.is_veiled(provider.architecture):
        return one(
            id, "warning", f"{what} on a processor with {has}",
            "MKL maps this library on processors that it does not favour; since 2020 it holds paths for "
            "AMD Zen too, so the name alone does not prove slow code",
            "compare its sgemm rate in the run with another provider's",
        )  # fmt: skip
    return one(
        id, "serious" if provider.asked_for else "warning",
        f"{what} on a processor with {has}", why,
        "use a newer build of the library, or another provider: --blas",
    )  # fmt: skip


def thread_pools(seen: Inspection) -> list[Finding]:
    """Look for pools in a measuring process that are wider than was asked for, or several wide ones."""
    found = []
    for provider in seen.providers:
        wide = [(path, n) for path, n in provider.pools if n > 1]
        names = ", ".join(f"{path.rsplit('/', 1)[-1]} {n}" for path, n in wide)
        if any(n > seen.threads for _, n in wide):
            found += one(
                f"pools-{provider.name}", "serious",
                f"{provider.name}: pools wider than the {seen.threads} asked for: {names}",
                "the figures are not of the thread count that they state",
                "set the library's own thread variable, or leave the provider out",
            )  # fmt: skip
        elif len(wide) > 1:
            found += one(
                f"pools-{provider.name}", "warning", f"{provider.name}: several pools: {names}",
                "idle threads of one pool can spin on the processors of the other",
                "measure with --threads 1",
            )  # fmt: skip
    if seen.providers and not found:
        found = one("pools", "ok", "one thread pool at most is wider than one thread in each measuring "
                     "process", "no pool spins beside the one that is measured")  # fmt: skip
    return found


def blas_threads(seen: Inspection) -> list[Finding]:
    """Compare the threads that each BLAS runs on with those asked for, in both directions."""
    found = []
    for provider in seen.providers:
        if not provider.has_blas or provider.reason or provider.threads == seen.threads:
            continue
        id = f"blas-threads-{provider.name}"
        if provider.threads:
            found += one(
                id, "serious" if provider.asked_for else "warning",
                f"{provider.name} runs on {format_threads(provider.threads, seen.threads)}",
                "the harness's own kernels run on as many as were asked for, so one side of every ratio has "
                "more of the machine than the other",
                f"--threads {provider.threads}, or another build of the library",
            )  # fmt: skip
        elif seen.threads > 1:
            found += one(id, "warning", f"{provider.name} does not tell how many threads it runs on",
                          "one side of every ratio may have more of the machine than the other",
                          "compare its sgemm rate in the run with that of --threads 1")  # fmt: skip
    return found


def thread_variables(seen: Inspection) -> list[Finding]:
    """Name the caller's variables that the measuring processes set otherwise, and those that pass."""
    found = []
    if seen.overridden:
        names = ", ".join(f"{k}={v}" for k, v in seen.overridden.items())
        found += one("thread-variables", "note", f"set otherwise in the measuring processes: {names}",
                      "the thread count is --threads, whatever the environment says",
                      "use --threads")  # fmt: skip
    environment = {k: v for k, v in seen.machine.environment.items() if v}
    kept = [n for n, f in find_foreign(environment).items() if f.fate == "kept"]
    if kept:
        names = ", ".join(f"{name}={environment[name]}" for name in kept)
        found += one("passed-variables", "warning",
                      f"reach the measuring processes as they are: {names}",
                      "they can change a library or the allocator; the run records them",
                      "unset what is not meant")  # fmt: skip
    return found


def own_kernels(seen: Inspection) -> list[Finding]:
    """Compare the instruction set of the project's own vector code with the processor."""
    isa = seen.machine.build.get("isa", "")
    if blas_kernels.is_narrower(isa, seen.machine.isa) and isa == "generic":
        return one("own-kernels", "warning", f"own vector code: {isa}",
                    "the activation is slower than the processor allows, at every level",
                    "build with gcc or clang on this machine")  # fmt: skip
    return one("own-kernels", "ok", f"own vector code: {isa or 'not told'}", "")


CHECKS: tuple[Check, ...] = (
    foreign_variables, kernel_architecture, blas_threads, thread_pools, thread_variables, own_kernels,
)  # fmt: skip
