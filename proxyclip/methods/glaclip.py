"""GLA-CLIP: ProxyCLIP, with attention across all windows of an image.

Looking Beyond the Window: Global-Local Aligned CLIP for Training-free Open-Vocabulary Semantic Segmentation (Lee et
al., CVPR 2026, arXiv:2603.23030). The published code is for non-commercial use (NTU S-Lab 1.0); written from the paper.

Shapes: W windows of c × c pixels, h × w the VFM's patch grid, n = W * h * w patches, r of a block of them, C the VFM's
width, D CLIP's width, E its joint embedding width, Q queries.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.layers import linear
from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError
from proxyclip.methods import _training_free
from proxyclip.windows import WindowScores, cut, side_by_side

NEEDS_VFM = True
BLOCK = 8_000_000  # pairs of patches at a time: several matrices of 32 MB


@dataclass(frozen=True)
class Options(_training_free.Options):
    """similarity, steps: cosine similarity above which patches belong to a proxy anchor, and how often anchors are
    updated (0: every patch is its own anchor). beta_growth, gamma_growth: how the threshold grows with the number of
    windows, and the sharpness with the smallness of an anchor's set. row_mean: whether the threshold is relative to the
    mean similarity of each patch, or of all. fixed_beta, fixed_gamma: threshold and sharpness as in ProxyCLIP (1.2 and
    3) instead of growing ones.
    """

    similarity: float = 0.55
    steps: int = 2
    beta_growth: float = 0.3
    gamma_growth: float = 30.0
    row_mean: bool = True
    fixed_beta: float | None = None
    fixed_gamma: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.similarity < 1:
            raise InputError(f"similarity is {self.similarity}; choose a cosine similarity of at least 0 and below 1")
        if not 0 <= self.steps <= 100:
            raise InputError(f"steps is {self.steps}; choose a number from 0 to 100")
        if not self.steps and self.fixed_gamma is None:
            raise InputError("steps 0 leaves no sets of patches to set the sharpness by: choose fixed_gamma as well")
        if min(self.beta_growth, self.gamma_growth, self.fixed_beta or 0) < 0:
            raise InputError("beta_growth, gamma_growth and fixed_beta must not be negative")
        if self.fixed_gamma is not None and not self.fixed_gamma > 0:
            raise InputError(f"fixed_gamma is {self.fixed_gamma}; it must be positive")


class GLACLIP(_training_free.TrainingFree):
    """Patches attend to all patches, of any window, that look like their proxy anchor to the VFM."""

    method, only_values = "GLA-CLIP", True

    @classmethod
    def check(cls, options: Options, depth: int, patch_size: int) -> None:
        if not options.crop:
            raise InputError("GLA-CLIP lets windows attend to each other: choose a crop instead of 0, the whole image")

    def compile_scores(self, backend: str = "inductor") -> None:
        raise InputError("GLA-CLIP cannot be compiled: it scores all windows of an image together, however many")

    def image_scores(self, image: Tensor, text: Tensor, batch_windows: int | None = None) -> WindowScores:
        """(3, H, W) RGB in [0, 1] -> the scores of all windows, each of which depends on all the others."""
        crops = torch.stack([*cut(image, self.windows, self.padding_colour)])  # (W, 3, c, c)
        with exact_float32(image.device):
            scores = _training_free.cosines(self.embed(crops, batch_windows), text)  # (W, Q, h, w)
        return WindowScores((side_by_side([*scores], tuple(image.shape[1:]), self.windows),))

    def embed(self, crops: Tensor, batch_windows: int | None = None) -> Tensor:
        """The windows of one image, (W, 3, c, c) -> (W, E, h, w). batch_windows: as many are encoded at a time."""
        batches, held = self.batches(batch_windows), None
        step = batches.size
        for first in range(0, len(crops), step):
            part = slice(first, first + step)
            found = [torch.stack(parts, 1) for parts in zip(*batches.run(self.encode, crops[part]), strict=True)]
            held = held or [one.new_empty(one.shape[0], len(crops), *one.shape[2:]) for one in found]
            for whole, one in zip(held, found, strict=True):
                whole[:, part] = one  # (C or D, step, h, w)
        grid = held[0].shape[-2:]
        features, values = (whole.flatten(1) for whole in held)  # (C, n), (D, n)
        mixed = features.new_empty(features.shape[1], self.clip.visual.proj.shape[1])  # (n, E)
        for part, embeddings in self.mixed(features, values, len(crops)):
            mixed[part] = embeddings
        return mixed.unflatten(0, (len(crops), *grid)).permute(0, 3, 1, 2)  # (W, E, h, w)

    def encode(self, crops: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(B, 3, c, c) -> of each window the unit features (C, h, w), float32, and CLIP's values (D, h, w)."""
        features = F.normalize(self.vfm_features(crops).float(), dim=1)  # (B, C, h, w)
        values = F.interpolate(self.clip_values(crops), features.shape[-2:], mode="bilinear")  # (B, D, h, w)
        return [*zip(features, values, strict=True)]

    def mixed(self, features: Tensor, values: Tensor, windows: int) -> Iterator[tuple[slice, Tensor]]:
        """Unit features (C, n) and values (D, n) of all patches -> embeddings (r, E) of some of them at a time."""
        options, patches = self.options, features.T.contiguous()  # (n, C)
        beta = 1 + options.beta_growth * math.log(1 + windows) if options.fixed_beta is None else options.fixed_beta

        def anchors(part: slice) -> tuple[Tensor, Tensor]:
            return proxy_anchors(patches[part], patches, features, options.similarity, options.steps)

        if not options.row_mean:
            total = sum(anchors(part)[0].sum(0) for part in blocks(len(patches)))  # (C,)
            overall = total / len(patches) @ patches.mean(0)  # of all similarities
        for part in blocks(len(patches)):
            anchor, count = anchors(part)  # (r, C), (r, 1)
            similarity = times(anchor, patches)  # (r, n)
            mean = similarity.mean(1, keepdim=True) if options.row_mean else overall
            gamma = 1 + options.gamma_growth / count if options.fixed_gamma is None else options.fixed_gamma
            weights = attention(similarity, mean, beta, gamma).to(values.dtype)  # (r, n)
            yield part, self.clip.project(times(weights, values)[None])[0]  # (r, E)


