"""ResCLIP: NACLIP's last block, with the attention of earlier blocks and with feedback from a first segmentation.

ResCLIP: Residual Attention for Training-free Dense Vision-language Inference (Yang, Deng, Li & Duan, CVPR 2025,
arXiv:2411.15851). The published code has no licence; written from the paper.

Shapes: B windows of c × c pixels, h × w patches, T = 1 + h * w tokens (the class token first), d width of a head, E
joint embedding width, Q queries.
"""

from dataclasses import dataclass
from functools import partial
from threading import Lock

import torch
import torch.nn.functional as F
from cachetools import LRUCache, cached
from torch import Tensor

from proxyclip.backbones.layers import after_attention, heads, join
from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError
from proxyclip.labels import LabelMap, LabelRule, decide_labels
from proxyclip.methods import _training_free
from proxyclip.methods._training_free import check_depth, cosines, scaled_block
from proxyclip.methods.naclip import omega
from proxyclip.refine import Guide, pamr
from proxyclip.windows import SlidingWindows, View, WindowScores

NEEDS_VFM = False


@dataclass(frozen=True)
class Options(_training_free.Options):
    """The paper chooses weights and scales anew for each benchmark.

    std: of NACLIP's neighbourhood and of the feedback, in patches. blocks: those whose attention is added to
    that of the last one; numbers of a CLIP of 12 blocks, counted from 1 (see `scaled_block`). residual_weight,
    residual_scale: share of theirs, and factor applied to the sum (lambda and tau of the first half). feedback: whether
    there is a second pass, with the labels of the first one. feedback_weight, feedback_scale: share of the feedback in
    the logits, and factor applied to the sum (lambda and tau of the second half). feedback_threshold: pixels of the
    first pass whose best query has a probability below it get the label 0. path_rule: whether patches of one label
    count less where the line between them leaves it.
    """

    std: float = 5.0
    blocks: tuple[int, ...] = (6, 7, 8, 9)
    residual_weight: float = 0.3
    residual_scale: float = 2.0
    feedback: bool = True
    feedback_weight: float = 0.7
    feedback_scale: float = 2.1
    feedback_threshold: float = 0.45
    path_rule: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not self.blocks or not all(1 <= number <= 11 for number in self.blocks):
            raise InputError(f"blocks are {self.blocks}; choose some from 1 to 11")
        for name in ("residual_weight", "feedback_weight", "feedback_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        for name in ("std", "residual_scale", "feedback_scale"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive")


