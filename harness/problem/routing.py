"""Own the routing: how paths are chosen and inputs steered along them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from harness.problem import trained
from harness.problem.recipes import TRACE, TRAINED, Array

ZIPF_EXPONENT = 1.0
# The smallest pre-activation that a chosen path may hang on, as a share of its natural standard
# deviation |w|. At width 768 this is 2e-3 of |x||w|, 4000 times the near-tie of the gate.
_FLOOR = 0.05
# Share of |x||w|, and of the bias, that every deciding pre-activation must exceed after x is rounded.
_SAFE = 1e-5
_ATTEMPTS = 3


def label(routing: str) -> str:
    """Return a routing's short name for ids: a trace's is its file's name and a digest of its bytes.

    So is that of the traces that are shipped, which may be others in another version.
    """
    if routing == TRAINED:
        return f"{TRAINED}-{trained.digest()}"
    if not routing.startswith(TRACE):
        return routing
    path = Path(routing.removeprefix(TRACE))
    digest = hashlib.sha256(_read_bytes(path)).hexdigest()[:8]
    return f"trace-{path.stem}-{digest}"


# ---- the leaves ---------------------------------------------------------------------------------


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"trace {str(path)!r} can't be read: {error.strerror}") from None


def _read_table(path: Path) -> Array:
    """Return the table of a trace file as integers (tokens, trees)."""
    raw = _read_bytes(path)
    need = "need an integer array (tokens,) or (tokens, trees) in .npy, or rows of integers in text"
    try:
        if raw.startswith(b"\x93NUMPY"):
            table = np.load(io.BytesIO(raw), allow_pickle=False)
        else:
            lines = [x.partition("#")[0].replace(",", " ") for x in raw.decode().splitlines()]
            table = np.array([[int(n) for n in line.split()] for line in lines if line.strip()])
    except ValueError as error:
        raise ValueError(f"trace {str(path)!r}: {need} ({error})") from None
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or not table.size or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(f"trace {str(path)!r}: {need}, got {table.dtype} of shape {table.shape}")
    return np.asarray(table.astype(np.int64))


def read_trace(path: str, *, batch: int, trees: int, depth: int) -> Array:
    """Return the leaves (batch, trees) of a trace file: the head of it, where it is longer.

    A line (or row) is a token, a column a tree; leaves are numbered 0 to 2**depth - 1 from left to right.
    Text (whitespace or commas, `#` begins a comment) or a .npy array of integers.

    Raises ValueError where the file can't be read or does not fit the batch, the trees or the depth.
    """
    table, leaves = _read_table(Path(path)), 2**depth
    if table.shape[1] != trees:
        raise ValueError(f"trace {path!r}: need a column a tree, {trees}, got {table.shape[1]}")
    if len(table) < batch:
        raise ValueError(f"trace {path!r}: need a row a token, {batch}, got {len(table)}")
    bad = table[(table < 0) | (table >= leaves)]
    if bad.size:
        raise ValueError(
            f"trace {path!r}: need leaves from 0 to {leaves - 1}, got {bad[0]} "
            f"(node numbers of leaves begin at {leaves - 1}: subtract that)"
        )
    return np.ascontiguousarray(table[:batch])


def is_recorded(routing: str) -> bool:
    """Say whether the leaves of a routing stand in a file, and so fit some trees and batches alone."""
    return routing == TRAINED or routing.startswith(TRACE)


def read_recorded(routing: str, *, batch: int, trees: int, depth: int) -> Array:
    """Return the leaves (batch, trees) of a recorded routing: of a file, or of a trace that is shipped.

    Raises ValueError where there is none for such trees, and as `read_trace` does.
    """
    shipped = routing == TRAINED
    path = str(trained.find_file(trees, depth)) if shipped else routing.removeprefix(TRACE)
    return read_trace(path, batch=batch, trees=trees, depth=depth)


def choose_leaves(
    routing: str, *, batch: int, trees: int, depth: int, rng: np.random.Generator
) -> Array:
    """Return the leaf that each token is to reach in each tree, (batch, trees), numbered from the left.

    single: one leaf of each tree for all. zipf: the leaf of rank r is drawn with probability proportional
    to r**-ZIPF_EXPONENT; ranks are dealt to the leaves at random, so that popular leaves are no neighbours.
    The choice for a smaller batch is the head of a larger one's.
    """
    leaves = 2**depth
    if is_recorded(routing):
        return read_recorded(routing, batch=batch, trees=trees, depth=depth)
    if routing == "single":
        return np.tile(rng.integers(leaves, size=trees), (batch, 1))
    if routing != "zipf":
        raise ValueError(f"routing {routing!r} chooses no leaves")
    dealt = np.stack([rng.permutation(leaves) for _ in range(trees)])
    share = np.cumsum(np.arange(1, leaves + 1, dtype=np.float64) ** -ZIPF_EXPONENT)
    ranks = np.searchsorted(share / share[-1], rng.random((batch, trees)), side="right")
    return np.asarray(dealt[np.arange(trees), np.minimum(ranks, leaves - 1)])


def path_of(leaves: Array, depth: int) -> tuple[Array, Array]:
    """Return the deciding nodes on the way to each leaf, and whether each turns right.

    leaves (...,); both results (..., depth), the root first.
    """
    above = np.arange(depth, 0, -1)
    nodes = ((leaves[..., None] + 2**depth) >> above) - 1
    right = ((leaves[..., None] >> (above - 1)) & 1).astype(bool)
    return nodes, right


# ---- rows that go there -------------------------------------------------------------------------


def _steer_group(x: Array, w: Array, bias: Array, right: Array) -> Array:
    """Return rows x (tokens, d_in), in their dtype, corrected so that x w^T + bias has the signs of one path.

    w (turns, d_in) and bias (turns,) in float64, right (turns,). A pre-activation of the wrong sign is
    reflected, so that its magnitude is the natural one; only those under the floor are raised to it.
    """
    sign = np.where(right, 1.0, -1.0)
    norms = np.linalg.norm(w, axis=1)
    gram = w @ w.T
    for attempt in range(_ATTEMPTS):
        rows = x.astype(np.float64)
        z = rows @ w.T + bias
        safe = _SAFE * (np.linalg.norm(rows, axis=1)[:, None] * norms + np.abs(bias))
        if attempt and (sign * z >= safe).all():
            return x
        target = sign * np.maximum(np.abs(z), _FLOOR * (attempt + 1) * norms)
        # The smallest correction: it lies in the span of the path's own rows.
        try:
            rows += np.linalg.solve(gram, (target - z).T).T @ w
        except np.linalg.LinAlgError:
            break
        x = rows.astype(x.dtype)
    z = x.astype(np.float64) @ w.T + bias
    if not (sign * z >= safe).all():
        raise ValueError(
            "x can't be steered along a chosen path: the rows of its nodes are nearly dependent"
        )
    return x


def steer(x: Array, rows: Array, leaves: Array, depth: int, bias: Array | None = None) -> None:
    """Correct x (batch, d_in) in place so that each token reaches its leaf in each tree.

    rows (trees, nodes, d_in): of w_in, or of a router, those that decide before all others, 2**depth - 1 of
    them; bias (trees, nodes) is added to what they make of x, 0 where None. leaves (batch, trees). Tokens of
    one path are corrected together: the smallest change of x, in the least squares sense, that gives every
    deciding pre-activation its sign.

    Raises ValueError where the rows on a path are too nearly dependent.
    """
    trees, n_nodes, d_in = rows.shape
    if not depth:
        return
    paths, first_of = np.unique(leaves, axis=0, return_inverse=True)
    order = np.argsort(first_of.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(first_of.ravel(), minlength=len(paths)))
    nodes, right = path_of(paths, depth)
    found = (nodes + n_nodes * np.arange(trees)[:, None]).reshape(len(paths), -1)
    flat = rows.reshape(-1, d_in)
    added = np.zeros(len(flat)) if bias is None else bias.reshape(-1).astype(np.float64)
    for p, tokens in enumerate(np.split(order, ends[:-1])):
        own = found[p]
        x[tokens] = _steer_group(
            x[tokens], flat[own].astype(np.float64), added[own], right[p].ravel()
        )
