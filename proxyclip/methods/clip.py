"""CLIP: the patch tokens after its own last block (Radford et al., 2021, arXiv:2103.00020)."""

from torch import Tensor

from proxyclip.methods._training_free import Options, TrainingFree

__all__ = ["Options"]
NEEDS_VFM = False


class CLIP(TrainingFree):
    """The baseline: CLIP without changes."""

    method = "CLIP"

    def embed(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, E, c/p, c/p)."""
        return self.clip.vanilla(crops)


Method = CLIP
