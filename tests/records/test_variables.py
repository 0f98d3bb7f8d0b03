"""Environment variables: which ones change a library that is measured, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records import variables

# Variables as sites, images and debugging sessions leave them, by what they do.
FOUND = {
    "kernel": (
        "OPENBLAS_CORETYPE OPENBLAS_L2_SIZE OPENBLAS_BLOCK_FACTOR MKL_DEBUG_CPU_TYPE MKL_CBWR "
        "MKL_ENABLE_INSTRUCTIONS MKL_NUM_STRIPES BLIS_ARCH_TYPE BLIS_MODEL_TYPE AOCL_ENABLE_INSTRUCTIONS "
        "NVPL_BLAS_DEBUG_CPU_TYPE NVPL_LAPACK_MATH_MODE ARMPL_SVE FLEXIBLAS FLEXIBLAS_HOOK LIBXSMM_TARGET "
        "ONEDNN_MAX_CPU_ISA DNNL_MAX_CPU_ISA ONEDNN_PRIMITIVE_CACHE_CAPACITY ONEDNN_CPU_ISA_HINTS "
        "LRU_CACHE_CAPACITY ATEN_CPU_CAPABILITY FBGEMM_ENABLE_INSTRUCTIONS TORCH_BLAS_PREFER_CUBLASLT "
        "TORCH_MKLDNN_MATMUL_MIN_DIM TORCHINDUCTOR_MAX_AUTOTUNE TORCHDYNAMO_DISABLE "
        "PYTORCH_TUNABLEOP_ENABLED CUBLAS_WORKSPACE_CONFIG CUBLASLT_DISABLE_TENSOR_CORES "
        "DISABLE_ADDMM_CUDA_LT CUDA_FORCE_PTX_JIT CUDA_MPS_ACTIVE_THREAD_PERCENTAGE TRITON_INTERPRET "
        "TRITON_DEFAULT_FP_FUSION NPY_DISABLE_CPU_FEATURES NUMBA_DISABLE_JIT GLIBC_TUNABLES LD_HWCAP_MASK"
    ),
    "precision": (
        "NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE ONEDNN_DEFAULT_FPMATH_MODE "
        "MKL_BLAS_COMPUTE_MODE CUBLAS_EMULATE_SINGLE_PRECISION TRITON_F32_DEFAULT"
    ),
    "threads": (
        "MKL_DOMAIN_NUM_THREADS BLIS_IC_NT BLIS_JC_NT BLIS_PC_NT BLIS_JR_NT BLIS_IR_NT BLIS_THREAD_IMPL "
        "OPENBLAS_DEFAULT_NUM_THREADS OPENBLAS_THREAD_TIMEOUT OMP_THREAD_LIMIT OMP_WAIT_POLICY "
        "GOMP_SPINCOUNT KMP_BLOCKTIME NVPL_BLAS_NUM_THREADS VECLIB_MAXIMUM_THREADS"
    ),
    "affinity": (
        "OMP_PROC_BIND OMP_PLACES GOMP_CPU_AFFINITY KMP_AFFINITY KMP_HW_SUBSET OPENBLAS_MAIN_FREE"
    ),
    "pages": (
        "NUMPY_MADVISE_HUGEPAGE MALLOC_ARENA_MAX MALLOC_PERTURB_ MALLOC_CONF TCMALLOC_RELEASE_RATE "
        "MKL_DISABLE_FAST_MM PYTORCH_CUDA_ALLOC_CONF PYTORCH_NO_CUDA_MEMORY_CACHING HUGETLB_MORECORE"
    ),
    "tracing": (
        "MKL_VERBOSE OPENBLAS_VERBOSE ONEDNN_VERBOSE DNNL_VERBOSE CUDA_LAUNCH_BLOCKING "
        "CUDA_INJECTION64_PATH CUBLAS_LOGINFO_DBG CUBLASLT_LOG_LEVEL TORCH_LOGS OMP_DISPLAY_ENV OMP_TOOL "
        "PYTHONTRACEMALLOC LD_BIND_NOT"
    ),
}  # fmt: skip


@pytest.mark.parametrize("effect", sorted(FOUND))
def test_what_changes_a_library_is_dropped(effect: str) -> None:
    """Each variable that forces, narrows or slows a library is of a family that is taken away."""
    for name in FOUND[effect].split():
        family = variables.find_family(name)
        assert family is not None, name
        assert (family.effect, family.fate) == (effect, "dropped"), name


@pytest.mark.parametrize(
    "name",
    ["HOME", "PATH", "LD_LIBRARY_PATH", "TOKEN", "MKLROOT", "CUDA_HOME", "CUDA_PATH", "TORCH_HOME",
     "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDNN_VERSION", "KMP_DUPLICATE_LIB_OK", "OMPI_COMM",
     "MY_OMP_THING", "LD_PRELOAD_X", "SLURM_CPU_BIND", "PYTHONPATH", "ASAN_OPTIONS", "mkl_cbwr"],
)  # fmt: skip
def test_what_changes_no_figure_is_nobodys(name: str) -> None:
    """Places, versions and the user's own variables are neither taken away nor written into a record."""
    assert variables.find_family(name) is None


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_AUDIT", "CUDA_VISIBLE_DEVICES", "XLA_FLAGS"])
def test_what_was_meant_is_kept_and_recorded(name: str) -> None:
    """What a process may not run without, or was chosen on purpose, is let through; the record has it."""
    family = variables.find_family(name)
    assert family is not None
    assert family.fate == "kept"


def test_foreign_variables_are_named_with_what_they_do() -> None:
    """A line names each foreign variable, its value, its effect and its library, and none of our own."""
    told = {
        "MKL_CBWR": "AVX",
        "OMP_NUM_THREADS": "1",
        "OMP_PLACES": "cores",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    assert variables.format_foreign(told) == (
        "MKL_CBWR=AVX (chooses kernels of MKL), OMP_PLACES=cores (binds the threads of OpenMP)"
    )
    assert variables.format_foreign({"OMP_NUM_THREADS": "1", "LD_PRELOAD": ""}) == ""


def test_every_pattern_is_documented() -> None:
    """The page of the doctor names each pattern, once, in the row of its library and effect."""
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for family in variables.FAMILIES:
        row = next(r for r in rows if all(f"`{p}`" in r for p in family.patterns))
        assert family.library in row, family
        assert family.fate in row, family
