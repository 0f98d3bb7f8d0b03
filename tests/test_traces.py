"""The pieces of the script that makes the traces of trained routing, on data that is made up."""

from __future__ import annotations

from collections import Counter
from math import log2
from typing import Any

import numpy as np
import pytest

from tools.traces import leaves

DRAWN = np.random.default_rng(3).integers(16, size=500).astype(np.uint16)


def test_balance_by_level() -> None:
    """The entropy of a level is that of its nodes' shares: d bits where all are used alike, 0 on one path."""
    even = np.arange(64, dtype=np.uint16) % 8
    assert leaves.level_bits(even, 3) == pytest.approx([0, 1, 2, 3])
    assert leaves.level_bits(np.full(9, 5, np.uint16), 3) == [0, 0, 0, 0]
    found = leaves.level_bits(DRAWN, 4)
    for d in range(5):
        share = [n / len(DRAWN) for n in Counter(int(x) // 2 ** (4 - d) for x in DRAWN).values()]
        assert found[d] == pytest.approx(-sum(p * log2(p) for p in share))


def test_distinct_nodes_are_those_of_all_paths() -> None:
    """What a batch touches is the union of its tokens' paths, each from the root to the leaf."""
    few = DRAWN[:7]
    paths = {(d, int(x) >> (4 - d)) for x in few for d in range(5)}
    assert leaves.count_nodes(few, 4) == len(paths)
    assert leaves.count_nodes(few[:1], 4) == 5


def test_what_is_written_of_a_trace() -> None:
    """Batches that are longer than the trace are not told, and a leaf that no token comes to is dead."""
    told = leaves.describe(np.array([0, 0, 1, 2] * 32, np.uint16), 2)
    assert told["dead_leaf_share"] == 0.25
    assert told["nodes_touched"] == {"64": 6}
    assert told["entropy_bits"] == [0, 0.811, 1.5]


def test_the_chosen_layer_is_the_lower_median() -> None:
    """Of an even number of layers the lower of the two in the middle is taken, of equals the first."""
    assert leaves.choose_median({0: 9.0, 1: 5.0, 2: 7.0, 3: 8.0}) == 2
    assert leaves.choose_median({0: 5.0, 1: 5.0, 2: 5.0}) == 1


# ---- with torch ---------------------------------------------------------------------------------


def test_no_paragraph_is_learnt_and_held_out() -> None:
    """A paragraph that stood in a document before is dropped, however it is wrapped; so is an empty rest."""
    encoder = import_part("encoder")
    found = encoder.drop_repeats(
        {"b": "one\ntwo\n\nnew", "a": "one two\n\n\n\nthree", "c": "three"}
    )
    assert found == {"a": "one two\n\nthree", "b": "new"}


def test_documents_are_held_out_whole() -> None:
    """Enough tokens are held out, no document is in both parts, and the same seed gives the same parts."""
    encoder = import_part("encoder")
    sizes = {name: 10 + i for i, name in enumerate("abcdefgh")}
    train, apart = encoder.split(sizes, 25, 1)
    assert sorted(train + apart) == sorted(sizes)
    assert sum(sizes[n] for n in apart) >= 25 > sum(sizes[n] for n in apart[:-1])
    assert (train, apart) == encoder.split(sizes, 25, 1)
    with pytest.raises(ValueError, match="need fewer tokens than the text has, got 200"):
        encoder.split(sizes, 200, 1)


def test_pieces_hold_every_token_in_order() -> None:
    """A document is cut into windows one behind the other; only a last piece without context is left out."""
    encoder = import_part("encoder")
    tokens = list(range(2 * encoder.WINDOW + 5))
    assert [t for piece in encoder.cut(tokens) for t in piece] == tokens[:-5]
    assert encoder.take([[1, 2], [3, 4, 5], [6]], 4) == [[1, 2], [3, 4]]


def import_part(name: str) -> Any:
    """Return a module of the script that needs torch."""
    pytest.importorskip("torch")
    from importlib import import_module

    return import_module(f"tools.traces.{name}")


@pytest.fixture
def sample() -> Any:
    """Return inputs of 8 numbers and a dense layer whose outputs have a mean and a size of their own."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    weights = torch.randn(8, 8)
    encoder = import_part("encoder")
    return encoder.standardise(
        3 * torch.randn(600, 8) + 1, 3 * torch.randn(200, 8) + 1,
        lambda x: 5 * torch.relu(x @ weights) + 7,
    )  # fmt: skip


def test_samples_are_of_one_size(sample: Any) -> None:
    """Inputs have mean 0 and deviation 1, and what is answered mean 0 and mean square 1 over all features."""
    y = sample.train_y
    assert float((y - sample.dense(sample.train)).abs().max()) < 1e-5
    assert abs(float(sample.train.mean())) < 1e-5
    assert float(sample.train.std()) == pytest.approx(1, abs=0.01)
    assert float(y.mean(0).abs().max()) < 1e-5
    assert float(y.square().mean()) == pytest.approx(1, abs=1e-4)


def test_error_is_relative_to_the_mean(sample: Any) -> None:
    """The layer itself misses nothing, a constant everything, and half of the layer half of it."""
    students = import_part("students")
    y = sample.held_out_y
    for factor, expected in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
        found = students.relative_error(lambda x, f=factor: f * sample.dense(x), sample.held_out, y)
        assert found == pytest.approx(expected, abs=1e-6)


def test_students_learn(sample: Any) -> None:
    """Every kind of student is nearer to the layer after some batches, and says what the tokens use."""
    students = import_part("students")
    import torch

    y = sample.held_out_y
    made = {
        "dense": students.Dense(8, 4), "moe": students.Moe(8, 6, 3),
        "peer": students.Peer(8, 4, 3, query=8), "fff": students.FFF(8, 8, 3, bias=True),
    }  # fmt: skip
    for name, student in made.items():
        torch.manual_seed(1)
        before = students.relative_error(student.eval(), sample.held_out, y)
        students.train(student, sample, steps=150)
        assert students.relative_error(student, sample.held_out, y) < min(before, 1.0), name
        chosen = students.choices(student, sample.held_out)
        used = students.describe_use(student, chosen)
        assert (chosen is None) == (name == "dense") == (used["units"] == 0)
        assert used["used"] <= used["units"]
        assert chosen is None or int(chosen.max()) < used["units"]


def test_product_keys_find_the_best_experts() -> None:
    """The experts that PEER takes are those whose sums of both key scores are the largest of all."""
    students = import_part("students")
    import torch

    torch.manual_seed(2)
    student = students.Peer(8, 5, 3, query=8).eval()
    x = torch.randn(20, 8)
    halves = student.query(x).view(20, 2, -1)
    first, second = (halves[:, i] @ student.keys[i].T for i in range(2))
    sums = (first[:, :, None] + second[:, None]).flatten(1)
    assert (student.choose(x).sort(1).values == sums.topk(3).indices.sort(1).values).all()
