"""Judge the system around a measurement: memory, clocks, arithmetic, tools, GPUs."""

from __future__ import annotations

from harness.machine.inspection import Check, Inspection, one
from harness.records.facts import Finding

_MEMORY_LOW, _MEMORY_SCARCE = 512 << 20, 2 << 30  # the default sweep may hold 2 GiB
_TIMER_COARSE_NS = 1000
_GOOD_CLOCKS = ("tsc", "arch_sys_counter")
_PARAVIRTUAL_CLOCKS = ("kvm-clock", "hyperv_clocksource_tsc_page")
_THROTTLE_IDLE = 0x1


def memory(seen: Inspection) -> list[Finding]:
    """Judge free memory, the cgroup's limit and swap."""
    facts, found = seen.machine.facts, []
    free = min(
        facts.memory_available_bytes, facts.memory_limit_bytes or facts.memory_available_bytes
    )
    what = f"{free / 2**30:.1f} GiB of memory can be had"
    if not free:
        found += one("memory", "note", "free memory is not told", "")
    elif free < _MEMORY_SCARCE:
        found += one("memory", "serious" if free < _MEMORY_LOW else "warning", what,
                      "the default sweep holds up to 2 GiB; pages taken away fault in the timed call",
                      "close programs, or take a smaller --batch")  # fmt: skip
    else:
        found += one("memory", "ok", what, "")
    swap = facts.swap_used_bytes
    if swap > 0:
        much = swap > 0.1 * seen.machine.memory_bytes
        found += one("swap", "warning" if much else "note", f"{swap / 2**20:.0f} MiB are swapped out",
                      "memory was short; a page that comes back from disk costs milliseconds",
                      "close programs, then swapoff -a && swapon -a")  # fmt: skip
    return found


def huge_pages(seen: Inspection) -> list[Finding]:
    """Judge transparent huge pages: the setting, and what a buffer like the operands got of them."""
    facts = seen.machine.facts
    found = [
        f"{p.huge_page_share:.0%} of such a buffer in the process of {p.name}"
        for p in seen.providers
        if p.huge_page_share is not None
    ]
    if not facts.thp:
        what = "; ".join(["transparent huge pages: not told", *found])
        return one("huge-pages", "note", what, "")
    small = f"pages of {facts.page_bytes >> 10} KiB" if facts.page_bytes else "small pages"
    why = {
        "always": "whether a buffer gets them depends on how fragmented memory is: processes differ",
        "madvise": f"NumPy asks for them for arrays of 4 MiB and more, torch for tensors of 2 MiB and more "
        "(THP_MEM_ALLOC_ENABLE, set in measuring processes), so that the weights lie in them where memory "
        f"is not fragmented; smaller ones lie in {small}",
        "never": f"buffers lie in {small}; the FFF's scattered rows miss the TLB more than the FF's",
    }.get(facts.thp, "")
    what = "; ".join([f"transparent huge pages: {facts.thp}", *found])
    return one("huge-pages", "note", what, why, "name the setting beside the figures")


def address_layout(seen: Inspection) -> list[Finding]:
    """Judge the randomised address layout."""
    aslr = seen.machine.facts.aslr
    if aslr is None:
        return one("aslr", "note", "whether addresses are randomised is not told", "")
    if aslr == 0:
        return one("aslr", "note", "addresses are not randomised",
                    "every process has the same layout, lucky or not: fresh processes don't average it out",
                    "turn it on: kernel.randomize_va_space=2, no setarch -R")  # fmt: skip
    return one("aslr", "ok", f"addresses are randomised ({aslr})",
                "each fresh process samples another layout; the interval contains it")  # fmt: skip


def flush_to_zero(seen: Inspection) -> list[Finding]:
    """Judge whether subnormals are flushed, here or in a measuring process."""
    where = {"this process": seen.machine.facts.flush_to_zero}
    where |= {f"the process of {p.name}": list(p.flush_to_zero) for p in seen.providers}
    flushing = [name for name, what in where.items() if what and what != ["unknown"]]
    if flushing:
        return one(
            "flush-to-zero", "serious", f"subnormals are flushed to zero in {', '.join(flushing)}",
            "results are not those of IEEE arithmetic, and what subnormals slow down is spared here only",
            "find the library that was linked with -ffast-math (LD_PRELOAD, a plugin)",
        )  # fmt: skip
    if ["unknown"] in where.values():
        return one("flush-to-zero", "note", "the processor can't be asked about flush-to-zero", "")
    return one("flush-to-zero", "ok", "subnormals are computed", "")


def clock(seen: Inspection) -> list[Finding]:
    """Judge the clock that measures."""
    facts = seen.machine.facts
    what = f"clock source {facts.clocksource or 'not told'}, steps of {facts.timer_step_ns} ns"
    if not 0 < facts.timer_step_ns <= _TIMER_COARSE_NS:
        return one("clock", "warning", what, "short samples are rounded to the clock's step",
                    "boot with clocksource=tsc where the processor allows it")  # fmt: skip
    if facts.clocksource in _GOOD_CLOCKS or not facts.clocksource:
        return one("clock", "ok", what, "")
    if facts.clocksource in _PARAVIRTUAL_CLOCKS:
        return one("clock", "note", what, "read without a system call, adjusted by the hypervisor")
    return one("clock", "warning", what, "each reading is a slow system call, or the TSC was unstable",
                "look for 'tsc' in the kernel's log")  # fmt: skip


def tools(seen: Inspection) -> list[Finding]:
    """Judge the compiler, the interpreter and the performance counters."""
    facts = seen.machine.facts
    if facts.compiler:
        found = one("compiler", "ok", f"C compiler {facts.compiler}", "")
    else:
        found = one("compiler", "warning", "no C compiler",
                     "own kernels can't be rebuilt, and plugins in C can't be built",
                     "apt install gcc libc6-dev")  # fmt: skip
    found += one("python", "ok", f"Python {seen.machine.python}", "")
    level = facts.perf_event_paranoid
    if level is None or level > 2:
        found += one("perf", "note",
                      f"performance counters are not permitted (perf_event_paranoid "
                      f"{'not told' if level is None else level})",
                      "perf can't say why a cell is slow; no figure here needs it",
                      "sysctl kernel.perf_event_paranoid=2")  # fmt: skip
    else:
        found += one("perf", "ok", f"counters of own processes are permitted ({level})", "")
    return found


def gpus(seen: Inspection) -> list[Finding]:
    """Name the GPUs and what slows them now."""
    facts = seen.machine.facts
    if not facts.gpus:
        return one("gpu", "ok" if facts.gpu_reason.startswith("none") else "note",
                    f"GPU: {facts.gpu_reason or 'not looked for'}", "")  # fmt: skip
    found = []
    for number, gpu in enumerate(facts.gpus):
        what = (
            f"{gpu.name}, driver {gpu.driver}, {gpu.memory_mib / 1024:.0f} GiB, {gpu.sm_clock_mhz} of "
            f"{gpu.sm_clock_max_mhz} MHz, {gpu.power_limit_w:g} W"
        )
        mask = int(gpu.throttle_reasons, 16) if gpu.throttle_reasons.startswith("0x") else 0
        if mask & ~_THROTTLE_IDLE:
            found += one(f"gpu-{number}", "warning", f"{what}; slowed now: {gpu.throttle_reasons}",
                          "samples are of a lowered clock", "let it cool, or look at its limits")  # fmt: skip
        else:
            found += one(f"gpu-{number}", "ok", what, "")
    return found


CHECKS: tuple[Check, ...] = (
    memory, huge_pages, address_layout, flush_to_zero, clock, tools, gpus,
)  # fmt: skip
