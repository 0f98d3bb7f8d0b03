"""Own the types of what is known of a machine, and of what that means for measuring."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Severity = Literal["serious", "warning", "note", "ok"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note", "ok")


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GpuFacts(_Fact):
    """What the driver says of one GPU; empty or 0 where it does not tell."""

    name: str
    driver: str = ""
    memory_mib: int = 0
    sm_clock_mhz: int = Field(default=0, description="streaming multiprocessors, now")
    sm_clock_max_mhz: int = 0
    power_limit_w: float = 0.0
    persistence: str = ""
    throttle_reasons: str = Field(default="", description="bit mask, hexadecimal; idle is 0x1")


class DeviceFacts(_Fact):
    """What the device that a run measures on is; empty or 0 where it does not tell."""

    name: str
    capability: str = Field(default="", description="compute capability, such as 8.6")
    memory_bytes: int = 0
    free_bytes: int = Field(default=0, description="before the run")
    l2_bytes: int = 0
    multiprocessors: int = 0
    uuid: str = ""
    torch: str = ""
    cuda: str = Field(default="", description="that torch was built with")
    driver: str = ""
    nvrtc: str = ""
    triton: str = ""
    unmetered: str = Field(default="", description="why clock, power and throttling are not told")


class ReadRate(_Fact):
    """How fast a working set was read again and again, by all threads together."""

    set_bytes: int = Field(gt=0)
    gbs: float = Field(gt=0, allow_inf_nan=False, description="GB/s")


class CacheWalk(_Fact):
    """What reading working sets of many sizes showed of the caches.

    measured: the last level was seen in the curve and is not what the system tells; told: it was seen and is;
    unseen: the curve does not fall behind the second level, or the walk ended before it did, so that the
    sizes told stand.
    """

    threads: int = Field(gt=0)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    curve: list[ReadRate]
    caches: dict[str, Annotated[int, Field(gt=0)]] = Field(
        description="bytes of each as one core gets them: what sets, flushes and tiles are cut by"
    )
    found: Literal["measured", "told", "unseen"]


class ProviderFacts(_Fact):
    """What a BLAS library is, or a package that brings one, as a measuring process loaded it."""

    name: str
    path: str = Field(description="{prefix} stands for the Python environment's folder")
    version: str
    architecture: str = Field(description="kernel set that it chose for this processor")
    threads: int
    threading_layer: str
    int_bits: int
    routines: list[str]


class ThreadPool(_Fact):
    """What threadpoolctl says of one pool of threads in a process; empty where there is none to tell."""

    user_api: str
    internal_api: str
    num_threads: int | None
    filepath: str
    version: str | None
    threading_layer: str | None = ""
    architecture: str | None = ""

    def told(self) -> dict[str, str | int | None]:
        """Return what the library tells, without what it has no word for."""
        return {name: value for name, value in self if value != ""}


class MachineFacts(_Fact):
    """What a machine's settings and its state of the moment are.

    Empty or None where the system does not tell: in a container or a virtual machine much is hidden.
    """

    # Processors that may be used, and how they are shared.
    cpus_online: int = 0
    cpus_allowed: list[int] = Field(
        default_factory=list, description="processors of this process's affinity"
    )
    cpu_quota: float | None = Field(
        default=None, description="processors' worth of time that the cgroup allows"
    )
    memory_limit_bytes: int | None = Field(default=None, description="what the cgroup allows")
    core_kinds: dict[str, list[int]] = Field(
        default_factory=dict, description="allowed processors by kind of core, where kinds are told"
    )
    smt_shared_cores: int | None = Field(
        default=None, description="cores of which more than one hardware thread is online"
    )
    numa_nodes: int = 0
    numa_balancing: bool | None = None

    # The clock of the processor, and the clock that measures.
    frequency_driver: str = ""
    governors: list[str] = Field(default_factory=list, description="distinct ones, sorted")
    frequency_capped: bool | None = Field(
        default=None, description="a limit below the processor's own maximum is set"
    )
    turbo: bool | None = None
    clocksource: str = ""
    timer_step_ns: int = Field(
        default=0, description="smallest step of the clock that times, as observed"
    )

    # What else happens on the machine: shares of the allowed processors' time over interval_s.
    load: list[float] = Field(default_factory=list, description="mean over 1, 5 and 15 minutes")
    busy_share: float | None = Field(
        default=None, description="used by anybody while this process slept"
    )
    steal_share: float | None = Field(default=None, description="taken by the hypervisor")
    steal_share_since_boot: float | None = None
    interval_s: float = Field(default=0.0, description="over which the shares were measured")
    hypervisor: str = ""

    # Memory.
    memory_available_bytes: int = 0
    swap_used_bytes: int = 0
    page_bytes: int = Field(default=0, description="of the smallest page; 0 if not told")
    thp: str = Field(default="", description="transparent huge pages: always, madvise or never")
    aslr: int | None = Field(
        default=None, description="randomize_va_space; 0 where this process has it off"
    )

    # The floating-point environment and the tools.
    flush_to_zero: list[str] = Field(
        default_factory=list, description="results (FTZ), operands (DAZ), unknown; of this process"
    )
    compiler: str = Field(
        default="", description="path of the C compiler; empty where there is none"
    )
    perf_event_paranoid: int | None = None
    gpus: list[GpuFacts] = Field(default_factory=list)
    gpu_reason: str = Field(default="", description="why no GPU is listed")


class Finding(_Fact):
    """One thing that matters for measuring: what it is, why, and what to do."""

    id: str
    severity: Severity
    found: str
    why: str
    remedy: str = Field(default="", description="empty where nothing is to be done")
