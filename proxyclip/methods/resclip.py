"""ResCLIP: NACLIP's last block, with the attention of earlier blocks and with feedback from a first segmentation.

ResCLIP: Residual Attention for Training-free Dense Vision-language Inference (Yang, Deng, Li & Duan, CVPR 2025,
arXiv:2411.15851). The published code has no licence; written from the paper.

Shapes: B windows of c × c pixels, h × w patches, T = 1 + h * w tokens (the class token first), d width of a head, E
joint embedding width, Q queries.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.clip_block import after_attention, heads, join
from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError
from proxyclip.label_rule import LabelMap, LabelRule
from proxyclip.methods import _training_free
from proxyclip.methods._gaussian_window import omega
from proxyclip.methods._semantic_feedback import affinity, patch_labels
from proxyclip.methods._training_free import check_depth, cosines, scaled_block
from proxyclip.refine import pamr
from proxyclip.refine._refinement import Guide
from proxyclip.refined_label_map import refined_label_map
from proxyclip.sliding import SlidingWindows
from proxyclip.stitching import View, WindowScores

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
        return refined_label_map(WindowScores(views), size, rule, queries, refine, keep=keep)


def residual(middle: list[tuple[Tensor, Tensor]], value: Tensor) -> Tensor:
    """R v, R the mean of several blocks' own attention: (B, heads, T, d)."""
    return sum(F.scaled_dot_product_attention(query, key, value) for query, key in middle) / len(middle)


def weighted(feedback: Tensor, weight: float) -> Tensor:
    """λ G / max G. Rounded to half precision twice, as the published code computes it and its scores were measured."""
    return ((feedback / feedback.max()).half() * weight).float()


Method = ResCLIP
