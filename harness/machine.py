"""Own the facts of the machine; with cli, the only reader of the environment."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import archspec.cpu
import psutil

from harness import native, probe
from harness.errors import UnknownNameError
from harness.records import FORCING, MachineRecord

_RELEVANT = re.compile(r"^(OPENBLAS|MKL|BLIS|GOTO|OMP|GOMP|KMP|NVPL|VECLIB)_|^LD_PRELOAD$|^MALLOC_")
_PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "cffi",
    "threadpoolctl",
    "mkl",
    "scipy-openblas32",
    "torch",
    "triton",
    "cuda-bindings",
    "nvidia-cuda-nvrtc",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Count what can disturb a sample: involuntary context switches, page faults, steal ticks."""

    switches: int
    faults: int
    steal_ticks: int

    def since(self, earlier: Disturbance) -> dict[str, int]:
        """Return the differences to an earlier reading."""
        return {
            "switches": self.switches - earlier.switches,
            "faults": self.faults - earlier.faults,
            "steal_ticks": self.steal_ticks - earlier.steal_ticks,
        }


def read_disturbance() -> Disturbance:
    """Read the counters of this process, and the machine's steal time where the kernel tells it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Disturbance(
        switches=usage.ru_nivcsw,
        faults=usage.ru_minflt + usage.ru_majflt,
        steal_ticks=_steal_ticks(),
    )


def _steal_ticks() -> int:
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = file.readline().split()
    except OSError:
        return 0
    return int(fields[8]) if len(fields) > 8 else 0


def relevant_variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that can change a BLAS, its threads or the allocator."""
    variables = os.environ if environment is None else environment
    return {k: v for k, v in sorted(variables.items()) if _RELEVANT.search(k)}


def worker_environment(threads: int, *, keep_blas_env: bool) -> tuple[dict[str, str], list[str]]:
    """Return the environment of a measuring process, and the names that were taken out of it.

    The pool sizes stand before the process starts, since libraries read them when they load. Variables
    that force a kernel are taken away unless `keep_blas_env`, so that the baseline is not handicapped.
    """
    environment = dict(os.environ)
    dropped = [] if keep_blas_env else [name for name in FORCING if name in environment]
    for name in dropped:
        del environment[name]
    for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "GOTO"):
        environment[f"{name}_NUM_THREADS"] = str(threads)
    environment.update(
        MKL_DYNAMIC="FALSE",
        OMP_DYNAMIC="FALSE",
        MKL_INTERFACE_LAYER="LP64",
        # The PyPI build needs no Intel OpenMP then; with one thread no pool at all.
        MKL_THREADING_LAYER="SEQUENTIAL" if threads == 1 else "GNU",
        PYTHONFAULTHANDLER="1",
    )
    return environment, dropped


def overridden_variables(threads: int) -> dict[str, str]:
    """Return the caller's variables that a measuring process gets with another value, as they are here."""
    ours, _ = worker_environment(threads, keep_blas_env=True)
    return {k: v for k, v in relevant_variables().items() if ours[k] != v}


def available_memory_bytes() -> int:
    """Return the memory that new allocations can have without swapping."""
    return int(psutil.virtual_memory().available)


def cores() -> int:
    """Return the processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def check_isa(name: str) -> str:
    """Return the name of an instruction set of our own code that this processor has; empty for any.

    Raises UnknownNameError listing those that it has.
    """
    if name and name not in native.isas():
        raise UnknownNameError("instruction set of this processor", name, known=native.isas())
    return name


def git_commit() -> tuple[str, bool]:
    """Return the short commit of the source tree and whether it has changes; empty outside of one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return "", False

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    # A run's own folder must not make the tree that it measures look changed.
    changes = git("status", "--porcelain", "--", ".", ":!results")
    return git("rev-parse", "--short=10", "HEAD"), bool(changes)


def commit_label() -> str:
    """Return what names the code in a run: the commit, `-dirty` behind it, or the release."""
    commit, dirty = git_commit()
    if not commit:
        return f"v{importlib.metadata.version('fff-harness')}"
    return commit + ("-dirty" if dirty else "")


def host() -> str:
    """Return the host's first name, safe for a folder name."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname().split(".")[0]) or "host"


def caches() -> dict[str, int]:
    """Return the bytes of each cache as one core sees it; empty where the system does not tell."""
    found: dict[str, int] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        facts = {n: (index / n).read_text().strip() for n in ("level", "type", "size")}
        if facts["type"] == "Instruction" or not facts["size"].endswith("K"):
            continue
        name = f"L{facts['level']}" + ("d" if facts["level"] == "1" else "")
        found[name] = int(facts["size"][:-1]) * 1024
    return found


def last_level_bytes() -> int:
    """Return the size of the last-level cache, 0 where the system does not tell."""
    return max(caches().values(), default=0)


def _cpuinfo(field: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(rf"^{field}\s*:\s*(.*)$", text, re.MULTILINE)
    return match.group(1).strip() if match else ""


def _processor() -> str:
    """Return the processor's name; family and model tell the generation where a hypervisor hides it."""
    name = _cpuinfo("model name") or platform.processor()
    family, model = _cpuinfo("cpu family"), _cpuinfo("model")
    return f"{name}, family {family} model {model}" if family and model else name


def _virtual_machine() -> str:
    if "hypervisor" not in _cpuinfo("flags").split():
        return ""
    vendor = Path("/sys/class/dmi/id/sys_vendor")
    return vendor.read_text().strip() if vendor.is_file() else "hypervisor"


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def make_record() -> MachineRecord:
    """Return the machine record of a run."""
    target: Any = archspec.cpu.host()
    features = [
        f for f in sorted(target.features) if re.match(r"avx|fma|sse4|asimd|sve|neon|amx", f)
    ]
    return MachineRecord(
        host=host(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=_processor(),
        microarchitecture=target.name,
        isa=features,
        cores=cores(),
        caches=caches(),
        memory_bytes=int(psutil.virtual_memory().total),
        virtual_machine=_virtual_machine(),
        python=platform.python_version(),
        packages=_packages(),
        build=native.build_record(),
        harness_version=importlib.metadata.version("fff-harness"),
        commit=commit_label(),
        environment=relevant_variables(),
        facts=probe.gather(),
    )
