"""Refinement by class-agnostic masks: all pixels of a mask get its mean scores, so it takes one class.

Shapes: N masks, q queries, H × W the label map.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from proxyclip.refine import Guide, Maps, Refinement


class ByMasks(Refinement):
    """A refinement defines `masks`. Where masks overlap, the smallest one decides; pixels in no mask keep their
    scores."""

    def masks(self, guide: Guide) -> Iterable[Tensor]:
        """The masks of an image: for each one the index of its pixels in the image, row by row, (pixels,) int64."""
        raise NotImplementedError

    def __call__(self, maps: Maps, guide: Guide) -> Maps:
        image = guide.image
        masks = sorted(self.masks(guide), key=len, reverse=True)  # the largest first
        owner = torch.full((image[0].numel(),), len(masks), device=image.device)  # (H * W,); len(masks): no mask
        for number, mask in enumerate(masks):
            owner[mask] = number
        outside = (owner == len(masks)).view(image.shape[-2:])  # (H, W)

        def refined(queries: slice) -> Tensor:
            found = maps(queries)  # (q, H, W)
            pixels = found.flatten(1)  # (q, H * W)
            means = [pixels[:, mask].mean(1) for mask in masks]  # N of (q,)
            means = torch.stack([*means, pixels.new_zeros(len(pixels))], dim=1)  # (q, N + 1)
            return torch.where(outside, found, means[:, owner].view_as(found))  # (q, H, W)

        return refined
