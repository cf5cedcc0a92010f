"""CAT-Seg: the similarity of every patch and every name, aggregated over places and classes; CLIP is trained along.

Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024.

Shapes: B windows, K classes, P prompts per class, E joint embedding width, h × w patches, H × W an image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.cat_seg_backbone import GuidanceBackbone, Mode, encode, tune
from heads.cost_aggregation import CostAggregation
from heads.head import Options as HeadOptions
from heads.head import TrainableHead, check_least
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import Normalise
from proxyclip.errors import InputError
from proxyclip.vocabulary import split_names
from proxyclip.windows import Batches, SlidingWindows, View, WindowScores, cut, side_by_side


@dataclass(frozen=True)
class Options(HeadOptions):
    """Settings of CAT-Seg; the defaults are the published ones for a CLIP ViT-B/16.

    long_side: images whose short side is resized have at most this long side. square: they are then resized to square ×
    square pixels before windows are cut, and the windows' average is averaged with a view of the whole image; 0: only
    windows of the image, as in mmsegmentation's project. crop 0: one view of the image as it is, as in the evaluations
    during published runs. clip_size: side to which CLIP's input is resized. guidance: where image guidance comes from:
    "clip", or a separate backbone as in the first version of the paper, "resnet101" or "swin_base". guidance_blocks:
    the blocks of CLIP, counted from 0, whose patch tokens guide the decoder. synonyms: which embedding a class with
    several names gets, that of the "first" or the "mean" of all; the number of templates is part of the weights.

    hidden: width of the aggregation; layers, attention_heads: of its layers; window: side of the windows, in patches;
    pooling, evaluation_pooling: side of the places at which classes attend to each other, in training and afterwards;
    attention: among classes; pad_len: number of classes that are aggregated at most, and up to which padding takes part
    (0: all, and none). image_guidance, text_guidance, decoder_guidance: widths of the guidance; guidance_features:
    widths of the lifted blocks; decoder: widths after each upsampling.

    finetune: which weights of CLIP are trained: see `heads.cat_seg_backbone.tune`; "prompt" trains `prompts` tokens per
    block of the image tower instead.
    """

    image_size: int = 384
    short_side: int = 640
    crop: int = 384
    stride: int = 256
    seen_penalty: float = 0.0
    templates: tuple[str, ...] = ("A photo of a {} in the scene",)
    long_side: int = 2560
    square: int = 640
    clip_size: int = 384
    guidance: Literal["clip", "resnet101", "swin_base"] = "clip"
    guidance_blocks: tuple[int, int] = (3, 7)
    synonyms: Literal["first", "mean"] = "first"
    hidden: int = 128
    layers: int = 2
    attention_heads: int = 4
    window: int = 12
    pooling: int = 2
    evaluation_pooling: int = 1
    attention: Literal["linear", "full"] = "linear"
    pad_len: int = 256
    image_guidance: int = 128
    text_guidance: int = 128
    guidance_features: tuple[int, int] = (256, 128)
    decoder: tuple[int, int] = (64, 32)
    decoder_guidance: tuple[int, int] = (32, 16)
    finetune: Mode = "attention"
    prompts: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.square:
            check_least(self, square=max(1, self.crop))
        check_least(self, long_side=self.short_side, square=0, clip_size=1, layers=1, attention_heads=1, window=1)
        check_least(
            self, hidden=1, pooling=1, evaluation_pooling=1, pad_len=0, image_guidance=1, text_guidance=1, prompts=0
        )
        for name in ("guidance_features", "decoder_guidance", "decoder"):
            if min(getattr(self, name)) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; choose positive widths")
        if self.hidden % self.attention_heads:
            raise InputError(f"attention_heads {self.attention_heads} does not divide hidden {self.hidden}")
        for width in self.decoder:
            if width % 16:
                raise InputError(f"decoder is {self.decoder}; choose multiples of 16, the size of its norms' groups")
        for width, guidance in zip((self.hidden, self.decoder[0]), self.decoder_guidance, strict=True):
            if guidance >= width:
                raise InputError(f"decoder_guidance {guidance} must be below the {width} channels that it joins")
        if (self.prompts > 0) != (self.finetune == "prompt"):
            raise InputError(f"finetune is {self.finetune!r} with {self.prompts} prompts; they go with 'prompt' alone")


def check_fit(options: Options, depth: int, side: int) -> None:
    """InputError unless the options fit a CLIP of that depth, and its side × side patches."""
    if side < 1:
        raise InputError(f"clip_size {options.clip_size} is smaller than one patch")
    if not all(0 <= block < depth - 1 for block in options.guidance_blocks):
        raise InputError(f"guidance_blocks is {options.guidance_blocks}; choose blocks from 0 to {depth - 2}")
    for name in ("window", "pooling", "evaluation_pooling"):
        if side % (value := getattr(options, name)):
            raise InputError(f"{name} {value} does not divide the {side} patches along a side of clip_size")


DIVISOR = 32  # whole images are padded to multiples of it
FEW_CLASSES = 16  # for which a batch on a CPU has as many windows as for CLIP alone
NAMES = {"resnet101": "R101", "swin_base": "Swin-B"}  # in tables
ONE_STEP = 10**6  # a stride beyond every image
AGGREGATION = ("hidden", "layers", "attention_heads", "window", "attention", "pad_len", "image_guidance",
               "text_guidance", "decoder", "decoder_guidance")  # options that go to it as they are  # fmt: skip
WIDTHS = {  # option -> dimension of the weights that have this width, and their modules: one for each value
    "hidden": (0, "aggregator.embed"),
    "image_guidance": (0, "aggregator.image_guidance"),
    "text_guidance": (0, "aggregator.text_guidance"),
    "guidance_features": (1, "guidance_lifts.0", "guidance_lifts.1"),
    "decoder_guidance": (0, "aggregator.decoder_guidance.0", "aggregator.decoder_guidance.1"),
    "decoder": (0, "aggregator.upsampling.0.first", "aggregator.upsampling.1.first"),
}


class Head(TrainableHead):
    """Cost aggregation on CLIP's dense values, with guidance from its middle blocks."""

    method = "CAT-Seg"
    AVERAGE_PROMPTS = False
    CHANGEABLE = (*TrainableHead.CHANGEABLE, "long_side", "square", "synonyms", "evaluation_pooling")

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
        self.long_side = options.long_side
        self.antialias = bool(options.square) or not options.crop  # as in detectron2; mmsegmentation resizes without

    @staticmethod
    def sizes(weights: Mapping[str, Tensor]) -> dict:
        layers = {name.split(".")[2] for name in weights if name.startswith("aggregator.layers.")}
        sizes = {"layers": len(layers), "prompts": weights["prompts"].shape[1] if "prompts" in weights else 0}
        for option, (dimension, *modules) in WIDTHS.items():
            if option == "guidance_features" and "guidance_backbone.features.conv1.weight" in weights:
                continue
            widths = tuple(weights[f"{module}.weight"].shape[dimension] for module in modules)
            sizes[option] = widths if len(widths) > 1 else widths[0]
        return sizes

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
        if not side:
            return super().image_scores(image, text, batch_windows)
        square, whole = (resized(image[None], length)[0] for length in (side, crop))
        crops = [*cut(square, self.windows, self.padding_colour), whole]  # (3, crop, crop) each
        batches = self.batches(batch_windows)
        if batch_windows is None and image.device.type == "cpu":
            batches = Batches(max(1, batches.size * FEW_CLASSES // len(text)))
        scores = batches.run(partial(self.window_scores, text=text), crops)  # (K, 4 h, 4 w) each
        views = (scores[:-1], self.windows), (scores[-1:], SlidingWindows(0, ONE_STEP))
        views = (side_by_side(part, (side, side), windows, (crop, crop)) for part, windows in views)
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
        (scores,) = Batches(1).run(partial(self.window_scores, text=text), [padded])  # (K, 4 h, 4 w)
        if below or right:
            view = View(scores.transpose(0, 1), windows, tuple(image.shape[1:]), window_size=self.window_size)
        else:  # nothing to cut off: straight to the size of the result
            view = View(scores.transpose(0, 1), SlidingWindows(0, ONE_STEP), self.window_size)
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