class ResCLIP(_training_free.TrainingFree):
    """Where the patches of the last block look is decided by its keys, by other blocks and by a first segmentation."""

    method = "ResCLIP"

    @classmethod
    def check(cls, options: Options, depth: int, patch_size: int) -> None:
        check_depth(cls.method, max(options.blocks), depth)

    def embed(self, crops: Tensor) -> Tensor:
        """The first half of the method, without feedback: (B, 3, c, c) -> (B, E, h, w)."""
        middle, key, value = self.to_last_block(crops)
        attended = self.neighbourly(key, value, self.clip.grid(crops))
        return self.patches(self.with_residual(attended, residual(middle, value)), crops)

    def window_scores(self, crops: Tensor, text: Tensor) -> Tensor:
        if not self.options.feedback:
            return super().window_scores(crops, text)
        with exact_float32(crops.device):
            middle, key, value = self.to_last_block(crops)
            crossed = residual(middle, value)  # (B, heads, T, d)
            attended = self.neighbourly(key, value, self.clip.grid(crops))  # (B, heads, T, d)
            first = cosines(self.patches(self.with_residual(attended, crossed), crops), text)  # (B, Q, h, w)
            # Window by window: each has labels, and therefore a feedback, of its own.
            second, rule = [], LabelRule(self.options.logit_scale, threshold=self.options.feedback_threshold)
            for k, v, crop, scores in zip(key, value, crops, first, strict=True):
                labels = self.first_labels(crop, scores, rule).labels  # (c, c)
                labels = patch_labels(labels, self.clip.patch_size, len(text))  # (h, w)
                second.append(self.guided(k[None], v[None], labels))  # (1, heads, T, d)
            return cosines(self.patches(self.with_residual(torch.cat(second), crossed), crops), text)

    def to_last_block(self, crops: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        """Queries and keys of the blocks in the middle, and keys and values of the last one, (B, heads, T, d) each.

        Their attention, (T, T) for each head, is never held: it is applied to the values of the last block once those
        are known.
        """
        blocks = self.clip.blocks
        numbers = {scaled_block(number, len(blocks)) for number in self.options.blocks}
        tokens, middle = self.clip.embed(crops), []  # (B, T, D)
        for number, block in enumerate(blocks[:-1], start=1):
            query, key, value = heads(block, tokens)
            if number in numbers:
                middle.append((query, key))
            tokens = after_attention(block, tokens, F.scaled_dot_product_attention(query, key, value))  # (B, T, D)
        _, key, value = heads(blocks[-1], tokens)
        return middle, key, value

    def neighbourly(self, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
        """NACLIP's attention, which is that of the first pass: softmax(s k kᵀ + Ω) v, (B, heads, T, d)."""
        near = omega(*grid, self.options.std, key.device)  # (T, T)
        return F.scaled_dot_product_attention(key, key, value, attn_mask=near.to(key.dtype))

    def guided(self, key: Tensor, value: Tensor, labels: Tensor) -> Tensor:
        """The attention of the second pass, given the labels (h, w) of the patches: (1, heads, T, d).

        softmax(τ ((1 - λ) s k kᵀ + λ G / max G) + Ω) v.
        """
        options, scale = self.options, key.shape[-1] ** -0.5
        feedback = weighted(affinity(labels, options.std, options.path_rule), options.feedback_weight)
        near = omega(*labels.shape, options.std, key.device)  # (T, T)
        bias = (options.feedback_scale * feedback + near).to(key.dtype)
        scale = options.feedback_scale * (1 - options.feedback_weight) * scale
        return F.scaled_dot_product_attention(key, key, value, attn_mask=bias, scale=scale)

    def with_residual(self, attended: Tensor, crossed: Tensor) -> Tensor:
        """τ ((1 - λ) A v + λ R v), from A v and R v: (B, heads, T, d). The weights of a row sum to τ."""
        weight = self.options.residual_weight
        return self.options.residual_scale * ((1 - weight) * attended + weight * crossed)

    def patches(self, mixed: Tensor, crops: Tensor) -> Tensor:
        """Mixed values (B, heads, T, d) -> (B, E, h, w)."""
        tokens = join(self.clip.blocks[-1], mixed)[:, 1:]  # (B, h * w, D)
        return self.clip.finish(tokens).mT.unflatten(2, self.clip.grid(crops))  # (B, E, h, w)

    def first_labels(self, crop: Tensor, scores: Tensor, rule: LabelRule, keep=()) -> LabelMap:
        """The query of each pixel of a window (3, c, c), from the scores (Q, h, w) of the first pass, which are refined
        with PAMR at the size of the window. keep: queries whose maps are returned. Names of one class are told apart.
        """
        size = crop.shape[-2], crop.shape[-1]
        views = (View(scores.transpose(0, 1), SlidingWindows(0, 1), size),)
        refine = partial(pamr.PAMR(pamr.Options()), guide=Guide(crop, None, len(scores)))
        queries = torch.arange(len(scores), device=scores.device)  # (Q,)
        return decide_labels(WindowScores(views), size, rule, queries, refine=refine, keep=keep)


def residual(middle: list[tuple[Tensor, Tensor]], value: Tensor) -> Tensor:
    """R v, R the mean of several blocks' own attention: (B, heads, T, d)."""
    return sum(F.scaled_dot_product_attention(query, key, value) for query, key in middle) / len(middle)


def weighted(feedback: Tensor, weight: float) -> Tensor:
    """λ G / max G. Rounded to half precision twice, as the published code computes it and its scores were measured."""
    return ((feedback / feedback.max()).half() * weight).float()


def patch_labels(labels: Tensor, patch_size: int, queries: int) -> Tensor:
    """The most frequent label in each patch, the smallest on ties: (H, W) int64 below `queries` -> (h, w).

    Pixels beyond the last whole patch are ignored.
    """
    height, width = (length // patch_size * patch_size for length in labels.shape)
    patches = labels[:height, :width].unfold(0, patch_size, patch_size).unfold(1, patch_size, patch_size)
    pixels = patches.flatten(2).flatten(0, 1)  # (N, pixels of a patch)
    votes = torch.zeros(len(pixels), queries, device=labels.device)  # (N, Q)
    votes.scatter_add_(1, pixels, torch.ones_like(pixels, dtype=votes.dtype))
    return votes.argmax(1).unflatten(0, patches.shape[:2])  # (h, w)


def affinity(labels: Tensor, std: float, path_rule: bool) -> Tensor:
    """G, how much of its attention each patch gives to which other: labels (h, w) -> (T, T), rows sum to 1.

    The class token has a row and a column of zeros. std: of the Gaussian that rows are smoothed with. path_rule:
    whether it matters if the line between two patches leaves their label.
    """
    smooth = smoothed(agreement(labels, path_rule), std)  # (N, N)
    return F.pad(smooth / (smooth.sum(1, keepdim=True) + 1e-8), (1, 0, 1, 0))  # (T, T)


def agreement(labels: Tensor, path_rule: bool) -> Tensor:
    """(h, w) -> (N, N): 1 for patches of one label, less where the line from the first to the second leaves it."""
    flat = labels.flatten()  # (N,)
    same = (flat[:, None] == flat).float()  # (N, N)
    if not path_rule:
        return same
    rows, columns = labels.shape
    farthest = max(rows, columns, 2) - 1
    distant = torch.exp(-distances(rows, columns, labels.device) / farthest)  # (h, w, h, w)
    return same * torch.where(unbroken(labels), 1.0, distant).flatten(2).flatten(0, 1)  # (N, N)


def unbroken(labels: Tensor) -> Tensor:
    """Whether all patches on the line from a patch to another have the label of the first: (h, w) -> (h, w, h, w).

    Not symmetric, and not quite to the end: like the published code, whose scores depend on it, this walks every line
    at the pace of the longest line of the grid and stops after as many steps as the line itself needs.
    """
    rows, columns = labels.shape
    down, across = lines(rows, columns, labels.device)  # (steps, h, h), (steps, w, w)
    length = distances(rows, columns, labels.device)  # (h, w, h, w)
    found = torch.ones_like(length, dtype=torch.bool)
    for step in range(len(down)):
        point = labels[down[step][:, None, :, None], across[step][None, :, None, :]]  # (h, w, h, w)
        found &= (point == labels[:, :, None, None]) | (length < step)
    return found


@cached(LRUCache(32 * 2**20, getsizeof=lambda made: sum(part.nbytes for part in made)), lock=Lock())
def lines(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The row, (steps, h, h), and the column, (steps, w, w), of the point that is reached after each number of steps on
    the way from one row or column to another."""
    # On the host, so that points halfway between two patches go to the same one on every device.
    share = torch.linspace(0, 1, max(rows, columns))[:, None, None]  # (steps, 1, 1)
    places = (torch.arange(length, dtype=torch.float32) for length in (rows, columns))
    points = [place[:, None] * (1 - share) + place * share for place in places]
    return tuple(point.round().long().to(device) for point in points)


def distances(rows: int, columns: int, device: torch.device) -> Tensor:
    """(h, w, h, w): steps from each patch to each other, along rows, columns and diagonals."""
    places = (torch.arange(length, device=device) for length in (rows, columns))
    down, across = ((place[:, None] - place).abs() for place in places)  # (h, h), (w, w)
    return torch.maximum(down[:, None, :, None], across[None, :, None, :])


def smoothed(matrix: Tensor, std: float) -> Tensor:
    """Each row (N, N) after a Gaussian of at most 6 std along it.

    Patches are in row order there, as in the published code: the last of a row and the first of the next one are
    neighbours.
    """
    taps = min(len(matrix), int(6 * std + 1)) // 2 * 2 + 1  # odd
    place = torch.arange(taps, device=matrix.device, dtype=torch.float32) - taps // 2
    kernel = torch.exp(-(place**2) / (2 * std**2))  # (taps,)
    return F.conv1d(matrix[:, None], (kernel / kernel.sum())[None, None], padding=taps // 2)[:, 0]  # (N, N)


Method = ResCLIP
