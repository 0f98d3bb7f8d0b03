"""Own what a sweep and a ladder take where they are not told: tokens, seconds, fresh processes."""

from __future__ import annotations

PROCESSES = 5
QUICK_BATCH = 256
BUDGET_S, QUICK_BUDGET_S = 320.0, 40.0
LADDER_QUICK_BATCH = 1024
LADDER_BUDGET_S, LADDER_QUICK_BUDGET_S = 215.0, 36.0
MODEL_SHAPES, MODEL_QUICK_SHAPES = "1x128,8x128", "1x128"
DECODER_SHAPES = "1x128"
MODEL_QUICK_LAYERS = 2
MODEL_BUDGET_S, MODEL_QUICK_BUDGET_S = 320.0, 40.0
