"""CAT-Seg: the similarity of every patch and every name, aggregated over places and classes; CLIP is trained along.

Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024.

Shapes: B windows, K classes, P prompts per class, E joint embedding width, h × w patches, H × W an image.
"""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.cat_seg_options import Options, check_fit
from heads.cost_aggregation import CostAggregation
from heads.fine_tuning import tune
from heads.guidance_backbone import GuidanceBackbone
from heads.head import TrainableHead
from heads.value_encoder import encode
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import Normalise
from proxyclip.vocabulary import split_names
from proxyclip.windows import Batches, SlidingWindows, View, WindowScores, cut, side_by_side

LONG_SIDE = 2560  # of images whose short side is resized
DIVISOR = 32  # whole images are padded to multiples of it
FEW_CLASSES = 16  # for which a batch on a CPU has as many windows as for CLIP alone
NAMES = {"resnet101": "R101", "swin_base": "Swin-B"}  # in tables
ONE_STEP = 10**6  # a stride beyond every image
AGGREGATION = ("hidden", "layers", "attention_heads", "window", "attention", "pad_len", "image_guidance",
               "text_guidance", "decoder", "decoder_guidance")  # options that go to it as they are  # fmt: skip


class Head(TrainableHead):
    """Cost aggregation on CLIP's dense values, with guidance from its middle blocks."""

    method = "CAT-Seg"
    AVERAGE_PROMPTS = False
    CHANGEABLE = (*TrainableHead.CHANGEABLE, "square", "synonyms", "evaluation_pooling")
    antialias, long_side = True, LONG_SIDE

    def __init__(self, clip: DenseCLIP, options: Options, classes, seen, known_words=None):
        super().__init__(clip, options, classes, seen, known_words, padding_colour=clip.mean)
        visual = clip.visual
        width, depth, joint = visual.class_embedding.shape[0], len(visual.transformer.resblocks), visual.proj.shape[1]
        side = options.clip_size // clip.patch_size
        check_fit(options, depth, side)
        if visual.proj.device.type != "meta":
            self.clip_fingerprint  # noqa: B018 - of the weights before they are trained
        self.tuned, self.undecayed = tune(clip, options.finetune)
        self.prompts = nn.Parameter(0.02 * torch.randn(depth, options.prompts, width)) if options.prompts else None
        guidance, *levels = joint, *options.guidance_features
        self.guidance_lifts = self.guidance_backbone = None
        if options.guidance == "clip":
            self.guidance_lifts = nn.ModuleList(
                nn.ConvTranspose2d(width, features, kernel_size=factor, stride=factor)
                for features, factor in zip(levels, (2, 4), strict=True)
            )
        else:
            self.guidance_backbone = GuidanceBackbone(options.guidance, side)
            self.method = f"CAT-Seg v1 ({NAMES[options.guidance]})"
            guidance, *levels = self.guidance_backbone.channels
        self.aggregator = CostAggregation(
            features=joint,
            guidance=guidance,
            levels=levels,
            grid=(side, side),
            prompts=len(options.templates),
            pooling=(options.pooling, options.evaluation_pooling),
            **{name: getattr(options, name) for name in AGGREGATION},
        )
        self.window_size = (options.crop,) * 2 if options.crop else (4 * side,) * 2

    @property
    def normalise(self) -> Normalise:
        return self.clip.normalise

    @property
    def checkpointing(self) -> bool:
        return self.aggregator.checkpointing

    @checkpointing.setter
    def checkpointing(self, active: bool) -> None:
        self.aggregator.checkpointing = active

    def load_published(self) -> None:
        if self.guidance_backbone is not None:
            self.guidance_backbone.load_published()

    def names_of(self, name: str) -> tuple[str, ...]:
        """The names of a class, which some published lists separate by commas."""
        names = tuple(part for text in split_names(name) for part in text.split(", "))
        return names[:1] if self.options.synonyms == "first" else names

    def logits(self, images: Tensor, text: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in [0, 1], (K, P, E) -> {"decode": (B, K, 4 h, 4 w)}."""
        small = resized(images, self.options.clip_size)
        blocks = () if self.guidance_lifts is None else self.options.guidance_blocks
        encoded = encode(self.clip, small, blocks, self.prompts, self.checkpointing)
        if self.guidance_lifts is None:
            guidance, *levels = self.guidance_backbone(images)
        else:
            guidance = encoded.patches
            levels = [lift(level) for lift, level in zip(self.guidance_lifts, encoded.levels, strict=True)]
        return {"decode": self.aggregator(encoded.patches, guidance, levels, text)}

    def image_scores(self, image: Tensor, text: Tensor, batch_windows: int | None = None) -> WindowScores:
        """(3, H, W) RGB in [0, 1] -> the windows of the squared image, and the whole image, with equal weights."""
        side, crop = self.options.square, self.options.crop
        if not crop:
            return self.whole_image(image, text)
        square, whole = (resized(image[None], length)[0] for length in (side, crop))
        crops = [*cut(square, self.windows, self.padding_colour), whole]  # (3, crop, crop) each
        batches = self.batches(batch_windows)
        if batch_windows is None and image.device.type == "cpu":
            batches = Batches(max(1, batches.size * FEW_CLASSES // len(text)))
        found = batches.run(partial(self.window_scores, text=text), crops)  # (K, 4 h, 4 w) each
        views = (found[:-1], self.windows), (found[-1:], SlidingWindows(0, ONE_STEP))
        views = (side_by_side(scores, (side, side), windows, (crop, crop)) for scores, windows in views)
        return WindowScores(tuple(replace(view, weight=0.5) for view in views))

    def whole_image(self, image: Tensor, text: Tensor) -> WindowScores:
        """One view of an image (3, H, W), padded to multiples of 32.

        The published code leaves the scores of the padding in the result, which is slightly squeezed; they are left
        out here.
        """
        windows = PaddedImage(0, ONE_STEP, DIVISOR)
        (_, below), (_, right) = (windows.padding(length) for length in image.shape[1:])
        padded = self.padding_colour[:, None, None].repeat(1, image.shape[1] + below, image.shape[2] + right)
        padded[:, : image.shape[1], : image.shape[2]] = image
        (found,) = Batches(1).run(partial(self.window_scores, text=text), [padded])  # (K, 4 h, 4 w)
        if below or right:
            view = View(found.transpose(0, 1), windows, tuple(image.shape[1:]), window_size=self.window_size)
        else:  # nothing to cut off: straight to the size of the result
            view = View(found.transpose(0, 1), SlidingWindows(0, ONE_STEP), self.window_size)
        return WindowScores((view,))


class PaddedImage(SlidingWindows):
    """The whole image, padded to a multiple at its bottom and right."""

    def padding(self, length: int) -> tuple[int, int]:
        return 0, -length % self.multiple


def resized(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> (B, 3, side, side), bilinear."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
