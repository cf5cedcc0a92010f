"""Settings of CAT-Seg."""

from dataclasses import dataclass
from typing import Literal

from heads.fine_tuning import Mode
from heads.options import Options as HeadOptions
from heads.options import check_least
from proxyclip.errors import InputError


@dataclass(frozen=True)
class Options(HeadOptions):
    """Settings of CAT-Seg; the defaults are the published ones for a CLIP ViT-B/16.

    square: images are resized to square × square pixels before windows are cut, after their short side has been resized
    to short_side; the windows' average is averaged with a view of the whole image. crop 0: one view of the image as it
    is, as in the evaluations during published runs. clip_size: side to which CLIP's input is resized. guidance: where
    image guidance comes from: "clip", or a separate backbone as in the first version of the paper, "resnet101" or
    "swin_base". guidance_blocks: the blocks of CLIP, counted from 0, whose patch tokens guide the decoder. synonyms:
    which embedding a class with several names gets, that of the "first" or the "mean" of all; the number of templates
    is part of the weights.

    hidden: width of the aggregation; layers, attention_heads: of its layers; window: side of the windows, in patches;
    pooling, evaluation_pooling: side of the places at which classes attend to each other, in training and afterwards;
    attention: among classes; pad_len: number of classes that are aggregated at most, and up to which padding takes part
    (0: all, and none). image_guidance, text_guidance, decoder_guidance: widths of the guidance; guidance_features:
    widths of the lifted blocks; decoder: widths after each upsampling.

    finetune: which weights of CLIP are trained: see `heads.fine_tuning.tune`; "prompt" trains `prompts` tokens per
    block of the image tower instead.
    """

    image_size: int = 384
    short_side: int = 640
    crop: int = 384
    stride: int = 256
    seen_penalty: float = 0.0
    templates: tuple[str, ...] = ("A photo of a {} in the scene",)
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
        check_least(self, clip_size=1, square=max(1, self.crop), layers=1, attention_heads=1, window=1)
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
