"""MaskCLIP: the values of CLIP's last block, without attention between patches.

Extract Free Dense Labels from CLIP (Zhou et al., ECCV 2022, arXiv:2112.01071), section 3.1, without key smoothing and
prompt denoising.
"""

from torch import Tensor

from proxyclip.methods._training_free import Options, TrainingFree

__all__ = ["Options"]
NEEDS_VFM = False


class MaskCLIP(TrainingFree):
    """Each patch is classified by its own value."""

    method, only_values = "MaskCLIP", True

    def embed(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, E, c/p, c/p)."""
        values = self.clip_values(crops)  # (B, D, c/p, c/p)
        return self.clip.project(values.flatten(2).mT).mT.unflatten(2, values.shape[-2:])  # (B, E, c/p, c/p)


Method = MaskCLIP
