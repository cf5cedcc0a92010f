"""Settings that trainable heads share."""

from collections.abc import Mapping
from dataclasses import dataclass

from proxyclip.errors import InputError
from proxyclip.segmentor import check_scales
from proxyclip.text import check_templates
from proxyclip.windows import SlidingWindows


@dataclass(frozen=True)
class Options:
    """Settings of every head; the defaults are the published ones for a CLIP ViT-B/16.

    image_size: side of the training crops in pixels. short_side: images are resized to this short side. crop, stride:
    side and stride of the windows. seen_penalty: subtracted from the scores of classes seen in training. templates:
    prompts with a {} for the name. text_embeddings: a .npy file to read text embeddings from, one row per class of the
    checkpoint. flip, scales: test-time augmentation, see `proxyclip.Segmentor`.
    """

    image_size: int = 512
    short_side: int = 512
    crop: int = 512
    stride: int = 426
    seen_penalty: float = 0.1
    templates: tuple[str, ...] = ("a photo of a {}",)
    text_embeddings: str | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        SlidingWindows(self.crop, self.stride)
        check_scales(self.scales)
        check_least(self, image_size=1, short_side=0)
        if not 0 <= self.seen_penalty <= 1:
            raise InputError(f"seen_penalty is {self.seen_penalty}; choose a number from 0 to 1")
        check_templates(self.templates)


@dataclass(frozen=True)
class PromptedOptions(Options):
    """Settings of the heads that train prompts in a frozen CLIP.

    The position table and the predictions of a window have the resolution of image_size. prompts: learned tokens per
    block. prompt_blocks: further blocks that get prompts of their own after the first one (None: all others; 0: only
    the first, and its prompts are kept; -n: the last n blocks only). decoder_layers, decoder_heads: of the mask
    decoder. dropout: in prompts and decoder, while training.
    """

    prompts: int = 100
    prompt_blocks: int | None = None
    decoder_layers: int = 3
    decoder_heads: int = 8
    dropout: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_least(self, prompts=1, decoder_layers=1, decoder_heads=1)
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}; choose a probability of at least 0 and below 1")


def check_least(options: Options, **fields: int) -> None:
    """InputError for the first of these fields that is below its least value."""
    for name, least in fields.items():
        if (value := getattr(options, name)) < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")


def plain_options(stored: Mapping) -> dict:
    """Options as JSON has them, with tuples for its lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
