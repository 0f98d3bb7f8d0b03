"""Tell a sweep that an executor starts of its caches, where this folder is on PYTHONPATH: told_caches.py."""

from __future__ import annotations

import sys

if "sweep" in sys.orig_argv:
    import told_caches

    from harness.machine import cache_walk

    cache_walk.take = told_caches.take
