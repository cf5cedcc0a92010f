"""What all training-free methods share: options, text embeddings, and cosine similarity of patches and names."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import cpu_settings
from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError
from proxyclip.labels import LabelRule
from proxyclip.segmentor import Segmentor, check_scales
from proxyclip.text import check_templates, default_templates, encode_names
from proxyclip.vocabulary import Vocabulary
from proxyclip.windows import SlidingWindows


@dataclass(frozen=True)
class Options:
    """Settings of every training-free method; the defaults are those of ProxyCLIP's published runs.

    short_side: images are resized to this short side in pixels, with a long side of at most 2048; 0: not resized. crop,
    stride: side and stride of the windows; crop 0: the whole image as one window. multiple: windows are padded to a
    multiple of it (0: to whole patches of CLIP; 1: not padded, and what is beyond the last whole patch is not seen).
    two_steps: with crop 0, whether scores are resized to the image as scored before they are resized to the image as
    given. flip, scales: test-time augmentation, see `Segmentor`. logit_scale: factor applied to the cosine similarity
    before the softmax. area: classes other than the first with at most this share of their pixels get none (0: no such
    rule; see `LabelRule`). templates: prompts with a {} for the name; None: CLIP's 80.
    """

    short_side: int = 336
    crop: int = 336
    stride: int = 112
    multiple: int = 56  # of no patch size in particular
    two_steps: bool = False
    logit_scale: float = 40.0
    area: float = 0.0
    templates: tuple[str, ...] | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        SlidingWindows(self.crop, self.stride, self.multiple or 1)
        if self.short_side < 0:
            raise InputError(f"short_side is {self.short_side}; choose a length in pixels, or 0 to keep images' sizes")
        if self.two_steps and self.crop:
            raise InputError(f"two_steps is about whole images: choose crop 0 instead of {self.crop} as well")
        check_scales(self.scales)
        LabelRule(area=self.area)
        if not self.logit_scale > 0:
            raise InputError(f"logit_scale is {self.logit_scale}; it must be positive")
        if self.templates is not None:
            check_templates(self.templates)


class TrainingFree(Segmentor):
    """A CLIP, and a vision foundation model if needed, whose patch embeddings are compared with text embeddings.

    A method defines `method`, `embed`, and `check` if it has further demands. vfm is None for methods that need none.
    only_values: whether `clip_values` and `vfm_features` are all that it asks of the image towers, so that another
    backend can compute them: see `proxyclip.backbones.backends`.
    """

    only_values = False

    @classmethod
    def check(cls, options: Options, depth: int, patch_size: int) -> None:
        """Raises InputError, before any weights are loaded, if the method cannot run with these options, or with a CLIP
        of that many blocks and patches of that many pixels."""

    def __init__(self, clip: DenseCLIP, vfm, options: Options, known_words: tuple[str, ...] | None = None):
        patches = [model.patch_size for model in (clip, vfm) if model is not None]
        check_crop(options.crop, max(patches))
        super().__init__(
            windows=SlidingWindows(
                options.crop,
                options.stride,
                options.multiple or clip.patch_size,
                min_side=max(patches),
                two_steps=options.two_steps,
            ),
            label_rule=LabelRule(scale=options.logit_scale, area=options.area),
            short_side=options.short_side,
            padding_colour=tuple(clip.mean),
            patch_size=min(patches),
            known_words=known_words,
        )
        self.clip, self.vfm, self.options = clip, vfm, options
        self.flip, self.scales = options.flip, options.scales
        self.templates = options.templates or default_templates()
        self.openvino = None  # or the `OpenVINOTowers` that compute both

    def embed(self, crops: Tensor) -> Tensor:
        """CLIP embeddings of all patches, (B, 3, c, c) RGB in [0, 1] -> (B, E, h, w), not normalised."""
        raise NotImplementedError

    def clip_values(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, D, c/p, c/p): see `DenseCLIP.values`."""
        return self.clip.values(crops) if self.openvino is None else self.openvino.values(crops)

    def vfm_features(self, crops: Tensor) -> Tensor:
        """(B, 3, c, c) -> (B, C, h, w)."""
        return self.vfm(crops) if self.openvino is None else self.openvino.features(crops)

    def compile_scores(self, backend: str = "inductor") -> None:
        if self.openvino is not None:
            raise InputError("torch.compile and backend openvino exclude each other: choose one of them")
        super().compile_scores(backend)

    def encode_classes(self, vocabulary: Vocabulary) -> Tensor:
        """Unit vectors (Q, E), float32, on the model's device."""
        return encode_names(self.clip, vocabulary.queries, self.templates)

    def window_scores(self, crops: Tensor, text: Tensor) -> Tensor:
        """Cosine similarity of all patches and queries: (B, 3, c, c) in [0, 1], (Q, E) -> (B, Q, h, w) float32."""
        with exact_float32(crops.device):  # scores do not depend on what surrounds the call
            return cosines(self.embed(crops), text)  # (B, Q, h, w)

    def set_precision(self, dtype: torch.dtype) -> "TrainingFree":
        """Casts both image encoders; the text encoder stays in float32, as its embeddings are cached in float32."""
        self.clip.visual.to(dtype)
        if self.vfm is not None:
            self.vfm.to(dtype)
        return self

    def settings(self) -> dict:
        return {
            "method": self.method,
            "clip": self.clip.name,
            "clip_activation": self.clip.activation,
            "vfm": self.vfm.name if self.vfm is not None else None,
            **{name: value for name, value in asdict(self.options).items() if name not in ("flip", "scales")},
            "templates": len(self.templates),
            "precision": str(self.clip.dtype).removeprefix("torch."),
            **cpu_settings(self.device),
            "tf32": False,  # whatever the caller has set: see exact_float32
            **({"backend": self.openvino.settings()} if self.openvino is not None else {}),
            **self.added_settings(),
        }


def cosines(patches: Tensor, text: Tensor) -> Tensor:
    """Cosine similarity of embeddings of patches, (B, E, h, w), and queries, (Q, E) unit vectors -> (B, Q, h, w)."""
    unit = F.normalize(patches.float().flatten(2), dim=1)  # (B, E, h * w)
    return (text @ unit).unflatten(2, patches.shape[-2:])  # (B, Q, h, w)


def scaled_block(number: int, depth: int) -> int:
    """The block of a CLIP of `depth` blocks that stands for block `number` of a paper's CLIP of 12, counted from 1.

    In proportion, and rounded; halfway between two blocks it is the earlier one. With 6 blocks or more, 1 to 11 are
    therefore never the last block.
    """
    return max(1, (number * depth + 5) // 12)


def check_depth(method: str, number: int, depth: int) -> None:
    """InputError if block `number` of a paper's CLIP of 12 blocks would be the last one of a CLIP of `depth` blocks."""
    if scaled_block(number, depth) >= depth:
        raise InputError(
            f"{method} reads block {number} of 12 or the one in its place, which must not be the last: a CLIP of "
            f"{depth} blocks is too shallow"
        )


def check_crop(crop: int, patch: int) -> None:
    if 0 < crop < patch:
        raise InputError(f"crop {crop} is smaller than one patch of {patch} pixels; choose crop >= {patch}")
