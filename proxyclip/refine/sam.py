"""Masks by Segment Anything (Kirillov et al., 2023, arXiv:2304.02643): its automatic mask generator finds them, and
each one takes the class with the largest mean score in it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from proxyclip.backbones.checkpoints import fingerprint, fixed_seed, import_library, load_strict, read_checkpoint
from proxyclip.errors import InputError, NotFound
from proxyclip.refine import Guide
from proxyclip.refine.masks import ByMasks

VARIANTS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # by the width of the image encoder
WIDTH = "image_encoder.pos_embed"


@dataclass(frozen=True)
class Options:
    """checkpoint: an official file of weights, such as sam_vit_b_01ec64.pth. points: prompts per side of the image.
    predicted_iou, stability: masks below these are dropped. The defaults are those of the library."""

    checkpoint: str
    points: int = 32
    predicted_iou: float = 0.88
    stability: float = 0.95

    def __post_init__(self):
        if not os.path.isfile(self.checkpoint):
            raise NotFound(f"checkpoint {self.checkpoint} does not exist")
        if not 1 <= self.points <= 256:
            raise InputError(f"points is {self.points}; choose a number from 1 to 256")
        if not (0 <= self.predicted_iou <= 1 and 0 <= self.stability <= 1):
            raise InputError("predicted_iou and stability must be from 0 to 1")


class SAM(ByMasks, nn.Module):
    """Masks of the image as the model sees it, at the size of the labels."""

    def __init__(self, options: Options):
        super().__init__(options)
        library = import_library("segment_anything")
        check_operators()
        state = read_checkpoint(options.checkpoint)
        width = state[WIDTH].shape[-1] if WIDTH in state else None
        if width not in VARIANTS:
            raise InputError(
                f"checkpoint {options.checkpoint} is not one of Segment Anything's {', '.join(VARIANTS.values())}"
            )
        with fixed_seed():
            self.sam = library.sam_model_registry[VARIANTS[width]]()
        load_strict(self.sam, state, f"checkpoint {options.checkpoint}")
        self.fingerprint = fingerprint(state)

    def masks(self, guide: Guide) -> Iterable[Tensor]:
        options = self.options
        generator = import_library("segment_anything").SamAutomaticMaskGenerator(
            self.sam,
            points_per_side=options.points,
            pred_iou_thresh=options.predicted_iou,
            stability_score_thresh=options.stability,
        )
        image = (guide.image * 255).round().byte().permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
        found = generator.generate(image)  # dictionaries with a mask (H, W) each
        masks = (torch.from_numpy(mask["segmentation"]).flatten().nonzero()[:, 0] for mask in found)  # (pixels,) each
        return [mask.to(guide.image.device) for mask in masks]

    def settings(self) -> dict:
        return super().settings() | {"checkpoint": Path(self.options.checkpoint).name, "fingerprint": self.fingerprint}

    @property
    def title(self) -> str:
        return super().title.replace(
            self.options.checkpoint, f"{Path(self.options.checkpoint).name} {self.fingerprint[:6]}"
        )


def check_operators() -> None:
    """InputError unless torchvision's compiled operators work, which the mask generator calls."""
    import torchvision

    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (RuntimeError, NotImplementedError):
        raise InputError(
            "refine=sam needs torchvision's compiled operators: install the torchvision that belongs to this torch, "
            "see pytorch.org"
        ) from None


Refinement = SAM
