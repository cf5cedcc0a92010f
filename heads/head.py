"""What all trainable heads share: a CLIP, text embeddings of class names, and the path from windows to scores.

Shapes: B windows, K classes, P prompts per class, E joint embedding width, h × w patches.
"""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from heads.clips import clip_fingerprint
from heads.options import Options
from heads.text_embeddings import read_text_embeddings
from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.layers import Normalise, cpu_settings
from proxyclip.backbones.precision import exact_float32
from proxyclip.labels import LabelRule
from proxyclip.segmentor import Segmentor
from proxyclip.text import encode_names
from proxyclip.vocabulary import Vocabulary, split_names
from proxyclip.windows import SlidingWindows


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
    CHANGEABLE = ("short_side", "crop", "stride", "seen_penalty", "templates", "text_embeddings")
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
