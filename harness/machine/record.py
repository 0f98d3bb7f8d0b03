"""Own the facts of the machine; with cli, the only reader of the environment."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import archspec.cpu
import psutil

from harness import native
from harness.machine import environment as machine_environment
from harness.machine import linux
from harness.machine.facts import Machine
from harness.records.schema import MachineRecord

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


def git_commit() -> tuple[str, bool]:
    """Return the short commit of the source tree and whether it has changes; empty outside of one."""
    root = Path(__file__).resolve().parents[2]
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


def make_record(machine: Machine) -> MachineRecord:
    """Return the machine record of a run, with the facts that its plan was made from."""
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
        cores=machine.cores,
        caches=dict(machine.caches),
        last_level_caches=machine.last_level_caches,
        memory_bytes=int(psutil.virtual_memory().total),
        virtual_machine=_virtual_machine(),
        python=platform.python_version(),
        packages=_packages(),
        build=native.build_record(),
        harness_version=importlib.metadata.version("fff-harness"),
        commit=commit_label(),
        environment=machine_environment.relevant_variables(),
        facts=linux.gather(),
    )
