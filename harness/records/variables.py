"""Own what environment variables do to the libraries that are measured, and which of them a process gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Effect = Literal[
    "kernel", "precision", "threads", "affinity", "pages", "tracing", "loading", "device"
]
# dropped: taken away from the measuring processes, unless the user keeps them. set: given a value of the
# harness's own there. kept: let through, since what they do was meant, or nothing loads without it.
Fate = Literal["dropped", "set", "kept"]

# What a variable does that reaches a measuring process, to the library behind it.
_WORDS: dict[Effect, str] = {
    "kernel": "chooses kernels of {}",
    "precision": "changes the precision of {}",
    "threads": "changes the threads of {}",
    "affinity": "binds the threads of {}",
    "pages": "changes the memory of {}",
    "tracing": "slows the calls of {}",
    "loading": "puts code before the libraries, by {}",
    "device": "chooses the device of {}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Hold environment variables of one effect, by the patterns of a shell.

    library: who reads them. A whole prefix stands here where a library's variables only ever turn it from
    what it does by itself: what such a library adds in its next version is then covered too.
    """

    patterns: tuple[str, ...]
    library: str
    effect: Effect
    fate: Fate = "dropped"

    def holds(self, name: str) -> bool:
        """Say whether a variable is of this family."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def describe(self) -> str:
        """Return in a few words what such a variable does."""
        return _WORDS[self.effect].format(self.library)


# Within the families below by their prefix, but they name places, versions and builds, or let two OpenMP
# runtimes stand in one process.
_HARMLESS = (
    "*_HOME", "*_ROOT", "*_CACHE_DIR", "*_CACHE_PATH", "*_VERSION", "*_BUILD_*", "TORCH_EXTENSIONS_DIR",
    "TORCH_CUDA_ARCH_LIST", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK",
)  # fmt: skip


def _family(library: str, effect: Effect, *patterns: str, fate: Fate = "dropped") -> Family:
    return Family(patterns=patterns, library=library, effect=effect, fate=fate)


# The first family that holds a variable is its own.
FAMILIES: tuple[Family, ...] = (
    # What the harness sets itself: `machine.environment` says to what.
    _family("OpenBLAS", "threads", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", fate="set"),
    _family("MKL", "threads", "MKL_NUM_THREADS", "MKL_DYNAMIC", "MKL_INTERFACE_LAYER",
            "MKL_THREADING_LAYER", fate="set"),
    _family("BLIS", "threads", "BLIS_NUM_THREADS", fate="set"),
    _family("OpenMP", "threads", "OMP_NUM_THREADS", "OMP_DYNAMIC", fate="set"),
    _family("torch", "pages", "THP_MEM_ALLOC_ENABLE", fate="set"),
    # BLAS.
    _family("OpenBLAS", "threads", "OPENBLAS_*THREAD*", "GOTO_*"),
    _family("OpenBLAS", "affinity", "OPENBLAS_MAIN_FREE", "GOTOBLAS_MAIN_FREE"),
    _family("OpenBLAS", "tracing", "OPENBLAS_VERBOSE"),
    _family("OpenBLAS", "kernel", "OPENBLAS_*", "GOTOBLAS_*"),
    _family("MKL", "threads", "MKL_*THREADS*"),
    _family("MKL", "precision", "MKL_BLAS_COMPUTE_MODE"),
    _family("MKL", "pages", "MKL_DISABLE_FAST_MM", "MKL_FAST_MEMORY_LIMIT"),
    _family("MKL", "tracing", "MKL_VERBOSE*"),
    _family("MKL", "kernel", "MKL_*"),
    _family("BLIS", "threads", "BLIS_*_NT", "BLIS_*THREAD*"),
    _family("BLIS", "kernel", "BLIS_*"),
    _family("AOCL's BLIS", "tracing", "AOCL_*VERBOSE*", "AOCL_*LOG*"),
    _family("AOCL's BLIS", "kernel", "AOCL_*"),
    _family("NVPL", "threads", "NVPL_*THREAD*"),
    _family("NVPL", "kernel", "NVPL_*"),
    _family("ArmPL", "kernel", "ARMPL_*"),
    _family("FlexiBLAS", "kernel", "FLEXIBLAS*"),
    _family("Accelerate", "threads", "VECLIB_*"),
    # torch on a CPU: oneDNN, its own code, its compiler.
    _family("oneDNN", "tracing", "ONEDNN_VERBOSE*", "DNNL_VERBOSE*", "MKLDNN_VERBOSE*",
            "ONEDNN_JIT_*", "DNNL_JIT_*", "MKLDNN_JIT_*"),
    _family("oneDNN", "precision", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    _family("oneDNN", "kernel", "ONEDNN_*", "_ONEDNN_*", "DNNL_*", "MKLDNN_*", "IDEEP_*",
            "LRU_CACHE_CAPACITY"),
    _family("FBGEMM", "kernel", "FBGEMM_*"),
    _family("LIBXSMM", "kernel", "LIBXSMM_*"),
    _family("torch", "precision", "TORCH_ALLOW_TF32*"),
    _family("torch", "pages", "PYTORCH_*ALLOC*", "PYTORCH_NO_CUDA_MEMORY_CACHING"),
    _family("torch", "tracing", "TORCH_LOGS*", "TORCH_TRACE", "TORCH_*LOG_LEVEL", "TORCH_SHOW_*",
            "TORCH_COMPILE_DEBUG", "KINETO_*"),
    _family("torch", "kernel", "ATEN_*", "TORCH_*", "TORCHINDUCTOR_*", "TORCHDYNAMO_*", "PYTORCH_*"),
    # CUDA and what computes on it.
    _family("CUDA", "precision", "NVIDIA_TF32_OVERRIDE"),
    _family("CUDA", "tracing", "CUDA_LAUNCH_BLOCKING", "CUDA_INJECTION*", "CUDA_*PROFILE*",
            "CUDA_DEVICE_WAITS_ON_EXCEPTION"),
    _family("CUDA", "kernel", "CUDA_FORCE_*", "CUDA_DISABLE_*", "CUDA_ENABLE_*", "CUDA_MODULE_*",
            "CUDA_CACHE_DISABLE", "CUDA_DEVICE_MAX_*", "CUDA_DEVICE_DEFAULT_*", "CUDA_MPS_ACTIVE_*",
            "CUDA_AUTO_BOOST", "CUDA_SCALE_*"),
    _family("CUDA", "device", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", fate="kept"),
    _family("cuBLAS", "precision", "CUBLAS_EMULAT*"),
    _family("cuBLAS", "tracing", "CUBLAS*_LOG*", "CUDNN_LOG*"),
    _family("cuBLAS", "kernel", "CUBLAS*_*", "CUDNN_*", "DISABLE_ADDMM_CUDA_LT"),
    _family("Triton", "precision", "TRITON_F32_DEFAULT"),
    # A GPU newer than Triton's own assembler needs one from outside.
    _family("Triton", "kernel", "TRITON_*_PATH", fate="kept"),
    _family("Triton", "kernel", "TRITON_*", "MLIR_*", "LLVM_IR_*", "DISABLE_LLVM_OPT",
            "DISABLE_PTXAS_OPT"),
    # OpenMP's runtimes: libgomp, LLVM's, Intel's.
    _family("OpenMP", "affinity", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_*AFFINITY*",
            "KMP_HW_SUBSET", "KMP_PLACE_THREADS", "KMP_TOPOLOGY_METHOD"),
    _family("OpenMP", "tracing", "OMP_DISPLAY_*", "OMP_TOOL*", "OMP_DEBUG", "KMP_SETTINGS",
            "GOMP_DEBUG", "OMPT_*"),
    _family("OpenMP", "threads", "OMP_*", "GOMP_*", "KMP_*", "LIBOMP_*"),
    # What plugins in Python compute with.
    _family("NumPy", "pages", "NUMPY_MADVISE_HUGEPAGE"),
    _family("NumPy", "kernel", "NPY_*", "NUMPY_*"),
    _family("Numba", "kernel", "NUMBA_*"),
    _family("numexpr", "threads", "NUMEXPR_*"),
    _family("XLA", "kernel", "XLA_FLAGS", fate="kept"),
    _family("Python", "tracing", "PYTHONMALLOC*", "PYTHONDEVMODE", "PYTHONTRACEMALLOC",
            "PYTHONPERFSUPPORT", "PYTHONPROFILEIMPORTTIME"),
    # The C library, its loader, and allocators in its place.
    _family("glibc", "kernel", "GLIBC_TUNABLES", "LD_HWCAP_MASK"),
    _family("glibc", "tracing", "LD_BIND_NOT", "LD_DEBUG*", "LD_PROFILE*"),
    _family("the allocator", "pages", "MALLOC_*", "TCMALLOC_*", "MIMALLOC_*", "*MALLOC_CONF",
            "TBB*MALLOC*", "HUGETLB_*"),
    # A sanitizer or a needed allocator comes this way: without it the process may not run at all.
    _family("the loader", "loading", "LD_PRELOAD", "LD_AUDIT", fate="kept"),
)  # fmt: skip


def find_family(name: str) -> Family | None:
    """Return the family of a variable, None for one that changes no figure."""
    if any(fnmatchcase(name, pattern) for pattern in _HARMLESS):
        return None
    return next((family for family in FAMILIES if family.holds(name)), None)


def find_foreign(names: Iterable[str]) -> dict[str, Family]:
    """Return those of `names`, with their families, that turn a library from what it does by itself.

    Left out are what the harness sets, and which device was chosen.
    """
    found = {name: find_family(name) for name in names}
    return {n: f for n, f in found.items() if f and f.fate != "set" and f.effect != "device"}


def format_foreign(variables: Mapping[str, str]) -> str:
    """Return the foreign ones among `variables` that hold something, and what they do; empty for none."""
    found = find_foreign(name for name, value in variables.items() if value)
    return ", ".join(f"{n}={variables[n]} ({f.describe()})" for n, f in found.items())
