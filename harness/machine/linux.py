"""Own the reading of the machine's facts from its files and tools; nothing is changed by it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness import native
from harness.gpu import nvidia_smi
from harness.machine import environment as machine_environment
from harness.machine import processor, resources
from harness.machine.resources import Files
from harness.records.facts import MachineFacts

INTERVAL_S = 0.3
_NO_ASLR = 0x0040000  # ADDR_NO_RANDOMIZE in personality(2)
_CPU = "sys/devices/system/cpu"


def parse_list(text: str) -> list[int]:
    """Return the numbers of a kernel list such as ``0-3,8``."""
    found: list[int] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        low, _, high = part.partition("-")
        found.extend(range(int(low), int(high or low) + 1))
    return found


# ---- processors ---------------------------------------------------------------------------------


def read_online(files: Files) -> list[int]:
    """Return the processors that are online."""
    return parse_list(files.text(f"{_CPU}/online"))


def read_shared_cores(files: Files, online: Sequence[int]) -> int | None:
    """Return on how many cores more than one hardware thread is online; None where it is not told."""
    cores: dict[str, int] = {}
    for cpu in online:
        topology = f"{_CPU}/cpu{cpu}/topology"
        listed = files.text(f"{topology}/thread_siblings_list")
        siblings = listed or files.text(f"{topology}/core_cpus_list")
        if siblings:
            cores[siblings] = cores.get(siblings, 0) + 1
    return sum(n > 1 for n in cores.values()) if cores else None


def read_core_kinds(files: Files, allowed: Sequence[int]) -> dict[str, list[int]]:
    """Return the processors of `allowed` by their kind of core, the largest kind first; empty if not told.

    A hybrid x86 processor lists its kinds, Arm has a capacity for each processor; else the names of Arm's
    cores count.
    """
    listed = {k: parse_list(files.text(f"sys/devices/cpu_{k}/cpus")) for k in ("core", "atom")}
    hybrid = {k: [cpu for cpu in cpus if cpu in allowed] for k, cpus in listed.items()}
    if any(hybrid.values()):
        return {kind: cpus for kind, cpus in hybrid.items() if cpus}
    capacities = {cpu: files.number(f"{_CPU}/cpu{cpu}/cpu_capacity") for cpu in allowed}
    sizes = sorted({c for c in capacities.values() if c is not None}, reverse=True)
    if len(sizes) > 1:
        return {f"capacity {c}": [n for n in allowed if capacities[n] == c] for c in sizes}
    names = {n: name for n, name in processor.read_cores(files).items() if n in allowed}
    return {name: [n for n in names if names[n] == name] for name in sorted(set(names.values()))}


def read_governors(files: Files) -> tuple[str, list[str]]:
    """Return the frequency driver and the distinct governors; empty where the system hides them."""
    policies = files.matches(f"{_CPU}/cpu[0-9]*/cpufreq") or files.matches(
        f"{_CPU}/cpufreq/policy*"
    )
    drivers = {files.text(f"{p}/scaling_driver") for p in policies} - {""}
    governors = {files.text(f"{p}/scaling_governor") for p in policies} - {""}
    return ", ".join(sorted(drivers)), sorted(governors)


def read_capped(files: Files) -> bool | None:
    """Say whether a limit below the processor's own maximum frequency is set."""
    pairs = []
    for policy in files.matches(f"{_CPU}/cpu[0-9]*/cpufreq"):
        allowed = files.number(f"{policy}/scaling_max_freq")
        possible = files.number(f"{policy}/cpuinfo_max_freq")
        if allowed and possible:
            pairs.append(allowed < possible)
    return any(pairs) if pairs else None


