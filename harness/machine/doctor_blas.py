"""Judge the BLAS: forced or narrow kernels, thread pools, the variables that reach it."""

from __future__ import annotations

from collections.abc import Sequence

from harness.machine.inspection import Check, Inspection, LoadedProvider, one
from harness.records import blas_kernels
from harness.records.blas_kernels import FORCING
from harness.records.facts import Finding


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


def forced_kernel(seen: Inspection) -> list[Finding]:
    """Find variables that force a BLAS kernel, and say what the measuring processes do about them."""
    forcing = {k: v for k, v in seen.machine.environment.items() if k in FORCING}
    if not forcing:
        return one("blas-forced", "ok", "no variable forces a BLAS kernel",
                    "each library chooses for this processor")  # fmt: skip
    names = ", ".join(f"{k}={v}" for k, v in forcing.items())
    why = "a baseline on a kernel that is not the processor's best is slower, and every speedup larger"
    if seen.keep_blas_env is False:
        return one("blas-forced", "note", f"{names}: taken out of the measuring processes", why)
    narrower = any(_forces_narrower(k, v, seen.machine.isa) for k, v in forcing.items())
    fate = "kept by --keep-blas-env" if seen.keep_blas_env else (
        "taken out of the measuring processes, unless --keep-blas-env keeps it"
    )  # fmt: skip
    return one(
        "blas-forced", "serious" if narrower else "warning", f"{names}: {fate}", why,
        f"unset {' '.join(forcing)}",
    )  # fmt: skip


def kernel_architecture(seen: Inspection) -> list[Finding]:
    """Compare the kernels that each provider chose with the processor."""
    return [f for p in seen.providers if not p.reason for f in _judge_architecture(seen, p)]


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


def thread_variables(seen: Inspection) -> list[Finding]:
    """Name the caller's variables that the measuring processes set otherwise, and those that pass."""
    found = []
    if seen.overridden:
        names = ", ".join(f"{k}={v}" for k, v in seen.overridden.items())
        found += one("thread-variables", "note", f"set otherwise in the measuring processes: {names}",
                      "the thread count is --threads, whatever the environment says",
                      "use --threads")  # fmt: skip
    passing = {
        k: v for k, v in seen.machine.environment.items()
        if k not in seen.overridden and k not in FORCING
        and not k.endswith(("_NUM_THREADS", "_DYNAMIC", "_LAYER"))
        and k != "KMP_DUPLICATE_LIB_OK"  # threadpoolctl sets it when it is imported
    }  # fmt: skip
    if passing:
        names = ", ".join(f"{k}={v}" for k, v in passing.items())
        preload = "LD_PRELOAD" in passing
        found += one("passed-variables", "warning" if preload else "note",
                      f"reach the measuring processes as they are: {names}",
                      "they can change a library, its threads or the allocator; the run records them",
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
    forced_kernel, kernel_architecture, thread_pools, thread_variables, own_kernels,
)  # fmt: skip
