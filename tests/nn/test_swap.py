"""Dense layers of a model that are swapped: which are found, what stands there then, what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness import nn  # noqa: E402

D, HIDDEN = 8, 12


class _Intermediate(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(D, HIDDEN)

    def forward(self, x: Any) -> Any:
        return torch.nn.functional.gelu(self.dense(x))


class _Output(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(HIDDEN, D)
        self.norm = torch.nn.LayerNorm(D)

    def forward(self, a: Any, x: Any) -> Any:
        return self.norm(self.dense(a) + x)


class _Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.intermediate, self.output = _Intermediate(), _Output()

    def forward(self, x: Any) -> Any:
        return self.output(self.intermediate(x), x)


def _blocks() -> Any:
    torch.manual_seed(1)
    return torch.nn.ModuleDict({"layers": torch.nn.Sequential(_Block(), _Block())})


def _make(dense: nn.Dense) -> nn.FFF:
    return nn.FFF(dense.d_in, dense.d_out, 2)


def test_every_block_is_swapped() -> None:
    """In each block of BERT's kind the replacement stands for both products; the residual stays."""
    model, x = _blocks(), torch.randn(5, D)
    before = copy.deepcopy(model)
    swapped = nn.swap_ffn(model, _make)
    assert [dense.name for dense in swapped] == ["layers.0", "layers.1"]
    assert {(dense.d_in, dense.hidden, dense.d_out) for dense in swapped} == {(D, HIDDEN, D)}
    expected = x
    for i, block in enumerate(before.layers):
        ffn = model.layers[i].intermediate
        assert isinstance(ffn, nn.FFF)
        # What was swapped out computes what the block did between its ends.
        inner = block.output.dense(block.intermediate(x))
        assert torch.equal(swapped[i].module(x), inner)
        expected = block.output.norm(ffn(expected) + expected)
    torch.testing.assert_close(model.layers(x), expected)


def test_what_is_made_of_the_dense_layer_stands_there() -> None:
    """A replacement that is the dense layer itself leaves the model's output as it was."""
    model, x = _blocks().double(), torch.randn(5, D, dtype=torch.float64)
    before = model.layers(x)
    nn.swap_ffn(model, lambda dense: copy.deepcopy(dense.module))
    assert torch.equal(model.layers(x), before)


def test_modules_by_name() -> None:
    """A module of two linear layers is swapped by its name, in the device, dtype and mode that it had."""
    model = torch.nn.Sequential(
        torch.nn.Linear(D, D),
        torch.nn.Sequential(
            torch.nn.Linear(D, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 3)
        ),
    ).bfloat16()
    model.eval()
    (dense,) = nn.swap_ffn(model, _make, names=["1"])
    assert (dense.d_in, dense.hidden, dense.d_out) == (D, HIDDEN, 3)
    assert isinstance(model[1], nn.FFF)
    assert not model[1].training
    assert model(torch.randn(2, D).bfloat16()).dtype == torch.bfloat16
    one = _blocks()
    assert [d.name for d in nn.swap_ffn(one, _make, names=["layers.1"])] == ["layers.1"]
    assert isinstance(one.layers[0].intermediate, _Intermediate)


def test_what_is_not_known_is_refused_and_nothing_swapped() -> None:
    """Each refusal is one line, and leaves the model as it was."""
    model = torch.nn.Sequential(torch.nn.Linear(D, D), torch.nn.Sequential(*_blocks().layers))
    twice = torch.nn.Sequential(torch.nn.Linear(D, D), torch.nn.ReLU())
    for given, make, names, said in (
        (twice, _make, None, r"Sequential has no block of BERT's kind .*name the modules to swap"),
        (model, _make, ["1.7"], r"Sequential has no module named '1.7'"),
        (model, _make, [""], r"Sequential has no module named ''"),
        (model, _make, [], r"names: need one module at least"),
        (model, _make, ["1.0", "0"], r"0: Linear is no dense feedforward layer: .*got 8 to 8"),
        (twice, _make, ["1"], r"1: ReLU is no dense feedforward layer: .*got none"),
        (model, lambda dense: nn.FFF(D, 3, 2), None, r"1.0: need d_out 8, make returned 3"),
        (model, lambda dense: None, None, r"1.0: make returned NoneType, need a module"),
    ):
        before = str(given)
        with pytest.raises(ValueError, match=said) as caught:
            nn.swap_ffn(given, make, names=names)
        assert "\n" not in str(caught.value)
        assert str(given) == before


def _bert(layers: int = 2) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(6)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=16,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config)


def test_bert_of_transformers() -> None:
    """Every layer of a BERT is swapped, it runs, and its state dict round-trips into another swapped one."""
    model = _bert().eval()
    swapped = nn.swap_ffn(model, lambda dense: nn.FFF(dense.d_in, dense.d_out, 3, leaf_width=4))
    assert [d.name for d in swapped] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    other = _bert().eval()
    nn.swap_ffn(other, lambda dense: nn.FFF(dense.d_in, dense.d_out, 3, leaf_width=4))
    tokens = torch.randint(50, (3, 10))
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(tokens).logits, model(tokens).logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 3, "leaf_width": 4, "routing": "soft"},
        {"routing": "ste", "bias": True},
        {"depth": 3, "leaf_width": 4, "routing": "gumbel", "activation": "relu"},
    ],
)
def test_bert_trains(options: dict[str, Any]) -> None:
    """A BERT of two layers with FFF trains for a hundred steps; its loss falls, in eval too."""
    model = _bert()
    depth = {"depth": 5, **options}
    nn.swap_ffn(model, lambda dense: nn.FFF(dense.d_in, dense.d_out, **depth))
    torch.manual_seed(7)
    # Sequences that count on from a token: each can be told from the one before it.
    tokens = (torch.randint(50, (64, 1)) + torch.arange(12)) % 50
    masked, labels = tokens.clone(), torch.full_like(tokens, -100)
    masked[:, ::4], labels[:, ::4] = 0, tokens[:, ::4]
    with torch.no_grad():
        before = model.eval()(masked, labels=labels).loss.item()
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for _ in range(100):
        loss = model(masked, labels=labels).loss
        if options.get("routing"):
            loss = loss + 0.1 * nn.aux_losses(model)["hardening"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    with torch.no_grad():
        after = model.eval()(masked, labels=labels).loss.item()
    assert sum(seen[-10:]) < 0.7 * sum(seen[:10])
    assert after < 0.7 * before