def read_turbo(files: Files) -> bool | None:
    """Say whether the processor may exceed its base frequency; None where it is not told."""
    no_turbo = files.number(f"{_CPU}/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == 0
    boost = files.number(f"{_CPU}/cpufreq/boost")
    return None if boost is None else boost != 0


# ---- load and memory ----------------------------------------------------------------------------


def read_load(files: Files) -> list[float]:
    """Return the load averages over 1, 5 and 15 minutes."""
    fields = files.text("proc/loadavg").split()
    return [float(f) for f in fields[:3]] if len(fields) >= 3 else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """Hold the clock ticks that some processors have spent: busy, stolen and in all."""

    busy: int
    steal: int
    total: int

    def shares_since(self, earlier: Ticks) -> tuple[float | None, float | None]:
        """Return the busy and the stolen share since an earlier reading."""
        total = self.total - earlier.total
        if total <= 0:
            return None, None
        return (self.busy - earlier.busy) / total, (self.steal - earlier.steal) / total


def read_ticks(files: Files, allowed: Sequence[int]) -> Ticks | None:
    """Return what the processors of `allowed` have done since boot."""
    busy = steal = total = 0
    for line in files.text("proc/stat").splitlines():
        name, *rest = line.split()
        if not name.startswith("cpu") or not name[3:].isdigit() or int(name[3:]) not in allowed:
            continue
        # user nice system idle iowait irq softirq steal; guest time is contained in user.
        fields = [int(f) for f in rest[:8]] + [0] * max(0, 8 - len(rest))
        busy += sum(fields[:3]) + fields[5] + fields[6]
        steal += fields[7]
        total += sum(fields)
    return Ticks(busy=busy, steal=steal, total=total) if total else None


def read_thp(files: Files) -> str:
    """Return the setting of transparent huge pages: the word in brackets."""
    text = files.text("sys/kernel/mm/transparent_hugepage/enabled")
    return text.partition("[")[2].partition("]")[0]


def read_aslr(files: Files) -> int | None:
    """Return randomize_va_space, 0 where this process alone has randomising off."""
    personality = files.text("proc/self/personality")
    if personality and int(personality, 16) & _NO_ASLR:
        return 0
    return files.number("proc/sys/kernel/randomize_va_space")


# What the firmware of a virtual machine names as its maker or product, where no flag of the processor says
# that it is one: only x86 has such a flag. After systemd's detect-virt; metal instances of a cloud say so.
_VIRTUAL = (
    "Amazon EC2", "QEMU", "KVM", "OpenStack", "KubeVirt", "VMware", "VMW", "VirtualBox", "innotek GmbH",
    "Xen", "Bochs", "Parallels", "BHYVE", "Google Compute Engine", "Virtual Machine", "Alibaba Cloud ECS",
    "Apple Virtualization", "Cloud Hypervisor", "Firecracker", "DigitalOcean", "Hetzner", "UTM",
)  # fmt: skip
_DMI = "sys/class/dmi/id"


def read_hypervisor(files: Files) -> str:
    """Return who runs the virtual machine, empty on bare metal."""
    maker = files.text(f"{_DMI}/sys_vendor")
    flags = [line for line in files.text("proc/cpuinfo").splitlines() if line.startswith("flags")]
    if flags:
        return (maker or "hypervisor") if "hypervisor" in flags[0].split() else ""
    product = files.text(f"{_DMI}/product_name")
    said = (maker, product, files.text(f"{_DMI}/bios_vendor"))
    if any(s.startswith(_VIRTUAL) for s in said) and not product.endswith(".metal"):
        return maker or product
    tree = files.text("proc/device-tree/hypervisor/compatible").replace("\0", " ").strip()
    board = files.text("proc/device-tree/compatible")
    named = (
        "QEMU" if "dummy-virt" in board else ""
    )  # the board that QEMU, crosvm and Firecracker make
    return files.text("sys/hypervisor/type") or tree or named


# ---- clock, tools, the whole -------------------------------------------------------------------------


def read_timer_step(clock: Callable[[], int] = time.perf_counter_ns, readings: int = 2000) -> int:
    """Return the smallest step of a clock in ns, as observed; 0 where it did not move."""
    seen = [clock() for _ in range(readings)]
    steps = [b - a for a, b in itertools.pairwise(seen) if b > a]
    return min(steps, default=0)


def gather(files: Files | None = None, *, interval_s: float = INTERVAL_S) -> MachineFacts:
    """Return the facts of this machine; takes `interval_s`, over which load and steal are measured."""
    files = Files() if files is None else files
    allowed = sorted(os.sched_getaffinity(0))
    online = read_online(files)
    driver, governors = read_governors(files)
    before = read_ticks(files, allowed)
    time.sleep(interval_s)
    after = read_ticks(files, allowed)
    busy, steal = after.shares_since(before) if before and after else (None, None)
    memory = resources.read_meminfo(files)
    gpus, gpu_reason = nvidia_smi.list_gpus()
    numa = files.number("proc/sys/kernel/numa_balancing")
    return MachineFacts(
        cpus_online=len(online), cpus_allowed=allowed, cpu_quota=resources.read_quota(files),
        memory_limit_bytes=resources.read_memory_limit(files),
        core_kinds=read_core_kinds(files, allowed),
        smt_shared_cores=read_shared_cores(files, online),
        numa_nodes=len(files.matches("sys/devices/system/node/node[0-9]*")),
        numa_balancing=None if numa is None else numa != 0,
        frequency_driver=driver, governors=governors, frequency_capped=read_capped(files),
        turbo=read_turbo(files),
        clocksource=files.text("sys/devices/system/clocksource/clocksource0/current_clocksource"),
        timer_step_ns=read_timer_step(), load=read_load(files), busy_share=busy, steal_share=steal,
        steal_share_since_boot=after.steal / after.total if after else None,
        interval_s=interval_s, hypervisor=read_hypervisor(files),
        memory_available_bytes=memory.get("MemAvailable", 0),
        swap_used_bytes=memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
        page_bytes=os.sysconf("SC_PAGE_SIZE"), thp=read_thp(files), aslr=read_aslr(files),
        flush_to_zero=native.flush_to_zero(),
        compiler=machine_environment.find_compiler(),
        perf_event_paranoid=files.number("proc/sys/kernel/perf_event_paranoid"),
        gpus=gpus, gpu_reason=gpu_reason,
    )  # fmt: skip
