"""Build the compiled part; everything else stands in pyproject.toml."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import sys
import sysconfig
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

if sys.version_info < (3, 11):
    sys.exit(
        f"fff-harness needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable}). "
        "Install a newer one (Debian 12 and later: apt install python3) and run the command with it."
    )

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parent))
from native.build_native import ISA_FLAGS, flags_for
from native.build_record import is_foreign, make_literal


def _require_toolchain() -> None:
    """Stop with what to install where a C compiler or Python's headers are missing."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    # A compiler behind a wrapper, such as `ccache gcc`, needs both.
    words = itertools.takewhile(lambda word: not word.startswith("-"), command)
    for program in (word for word in words if "=" not in word):
        if shutil.which(program) is None:
            sys.exit(
                f"fff-harness compiles C kernels and found no C compiler ({program!r} is not on PATH). "
                "Install one (Debian, Ubuntu: apt install gcc libc6-dev) or name one in the variable CC."
            )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        sys.exit(
            f"fff-harness compiles against Python's headers and found no {header}. "
            "Install them (Debian, Ubuntu: apt install python3-dev)."
        )


class BuildKernels(build_ext):
    """Compile each source with the flags of its instruction set, whatever flags the environment brings."""

    def _leave_out_foreign(self) -> None:
        """Take flags that change values or instruction sets from what CC, CFLAGS and Python itself bring."""
        left_out = []
        for name in ("compiler_so", "linker_so"):
            words = getattr(self.compiler, name)
            left_out += [word for word in words if is_foreign(word)]
            setattr(self.compiler, name, [word for word in words if not is_foreign(word)])
        if left_out:
            print(
                f"left out: {' '.join(dict.fromkeys(left_out))} (they change results, or what `generic` is; "
                "FFK_CFLAGS adds flags on purpose)",
                file=sys.stderr,
            )

    def build_extensions(self) -> None:
        """Hand every source its own flags, and compile on all processors.

        setuptools itself knows flags per extension only, and compiles one source after the other.
        """
        _require_toolchain()
        self._leave_out_foreign()
        for extension in self.extensions:
            record = make_literal(
                compiler=[*self.compiler.compiler_so, *extension.extra_compile_args],
                linker=[*self.compiler.linker_so, *extension.extra_link_args],
                isa_flags=ISA_FLAGS,
            )
            extension.define_macros.append(("FFK_BUILD_RECORD", record))
        compile_one, compile_all = self.compiler._compile, self.compiler.compile
        begun: list[Future[None]] = []

        def begin(obj: str, src: str, ext: str, cc: Any, post: Any, pp: Any) -> None:
            flags = [*(post or []), *flags_for(src)]
            begun.append(pool.submit(compile_one, obj, src, ext, cc, flags, pp))

        def compile_and_wait(*words: Any, **named: Any) -> Any:
            objects = compile_all(*words, **named)
            for one in begun:
                one.result()  # raises what the compiler raised
            return objects

        self.compiler._compile, self.compiler.compile = begin, compile_and_wait
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            super().build_extensions()


class BuildPackage(build_py):
    """Ship what is compiled where the package is installed: the public header and the CUDA kernels."""

    def run(self) -> None:
        """Copy them beside the modules; an editable install finds them in the source tree."""
        super().run()
        for source, shipped in self._shipped().items():
            self.mkpath(str(Path(shipped).parent))
            self.copy_file(source, shipped)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name them among the files of the package."""
        return [*super().get_outputs(include_bytecode), *self._shipped().values()]

    def _shipped(self) -> dict[str, str]:
        """Return where each source goes."""
        if self.editable_mode:
            return {}
        sources = {
            "include": [Path("native/include/ffk.h")],
            "cuda": Path("native/cuda").glob("*.cu*"),
        }
        return {
            str(path): str(Path(self.build_lib, "harness", folder, path.name))
            for folder, paths in sources.items()
            for path in sorted(paths)
        }


def find_shared() -> list[tuple[str, list[str]]]:
    """Return the manual page and the completion scripts by folder; none where tools/share.py made none."""
    folders: dict[str, list[str]] = {}
    for path in sorted(Path("share").rglob("*")):
        if path.is_file():
            folders.setdefault(str(path.parent), []).append(str(path))
    return [*folders.items()]


setup(
    data_files=find_shared(),
    cffi_modules=["native/build_native.py:ffibuilder"],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPackage},
    # cffi builds the extension for the stable ABI: one wheel serves every Python from 3.11 on.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
