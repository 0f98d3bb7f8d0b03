"""The door for torch users: the layers as modules, and the loading of published weights."""

from __future__ import annotations

from harness.nn.aux_losses import aux_losses
from harness.nn.layers import FF, FFF
from harness.nn.published import load_published, load_published_layers
from harness.nn.swap import Dense, swap_ffn
from harness.nn.ultrafastbert import UltraFastBert, load_published_model
from harness.nn.usage import Usage

__all__ = [
    "FF",
    "FFF",
    "Dense",
    "UltraFastBert",
    "Usage",
    "aux_losses",
    "load_published",
    "load_published_layers",
    "load_published_model",
    "swap_ffn",
]
