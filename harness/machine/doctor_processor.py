"""Judge the processor: its clock, who shares it, and what else runs on it."""

from __future__ import annotations

from harness.machine.inspection import Check, Inspection, one
from harness.records.facts import Finding, Severity

_BUSY = 0.5  # of all allowed processors
_STEAL_SERIOUS, _STEAL_WARNING = 0.10, 0.02
_STEAL_MIN_TICKS = 2  # one tick of a short interval says nothing
_TICKS_PER_S = 100


def governor(seen: Inspection) -> list[Finding]:
    """Judge frequency scaling."""
    facts = seen.machine.facts
    why = "the clock follows the load, so a short or idle-heavy cell runs at another frequency"
    if not facts.governors:
        return one("governor", "note", "frequency scaling is not visible here",
                    "a changed clock shows only in the samples; interleaving makes it hit all cells "
                    "alike")  # fmt: skip
    what = f"governor {', '.join(facts.governors)} ({facts.frequency_driver or 'driver not told'})"
    found = []
    if facts.governors == ["performance"]:
        found += one("governor", "ok", what, "the clock does not wait for load")
    else:
        found += one("governor", "warning", what, why, "cpupower frequency-set -g performance")
    if facts.frequency_capped:
        found += one("frequency-cap", "warning", "a limit below the processor's maximum is set",
                      "absolute rates are of the limited clock",
                      "compare scaling_max_freq with cpuinfo_max_freq")  # fmt: skip
    return found


def turbo(seen: Inspection) -> list[Finding]:
    """Judge turbo."""
    if seen.machine.facts.turbo is None:
        return one("turbo", "note", "turbo is not visible here",
                    "wide vector code can lower the clock of what runs after it")  # fmt: skip
    if not seen.machine.facts.turbo:
        return one("turbo", "ok", "turbo is off", "the clock does not depend on heat")
    return one(
        "turbo", "note", "turbo is on",
        "the clock depends on heat and on how many cores work; interleaving makes it hit all cells alike",
        "for absolute rates, turn it off (intel_pstate/no_turbo or cpufreq/boost)",
    )  # fmt: skip


def sibling_threads(seen: Inspection) -> list[Finding]:
    """Judge hardware threads that share a core."""
    shared = seen.machine.facts.smt_shared_cores
    if shared is None:
        return one("smt", "note", "which hardware threads share a core is not told", "")
    if not shared:
        return one("smt", "ok", "no two online processors share a core, as far as is told", "")
    return one("smt", "note", f"{shared} cores run more than one hardware thread",
                "whatever runs on the sibling takes part of the core, and no counter shows it",
                "keep the machine idle, or pin the sweep with taskset")  # fmt: skip


def core_kinds(seen: Inspection) -> list[Finding]:
    """Judge whether the processors that may be used are of one kind."""
    kinds = seen.machine.facts.core_kinds
    if len(kinds) <= 1:
        return one("core-kinds", "ok", "the cores are of one kind, as far as is told", "")
    told = ", ".join(f"{name} on {len(cpus)}" for name, cpus in kinds.items())
    largest = ",".join(str(cpu) for cpu in next(iter(kinds.values())))
    return one("core-kinds", "warning", f"cores of {len(kinds)} kinds: {told} processors",
                "a process that moves from one kind to the other changes its speed, caches and vector units "
                "in the middle of a sample; caches and clock are told of one kind",
                f"pin to one kind: taskset -c {largest} python -m harness ...")  # fmt: skip


def caches(seen: Inspection) -> list[Finding]:
    """Judge the caches: what the system tells, against what a core was seen to get."""
    machine, walk = seen.machine, seen.machine.cache_walk
    told = ", ".join(f"{name} {size >> 10} KiB" for name, size in machine.caches.items())
    what = f"caches told: {told or 'none'}"
    if walk is None and machine.caches and not machine.facts.hypervisor:
        return one("caches", "ok", what, "")
    if walk is None:
        return one("caches", "note", what, "a virtual machine may tell its host's, a core get a part",
                    "doctor --walk reads working sets to see; so does a sweep beforehand")  # fmt: skip
    gets = ", ".join(f"{name} {size >> 10} KiB" for name, size in walk.caches.items())
    if walk.found == "measured":
        return one("caches", "warning", f"{what}; a core gets {gets}",
                    "what is cut by the sizes told is not in the cache that it is called by",
                    "nothing: a sweep here goes by what a core gets")  # fmt: skip
    if walk.found == "unseen":
        return one("caches", "note", f"{what}; no set behind the second level is read faster than memory",
                    "the last level is too slow, busy or large to be seen; sizes stand as told")  # fmt: skip
    return one("caches", "ok", f"{what}; what a core gets agrees", "")


