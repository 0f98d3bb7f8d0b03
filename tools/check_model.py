"""Find the ratios of a run of whole models again, by other means: layers swapped by hand, a plain loop.

    python tools/check_model.py RUN [--rounds 15]

Of the harness it takes the layers (`nn.FFF`, `nn.FF`) and what the run's model.csv says. The model is a plain
`BertModel` of transformers with drawn weights; each FF is replaced by hand in its block; passes of all forms
alternate in one process, and what is compared are medians of their wall times. No timer, no gate, no
interleaving and no statistics of the harness take part.

The run must be of BERT on the CPU. Eager float32 forward passes without weights of a checkpoint are found
again, all others passed over. Ends with 1 where what is found here, from the least to the largest ratio of
medians over five stretches of rounds, does not meet the run's interval.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from harness import nn
from harness.records.reader import load_run

_WARM_ROUNDS, _STRETCHES = 2, 5


class _Nothing(torch.nn.Module):
    """Hand the input on, as a model without its FF does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _make_model(architecture: Any) -> Any:
    """Return BERT with drawn weights, without its pooler."""
    torch.manual_seed(1)
    made = transformers.BertConfig(
        vocab_size=architecture.vocabulary, hidden_size=architecture.width,
        num_hidden_layers=architecture.layers, num_attention_heads=architecture.heads,
        intermediate_size=architecture.hidden, max_position_embeddings=architecture.positions,
    )  # fmt: skip
    return transformers.BertModel(made, add_pooling_layer=False).eval()


def _make_layer(ff: str, width: int) -> torch.nn.Module:
    """Return what stands as the FF by its name in the run: `left-out`, `ff-K` or `ultrafastbert-KxD`."""
    if ff == "left-out":
        return _Nothing()
    if ff.startswith("ff-"):
        return nn.FF(width, width, int(ff.removeprefix("ff-")))
    trees, depth = map(int, ff.removeprefix("ultrafastbert-").split("x"))
    return nn.FFF(width, width, depth, trees)


def _swap(model: Any, ff: str) -> Any:
    """Return a copy of a model with a layer by hand in the place of each FF."""
    swapped = copy.deepcopy(model)
    for block in swapped.encoder.layer:
        block.intermediate = _make_layer(ff, model.config.hidden_size)
        block.output.dense = torch.nn.Identity()
    return swapped.eval()


def _time_forms(forms: dict[str, Any], tokens: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Return the wall times of passes in s: a pass of each form after the other, round by round."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    with torch.inference_mode():
        for i in range(_WARM_ROUNDS + rounds):
            # A form comes behind another one in every round, so that none has the same caches always.
            names = list(forms)
            for name in names[i % len(names) :] + names[: i % len(names)]:
                began = time.perf_counter()
                forms[name](input_ids=tokens)
                if i >= _WARM_ROUNDS:
                    times[name].append(time.perf_counter() - began)
    return times


def _ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(slow) / statistics.median(fast)


def _check(rows: pd.DataFrame, architecture: Any, rounds: int) -> list[str]:
    """Return what of one batch of a run is not found again, and print each ratio beside the run's."""
    sequences, tokens = int(rows["sequences"].iloc[0]), int(rows["tokens"].iloc[0])
    base = _make_model(architecture)
    is_known = rows["ff"].str.fullmatch(r"left-out|ff-\d+|ultrafastbert-\d+x\d+")
    known = rows[is_known & (rows["status"] == "ok")]
    forms = {"dense": base, **{ff: _swap(base, ff) for ff in known["ff"]}}
    drawn = torch.randint(architecture.vocabulary, (sequences, tokens))
    times = _time_forms(forms, drawn, rounds)
    dense, size = times["dense"], -(-rounds // _STRETCHES)
    print(
        f"{sequences} x {tokens} tokens; the model as it is takes {1e3 * statistics.median(dense):.1f} ms"
    )
    missed = []
    for row in known.itertuples():
        own = times[row.ff]
        found = [_ratio(dense[i : i + size], own[i : i + size]) for i in range(0, rounds, size)]
        here = f"{_ratio(dense, own):.3f}x [{min(found):.3f}, {max(found):.3f}]"
        told = f"{row.speedup:.3f}x [{row.speedup_low:.3f}, {row.speedup_high:.3f}]"
        fits = min(found) <= row.speedup_high and row.speedup_low <= max(found)
        line = f"{row.ff}: {here} here, {told} in the run"
        print(f"  {line}: {'found again' if fits else 'NOT found again'}")
        missed += [] if fits else [f"{sequences} x {tokens} tokens, {line}"]
    return missed


def main(words: list[str]) -> None:
    """Check a run; exit 1 where a ratio is not found again, 2 for a run that is none of BERT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run of `python -m harness model`")
    parser.add_argument("--rounds", type=int, default=15, help="passes of each form (default: 15)")
    asked = parser.parse_args(words)
    run = load_run(asked.run)
    architecture, sweep = run.head.sweep.architecture, run.head.sweep
    if architecture is None or architecture.kind != "bert" or sweep.device != "cpu":
        parser.error(f"{asked.run}: need a run of BERT by `python -m harness model` on the CPU")
    torch.set_num_threads(sweep.threads)
    numbers = pd.read_csv(asked.run / "model.csv", keep_default_na=False, na_values=[""])
    plain = numbers[
        ~numbers["training"] & ~numbers["compiled"] & (numbers["dtype"] == "float32")
        & numbers["checkpoint"].isna()
    ]  # fmt: skip
    missed: list[str] = []
    for _, rows in plain.groupby(["sequences", "tokens"], sort=False):
        missed += _check(rows, architecture, asked.rounds)
    if plain.empty:
        parser.error(f"{asked.run}: has no eager pass in float32 of drawn weights")
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main(sys.argv[1:])
