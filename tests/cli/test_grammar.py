"""The grammar of the axes."""

from __future__ import annotations

import pytest

from harness.cli import grammar
from harness.errors import UnknownNameError, UsageError
from harness.problem.models import FAMILY, PAPER_MODELS, parse_model, parse_models
from harness.sweep import plan


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", [1]),
        ("1,16", [1, 16]),
        ("16,1,16", [16, 1]),
        ("2^4", [16]),
        ("2^4..2^7", [16, 32, 64, 128]),
        ("3^1..3^3", [3, 9, 27]),
        ("1,16,2^4..2^6", [1, 16, 32, 64]),
        ("3..24", [3, 6, 12, 24]),
        ("3..20", [3, 6, 12]),
        ("5..5", [5]),
        (" 4 , 8 ", [4, 8]),
        ("2^0..2^1", [1, 2]),
    ],
)
def test_extents(text: str, values: list[int]) -> None:
    """Lists, powers, ranges of powers and doubling ranges expand, each value once, in order."""
    assert grammar.parse_extents("--batch", text) == values


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "0",
        "-1",
        "1.5",
        "a",
        "8..2",
        "0..8",
        "2^3..3^5",
        "1^2..1^4",
        "2..",
        "..2",
        "1-4",
        "2^-1",
    ],
)
def test_bad_extents(text: str) -> None:
    """Anything else is a usage error that names the option."""
    with pytest.raises(UsageError, match=r"^--batch: "):
        grammar.parse_extents("--batch", text)


@pytest.mark.parametrize(("text", "levels"), [("1,2,3", [1, 2, 3]), ("3,1,3", [1, 3]), ("2", [2])])
def test_levels(text: str, levels: list[int]) -> None:
    """Levels are sorted, each once."""
    assert grammar.parse_levels(text) == levels


@pytest.mark.parametrize("text", ["", "0", "4", "1,x", "1..3", "one"])
def test_bad_levels(text: str) -> None:
    """An unknown level is a usage error."""
    with pytest.raises(UsageError, match=r"^--levels: "):
        grammar.parse_levels(text)


@pytest.mark.parametrize(
    ("text", "name", "layer", "used"),
    [
        ("bert-base-4095", "bert-base-4095", "ff", 4095),
        ("BERT-base-3072", "bert-base-3072", "ff", 3072),
        ("ff-17", "ff-17", "ff", 17),
        ("ultrafastbert-1x11", "ultrafastbert-1x11", "fff", 12),
        ("1x11", "ultrafastbert-1x11", "fff", 12),
        ("UltraFastBERT-3072x0", "ultrafastbert-3072x0", "fff", 3072),
        (" 4x9 ", "ultrafastbert-4x9", "fff", 40),
    ],
)
def test_models(text: str, name: str, layer: str, used: int) -> None:
    """A model is named in any case, and K x D is K trees of depth D, so K (D + 1) neurons a token."""
    model = parse_model(text)
    assert (model.name, model.layer) == (name, layer)
    problem = model.problem(batch=2, width=3, seed=4)
    assert problem.used_neurons == used
    assert (problem.batch, problem.d_in, problem.d_out, problem.seed) == (2, 3, 3, 4)


def test_every_model_reads_its_own_name() -> None:
    """A model's canonical name and title lead back to the same model."""
    for text in (*PAPER_MODELS, *FAMILY, "ff-5"):
        model = parse_model(text)
        assert parse_model(model.name) == model
        assert parse_model(model.title) == model


@pytest.mark.parametrize("text", ["1x21", "0x3", "ff-0", "bert-base-0", "2000000x1"])
def test_models_out_of_range(text: str) -> None:
    """Trees, depths and hidden extents that no kernel takes are usage errors."""
    with pytest.raises(UsageError, match=r"^--models: "):
        grammar.parse_models(text)
    with pytest.raises(UsageError, match=r"^--baseline: "):
        grammar.parse_baseline(text)


@pytest.mark.parametrize("text", ["bert", "x11", "1x", "gpt-2", "1x2x3", "-1x3"])
def test_unknown_models(text: str) -> None:
    """An unknown model's error lists the known names."""
    with pytest.raises(UnknownNameError, match=r"^unknown model .*bert-base-4095.*3072x0.*KxD"):
        grammar.parse_models(text)


def test_family_expands_once() -> None:
    """`family` stands for the paper's twelve, and a model named twice is measured once."""
    models = parse_models("family,1x11,ultrafastbert-1x11")
    assert [m.name for m in models] == [f"ultrafastbert-{name}" for name in FAMILY]
    with pytest.raises(UsageError, match=r"^--models: "):
        grammar.parse_models(" , ")


def test_select() -> None:
    """Patterns select by id or glob, and skip wins over only."""
    ids = ["ff_a", "ff_b", "fff_a"]
    assert plan.select(ids, [], []) == ids
    assert plan.select(ids, ["ff_*"], []) == ["ff_a", "ff_b"]
    assert plan.select(ids, ["*_a"], ["fff*"]) == ["ff_a"]
    assert plan.select(ids, [], ["ff_b"]) == ["ff_a", "fff_a"]


@pytest.mark.parametrize(("only", "skip"), [(["nothing"], []), ([], ["no*"]), (["ff_a", "x"], [])])
def test_select_nothing(only: list[str], skip: list[str]) -> None:
    """A pattern that matches nothing is an error that lists the known ids."""
    with pytest.raises(UnknownNameError, match="ff_a, ff_b"):
        plan.select(["ff_a", "ff_b"], only, skip)
