"""Run-length encoding as in COCO: column by column, pixels outside and inside the mask in turn, outside first."""

from collections.abc import Iterator

import numpy as np


def class_runs(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each class in a label map (H, W), in label order, with the starts (n,) and ends (n,) of its runs of pixels.

    Positions count down the columns: x H + y. The end is the position after the last pixel.
    """
    pixels = labels.T.ravel()  # (W H,)
    starts = np.append(0, np.flatnonzero(pixels[1:] != pixels[:-1]) + 1)
    ends = np.append(starts[1:], len(pixels))
    order = np.argsort(pixels[starts], kind="stable")
    present, first = np.unique(pixels[starts][order], return_index=True)
    for label, runs in zip(present.tolist(), np.split(order, first[1:]), strict=True):
        yield label, starts[runs], ends[runs]


def run_counts(starts: np.ndarray, ends: np.ndarray, size: int) -> np.ndarray:
    """Lengths of the runs outside and inside the mask in turn, from runs inside a mask of `size` pixels."""
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(edges, prepend=0)
    return counts if edges[-1] == size else np.append(counts, size - edges[-1])


def compressed(counts: np.ndarray) -> str:
    """The counts as COCO's compressed text.

    From the fourth on, a count is written as its difference from the last but one. Numbers are split into groups of
    five bits, lowest first, until the rest is the sign; each group is one character, 48 + bits, and 32 more where
    another one follows.
    """
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    unfinished, columns = np.ones(len(rest), bool), []
    while unfinished.any():
        bits = rest & 31
        rest >>= 5
        more = unfinished & (rest != np.where(bits & 16, -1, 0))
        columns.append(np.where(unfinished, 48 + bits + 32 * more, 0))
        unfinished = more
    characters = np.stack(columns, axis=1).astype(np.uint8).tobytes()  # (n, groups): 0 after the last group
    return characters.replace(b"\0", b"").decode()
