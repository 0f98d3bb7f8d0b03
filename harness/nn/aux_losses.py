"""Own the terms of a loss beside the task's: turns that are decided, leaves that are used alike."""

from __future__ import annotations

import torch

from harness.backends import torch_tree
from harness.backends.torch_reference import without_autocast
from harness.errors import UsageError
from harness.nn.layers import FFF


def _find_terms(layer: FFF, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the terms of one layer, from the input (tokens, d_in) of a pass."""
    with without_autocast(x.device.type):
        z = torch_tree.score(x, layer.tree()) / layer.temperature
        p = torch.sigmoid(z)
        entropy = torch.nn.functional.softplus(z) - z * p
        shares = torch_tree.reach(p)[1].mean(0)
        sent = shares
        if layer.routing in ("hard", "ste"):
            sent = torch_tree.reach((z >= 0).to(z.dtype))[1].mean(0)
        balance = shares.shape[1] * (sent * shares).sum(1) - 1
        return {"hardening": entropy.mean(), "balance": balance.mean()}


def aux_losses(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the terms `hardening` and `balance` of a model's FFF, for its loss, after a training pass.

    Each is a scalar with a gradient, the mean over the layers, from the input of a layer's last training
    pass: with p = sigmoid(z / temperature) for the score z of a token at a node,

        hardening = mean over tokens, trees and nodes of -p log p - (1 - p) log(1 - p)

    in nats, 0 where every turn is decided and log 2 where none is; and, with P[j] the mean over tokens of
    the product of p or 1 - p along the path to leaf j,

        balance = mean over trees of 2**depth sum over leaves j of f[j] P[j] - 1

    where f[j] is the share of the tokens that hard turns send to j, which has no gradient (routing hard,
    ste), or P[j] itself (soft, gumbel): 0 where all leaves are used alike, 2**depth - 1 where one has all.

    Layers take part that keep their input (`FFF.aux`) and have turns; the input is forgotten then, so each
    training pass counts once. Raises UsageError where there is none.

    Source: Belcak and Wattenhofer 2023, arXiv 2308.14711 (hardening: there summed over tokens and nodes);
    Shazeer et al. 2017, arXiv 1701.06538, and Fedus et al. 2022, arXiv 2101.03961 (balance).
    """
    layers = [m for m in model.modules() if isinstance(m, FFF) and m.aux and m.depth]
    found = [
        _find_terms(layer, x) for layer in layers if (x := layer.take_seen()) is not None and len(x)
    ]
    if not layers:
        raise UsageError(
            "no FFF of the model keeps its input: give it a routing other than hard, or aux=True"
        )
    if not found:
        raise UsageError("no training pass since the last call: terms are of a pass's input")
    return {name: torch.stack([t[name] for t in found]).mean() for name in found[0]}
