"""What all trainable heads share: options, a CLIP, text embeddings of class names, and the path from windows to scores.

Shapes: B windows, K classes, P prompts per class, E joint embedding width, h × w patches.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from heads.clips import clip_fingerprint
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import Normalise, cpu_settings
from proxyclip.backbones.precision import exact_float32
from proxyclip.errors import InputError, NotFound
from proxyclip.labels import LabelRule
from proxyclip.segmentor import Segmentor, check_scales
from proxyclip.text import check_templates, encode_names
from proxyclip.vocabulary import Vocabulary, split_names
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
        check_least(self, image_size=1, short_side=0)
        if not 0 <= self.seen_penalty <= 1:
            raise InputError(f"seen_penalty is {self.seen_penalty}; choose a number from 0 to 1")
        check_templates(self.templates)
        check_scales(self.scales)


def check_least(options: Options, **fields: int) -> None:
    """InputError for the first of these fields that is below its least value."""
    for name, least in fields.items():
        if (value := getattr(options, name)) < least:
            raise InputError(f"{name} is {value}; it must be at least {least}")


def plain_options(stored: Mapping) -> dict:
    """Options as JSON has them, with tuples for its lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}


def read_text_embeddings(file: str | Path, classes: tuple[str, ...], width: int, prompts: int | None) -> Tensor:
    """(K, E), or (K, P, E) if `prompts` is given, float32; one row per class, not normalised again.

    Raises NotFound, and InputError for a file that is not an array of floating-point numbers of this shape.
    """
    if not Path(file).is_file():
        raise NotFound(f"text embeddings {file} do not exist")
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, BadZipFile) as error:
        raise InputError(f"text embeddings {file} cannot be read: not a .npy file of numbers ({error})") from None
    shape = (len(classes), width) if prompts is None else (len(classes), prompts, width)
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.shape != shape:
        contents = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else "several arrays"
        raise InputError(
            f"text embeddings {file} hold {contents}, but {shape} floating-point numbers are needed: one row for "
            f"each of {len(classes)} classes, {f'{prompts} prompts each, ' if prompts else ''}as wide as this CLIP's"
        )
    embeddings = torch.from_numpy(array.astype(np.float64)).float()  # larger values than float32 has become infinite
    if not embeddings.isfinite().all():
        raise InputError(f"text embeddings {file} contain values that are not finite")
    return embeddings


