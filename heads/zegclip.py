"""ZegCLIP: prompts in a frozen CLIP, class queries that know the image, and a mask decoder.

Zhou et al., ZegCLIP: Towards Adapting CLIP for Zero-shot Semantic Segmentation, CVPR 2023.

Shapes: B images, K classes, E joint embedding width, h × w patches.
"""

from dataclasses import dataclass

from torch import Tensor

from heads.mask_decoder import MaskDecoder, RelationshipDescriptor
from heads.prompted_encoder import PromptedHead, PromptedOptions


@dataclass(frozen=True)
class Options(PromptedOptions):
    """Settings of ZegCLIP; see `heads.prompted_encoder.PromptedOptions`."""


class Head(PromptedHead):
    """CLIP's last-layer patches, decoded by queries made of image and text embeddings."""

    method = "ZegCLIP"

    def __init__(self, clip, options: Options, classes, seen, known_words=None):
        super().__init__(clip, options, classes, seen, known_words)
        width = clip.visual.proj.shape[1]
        self.descriptor = RelationshipDescriptor(width)
        self.decoder = MaskDecoder(width, options.decoder_layers, options.decoder_heads, options.dropout)

    def logits(self, images: Tensor, text: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in [0, 1], (K, E) -> {"decode": (B, K, h, w)}."""
        encoded = self.encoder(self.clip.visual, images)
        return {"decode": self.decode(encoded.patches, encoded.image, text)}

    def decode(self, patches: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """Unit vectors (B, E, h, w), (B, E) and (K, E) -> mask logits (B, K, h, w)."""
        queries = self.descriptor(image, text)  # (B, K, E)
        return self.decoder(queries, patches.flatten(2).mT).unflatten(2, patches.shape[-2:])  # (B, K, h, w)
