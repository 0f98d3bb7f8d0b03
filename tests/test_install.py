"""What a newcomer meets when something is missing is one line that says what to do."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from native import build_native, build_record

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bare_tree(tmp_path: Path) -> Path:
    """Copy the source tree without its compiled part."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("harness", "native"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_source_tree_without_compiled_part_says_what_to_do(bare_tree: Path) -> None:
    """A source folder that shadows an installed package ends in one line, not in a traceback."""
    # Without site's .pth files: an editable install would lend its compiled part to the bare tree.
    environment = dict(os.environ, PYTHONPATH=sysconfig.get_path("purelib"))
    done = subprocess.run(
        [sys.executable, "-S", "-m", "harness", "list"],
        cwd=bare_tree, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "pip install -e ." in done.stderr


@pytest.mark.parametrize("command", ["no-such-compiler", "env no-such-compiler -O2"])
def test_missing_compiler_is_named_with_its_remedy(bare_tree: Path, command: str) -> None:
    """A build without a C compiler, alone or behind a wrapper, names it and says what to install."""
    pytest.importorskip("setuptools", "77", reason="the build's own requirement")
    environment = dict(os.environ, CC=command)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=bare_tree, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "no-such-compiler" in last
    assert "apt install gcc" in last


@pytest.mark.parametrize(
    ("flag", "foreign"),
    [
        *((flag, True) for flag in (
            "-Ofast", "-ffast-math", "-funsafe-math-optimizations", "-ffinite-math-only",
            "-fno-associative-math", "-freciprocal-math", "-fno-signed-zeros", "-ffp-model=fast",
            "-ffp-contract=off", "-fp-model=fast", "-fsingle-precision-constant", "-frounding-math",
            "-fdenormal-fp-math=positive-zero", "-mdaz-ftz", "-mfpmath=387", "-mrecip", "-march=native",
            "-mtune=native", "-mcpu=neoverse-v1", "-mavx2", "-mno-avx512f", "-mprefer-vector-width=128",
        )),
        *((flag, False) for flag in (
            "gcc", "ccache", "-O2", "-g", "-fwrapv", "-fPIC", "-fno-plt", "-m64", "-mabi=lp64",
            "-mbranch-protection=standard", "-fstack-protector-strong", "-fno-fast-math", "-DX=-Ofast",
            "-I/opt/march=", "-Wl,-O1", "-fomit-frame-pointer", "-flto=auto", "-mno-omit-leaf-frame-pointer",
        )),
    ],
)  # fmt: skip
def test_flags_of_the_environment(flag: str, foreign: bool) -> None:
    """What changes values or chooses instructions is foreign, whatever else a distribution sets is not."""
    assert build_record.is_foreign(flag) is foreign


def test_a_build_leaves_foreign_flags_out_and_records_the_others(bare_tree: Path) -> None:
    """Flags of CC and CFLAGS that change values or instructions reach neither the compiler nor the record."""
    pytest.importorskip("setuptools", "77", reason="the build's own requirement")
    compiler = bare_tree / "compiler"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {bare_tree}/words\nexit 1\n', encoding="ascii")
    compiler.chmod(0o755)
    environment = dict(
        os.environ, CC=f"{compiler} -march=native", CFLAGS="-Ofast -fwrapv -DNAME='\"a b\"'",
        LDFLAGS="-ffast-math",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=bare_tree, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "left out: -march=native -Ofast -ffast-math" in done.stderr
    words = (bare_tree / "words").read_text(encoding="utf-8")
    for flag in ("-march", "-Ofast", "-ffast-math"):
        assert flag not in words
    record = words.partition('FFK_BUILD_RECORD="')[2].partition('}"')[0] + "}"
    told = json.loads(record.replace('\\"', '"').replace("\\\\", "\\"))
    assert "-fwrapv" in told["flags"]
    assert 'NAME="a b"' in told["flags"]
    assert "-mavx2" not in told["flags"]
    assert told["digest"] == build_record.digest(bare_tree / "native")


@pytest.mark.parametrize(
    "flag",
    ["-ffast-math", "-Ofast", "-ffinite-math-only", "-fno-signed-zeros -fassociative-math",
     "-freciprocal-math", ""],
)  # fmt: skip
def test_arithmetic_that_is_not_ieee_is_refused(flag: str) -> None:
    """A flag that comes through all the same stops the build; the build's own flags do not."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    done = subprocess.run(
        [*compiler, *build_native.FLAGS, *flag.split(), "-fsyntax-only", "native/isa/ieee.h"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode != 0) == bool(flag), done.stderr
    assert ("makes arithmetic inexact" in done.stderr) == bool(flag)


def test_digest_is_of_what_is_compiled(tmp_path: Path) -> None:
    """The digest changes with a source's name and content, and not with what is no part of the extension."""
    (tmp_path / "cuda").mkdir()
    (tmp_path / "a.c").write_text("1", encoding="ascii")
    first = build_record.digest(tmp_path)
    for name in ("cuda/k.h", "notes.md", ".#a.c", "a.c~"):
        (tmp_path / name).write_text("x", encoding="ascii")
    assert build_record.digest(tmp_path) == first
    (tmp_path / "a.c").rename(tmp_path / "b.c")
    renamed = build_record.digest(tmp_path)
    (tmp_path / "b.c").write_text("2", encoding="ascii")
    assert len({first, renamed, build_record.digest(tmp_path)}) == 3


def test_readme_has_its_two_commands() -> None:
    """The quick start holds two fenced commands of one line each: the sweep and the tests."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (part,) = [p for p in text.split("\n## ") if p.startswith("Quick start")]
    commands = [block.split("```")[0].strip() for block in part.split("```sh\n")[1:]]
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)
    assert "harness sweep --levels 1,2,3 --device cpu" in commands[0]
    assert commands[1].endswith("python -m pytest -n auto")


def test_one_wheel_serves_every_python(bare_tree: Path) -> None:
    """A wheel is tagged for the stable ABI of the oldest Python, as its extension is; share is in it."""
    pytest.importorskip("setuptools", "77", reason="the build's own requirement")
    script = (
        "from setuptools.command import bdist_wheel as b; import distutils.core as c;"
        "made = c.run_setup('setup.py', stop_after='commandline').get_command_obj('bdist_wheel');"
        "made.ensure_finalized(); print(*made.get_tag()[:2], all(e.py_limited_api for e in"
        " made.distribution.ext_modules), made.distribution.data_files)"
    )
    page = bare_tree / "share" / "man" / "man1" / "x.1"
    page.parent.mkdir(parents=True)
    page.touch()
    done = subprocess.run(
        [sys.executable, "-c", "import setuptools; " + script],
        cwd=bare_tree, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == (
        "cp311 abi3 True [('share/man/man1', ['share/man/man1/x.1'])]"
    ), done.stderr


@pytest.mark.parametrize(
    ("platform", "isa"), [("linux-aarch64", "neon.c"), ("linux-x86_64", "avx2.c")]
)
def test_a_cross_build_has_the_instruction_sets_of_its_target(platform: str, isa: str) -> None:
    """What Python is told to build for chooses the sources, whatever this machine is."""
    code = "from native import build_native as b; print(b.target(), *b.sources())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env=dict(os.environ, _PYTHON_HOST_PLATFORM=platform),
    )  # fmt: skip
    machine, *sources = done.stdout.split()
    assert machine == platform.removeprefix("linux-")
    isas = {Path(source).name for source in sources if "native/isa/" in source}
    assert isa in isas
    assert not {"neon.c", "avx2.c"} - {isa} & isas
