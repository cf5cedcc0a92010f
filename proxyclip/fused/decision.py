"""Labels and confidences straight from the scores of the windows: no score at full resolution leaves the chip.

Shapes: R rows and C columns of the scores of all windows, Q queries, H × W the label map.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from proxyclip.best_query import Decision
from proxyclip.fused.blocks import Blocks, blocks
from proxyclip.label_rule import LabelMap
from proxyclip.stitching import WindowScores

# Of a program: pixels, and warps. All that it keeps stays in registers, as NVIDIA's assembler reports for an H100.
ROWS, COLUMNS, WARPS = 32, 64, 8
MOST_NEAR = 32  # scores along one axis that a block of pixels may draw on; for 64, registers do not suffice


def decide(scores: WindowScores, size: tuple[int, int], decision: Decision) -> LabelMap | None:
    """What `label_map.decided` gives; None for what the kernel does not do: several views, a sigmoid at the windows'
    resolution, score maps of classes, and blocks of pixels that draw on many scores."""
    if len(scores.views) > 1 or decision.rule.window_sigmoid or decision.keep:
        return None
    view = scores.views[0]
    down, across = blocks(view, 0, size[0], ROWS), blocks(view, 1, size[1], COLUMNS)
    if max(down.near, across.near) > MOST_NEAR:
        return None
    source = view.scores.float()[down.order][:, :, across.order] * (decision.rule.scale * view.weight)  # (R, Q, C)
    return launch(source.contiguous(), down, across, size, decision)


def launch(source: Tensor, down: Blocks, across: Blocks, size: tuple[int, int], decision: Decision) -> LabelMap:
    """See `decide`; source: (R, Q, C) float32, neighbours in the image beside each other."""
    rows, queries, columns = source.shape
    owners = decision.class_of_query
    labels = torch.empty(size, dtype=owners.dtype, device=source.device)
    confidence = torch.empty(size, dtype=torch.float32, device=source.device) if decision.scored else None
    flags = {
        "SUBTRACTED": decision.subtract is not None,
        "EXCLUDING": decision.excluded is not None,
        "SOFTMAX": decision.softmax,
        "SCORED": decision.scored,
    }
    sizes = {"NEAR_ROWS": down.near, "NEAR_COLUMNS": across.near, "ROWS": ROWS, "COLUMNS": COLUMNS, "num_warps": WARPS}
    with torch.cuda.device_of(source):  # Triton launches on the current device
        decide_block[-(-size[0] // ROWS), -(-size[1] // COLUMNS)](
            source,
            *(down.first, down.weights, across.first, across.weights),
            *(owners, decision.subtract, decision.excluded, labels, confidence),
            *(rows, queries, columns, *size),
            **flags,
            **sizes,
        )
    return LabelMap(labels, confidence, {})


@triton.jit
def decide_block(
    source,
    first_row,
    row_weights,
    first_column,
    column_weights,
    owners,
    subtract,
    excluded,
    labels,
    confidence,
    rows,
    queries,
    columns,
    height,
    width,
    NEAR_ROWS: tl.constexpr,
    NEAR_COLUMNS: tl.constexpr,
    SUBTRACTED: tl.constexpr,
    EXCLUDING: tl.constexpr,
    SOFTMAX: tl.constexpr,
    SCORED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A block of pixels, query after query: their scores are down · source · across, a small matrix on either side.

    source: (R, Q, C). first_row, first_column: where the scores that each block draws on begin. row_weights,
    column_weights: see `Blocks`. owners, subtract, excluded: (Q,). labels, confidence: (height, width).
    """
    block_row, block_column = tl.program_id(0), tl.program_id(1)
    y, x = block_row * ROWS + tl.arange(0, ROWS), block_column * COLUMNS + tl.arange(0, COLUMNS)
    near_row, near_column = tl.arange(0, NEAR_ROWS), tl.arange(0, NEAR_COLUMNS)
    row, column = tl.load(first_row + block_row) + near_row, tl.load(first_column + block_column) + near_column
    down = tl.load(row_weights + y[:, None] * NEAR_ROWS + near_row[None, :])  # (ROWS, NEAR_ROWS)
    across = tl.load(column_weights + x[None, :] * NEAR_COLUMNS + near_column[:, None])  # (NEAR_COLUMNS, COLUMNS)
    place = source + row[:, None].to(tl.int64) * (queries * columns) + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]

    best = tl.full((ROWS, COLUMNS), float("-inf"), tl.float32)
    top, total = best, tl.zeros((ROWS, COLUMNS), tl.float32)
    winner = tl.zeros((ROWS, COLUMNS), tl.int32)
    for query in range(queries):
        near = tl.load(place, mask=inside, other=0.0)  # (NEAR_ROWS, NEAR_COLUMNS)
        score = tl.dot(down, tl.dot(near, across, input_precision="ieee"), input_precision="ieee")  # (ROWS, COLUMNS)
        place += columns
        if SUBTRACTED:
            score -= tl.load(subtract + query)
        if SOFTMAX:  # excluded queries count
            smaller = tl.exp(-tl.abs(score - top))
            total = tl.where(score > top, total * smaller + 1, total + smaller)
            top = tl.maximum(top, score)
        if EXCLUDING:
            score = tl.where(tl.load(excluded + query) != 0, float("-inf"), score)
        better = score > best  # the first of equals stays
        winner = tl.where(better, query, winner)
        best = tl.where(better, score, best)

    pixel = y[:, None].to(tl.int64) * width + x[None, :]
    in_image = (y < height)[:, None] & (x < width)[None, :]
    tl.store(labels + pixel, tl.load(owners + winner), mask=in_image)
    if SCORED:
        result = tl.exp(best - top) / total if SOFTMAX else best
        tl.store(confidence + pixel, result, mask=in_image)
