"""The preflight: facts from fake systems, judgements from facts, and the command as a user runs it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_system import write_tree
from made_machines import SMALL
from rich.console import Console

from harness import cli, native, package
from harness.analysis.analysis import analyse
from harness.backends import blas
from harness.cli import machine
from harness.errors import UnfitMachineError, UsageError
from harness.gpu import nvidia_smi
from harness.machine import doctor, linux, resources
from harness.machine import environment as machine_environment
from harness.machine.inspection import Inspection, LoadedProvider
from harness.machine.resources import Files
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import Hello
from harness.records import blas_kernels
from harness.records.facts import GpuFacts, MachineFacts, ThreadPool
from harness.records.reader import Run
from harness.records.schema import (
    CellRecord,
    MachineRecord,
    ProviderRecord,
    RunHead,
    SampleRecord,
    SweepRecord,
)
from harness.report import header
from harness.sweep import preflight

AVX512 = ["avx", "avx2", "avx512f", "fma"]
CPU, DMI = "sys/devices/system/cpu", "sys/class/dmi/id"
GIB = 1 << 30

# A machine on which nothing is wrong.
SOUND: dict[str, Any] = {
    "cpus_online": 4, "cpus_allowed": [0, 1, 2, 3], "smt_shared_cores": 0, "numa_nodes": 1,
    "governors": ["performance"], "frequency_driver": "acpi-cpufreq", "frequency_capped": False,
    "turbo": False, "clocksource": "tsc", "timer_step_ns": 30, "load": [0.1, 0.1, 0.1],
    "busy_share": 0.01, "steal_share": 0.0, "steal_share_since_boot": 0.0, "interval_s": 0.3,
    "memory_available_bytes": 16 * GIB, "thp": "madvise", "aslr": 2, "compiler": "/usr/bin/cc",
    "perf_event_paranoid": 2, "gpu_reason": "none: there is no nvidia-smi, so no NVIDIA driver",
}  # fmt: skip


def make_record(**changes: Any) -> MachineRecord:
    """Return the record of a sound machine with some facts changed; names of the record's own stay out."""
    own = {k: changes.pop(k) for k in list(changes) if k in MachineRecord.model_fields}
    fields: dict[str, Any] = {
        "host": "h", "system": "Linux", "processor": "p", "microarchitecture": "zen4", "isa": AVX512,
        "cores": 4, "caches": {}, "memory_bytes": 32 * GIB, "virtual_machine": "", "python": "3.11.7",
        "packages": {}, "build": {"isa": "avx512", "compiler": "gcc", "flags": ""},
        "harness_version": "0", "commit": "c", "environment": {},
    }  # fmt: skip
    return MachineRecord(**{**fields, **own}, facts=MachineFacts(**{**SOUND, **changes}))


def judged(inspection: Inspection | None = None, **changes: Any) -> dict[str, str]:
    """Return each finding's severity by its id."""
    seen = inspection or Inspection(machine=make_record(**changes))
    return {f.id: f.severity for f in doctor.judge(seen)}


def inspect_provider(architecture: str, **more: Any) -> Inspection:
    """Return an inspection of a sound machine with one provider."""
    fields: dict[str, Any] = {"name": "scipy", "asked_for": True, "version": "v", "path": "/p.so"}
    provider = LoadedProvider(**{**fields, "architecture": architecture, **more})
    return Inspection(machine=make_record(), providers=[provider])


# ---- reading ------------------------------------------------------------------------------------


def test_lists_of_processors() -> None:
    """A kernel list of ranges and numbers is read as its members."""
    assert linux.parse_list("0-2,8,10-11") == [0, 1, 2, 8, 10, 11]
    assert linux.parse_list("") == []


def test_siblings_are_counted_among_the_online_processors(tmp_path: Path) -> None:
    """A core counts as shared only where more than one of its hardware threads is online."""
    siblings = {0: "0,2", 1: "1,3", 2: "0,2"}
    tree = {f"{CPU}/cpu{c}/topology/thread_siblings_list": s for c, s in siblings.items()}
    files = write_tree(tmp_path, {**tree, f"{CPU}/online": "0-2"})
    assert linux.read_online(files) == [0, 1, 2]
    assert linux.read_shared_cores(files, [0, 1, 2]) == 1
    assert linux.read_shared_cores(files, [0, 1]) == 0
    assert linux.read_shared_cores(Files(tmp_path / "empty"), [0, 1]) is None


