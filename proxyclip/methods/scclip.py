"""SC-CLIP: CLIP's last block after its outliers are repaired, led by the similarity of features of earlier blocks.

Self-Calibrated CLIP for Training-Free Open-Vocabulary Segmentation (Bai, Liu, Han, Zhang, Tang, Zhou & Lu, IEEE
Transactions on Image Processing, arXiv:2411.15869). The published code has no licence; written from the paper.

Shapes: B windows of c × c pixels, h × w patches, N = h * w, D CLIP's width, d width of a head, E joint embedding width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.layers import heads, join
from proxyclip.errors import InputError
from proxyclip.methods import _training_free
from proxyclip.methods._training_free import check_depth, scaled_block
from proxyclip.methods.proxyclip import proxy_attend
from proxyclip.windows import SlidingWindows

NEEDS_VFM = False
BETA, GAMMA = 1.0, 3.0  # of the proxy attention


@dataclass(frozen=True)
class Options(_training_free.Options):
    """Numbers of blocks are those of a CLIP of 12 blocks, counted from 1 (see `scaled_block`).

    neighbours: how many decide whether a patch is an outlier. outlier_share: of all patches of a window. middle_block:
    the output whose similarity steers the last block. early_block: the output whose similarity smooths the result.
    level_blocks: outputs that are added up for a second pass through the last block. min_similarity: cosine
    similarities below it count as 0. class_weight: of the class token, which is added to all patches.
    """

    neighbours: int = 30
    outlier_share: float = 0.05
    middle_block: int = 9
    early_block: int = 4
    level_blocks: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10)
    min_similarity: float = 0.4
    class_weight: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        if self.neighbours < 1:
            raise InputError(f"neighbours is {self.neighbours}; it must be at least 1")
        if not 0 < self.outlier_share < 1:
            raise InputError(f"outlier_share is {self.outlier_share}; it must be between 0 and 1")
        if not self.level_blocks or not all(1 <= number <= 11 for number in self.read_blocks):
            raise InputError(f"early_block, middle_block and level_blocks are {self.read_blocks}; choose from 1 to 11")

    @property
    def read_blocks(self) -> tuple[int, ...]:
        return self.early_block, self.middle_block, *self.level_blocks


class SCCLIP(_training_free.TrainingFree):
    """Similarity inside CLIP decides which patches belong together."""

    method = "SC-CLIP"

    @classmethod
    def check(cls, options: Options, depth: int, patch_size: int) -> None:
        check_depth(cls.method, max(options.read_blocks), depth)
        if options.crop:
            windows = SlidingWindows(options.crop, options.stride, options.multiple or patch_size, min_side=patch_size)
            lengths = min(options.crop, options.short_side or options.crop), options.crop
            check_patches(*((n + sum(windows.padding(n))) // patch_size for n in lengths), options.neighbours)

    def embed(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, E, h, w). Raises InputError for windows with too few patches to tell outliers."""
        options, grid = self.options, self.clip.grid(crops)
        check_patches(*grid, options.neighbours)
        early, middle, total, last = self.outputs(crops)  # (B, 1 + N, D) each
        outliers = highest(outlier_scores(last[:, 1:], options.neighbours), options.outlier_share)  # (B, N)

        features = repaired(middle[:, 1:], outliers, grid)  # (B, N, D)
        calm = aggregated(repaired(last[:, 1:], outliers, grid), similarity(features, options.min_similarity))
        once = self.attended(calm, features) + options.class_weight * last[:, :1]  # (B, N, D)
        again = self.attended(total[:, 1:], features) + options.class_weight * total[:, :1]  # (B, N, D)
        # Aggregation is linear: what the paper adds up afterwards may be added up before.
        result = aggregated(once + again, similarity(early[:, 1:], options.min_similarity))  # (B, N, D)
        return self.clip.finish(result.to(self.clip.dtype)).mT.unflatten(2, grid)  # (B, E, h, w)

    def outputs(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs of blocks, (B, 1 + N, D) float32 each: the early one, the middle one, the sum of the levels, and the
        one that enters the last block. Thresholds decide about them, so what follows is in float32."""
        depth = len(self.clip.blocks)
        early, middle, *levels = (scaled_block(number, depth) for number in self.options.read_blocks)
        found, total = {}, 0.0
        for number, tokens in enumerate(self.clip.states(crops)):  # what enters a block is the output of the one before
            if number in (early, middle, depth - 1):
                found[number] = tokens.float()
            if number in levels:
                total = total + tokens.float()
        return found[early], found[middle], total, found[depth - 1]

    def attended(self, tokens: Tensor, features: Tensor) -> Tensor:
        """The attention of the last block, from the tokens that enter it: (B, N, D), (B, N, D) -> (B, N, D) float32.

        The mean of softmax(s k kᵀ) v, and of the values mixed by the similarity of the features. Patches only: the
        class token is none of the keys.
        """
        block = self.clip.blocks[-1]
        _, key, value = heads(block, tokens.to(self.clip.dtype))  # (B, heads, N, d) each
        merged = value.transpose(1, 2).flatten(2)  # (B, N, D): one attention for all heads
        mixed = proxy_attend(features.mT[..., None], merged, BETA, GAMMA)  # (B, N, D), by all similarities
        by_similarity = mixed.unflatten(2, (value.shape[1], -1)).transpose(1, 2)  # (B, heads, N, d)
        return join(block, (by_similarity + F.scaled_dot_product_attention(key, key, value)) / 2).float()


def similarity(tokens: Tensor, least: float) -> Tensor:
    """Cosine similarity of all patches, 0 where it is below `least`: (B, N, D) -> (B, N, N)."""
    unit = F.normalize(tokens, dim=2)
    found = unit @ unit.mT  # (B, N, N)
    return found.masked_fill_(found < least, 0.0)


def aggregated(tokens: Tensor, weights: Tensor) -> Tensor:
    """Each patch becomes the weighted mean of all: (B, N, D), (B, N, N) -> (B, N, D). Without any weight it is 0."""
    return weights @ tokens / (weights.sum(2, keepdim=True) + 1e-6)


def check_patches(rows: int, columns: int, neighbours: int) -> None:
    if rows * columns <= neighbours:
        raise InputError(
            f"SC-CLIP needs more than {neighbours} patches in a window, and there are {rows}x{columns}; "
            "choose a larger crop or short_side, or fewer neighbours"
        )


def outlier_scores(tokens: Tensor, neighbours: int) -> Tensor:
    """How lonely each patch is, by the local outlier factor in its simple form: (B, N, D) float32 -> (B, N).

    The squared distance to the last of its nearest neighbours, divided by the harmonic mean of theirs.
    """
    centred = tokens - tokens.mean(1, keepdim=True)  # differences of large numbers would not be exact
    products = centred @ centred.mT  # (B, N, N)
    squares = products.diagonal(dim1=1, dim2=2)  # (B, N)
    distances = squares[:, :, None] + squares[:, None] - 2 * products  # (B, N, N)
    distances.diagonal(dim1=1, dim2=2).fill_(math.inf)  # no patch is its own neighbour
    nearest = distances.topk(neighbours, largest=False)  # (B, N, neighbours) each, in ascending order
    reach = nearest.values[:, :, -1].clamp(min=1e-12)  # (B, N): patches may coincide
    theirs = reach.gather(1, nearest.indices.flatten(1)).unflatten(1, nearest.indices.shape[1:])
    return reach * (1 / theirs).mean(2)


def highest(scores: Tensor, share: float) -> Tensor:
    """Which scores are strictly above the quantile 1 - share of their window: (B, N) -> (B, N) bool.

    The quantile lies between two neighbouring scores or on the lower one, so the lower one decides. If the rank is a
    whole number, as in grids of 9 × 9, 11 × 11 or 21 × 21 patches at a share of 0.05, it must not be rounded down.
    """
    rank = math.floor(round((1 - share) * (scores.shape[1] - 1), 6))
    return scores > scores.kthvalue(rank + 1, dim=1, keepdim=True).values


def repaired(tokens: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Outliers replaced by the mean of their 8 neighbours in the grid, without those that are outliers themselves.

    (B, N, D) float32, (B, N) bool -> (B, N, D). A patch that is left with no neighbour stays as it is.
    """
    sound = (~outliers).to(tokens.dtype)[:, None].unflatten(2, grid)  # (B, 1, h, w)
    maps = tokens.mT.unflatten(2, grid) * sound  # (B, D, h, w)
    count = F.avg_pool2d(sound, 3, stride=1, padding=1)  # (B, 1, h, w), of 9 patches, like the sum
    mean = F.avg_pool2d(maps, 3, stride=1, padding=1) / count.clamp(min=0.1)  # (B, D, h, w)
    replace = outliers & (count.flatten(1) > 0)  # (B, N)
    return torch.where(replace[:, :, None], mean.flatten(2).mT, tokens)


Method = SCCLIP
