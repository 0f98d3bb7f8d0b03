"""What a measuring process serves, and how its command line says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness import plugin
from harness.backends import registry
from harness.measure import process_key
from harness.measure.process_key import ProcessKey


@pytest.mark.parametrize(
    "key",
    [
        ProcessKey(),
        ProcessKey(provider="scipy"),
        ProcessKey(provider="/opt/a b/libmine.so", plugin="/home/é\nlibrary\ntorch.py"),
        ProcessKey(library="torch"),
    ],
)
def test_a_key_survives_the_command_line(key: ProcessKey) -> None:
    """A key is one word without a line end, and the same key again, whatever stands in its paths."""
    word = key.encode()
    assert "\n" not in word
    assert process_key.decode(word) == key


def test_who_shares_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own share the provider's process, a library and each plugin have one, a device holds them all."""
    own = registry.get("fff_cpu_fused")
    blas = registry.get("fff_l1_blas")
    torch = replace(own, library=registry.Library(name="torch", load=dict))
    assert process_key.find(own, "mkl") == process_key.find(blas, "mkl")
    assert process_key.find(blas, "mkl") == ProcessKey(provider="mkl")
    assert process_key.find(torch, "mkl") == ProcessKey(library="torch")
    assert process_key.find(torch, "") == ProcessKey()
    monkeypatch.setitem(plugin._origins, own.id, "/plugins/a.py")
    assert process_key.find(own, "mkl") == ProcessKey(plugin="/plugins/a.py")
    monkeypatch.setitem(plugin._origins, blas.id, "/plugins/b.py")
    assert process_key.find(blas, "mkl") == ProcessKey(provider="mkl", plugin="/plugins/b.py")