def test_frequency_scaling_is_read_where_it_is_visible(tmp_path: Path) -> None:
    """Governors, the driver and a limit below the processor's maximum are read; nothing is guessed."""
    at = f"{CPU}/cpu{{}}/cpufreq"
    tree = {}
    for cpu, governor, limit in ((0, "powersave", "3000"), (1, "performance", "2000")):
        folder = at.format(cpu)
        tree |= {f"{folder}/scaling_governor": governor, f"{folder}/scaling_driver": "intel_pstate",
                 f"{folder}/scaling_max_freq": limit, f"{folder}/cpuinfo_max_freq": "3000"}  # fmt: skip
    files = write_tree(tmp_path, tree)
    assert linux.read_governors(files) == ("intel_pstate", ["performance", "powersave"])
    assert linux.read_capped(files) is True
    empty = Files(tmp_path / "empty")
    assert linux.read_governors(empty) == ("", [])
    assert linux.read_capped(empty) is None


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({f"{CPU}/intel_pstate/no_turbo": "0"}, True),
        ({f"{CPU}/intel_pstate/no_turbo": "1"}, False),
        ({f"{CPU}/cpufreq/boost": "1"}, True),
        ({f"{CPU}/cpufreq/boost": "0"}, False),
        ({}, None),
    ],
)
def test_turbo(tmp_path: Path, tree: dict[str, str], expected: bool | None) -> None:
    """Turbo is read from either interface, one of which says it the other way round."""
    assert linux.read_turbo(write_tree(tmp_path, tree)) is expected


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "150000 100000",
          "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/elsewhere", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        ({"proc/self/cgroup": "2:cpu,cpuacct:/x\n0::/",
          "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "200000",
          "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 2.0),
        ({"proc/self/cgroup": "1:cpu:/", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_cpu_quota(tmp_path: Path, tree: dict[str, str], expected: float | None) -> None:
    """The tightest quota of the own cgroup and its parents counts, in both versions of the interface."""
    assert resources.read_quota(write_tree(tmp_path, tree)) == expected


def test_memory_limit(tmp_path: Path) -> None:
    """A limit beyond the machine's memory is none."""
    tree = {"proc/self/cgroup": "4:memory:/x", "proc/meminfo": "MemTotal: 1000 kB"}
    limit = "sys/fs/cgroup/memory/x/memory.limit_in_bytes"
    files = write_tree(tmp_path, {**tree, limit: "9223372036854771712"})
    assert resources.read_memory_limit(files) is None
    assert resources.read_memory_limit(write_tree(tmp_path, {limit: "4096"})) == 4096


def test_ticks_are_of_the_allowed_processors(tmp_path: Path) -> None:
    """Busy and steal shares come from the processors that may be used; guest time counts once."""
    lines = "cpu  999 0 0 999 0 0 0 999 0 0\ncpu0 {} 0 5 {} 0 1 1 {} 50 0\ncpu1 9 9 9 9 9 9 9 9 9 9"
    files = write_tree(tmp_path, {"proc/stat": lines.format(100, 500, 10)})
    before = linux.read_ticks(files, [0])
    write_tree(tmp_path, {"proc/stat": lines.format(120, 560, 30)})
    after = linux.read_ticks(files, [0])
    assert before is not None
    assert after is not None
    assert after.shares_since(before) == (0.2, 0.2)
    assert before.shares_since(before) == (None, None)
    assert linux.read_ticks(Files(tmp_path / "empty"), [0]) is None


def test_settings_of_the_kernel(tmp_path: Path) -> None:
    """Huge pages, address layout, load and the hypervisor are read; one process can have ASLR off."""
    files = write_tree(tmp_path, {
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        "proc/sys/kernel/randomize_va_space": "2", "proc/self/personality": "00000000",
        "proc/loadavg": "0.50 0.40 0.30 1/90 42", "proc/cpuinfo": "flags : fpu hypervisor avx",
        "sys/class/dmi/id/sys_vendor": "QEMU",
    })  # fmt: skip
    assert linux.read_thp(files) == "madvise"
    assert linux.read_aslr(files) == 2
    assert linux.read_load(files) == [0.5, 0.4, 0.3]
    assert linux.read_hypervisor(files) == "QEMU"
    assert linux.read_aslr(write_tree(tmp_path, {"proc/self/personality": "00040000"})) == 0


@pytest.mark.parametrize(
    ("tree", "hypervisor"),
    [
        ({f"{DMI}/sys_vendor": "Amazon EC2", f"{DMI}/product_name": "c7g.4xlarge"}, "Amazon EC2"),
        ({f"{DMI}/sys_vendor": "Amazon EC2", f"{DMI}/product_name": "c7g.metal"}, ""),
        ({f"{DMI}/sys_vendor": "Microsoft Corporation", f"{DMI}/product_name": "Virtual Machine"},
         "Microsoft Corporation"),
        ({f"{DMI}/sys_vendor": "HPE", f"{DMI}/product_name": "RL300 Gen11"}, ""),
        ({"sys/hypervisor/type": "xen"}, "xen"),
        ({"proc/device-tree/hypervisor/compatible": "linux,kvm\0"}, "linux,kvm"),
        ({"proc/device-tree/compatible": "linux,dummy-virt\0"}, "QEMU"),
        ({}, ""),
    ],
)  # fmt: skip
def test_a_virtual_machine_on_arm_is_known_by_its_firmware(
    tmp_path: Path, tree: dict[str, str], hypervisor: str
) -> None:
    """No flag of an Arm processor tells a hypervisor: DMI, the device tree or Xen's file does."""
    features = {"proc/cpuinfo": "processor : 0\nFeatures : fp asimd sve"}
    files = write_tree(tmp_path, features | tree)
    assert linux.read_hypervisor(files) == hypervisor


def test_the_flag_of_x86_decides(tmp_path: Path) -> None:
    """On x86 the processor says whether it is virtual, whatever the maker of the machine is called."""
    metal = {"proc/cpuinfo": "flags : fpu avx", "sys/class/dmi/id/sys_vendor": "Amazon EC2"}
    assert linux.read_hypervisor(write_tree(tmp_path, metal)) == ""
    assert linux.read_hypervisor(write_tree(tmp_path, {"proc/cpuinfo": "flags : hypervisor"}))


@pytest.mark.parametrize(
    ("tree", "allowed", "kinds"),
    [
        ({f"{CPU}/cpu{n}/cpu_capacity": "446" if n < 2 else "1024" for n in range(4)}, [0, 1, 2, 3],
         {"capacity 1024": [2, 3], "capacity 446": [0, 1]}),
        ({f"{CPU}/cpu{n}/cpu_capacity": "446" if n < 2 else "1024" for n in range(4)}, [2, 3], {}),
        ({"sys/devices/cpu_core/cpus": "0-3", "sys/devices/cpu_atom/cpus": "4-7"}, [2, 3, 4],
         {"core": [2, 3], "atom": [4]}),
        ({"proc/cpuinfo": "\n\n".join(
            f"processor : {n}\nCPU implementer : 0x41\nCPU part : {part}"
            for n, part in enumerate(("0xd05", "0xd0b")))}, [0, 1],
         {"Cortex-A55": [0], "Cortex-A76": [1]}),
        ({}, [0, 1], {}),
    ],
)  # fmt: skip
def test_kinds_of_cores(
    tmp_path: Path, tree: dict[str, str], allowed: list[int], kinds: dict[str, list[int]]
) -> None:
    """The processors that may be used are sorted by the kind of their cores, the largest first."""
    assert linux.read_core_kinds(write_tree(tmp_path, tree), allowed) == kinds


def test_cores_of_several_kinds_are_to_be_pinned() -> None:
    """Cores of two kinds warn with both and with the processors to pin to; one kind is well."""
    kinds = {"capacity 1024": [4, 5], "capacity 446": [0, 1, 2, 3]}
    seen = Inspection(machine=make_record(core_kinds=kinds))
    found = {f.id: f for f in doctor.judge(seen)}["core-kinds"]
    assert found.severity == "warning"
    assert "2 kinds: capacity 1024 on 2, capacity 446 on 4" in found.found
    assert "taskset -c 4,5 " in found.remedy
    assert judged(core_kinds={"capacity 1024": [0, 1]})["core-kinds"] == "ok"


def test_timer_step_is_the_smallest_observed() -> None:
    """Readings that don't move and larger gaps don't hide the clock's step."""
    readings = iter([0, 0, 70, 100, 100, 900])
    assert linux.read_timer_step(lambda: next(readings), 6) == 30
    assert linux.read_timer_step(lambda: 5, 6) == 0


def test_an_empty_system_has_facts(tmp_path: Path) -> None:
    """Where a system tells nothing, gathering still ends, and judging it raises nothing."""
    facts = linux.gather(Files(tmp_path), interval_s=0.0)
    assert (facts.cpus_online, facts.turbo, facts.busy_share, facts.thp) == (0, None, None, "")
    record = make_record().model_copy(update={"facts": facts})
    assert doctor.judge(Inspection(machine=record))


def test_this_system_has_facts() -> None:
    """On the machine of the test the facts agree with the interpreter's own."""
    facts = linux.gather(interval_s=0.05)
    assert facts.cpus_allowed == sorted(os.sched_getaffinity(0))
    assert facts.cpus_online >= len(facts.cpus_allowed) > 0
    assert facts.memory_available_bytes > 0
    assert facts.timer_step_ns > 0
    assert facts.steal_share is None or 0 <= facts.steal_share <= 1


# ---- the GPU ------------------------------------------------------------------------------------


def _fake_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_gpus_are_read_from_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that this driver calls otherwise is asked for by its other name."""
    _fake_driver(tmp_path, monkeypatch,
                 "case $1 in *throttle*) echo 'x is not a valid field'; exit 2;; *) echo "
                 "'GPU X, 550.1, 24576, 210, 1800, [N/A], Enabled, 0x0000000000000004'; esac")  # fmt: skip
    found, reason = nvidia_smi.list_gpus()
    assert reason == ""
    assert found == [GpuFacts(name="GPU X", driver="550.1", memory_mib=24576, sm_clock_mhz=210,
                              sm_clock_max_mhz=1800, persistence="Enabled",
                              throttle_reasons="0x0000000000000004")]  # fmt: skip
    assert judged(gpus=found)["gpu-0"] == "warning"
    idle = found[0].model_copy(update={"throttle_reasons": "0x0000000000000001"})
    assert judged(gpus=[idle])["gpu-0"] == "ok"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exec sleep 20", "did not answer"),
        ("echo no devices were found; exit 6", "no devices were found"),
        ("exit 0", "none: the driver lists no GPU"),
    ],
)
def test_a_driver_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    """A driver that hangs, fails or lists nothing costs a reason and never the report."""
    _fake_driver(tmp_path, monkeypatch, script)
    monkeypatch.setattr(nvidia_smi, "_GPU_TIMEOUT_S", 0.3)
    found, why = nvidia_smi.list_gpus()
    assert found == []
    assert reason in why


def test_no_driver_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver the report says none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi.list_gpus() == ([], "none: there is no nvidia-smi, so no NVIDIA driver")


# ---- judging ------------------------------------------------------------------------------------


def test_a_sound_machine_has_no_complaint() -> None:
    """On a machine with nothing wrong, no finding is worse than a note."""
    assert set(judged().values()) <= {"ok", "note"}


@pytest.mark.parametrize(
    ("changes", "id", "severity"),
    [
        ({"governors": ["powersave"]}, "governor", "warning"),
        ({"governors": []}, "governor", "note"),
        ({"frequency_capped": True}, "frequency-cap", "warning"),
        ({"turbo": True}, "turbo", "note"),
        ({"smt_shared_cores": 4}, "smt", "note"),
        ({"numa_nodes": 2}, "numa", "note"),
        ({"cpu_quota": 0.5}, "cpu-quota", "serious"),
        ({"cpu_quota": 2.0}, "cpu-quota", "warning"),
        ({"cpus_allowed": [0]}, "affinity", "note"),
        ({"hypervisor": "QEMU"}, "virtual-machine", "note"),
        ({"hypervisor": "QEMU"}, "steal", "ok"),
        ({"hypervisor": "QEMU", "steal_share": 0.01}, "steal", "ok"),
        ({"hypervisor": "QEMU", "steal_share": 0.05}, "steal", "warning"),
        ({"hypervisor": "QEMU", "steal_share": 0.3}, "steal", "serious"),
        ({"load": [4.2, 1, 1], "busy_share": 0.9}, "load", "serious"),
        ({"load": [0.2, 1, 1], "busy_share": 0.9}, "load", "warning"),
        ({"load": [4.2, 1, 1], "busy_share": 0.0}, "load", "warning"),
        ({"load": [4.2, 1, 1], "busy_share": None}, "load", "serious"),
        ({"memory_available_bytes": GIB}, "memory", "warning"),
        ({"memory_available_bytes": GIB // 4}, "memory", "serious"),
        ({"memory_limit_bytes": GIB // 4}, "memory", "serious"),
        ({"swap_used_bytes": 1 << 20}, "swap", "note"),
        ({"swap_used_bytes": 8 * GIB}, "swap", "warning"),
        ({"thp": "always"}, "huge-pages", "note"),
        ({"aslr": 0}, "aslr", "note"),
        ({"flush_to_zero": ["operands"]}, "flush-to-zero", "serious"),
        ({"flush_to_zero": ["unknown"]}, "flush-to-zero", "note"),
        ({"clocksource": "hpet"}, "clock", "warning"),
        ({"clocksource": "kvm-clock"}, "clock", "note"),
        ({"timer_step_ns": 10_000}, "clock", "warning"),
        ({"compiler": ""}, "compiler", "warning"),
        ({"perf_event_paranoid": 4}, "perf", "note"),
        ({"build": {"isa": "generic"}}, "own-kernels", "warning"),
        ({"environment": {"LD_PRELOAD": "x.so"}}, "passed-variables", "warning"),
        ({"environment": {"LD_AUDIT": "x.so"}}, "passed-variables", "warning"),
        ({"environment": {"OMP_PROC_BIND": "true"}}, "forced-affinity", "serious"),
        ({"environment": {"MKL_DOMAIN_NUM_THREADS": "1"}}, "forced-threads", "serious"),
        ({"environment": {"NVIDIA_TF32_OVERRIDE": "1"}}, "forced-precision", "serious"),
        ({"environment": {"MKL_VERBOSE": "1"}}, "forced-tracing", "serious"),
        ({"environment": {"MALLOC_ARENA_MAX": "1"}}, "forced-pages", "warning"),
    ],
)
def test_what_is_wrong_is_found(changes: dict[str, Any], id: str, severity: str) -> None:
    """Each trouble, planted alone in a sound machine, is found with its severity and a remedy."""
    found = {f.id: f for f in doctor.judge(Inspection(machine=make_record(**changes)))}
    assert found[id].severity == severity
    if severity in ("serious", "warning"):
        assert found[id].remedy
        assert found[id].why


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("OPENBLAS_CORETYPE", "blas-forced"), ("OPENBLAS_L2_SIZE", "blas-forced"),
        ("MKL_CBWR", "blas-forced"), ("ONEDNN_MAX_CPU_ISA", "blas-forced"),
        ("BLIS_IC_NT", "forced-threads"), ("GOMP_CPU_AFFINITY", "forced-affinity"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("kept", "severity"), [(None, "serious"), (True, "serious"), (False, "note")]
)
def test_a_changed_library_is_serious_unless_the_variable_is_taken_away(
    name: str, id: str, kept: bool | None, severity: str
) -> None:
    """Each such variable is serious where it reaches or may reach a measuring process."""
    record = make_record(environment={name: "Haswell"})
    found = judged(Inspection(machine=record, keep_blas_env=kept))
    assert found[id] == severity
    assert found["blas-forced"] == (severity if id == "blas-forced" else "ok")


@pytest.mark.parametrize(
    ("name", "version", "severity"),
    [
        ("NVPL_BLAS_DEBUG_CPU_TYPE", "OpenBLAS 0.3.30", "note"),
        ("NVPL_BLAS_DEBUG_CPU_TYPE", "", "serious"),
        ("MKL_CBWR", "OpenBLAS 0.3.30", "note"),
        ("MKL_CBWR", "2.13.0+cpu, MKL 2024.2, oneDNN 3.12.0", "serious"),
        ("AOCL_ENABLE_INSTRUCTIONS", "BLIS 5.0", "serious"),
        ("ATEN_CPU_CAPABILITY", "OpenBLAS 0.3.30", "serious"),
    ],
)
def test_a_variable_of_a_blas_that_is_not_loaded_forces_nothing(
    name: str, version: str, severity: str
) -> None:
    """A variable of a BLAS is a note where each process says that it loaded another one."""
    provider = inspect_provider("SkylakeX", version=version).providers
    seen = Inspection(machine=make_record(environment={name: "1"}), providers=provider)
    id = "unread-variables" if severity == "note" else "blas-forced"
    assert judged(seen)[id] == severity


def test_forcing_the_right_kernel_is_a_warning() -> None:
    """A kernel that is forced and as wide as the processor handicaps nobody, but was not chosen."""
    record = make_record(environment={"OPENBLAS_CORETYPE": "SkylakeX"})
    assert judged(Inspection(machine=record, keep_blas_env=True))["blas-forced"] == "warning"
    elsewhere = make_record(environment={"OPENBLAS_CORETYPE": "SkylakeX"}, isa=["asimd"])
    assert judged(Inspection(machine=elsewhere, keep_blas_env=True))["blas-forced"] == "serious"


@pytest.mark.parametrize(
    ("architecture", "asked_for", "severity"),
    [
        ("SkylakeX", True, "ok"), ("Cooperlake", True, "ok"), ("avx512", True, "ok"),
        ("skx", True, "ok"), ("Haswell", True, "serious"), ("Zen", True, "serious"),
        ("Sandybridge", True, "serious"), ("Prescott", True, "serious"),
        ("generic", True, "serious"), ("generic", False, "warning"), ("zen3", False, "warning"),
        ("def", True, "warning"), ("mc3", True, "warning"), ("avx2", True, "serious"),
        ("", True, "note"), ("a-new-name", True, "ok"),
    ],
)  # fmt: skip
def test_kernels_against_the_processor(architecture: str, asked_for: bool, severity: str) -> None:
    """Kernels narrower than an AVX-512 processor are found; MKL's veiled names only warn."""
    seen = inspect_provider(architecture, asked_for=asked_for)
    assert judged(seen)["blas-kernels-scipy"] == severity


def test_widths_of_processors() -> None:
    """The same kernels are right on one processor and narrow on another; plain C is narrow anywhere."""
    assert not blas_kernels.is_narrower("Haswell", ["avx", "avx2", "fma"])
    assert blas_kernels.is_narrower("Haswell", AVX512)
    assert blas_kernels.is_narrower("Sandybridge", ["avx", "avx2", "fma"])
    assert not blas_kernels.is_narrower("Sandybridge", ["avx"])
    assert blas_kernels.is_narrower("generic", ["asimd"])
    assert not blas_kernels.is_narrower("neoversen1", ["asimd"])


def test_thread_pools() -> None:
    """A pool wider than was asked for is serious, several wide ones warn, one wide one is right."""
    pools = [("/a.so", 2), ("/b.so", 1)]
    seen = inspect_provider("SkylakeX", pools=pools)
    assert judged(seen)["pools-scipy"] == "serious"
    two = Inspection(machine=seen.machine, providers=seen.providers, threads=2)
    assert judged(two)["pools"] == "ok"
    both = inspect_provider("SkylakeX", pools=[("/a.so", 2), ("/b.so", 2)])
    wide = Inspection(machine=both.machine, providers=both.providers, threads=2)
    assert judged(wide)["pools-scipy"] == "warning"


@pytest.mark.parametrize(
    ("asked", "threads", "severity", "words"),
    [
        (2, 1, "serious", "scipy runs on 1 of the 2 threads asked for"),
        (64, 48, "serious", "scipy runs on 48 of the 64 threads asked for"),
        (1, 2, "serious", "scipy runs on 2 threads where 1 was asked for"),
        (2, 0, "warning", "does not tell"),
        (2, 2, "", ""), (1, 0, "", ""),
    ],
)  # fmt: skip
def test_threads_of_a_blas_against_those_asked_for(
    asked: int, threads: int, severity: str, words: str
) -> None:
    """A BLAS on fewer or more threads than asked for is serious; one that does not tell warns."""
    providers = inspect_provider("SkylakeX", threads=threads).providers
    record = make_record(cpus_allowed=list(range(64)))
    seen = Inspection(machine=record, providers=providers, threads=asked)
    found = {f.id: f for f in doctor.judge(seen)}.get("blas-threads-scipy")
    assert (found.severity if found else "") == severity
    assert words in (found.found if found else "")
    if severity == "serious":
        other = inspect_provider("SkylakeX", threads=threads, asked_for=False).providers
        idle = Inspection(machine=record, providers=other, threads=asked)
        assert judged(idle)["blas-threads-scipy"] == "warning", "nobody asked for it"


@pytest.mark.parametrize(
    ("threads", "cpus", "severity"), [(2, 1, "serious"), (1, 1, "note"), (2, 4, ""), (2, 0, "")]
)
def test_a_process_that_a_library_bound_is_found(threads: int, cpus: int, severity: str) -> None:
    """A measuring process on fewer processors than the sweep is serious where its threads share them."""
    providers = inspect_provider("SkylakeX", threads=threads, cpus_allowed=cpus).providers
    seen = Inspection(machine=make_record(), providers=providers, threads=threads)
    found = {f.id: f for f in doctor.judge(seen)}.get("affinity-scipy")
    assert (found.severity if found else "") == severity
    if found:
        assert "may run on 1 of 4 processors" in found.found


def test_more_threads_than_processors_are_serious() -> None:
    """An affinity of this process that leaves fewer processors than threads is serious."""
    seen = Inspection(machine=make_record(cpus_allowed=[0]), threads=2)
    assert judged(seen)["affinity"] == "serious"


def test_the_process_of_a_plugin_is_judged() -> None:
    """Pools, flush-to-zero and affinity of a plugin's process are judged under its name, its BLAS is not."""
    pool = ThreadPool(
        user_api="openmp", internal_api="openmp", num_threads=8, filepath="/x/libgomp.so",
        version=None,
    )  # fmt: skip
    hello = Hello(
        package=package.identify(), provider=None, pools=[pool], variables={},
        flush_to_zero=["results"], cpus_allowed=1, huge_page_share=None,
    )  # fmt: skip
    key = ProcessKey(provider="scipy", plugin="/home/mine.py")
    seen = preflight.examine_sweep(make_record(), {key: hello}, threads=2, keep_blas_env=False)
    found = {f.id: f for f in seen.findings}
    assert found["pools-mine.py"].severity == "serious"
    assert found["affinity-mine.py"].severity == "serious"
    assert "the process of mine.py" in found["flush-to-zero"].found
    assert not any(id.startswith(("blas-kernels", "blas-threads")) for id in found)


def test_what_pages_the_operands_got_is_said() -> None:
    """The note on huge pages has the setting, what NumPy does under it, and what a process got."""
    providers = inspect_provider("SkylakeX", huge_page_share=0.98).providers
    record = make_record(thp="madvise", page_bytes=65536)
    found = {f.id: f for f in doctor.judge(Inspection(machine=record, providers=providers))}
    note = found["huge-pages"]
    assert "madvise; 98% of such a buffer in the process of scipy" in note.found
    assert "NumPy asks for them" in note.why
    assert "64 KiB" in note.why


def test_flush_to_zero_in_a_measuring_process_is_found() -> None:
    """A library that turns flush-to-zero on is found in the process that loaded it."""
    seen = inspect_provider("SkylakeX", flush_to_zero=["results"])
    found = {f.id: f for f in doctor.judge(seen)}["flush-to-zero"]
    assert found.severity == "serious"
    assert "the process of scipy" in found.found


def test_overridden_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's thread variables that a measuring process sets otherwise are named, equal ones not."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    overridden = machine_environment.overridden_variables(1)
    assert overridden["OMP_NUM_THREADS"] == "7"
    assert "OPENBLAS_NUM_THREADS" not in overridden
    record = make_record(environment={"OMP_NUM_THREADS": "7"})
    seen = Inspection(machine=record, overridden=overridden)
    found = {f.id: f for f in doctor.judge(seen)}
    assert "OMP_NUM_THREADS=7" in found["thread-variables"].found
    assert "passed-variables" not in found


def test_an_unusable_provider_is_an_error_only_where_it_was_named(
    tmp_path: Path,
) -> None:
    """A provider that was named and can't be loaded is a usage error."""
    broken = tmp_path / "libbroken.so"
    broken.write_text("no library", encoding="ascii")
    with pytest.raises(UsageError, match="libbroken"):
        preflight.inspect([str(broken)], SMALL, threads=1, keep_blas_env=None)


def test_strict_names_every_serious_finding() -> None:
    """--strict refuses in one line that names the serious findings, and says nothing otherwise."""
    doctor.refuse_serious(doctor.judge(Inspection(machine=make_record(thp="always"))))
    bad = make_record(cpu_quota=0.5, flush_to_zero=["results"])
    with pytest.raises(UnfitMachineError, match=r"2 serious: .*cpu-quota.*flush-to-zero") as raised:
        doctor.refuse_serious(doctor.judge(Inspection(machine=bad)))
    assert "\n" not in str(raised.value)


def test_report_is_grouped_by_severity(capsys: pytest.CaptureFixture[str]) -> None:
    """The report has the serious findings first, and says that a strict sweep would refuse."""
    findings = doctor.judge(Inspection(machine=make_record(cpu_quota=0.5, compiler="")))
    machine.print_report(findings, Console(width=140))
    text = capsys.readouterr().out
    places = [text.index(f"{s} (") for s in ("serious", "warning", "note", "ok")]
    assert places == sorted(places)
    assert text.index("cpu-quota") < text.index("no C compiler")
    assert "1 serious: `sweep --strict` refuses" in text


# ---- records and the table's head ---------------------------------------------------------------


def _make_run(record: MachineRecord, architecture: str, variables: dict[str, str]) -> Run:
    sweep = SweepRecord(
        levels=[3], device="cpu", models=[], batches=[1], widths=[8], only=[], skip=[],
        blas=["scipy"], threads=1, seed=0, passes=1, budget_s=1.0, processes=1, quick=False,
        keep_blas_env=bool(variables),
    )  # fmt: skip
    provider = ProviderRecord(
        process=0, name="scipy", path="/p.so", version="v", architecture=architecture, threads=1,
        threading_layer="", int_bits=32, routines=[], pools=[], variables=variables, dropped=[],
    )  # fmt: skip
    head = RunHead(schema_version=1, started_utc="t", machine=record, sweep=sweep)
    return Run(samples=pd.DataFrame(columns=[*SampleRecord.model_fields, "pass_ns"]),
               cells=pd.DataFrame(columns=list(CellRecord.model_fields)), head=head, providers=[provider],
               end=None, folder=Path(), warnings=[], blocks=[], resumes=[])  # fmt: skip


def test_table_head_flags_narrow_kernels_from_the_records_alone() -> None:
    """The head names a kernel narrower than the recorded processor, and stays silent about a right one."""
    head = "\n".join(header.head_lines(analyse(_make_run(make_record(), "Haswell", {}))))
    assert "**scipy chose Haswell kernels on a processor with avx512" in head
    right = "\n".join(header.head_lines(analyse(_make_run(make_record(), "SkylakeX", {}))))
    assert "on a processor with" not in right
    veiled = header.format_narrow_kernels(analyse(_make_run(make_record(), "def", {})))
    assert len(veiled) == 1
    assert not veiled[0].startswith("**")


def test_table_head_names_a_provider_on_other_threads() -> None:
    """The head says from the records alone that a provider ran on other threads than were asked for."""
    run = _make_run(make_record(), "SkylakeX", {})
    sweep = run.head.sweep.model_copy(update={"threads": 4})
    four = run._replace(head=run.head.model_copy(update={"sweep": sweep}))
    assert "**scipy ran on 1 of the 4 threads asked for" in "\n".join(
        header.head_lines(analyse(four))
    )
    assert not header.format_other_threads(analyse(run))


def test_table_head_names_the_variables_that_reached_a_process() -> None:
    """The head says what was taken away and what was let through, on a device from the sweep's record."""
    reached = {"MKL_CBWR": "AVX", "OMP_NUM_THREADS": "1"}
    head = "\n".join(header.head_lines(analyse(_make_run(make_record(), "SkylakeX", reached))))
    assert "**The environment reached the measuring processes: MKL_CBWR=AVX (chooses" in head
    assert "OMP_NUM_THREADS" not in head
    record = make_record(environment={"CUBLAS_X": "1", "LD_PRELOAD": "a.so"}, dropped=["CUBLAS_X"])
    run = _make_run(record, "", {})._replace(providers=[])
    told = header.format_variables(analyse(run))
    assert told[0] == "Taken out of the measuring processes' environment: CUBLAS_X"
    assert "LD_PRELOAD=a.so (puts code before" in told[1]
    assert "CUBLAS_X" not in told[1]


def test_table_head_names_serious_findings() -> None:
    """What was serious when the run began stands in the table's head."""
    record = make_record(cpu_quota=0.5)
    judged_record = record.model_copy(update={"findings": doctor.judge(Inspection(machine=record))})
    head = "\n".join(header.head_lines(analyse(_make_run(judged_record, "SkylakeX", {}))))
    assert "**Serious for measuring, when the run began: the cgroup allows 0.5" in head


def test_records_of_runs_without_facts_still_read() -> None:
    """A machine record that was written before there were facts is read, with none of them."""
    written = make_record().model_dump(exclude={"facts", "findings"})
    read = MachineRecord.model_validate(written)
    assert read.facts == MachineFacts()
    assert read.findings == []


def test_records_keep_facts_and_findings() -> None:
    """Facts and findings come back from JSON as they were written."""
    record = make_record(gpus=[GpuFacts(name="g")], environment={"OPENBLAS_CORETYPE": "Haswell"})
    record = record.model_copy(update={"findings": doctor.judge(Inspection(machine=record))})
    assert MachineRecord.model_validate_json(record.model_dump_json()) == record


# ---- the hardware and the commands --------------------------------------------------------------

_FLUSHING = """
#if defined(__aarch64__)
#include <stdint.h>
__attribute__((constructor)) static void flush(void) {
    uint64_t c;
    __asm__ volatile("mrs %0, fpcr" : "=r"(c));
    __asm__ volatile("msr fpcr, %0" : : "r"(c | (1u << 24)));
}
#else
#include <xmmintrin.h>
__attribute__((constructor)) static void flush(void) { _mm_setcsr(_mm_getcsr() | 0x8040u); }
#endif
"""


def test_doctor_finds_a_library_that_flushes_to_zero(tmp_path: Path) -> None:
    """The hardware is asked: a library that turns flush-to-zero on as it loads is found, exit 1."""
    assert native.flush_to_zero() == []
    source, library = tmp_path / "flush.c", tmp_path / "flush.so"
    source.write_text(_FLUSHING, encoding="ascii")
    compiler = machine_environment.find_compiler()
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "harness", "doctor", "--json", "--blas", blas.DEFAULT],
        env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["machine"]["facts"]["flush_to_zero"] == ["results", "operands"]
    assert report["providers"][0]["flush_to_zero"] == ["results", "operands"]
    found = {f["id"]: f["severity"] for f in report["machine"]["findings"]}
    assert found["flush-to-zero"] == "serious"
    assert found["passed-variables"] == "warning"


def test_doctor_command_agrees_with_its_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints facts, providers and findings, and exits 1 exactly where one is serious."""
    status = cli.run(["doctor", "--json", "--blas", blas.DEFAULT])
    report = json.loads(capsys.readouterr().out)
    findings = report["machine"]["findings"]
    count = sum(f["severity"] == "serious" for f in findings)
    assert report["serious"] == count
    assert status == (1 if count else 0)
    assert MachineRecord.model_validate(report["machine"]).facts.cpus_allowed
    assert [p["name"] for p in report["providers"]] == [blas.DEFAULT]


def test_doctor_command_finds_a_forced_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a kernel forced, the printed report says so and the command exits 1."""
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    assert cli.run(["doctor", "--blas", blas.DEFAULT]) == 1
    text = capsys.readouterr().out
    assert text.startswith("serious (")
    assert "blas-forced" in text
    assert "OPENBLAS_CORETYPE=Prescott" in text


_TINY = ("sweep", "--keep-blas-env", "--batch", "4", "--width", "8", "--passes", "1", "--processes",
         "1", "--levels", "1", "--only", "ff_l1_blas", "--skip", "ceiling*", "--models",
         "bert-base-3072")  # fmt: skip


@pytest.mark.usefixtures("without_forcing")
def test_a_strict_sweep_is_refused_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A strict sweep that keeps a forced kernel is refused by its name; no run is begun."""
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    out = tmp_path / "run"
    with pytest.raises(
        UnfitMachineError, match=r"--strict.*blas-forced: OPENBLAS_CORETYPE=Prescott"
    ):
        cli.run([*_TINY, "--strict", "--out", str(out)])
    assert not out.exists()


@pytest.mark.usefixtures("without_forcing")
def test_a_sweep_records_facts_and_flags_a_forced_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run keeps its facts and findings, and its table's head names the forced kernel."""
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setattr(
        "harness.report.files.write_plots", lambda run, style: []
    )  # seconds, and not the claim
    out = tmp_path / "run"
    assert cli.run([*_TINY, "--out", str(out)]) == 0
    head = RunHead.model_validate_json((out / "run.json").read_text(encoding="utf-8"))
    assert head.machine.facts.cpus_allowed == sorted(os.sched_getaffinity(0))
    severities = {f.id: f.severity for f in head.machine.findings}
    assert severities["blas-forced"] == "serious"
    text = (out / "table.md").read_text(encoding="utf-8")
    assert "**The environment reached the measuring processes: OPENBLAS_CORETYPE=Prescott (" in text