class TrainableHead(Segmentor):
    """A `Segmentor` with trained weights on top of a CLIP.

    A head defines `method`, `normalise`, `logits`, and `combine` where it has more than one prediction; AVERAGE_PROMPTS
    says whether the prompts of a class are averaged into one text embedding, CHANGEABLE which options may change after
    training. classes: the names of the training set. seen: those that training had labels of; `seen_penalty` is
    subtracted from their scores (Zhou et al., 2023, §3.5).

    normalise: the module by which images are normalised. tuned: names of those weights of the CLIP, all starting with
    "clip.", that training changes, none in most heads; undecayed: those of them that no weight decay may act on.
    checkpointing: whether activations are computed again in the backward pass instead of kept.
    """

    queries = "names"
    AVERAGE_PROMPTS = True
    CHANGEABLE = ("short_side", "crop", "stride", "seen_penalty", "templates", "text_embeddings", "flip", "scales")
    normalise: Normalise
    tuned: frozenset[str] = frozenset()
    undecayed: frozenset[str] = frozenset()
    checkpointing = False

    def __init__(
        self,
        clip: DenseCLIP,
        options: Options,
        classes: tuple[str, ...],
        seen: tuple[str, ...],
        known_words: tuple[str, ...] | None,
        padding_colour: tuple[float, float, float],
    ):
        penalty = tuple((name, options.seen_penalty) for name in seen) if options.seen_penalty else ()
        super().__init__(
            windows=SlidingWindows(options.crop, options.stride, min_side=clip.patch_size),
            label_rule=LabelRule(window_sigmoid=True, activation="none", subtract=penalty),
            short_side=options.short_side,
            padding_colour=padding_colour,
            patch_size=clip.patch_size,
            known_words=known_words,
        )
        self.clip, self.options = clip.requires_grad_(False), options
        self.flip, self.scales = options.flip, options.scales
        self.classes, self.seen = tuple(classes), tuple(seen)
        self.templates = options.templates
        self.precision = torch.float32
        # Embeddings of `classes` from a file, (K, E) or (K, P, E): part of a checkpoint.
        self.register_buffer("stored_text", None)
        if options.text_embeddings is not None:
            width = clip.visual.proj.shape[1]
            prompts = None if self.AVERAGE_PROMPTS else len(options.templates)
            self.stored_text = read_text_embeddings(options.text_embeddings, self.classes, width, prompts)

    # What a head defines

    def logits(self, images: Tensor, text: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in [0, 1] and text embeddings -> mask logits (B, K, h, w) by the name of the prediction.

        Each of them gets the full loss in training.
        """
        raise NotImplementedError

    @staticmethod
    def sizes(weights: Mapping[str, Tensor]) -> dict:
        """Options that the shapes of the trained weights tell; a KeyError names weights that are missing."""
        return {}

    def combine(self, predictions: dict[str, Tensor]) -> Tensor:
        """The mask logits (B, K, h, w) that labels are decided by, from the result of `logits`."""
        (only,) = predictions.values()
        return only

    def load_published(self) -> None:
        """Loads the published weights that training starts from, besides CLIP's; none in most heads. NotFound if they
        are neither in the cache nor reachable."""

    # Written once

    def forward(self, images: Tensor, text: Tensor | Vocabulary) -> dict[str, Tensor]:
        """`logits`; with a Vocabulary instead of text embeddings, gradients reach the weights that encode it."""
        return self.logits(images, self.encode_classes(text) if isinstance(text, Vocabulary) else text)

    def encode_classes(self, vocabulary: Vocabulary) -> Tensor:
        """Unit vectors (Q, E), or (Q, P, E) where prompts are kept apart: see `Vocabulary.name_queries`.

        A class with several names gets their mean.
        """
        queries, _ = vocabulary.name_queries
        if self.stored_text is not None and set(queries) <= set(self.classes):
            return self.stored_text[[self.classes.index(name) for name in queries]]
        names = [self.names_of(name) for name in queries]
        flat = [name for group in names for name in group]
        # (Q, E) or (Q, P, E); weights that the next training step changes leave nothing on disk.
        embeddings = encode_names(self.clip, flat, self.templates, self.AVERAGE_PROMPTS, on_disk=not self.trains_text)
        if len(flat) == len(names):
            return embeddings
        groups = embeddings.split([len(group) for group in names])
        return F.normalize(torch.stack([group.mean(0) for group in groups]), dim=-1)

    @property
    def trains_text(self) -> bool:
        """Whether training changes what encodes class names."""
        return any(weight.requires_grad for weight in self.clip.text_parameters())

    def names_of(self, name: str) -> tuple[str, ...]:
        """The names that the embedding of a class is made of."""
        return split_names(name)

    def window_scores(self, crops: Tensor, text: Tensor) -> Tensor:
        """(B, 3, c, c) RGB in [0, 1], text embeddings -> mask logits (B, K, h, w) float32."""
        cast = torch.autocast(crops.device.type, self.precision, enabled=self.precision != torch.float32)
        with exact_float32(crops.device), cast:
            return self.combine(self.logits(crops, text)).float()

    def set_precision(self, dtype: torch.dtype) -> "TrainableHead":
        """The type that scores are computed in; weights stay in float32."""
        self.precision = dtype
        return self

    def trained(self) -> dict[str, Tensor]:
        """Name -> tensor of everything that a checkpoint holds: all but the frozen weights of the CLIP."""
        state = self.state_dict()
        return {name: value for name, value in state.items() if not name.startswith("clip.") or name in self.tuned}

    def frozen(self) -> tuple[str, ...]:
        """Names of the weights that a checkpoint does not hold."""
        return tuple(self.state_dict().keys() - self.trained().keys())

    @cached_property
    def clip_fingerprint(self) -> str:
        """Of the weights of the CLIP as they were before any training."""
        return clip_fingerprint(self.clip)

    def settings(self) -> dict:
        return {
            "method": self.method,
            "clip": self.clip.name,
            "clip_activation": self.clip.activation,
            "vfm": None,
            **{name: value for name, value in asdict(self.options).items() if name not in ("flip", "scales")},
            "seen": list(self.seen),
            "subtract": dict(self.label_rule.subtract),
            "text_embeddings": self.options.text_embeddings and Path(self.options.text_embeddings).name,
            "templates": len(self.templates),
            "precision": str(self.precision).removeprefix("torch."),
            **cpu_settings(self.device),
            "tf32": False,  # whatever the caller has set: see exact_float32
            **self.added_settings(),
            **({"antialias": True} if self.antialias else {}),
        }