def blocks(patches: int) -> Iterator[slice]:
    """The patches in blocks of rows."""
    rows = max(1, BLOCK // patches)
    return (slice(first, min(first + rows, patches)) for first in range(0, patches, rows))


def times(rows: Tensor, columns: Tensor) -> Tensor:
    """rows · columnsᵀ: (r, I), (m, I) -> (r, m)."""
    return linear(rows[None], columns)[0]


def proxy_anchors(
    rows: Tensor, patches: Tensor, by_channel: Tensor, similarity: float, steps: int
) -> tuple[Tensor, Tensor]:
    """The proxy anchor of each row: the direction of the mean of all patches that resemble it.

    rows: (r, C), of the patches (n, C), unit vectors; by_channel: the patches once more, (C, n). The set of patches
    with a cosine similarity above `similarity` is found `steps` times, from the anchors so far; a row with an empty set
    is its own anchor. Returns the anchors, (r, C), and the size of the last set, (r, 1).
    """
    anchors, count = rows, torch.ones_like(rows[:, :1])
    for _ in range(steps):
        near = (times(anchors, patches) > similarity).float()  # (r, n)
        count = near.sum(1, keepdim=True)  # (r, 1)
        anchors = torch.where(count > 0, F.normalize(times(near, by_channel), dim=1), rows)  # (r, C)
    return anchors, count.clamp(min=1)


def attention(similarity: Tensor, mean: Tensor, beta: float, gamma: Tensor | float) -> Tensor:
    """Attention of each row to all patches, (r, n), from the similarity of their anchors with these, (r, n).

    mean: of the similarity, (r, 1) or a single number; negative ones count as 0. beta: how many times the mean a
    similarity must be, for a patch to be attended to. gamma: sharpness, (r, 1) or a number. A row without any such
    patch attends to the most similar one.
    """
    logits = (similarity - beta * mean.clamp(min=0)).mul_(gamma)  # (r, n)
    least = logits.amax(1, keepdim=True).clamp_(max=0)  # (r, 1)
    return logits.masked_fill_(logits < least, float("-inf")).softmax(1)


Method = GLACLIP
