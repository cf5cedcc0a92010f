"""ProxyCLIP, top to bottom: from a photograph and some words to a label for every pixel.

ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation (Lan et al., ECCV 2024, arXiv:2408.04883).

Shapes: B windows of c × c pixels, p the CLIP patch, gh × gw the VFM's patch grid, N = gh * gw, D CLIP's width, E its
joint embedding width, Q queries (names), H × W the photograph.
"""

import warnings
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxyclip.backbones.clip import DenseCLIP
from proxyclip.backbones.cpu_kernels import product
from proxyclip.errors import InputError
from proxyclip.image_io import MAX_PIXELS, read_image, resize, scaled_size, to_tensor
from proxyclip.methods.proxyclip import proxy_attention
from proxyclip.segmentation import Segmentation
from proxyclip.sliding import Decision, Windows, decide, mosaics
from proxyclip.text import encode_queries
from proxyclip.vocabulary import Vocabulary

ATTENTIONS = ("proxy", "value", "vanilla")


class ProxyCLIP(nn.Module):
    """A CLIP and a vision foundation model that segment together.

    attention: "proxy"; or for comparison "value", CLIP's last values as they are (MaskCLIP, Zhou et al., ECCV 2022),
    or "vanilla", CLIP's own last block; the last two need no VFM. beta, gamma: threshold and sharpness of the proxy
    attention. short_side: the photograph is resized to it, the long side to at most 2048 (0: never resized).
    logit_scale: what cosines are multiplied with before the softmax. known_words: all names that a CLIP with a small
    vocabulary has learnt; others bring a warning.
    """

    def __init__(
        self,
        clip: DenseCLIP,
        vfm: nn.Module | None,
        templates: tuple[str, ...],
        attention: str = "proxy",
        beta: float = 1.2,
        gamma: float = 3.0,
        short_side: int = 336,
        windows: Windows | None = None,
        logit_scale: float = 40.0,
        known_words: list[str] | None = None,
    ):
        super().__init__()
        windows = windows or Windows()
        check_crop(windows.crop, max(clip.patch_size, vfm.patch_size if vfm is not None else 0))
        self.clip, self.vfm, self.templates = clip, vfm, templates
        self.attention, self.beta, self.gamma = attention, beta, gamma
        self.short_side, self.windows, self.logit_scale = short_side, windows, logit_scale
        self.known_words = known_words

    @torch.inference_mode()
    def window_scores(self, crops: Tensor, words: Tensor) -> Tensor:
        """Cosines of every location with every word: (B, 3, c, c) in [0, 1] and (Q, E) -> (B, Q, h, w) float32."""
        patches = self.patch_embeddings(crops)  # (B, E, h, w)
        unit = F.normalize(patches.float().flatten(2), dim=1)  # (B, E, h * w)
        return (words @ unit).unflatten(2, patches.shape[-2:])  # (B, Q, h, w)

    def patch_embeddings(self, crops: Tensor) -> Tensor:
        """CLIP embeddings of the locations, (B, 3, c, c) -> (B, E, h, w), not normalised."""
        if self.attention == "vanilla":
            return self.clip.vanilla(crops)  # (B, E, c/p, c/p)
        what = self.clip.values(crops)  # (B, D, c/p, c/p)  what is there
        if self.attention == "value":
            return self.clip.project(what.flatten(2).mT).mT.unflatten(2, what.shape[-2:])  # (B, E, c/p, c/p)
        who = self.vfm(crops)  # (B, C, gh, gw)  what belongs together
        attention = proxy_attention(who, self.beta, self.gamma).to(what.dtype)  # (B, N, N)
        what = F.interpolate(what, who.shape[-2:], mode="bilinear")  # (B, D, gh, gw)
        # One attention serves all heads, so the mixing is a single matrix product.
        mixed = product(attention, what.flatten(2))  # (B, N, D)
        return self.clip.project(mixed).mT.unflatten(2, who.shape[-2:])  # (B, E, gh, gw)

    def embed_words(self, vocabulary: Vocabulary) -> Tensor:
        """Unit vectors (Q, E), float32, on the model's device."""
        return encode_queries(self.clip, vocabulary.queries, self.templates).to(self.device)

    def segment(
        self,
        images,
        classes,
        *,
        threshold: float = 0.0,
        batch_windows: int | None = None,
        probabilities=(),
        max_pixels: int = MAX_PIXELS,
    ):
        """Labels every pixel of one image, or of each of a list.

        images: a path, a PIL image, an (H, W, 3) uint8 array, or a list of those. classes: names; one class may have
        several, "car; truck". threshold: where the winning probability lies below it the label is 0. batch_windows:
        how many windows run at a time (default: 16 on an accelerator, 1 on a CPU, where more gain nothing and cost
        memory). probabilities: the classes whose probability maps the result shall hold.
        Returns a Segmentation, or a list of them. Raises InputError or NotFound with one sentence for bad input.
        """
        if isinstance(images, (list, tuple)):
            return list(self.segment_each(images, classes, threshold, batch_windows, probabilities, max_pixels))
        return next(self.segment_each([images], classes, threshold, batch_windows, probabilities, max_pixels))

    @torch.inference_mode()
    def segment_each(
        self, images, classes, threshold=0.0, batch_windows=None, probabilities=(), max_pixels=MAX_PIXELS
    ) -> Iterator[Segmentation]:
        """As `segment`, one result at a time, for more images than fit in memory."""
        vocabulary = Vocabulary.parse(classes)
        kept = [vocabulary.index(name) for name in probabilities]
        batch_windows = check_batch(batch_windows, self.device)
        warn_unknown(vocabulary, self.known_words)
        words = self.embed_words(vocabulary)  # (Q, E)
        decision = Decision(torch.tensor(vocabulary.class_of_query), self.logit_scale, check_threshold(threshold))
        settings = self.settings | {"threshold": threshold}

        photographs = []  # those that are on their way, oldest first

        def pictures() -> Iterator[Tensor]:
            for source in images:
                photographs.append(read_image(source, max_pixels))  # (H, W, 3) uint8
                yield self.prepare(photographs[-1])

        stream = mosaics(
            partial(self.window_scores, words=words), pictures(), self.windows, self.clip.mean, batch_windows
        )
        for mosaic in stream:
            photograph = photographs.pop(0)
            labels, confidence, maps = decide(
                mosaic, self.windows, photograph.shape[:2], decision, kept, **tiles(self.device)
            )
            yield Segmentation(
                labels=labels.to(torch.uint8 if len(vocabulary.classes) <= 256 else torch.int32).cpu().numpy(),
                confidence=confidence.cpu().numpy(),
                classes=list(vocabulary.classes),
                image=photograph,
                settings=settings,
                probabilities={vocabulary.classes[index]: maps[index].cpu().numpy() for index in kept},
            )

    def prepare(self, photograph) -> Tensor:
        """(H, W, 3) uint8 -> the resized picture (3, h, w) in [0, 1] on the model's device."""
        if self.short_side:
            photograph = resize(photograph, scaled_size(*photograph.shape[:2], self.short_side))  # (h, w, 3)
        return to_tensor(photograph).to(self.device)

    def set_precision(self, dtype: torch.dtype) -> "ProxyCLIP":
        """Both image towers in that type; the text tower stays in float32, its embeddings are cached as such."""
        self.clip.visual.to(dtype)
        if self.vfm is not None:
            self.vfm.to(dtype)
        return self

    @property
    def device(self) -> torch.device:
        return self.clip.visual.conv1.weight.device

    @property
    def settings(self) -> dict:
        """All that a result depends on beside the image and the words, ready for JSON."""
        return {
            "clip": self.clip.name,
            "vfm": self.vfm.name if self.attention == "proxy" else None,
            "attention": self.attention,
            "beta": self.beta,
            "gamma": self.gamma,
            "short_side": self.short_side,
            "crop": self.windows.crop,
            "stride": self.windows.stride,
            "multiple": self.windows.multiple,
            "logit_scale": self.logit_scale,
            "precision": str(self.clip.dtype).removeprefix("torch."),
            "templates": len(self.templates),
        }


