"""The messages between a sweep and a measuring process, and what is none."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from harness.measure import protocol
from harness.measure.clock import Sample
from harness.measure.protocol import (
    Answer,
    AnyRequest,
    Failure,
    ForeignLineError,
    GateAnswer,
    GateRequest,
    Hello,
    MemoryAnswer,
    MemoryRequest,
    PublishedAnswer,
    PublishedRequest,
    Refusal,
    SampleAnswer,
    SampleRequest,
    Unavailable,
    WrongOutput,
)
from harness.package import Identity
from harness.problem.axes import DEFAULTS
from harness.problem.check import Verdict
from harness.problem.problem import Problem
from harness.problem.working_set import Touched
from harness.records.facts import ProviderFacts, ThreadPool

PROBLEM = Problem(layer="fff", batch=3, d_in=8, d_out=8, depth=2, trees=1, routing="zipf")
VERDICT = Verdict(
    ok=False, reason="é | \x1b", worst=math.inf, tokens=3, near_ties=1, unwritten=0
)  # fmt: skip
SAMPLE = Sample(
    loops=7, elapsed_ns=70, switches=1, faults=2, steal_ticks=3, power_w=1.5, throttle=("power",)
)
FACTS = ProviderFacts(
    name="scipy", path="{prefix}/lib.so", version="1", architecture="Zen", threads=1,
    threading_layer="", int_bits=32, routines=["sdot"],
)  # fmt: skip
PACKAGE = Identity(folder="/opt/a b/harness", digest="0123456789ab")
POOL = ThreadPool(
    user_api="blas", internal_api="openblas", num_threads=None, filepath="/lib.so", version=None
)

ANSWERS: list[Answer] = [
    Hello(
        package=PACKAGE, provider=FACTS, pools=[POOL], variables={"OMP_X": "1"},
        flush_to_zero=["results"], cpus_allowed=2, huge_page_share=0.25,
    ),
    Hello(
        package=PACKAGE, provider=None, pools=[], variables={}, flush_to_zero=[], cpus_allowed=1,
        huge_page_share=None,
    ),
    Refusal(reason="no"),
    GateAnswer(
        verdict=VERDICT, gate_ns=5, notes={"isa": "avx2"}, loops=1, slices=2,
        touched=Touched(nodes=3, entropy_bits=[0.0, 1.0], working_set_bytes=64),
    ),
    Unavailable(reason="one set"),
    SampleAnswer(sample=SAMPLE),
    WrongOutput(verdict=VERDICT),
    PublishedAnswer(verdict=VERDICT, notes={}, sample=SAMPLE),
    PublishedAnswer(verdict=VERDICT, notes={}),
    MemoryAnswer(peak_resident_bytes=1 << 40),
    Failure(reason="RuntimeError: \n"),
]  # fmt: skip
REQUESTS: list[AnyRequest] = [
    GateRequest(
        cell="c", implementation="fff_l1_blas", problem=PROBLEM, loops=0, slices=0,
        min_sample_ns=10, isa="", threads=1, caches={"L2": 1 << 20},
        check_seed=7,
    ),
    SampleRequest(cell="c", loops=3, turn=0, expected_ns=1e18),
    SampleRequest(cell="c", loops=3, turn=0, expected_ns=1e18, check=True),
    SampleRequest(cell="c", loops=3, turn=0, expected_ns=math.inf),
    PublishedRequest(kernel="ff_l1_erfc", problem=PROBLEM, loops=1, unwritten=True),
    MemoryRequest(),
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: a.kind)
def test_an_answer_arrives_as_it_was_sent(answer: Answer) -> None:
    """Each kind of answer is one line, and read back equal: infinities, empty and odd texts too."""
    text = protocol.encode_answer(4, answer)
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    assert protocol.decode_answer(text) == (4, answer)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: r.kind)
def test_a_request_arrives_as_it_was_sent(request_: AnyRequest) -> None:
    """Each kind of request is one line, and read back equal."""
    text = protocol.encode_request(9, request_)
    assert text.count(b"\n") == 1
    assert protocol.decode_request(text) == (9, request_)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"null", b"[]", b"3", b"{", b"Loading: 100 %", b"\xff\x00", b"[" * 200_000,
        b"[1]", b'[1,{"kind":"spectrum"}]', b'["1",{"kind":"failure","reason":"x"}]',
        b'[1,{"kind":"failure"}]', b'[1,{"kind":"failure","reason":"x","more":1}]',
        b'[1,{"kind":"failure","reason":"x"},2]',
        b'[1,{"kind":"memory","peak_resident_bytes":1.5}]',
        b'[1,{"kind":"memory","peak_resident_bytes":' + b"9" * 5000 + b"}]",
    ],
    ids=lambda text: str(text[:40]),
)  # fmt: skip
def test_what_is_no_answer_is_named(text: bytes) -> None:
    """A line that is cut, of another program or another version is one error of one line."""
    with pytest.raises(ForeignLineError, match="no message of version 1") as caught:
        protocol.decode_answer(text)
    assert "\n" not in str(caught.value)


def test_a_request_for_an_impossible_problem_is_refused() -> None:
    """A request is held against the problem's own rules, not against its types alone."""
    text = protocol.encode_request(1, REQUESTS[0]).replace(b'"batch":3', b'"batch":0')
    with pytest.raises(ForeignLineError, match="batch must be at least 1"):
        protocol.decode_request(text)


def test_a_value_of_another_type_is_not_sent() -> None:
    """A count that is no integer is an error where it arises, not where it arrives."""
    answer = MemoryAnswer(peak_resident_bytes=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected `int`"):
        protocol.encode_answer(1, answer)


def test_a_gate_request_has_each_axis_of_the_protocol() -> None:
    """What a measuring process is asked has a field for each axis of the protocol, with its default."""
    asked = {field.name: field.default for field in fields(GateRequest)}
    for name, default in DEFAULTS.of("protocol").items():
        assert asked[name] == default
