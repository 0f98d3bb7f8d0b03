"""Own the facts of the machine; with cli, the only reader of the environment."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import socket
import subprocess
import tomllib
from typing import Any

import archspec.cpu
import psutil

from harness import native, package
from harness.machine import environment as machine_environment
from harness.machine import linux, processor
from harness.machine.facts import Machine
from harness.machine.resources import Files
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


_UNREAD = "-commit-unread"  # behind the release of a checkout whose commit git does not tell


def git_commit() -> tuple[str, bool]:
    """Return the short commit of the source tree and whether it has changes; empty where git tells none.

    Asked is the repository of these files, whoever owns it and whatever GIT_DIR and the like say: git refuses
    to look for one that belongs to another user, and takes that of the environment before its own. What is
    configured there to run at each status is not.
    """
    root = package.FOLDER.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return "", False
    environment = machine_environment.git_environment()
    words = [
        "git", f"--git-dir={root / '.git'}", f"--work-tree={root}", "-c", "core.fsmonitor=false",
    ]  # fmt: skip

    def git(*arguments: str) -> str:
        done = subprocess.run(
            [*words, *arguments], cwd=root, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        return done.stdout.strip() if done.returncode == 0 else ""

    # A run's own folder must not make the tree that it measures look changed.
    changes = git("status", "--porcelain", "--", ".", ":!results")
    return git("rev-parse", "--short=10", "HEAD"), bool(changes)


def release() -> str:
    """Return the version of this package, from its project file where it runs without being installed."""
    try:
        return importlib.metadata.version("fff-harness")
    except importlib.metadata.PackageNotFoundError:
        project = package.FOLDER.parent / "pyproject.toml"
        if not project.is_file():
            return ""
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def commit_label() -> str:
    """Return what names the code in a run: the commit, `-dirty` behind it, or the release.

    The release says that there was a commit which could not be read, where it stands in for one.
    """
    commit, dirty = git_commit()
    if not commit:
        is_checkout = (package.FOLDER.parent / ".git").exists()
        return f"v{release()}" + (_UNREAD if is_checkout else "")
    return commit + ("-dirty" if dirty else "")


def host() -> str:
    """Return the host's first name, safe for a folder name."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", socket.gethostname().split(".")[0]) or "host"


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
    files = Files()
    target: Any = archspec.cpu.host()
    return MachineRecord(
        host=host(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor.read_name(files),
        microarchitecture=target.name,
        # archspec knows what a named generation should have, not what this processor reports.
        isa=processor.read_isa(files),
        cores=machine.cores,
        caches=dict(machine.caches if machine.told_caches is None else machine.told_caches),
        cache_walk=machine.cache_walk,
        last_level_caches=machine.last_level_caches,
        memory_bytes=int(psutil.virtual_memory().total),
        virtual_machine=linux.read_hypervisor(files),
        python=platform.python_version(),
        packages=_packages(),
        build=native.build_record(),
        harness_version=release(),
        commit=commit_label(),
        environment=machine_environment.relevant_variables(),
        facts=linux.gather(files),
    )
