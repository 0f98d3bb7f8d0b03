"""What a wheel installs under share: the manual page, and the completion scripts."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from harness import cli
from tools import share


def test_the_manual_names_every_command_option_and_status(monkeypatch):
    """Each command has a part with all of its options; every exit status is told; none of it is a request."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    text = share.make_manual()
    assert text.startswith('.TH FFF-HARNESS 1 "1970-01-02" "fff-harness ')
    parts = dict(re.findall(r"^\.SS (\S+)\n(.*?)(?=^\.S[SH])", text, flags=re.M | re.S))
    assert [name.replace("\\-", "-") for name in parts] == [*cli.COMMANDS]
    for name, command in cli.read_commands().items():
        part = parts[share.roff(name)].replace("\\-", "-")
        for param in command.params:
            assert any(word in part for word in (*param.opts, param.metavar or "\0")), (
                name,
                param.name,
            )
    assert all(f".B {status:d}\n" in text for status in cli.ExitStatus)
    requests = set(re.findall(r"^\.(\w+)", text, flags=re.M))
    assert requests == {"TH", "SH", "SS", "PP", "TP", "B", "I"}


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        (".TH is no request", r"\&.TH is no request"), ("'a", r"\&'a"), (r"a\fB", r"a\efB"),
        ("--only `fff*`\n  x", r"\-\-only \fBfff*\fR x"),
    ],
)  # fmt: skip
def test_texts_are_no_requests(text, escaped):
    """A text that looks like roff stands in the page as itself."""
    assert share.roff(text) == escaped


def test_files_lie_where_their_readers_look(tmp_path):
    """The page and the scripts have the places that man and the shells search; groff, if here, sets it."""
    written = share.write_share(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in written} == {
        "man/man1/fff-harness.1", "bash-completion/completions/fff-harness",
        "zsh/site-functions/_fff-harness", "fish/vendor_completions.d/fff-harness.fish",
    }  # fmt: skip
    assert all(path.stat().st_size for path in written)
    if shutil.which("groff"):
        words = ["groff", "-man", "-Tutf8", "-ww", tmp_path / share.MANUAL]
        assert subprocess.run(words, capture_output=True, text=True, check=True).stderr == ""