def numa(seen: Inspection) -> list[Finding]:
    """Judge memory nodes."""
    facts = seen.machine.facts
    if facts.numa_nodes <= 1:
        return one("numa", "ok", "one memory node", "")
    balancing = ", and the kernel moves pages between them" if facts.numa_balancing else ""
    return one("numa", "note", f"{facts.numa_nodes} memory nodes{balancing}",
                "operands lie on the node that wrote them first; a process that moves reads from afar",
                "numactl --cpunodebind=0 --membind=0 python -m harness ...")  # fmt: skip


def limits(seen: Inspection) -> list[Finding]:
    """Judge the cgroup's quota and the affinity."""
    facts, found = seen.machine.facts, []
    allowed = len(facts.cpus_allowed)
    if facts.cpu_quota is not None and facts.cpu_quota < max(allowed, seen.threads):
        found += one(
            "cpu-quota", "serious" if facts.cpu_quota < seen.threads else "warning",
            f"the cgroup allows {facts.cpu_quota:g} processors' time; {seen.threads} threads measure",
            "a process over its quota stands still for the rest of the period, in the middle of a sample",
            "raise the quota (docker: --cpus), or give whole processors with a cpuset",
        )  # fmt: skip
    if 0 < allowed < seen.threads:
        found += one("affinity", "serious",
                      f"{seen.threads} threads may run on {allowed} of {facts.cpus_online} processors",
                      "threads that share a processor wait for each other",
                      "fewer --threads, or a wider affinity (taskset)")  # fmt: skip
    elif 0 < allowed < facts.cpus_online:
        found += one("affinity", "note", f"{allowed} of {facts.cpus_online} processors may be used",
                      "good for measuring where nothing else runs on them")  # fmt: skip
    return found or one("limits", "ok", "no quota, and all processors may be used", "")


def process_affinity(seen: Inspection) -> list[Finding]:
    """Compare the processors of each measuring process, with all loaded, with those of this one."""
    allowed, found = len(seen.machine.facts.cpus_allowed), []
    for process in seen.providers:
        if 0 < process.cpus_allowed < allowed:
            found += one(
                f"affinity-{process.name}",
                "serious" if process.cpus_allowed < seen.threads else "note",
                f"the process of {process.name} may run on {process.cpus_allowed} of {allowed} processors",
                "an OpenMP runtime bound it as it was loaded; threads that are made later inherit that",
                "unset OMP_PROC_BIND, OMP_PLACES and the like; look for a library or plugin that binds",
            )  # fmt: skip
    return found


def virtual_machine(seen: Inspection) -> list[Finding]:
    """Judge the hypervisor and the time that it takes."""
    facts, found = seen.machine.facts, []
    if not facts.hypervisor:
        return one("virtual-machine", "ok", "no hypervisor", "")
    found += one("virtual-machine", "note", f"virtual machine ({facts.hypervisor})",
                  "neighbours share caches and memory; the clock and topology shown may not be the real "
                  "ones", "trust ratios more than times")  # fmt: skip
    if facts.steal_share is None:
        return found
    ticks = facts.steal_share * facts.interval_s * _TICKS_PER_S * max(1, len(facts.cpus_allowed))
    severity: Severity = "ok"
    if ticks >= _STEAL_MIN_TICKS - 0.5 and facts.steal_share >= _STEAL_WARNING:
        severity = "serious" if facts.steal_share >= _STEAL_SERIOUS else "warning"
    boot = facts.steal_share_since_boot or 0.0
    return found + one(
        "steal", severity,
        f"{facts.steal_share:.1%} of the time was stolen in {facts.interval_s:g} s, {boot:.2%} since boot",
        "the hypervisor gave that time to others, in the middle of samples; each sample records its own",
        "" if severity == "ok" else "measure at another time or on another machine",
    )  # fmt: skip


def load(seen: Inspection) -> list[Finding]:
    """Judge what else runs: the mean over a minute, and what was used just now."""
    facts = seen.machine.facts
    cores = len(facts.cpus_allowed) or seen.machine.cores
    now = facts.busy_share
    if now is None and not facts.load:
        return one("load", "note", "load is not visible here", "")
    mean = facts.load[0] if facts.load else 0.0
    what = f"load {mean:.2f} on {cores} processors" + (f", {now:.0%} used just now"
                                                       if now is not None else "")  # fmt: skip
    why = "others take the processor, its caches and its memory bandwidth from what is measured"
    busy = now if now is not None else mean / cores
    if mean >= cores and busy >= _BUSY:
        return one("load", "serious", what, why, "stop what else runs, then wait a minute")
    if busy >= _BUSY or mean >= _BUSY * cores:
        return one("load", "warning", what, why, "stop what else runs, then wait a minute")
    return one("load", "ok", what, "")


CHECKS: tuple[Check, ...] = (
    governor, turbo, sibling_threads, core_kinds, caches, numa, limits, process_affinity,
    virtual_machine, load,
)  # fmt: skip