def tiles(device: torch.device) -> dict:
    """How much of the label map is decided at a time: what fits a processor's cache, or what fills an accelerator."""
    return {} if device.type == "cpu" else {"tile_elements": 100_000_000, "tile_columns": 512}


def warn_unknown(vocabulary: Vocabulary, known: list[str] | None) -> None:
    """Says which names hold words that the model never met."""
    if known is None:
        return
    single = {word for name in known for word in name.lower().split()}
    unknown = [query for query in vocabulary.queries if not {*query.lower().split()} <= single]
    if unknown:
        warnings.warn(
            f"the embedded CLIP never met {', '.join(unknown)}; it knows {', '.join(known)}. "
            'For other words load a real pair, such as "vitb16-dino"',
            stacklevel=3,
        )


def check_crop(crop: int, patch: int) -> None:
    if 0 < crop < patch:
        raise InputError(f"crop {crop} is smaller than one patch of {patch} pixels; choose crop >= {patch}")


def check_batch(batch_windows: int | None, device: torch.device) -> int:
    if batch_windows is None:
        return 1 if device.type == "cpu" else 16
    if batch_windows < 1:
        raise InputError(f"batch_windows is {batch_windows}; at least one window must run at a time")
    return batch_windows


def check_threshold(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold}; it is a probability, so choose one between 0 and 1")
    return threshold
