"""OTSeg: several prompts per class, matched with patches by optimal transport.

Kim et al., OTSeg: Multi-prompt Sinkhorn Attention for Zero-Shot Semantic Segmentation, ECCV 2024.

Shapes: B images, K classes, P prompts per class, M = h * w patches, E joint embedding width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.mask_decoder import QueryUpdate, RelationshipDescriptor
from heads.options import PromptedOptions
from heads.prompted_head import PromptedHead
from heads.sinkhorn import transport_plan

TEMPLATES = (
    *("a photo of a {}.", "a portrait of a {}.", "a part of a {}.", "a segment of a {}."),
    *("a photo of small {}.", "a photo of medium {}.", "a photo of large {}.", "a background of a {}."),
)


@dataclass(frozen=True)
class Options(PromptedOptions):
    """Settings of OTSeg. Its prompts are not averaged: each template is one of a class's prompts."""

    templates: tuple[str, ...] = TEMPLATES


class SinkhornAttention(nn.Module):
    """Attention whose weights are the transport plan between a class's prompts and the patches (§3.3)."""

    def __init__(self, width: int, dropout: float, with_values: bool = True):
        """with_values: False for the last layer, of which only the scores are used."""
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value = nn.Linear(width, width) if with_values else None
        self.projection = nn.Linear(width, width) if with_values else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, K, P, E), (B, M, E) -> scores (B, K, M) and mixed values (B, K, P, E)."""
        scores, plan = sinkhorn_scores(self.query(queries), self.key(memory), per_image=not self.training)
        if self.value is None:
            return scores, None
        # The weights of a prompt sum to 1 / P: the plan is not normalised again.
        weights = self.dropout(plan).permute(0, 1, 3, 2).flatten(1, 2)  # (B, K * P, M)
        mixed = self.projection(weights @ self.value(memory))  # (B, K * P, E)
        return scores, mixed.unflatten(1, queries.shape[1:3])


def sinkhorn_scores(queries: Tensor, memory: Tensor, per_image: bool) -> tuple[Tensor, Tensor]:
    """Multi-prompt Sinkhorn (equation 6): (B, K, P, E), (B, M, E) -> scores (B, K, M) and plans (B, K, M, P).

    per_image: whether the iteration stops for each image alone, so that its result does not depend on the batch, or
    for all at once as in the published training.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, memory = F.normalize(queries.float(), dim=-1), F.normalize(memory.float(), dim=-1)
        similarity = torch.einsum("bkpe,bme->bkmp", queries, memory)  # (B, K, M, P)
        cost = (1 - similarity).flatten(0, 1)  # (B * K, M, P)
        plan = transport_plan(cost, groups=len(queries) if per_image else 1).view_as(similarity)  # (B, K, M, P)
        _, _, patches, prompts = plan.shape
        return patches * prompts * (plan * similarity).sum(-1), plan


class SinkhornDecoder(nn.Module):
    """Decoder layers with Sinkhorn attention; the masks are a product over the layers (§3.3)."""

    def __init__(self, width: int, layers: int, dropout: float):
        super().__init__()
        with_values = [True] * (layers - 1) + [False]
        self.attentions = nn.ModuleList([SinkhornAttention(width, dropout, values) for values in with_values])
        self.updates = nn.ModuleList([QueryUpdate(width, dropout) for _ in range(layers - 1)])
        for other in self.attentions[1:]:  # all layers start from the same weights, as in the published code
            other.load_state_dict(self.attentions[0].state_dict(), strict=False)
        for other in self.updates[1:]:
            other.load_state_dict(self.updates[0].state_dict())

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, K, P, E), (B, M, E) -> mask logits (B, K, M)."""
        product = 1.0
        for attention, update in zip(self.attentions[:-1], self.updates, strict=True):
            scores, mixed = attention(queries, memory)  # (B, K, M), (B, K, P, E)
            product = product * scores.sigmoid() ** (1 / len(self.updates))
            queries = update(queries, mixed)
        return self.attentions[-1](queries, memory)[0] * product


class Head(PromptedHead):
    """Two predictions, each with its own loss: the scores of the prompts themselves, and those of the decoder."""

    method = "OTSeg"
    AVERAGE_PROMPTS = False

    def __init__(self, clip, options: Options, classes, seen, known_words=None):
        super().__init__(clip, options, classes, seen, known_words)
        width = clip.visual.proj.shape[1]
        self.descriptor = RelationshipDescriptor(width)
        self.decoder = SinkhornDecoder(width, options.decoder_layers, options.dropout)

    def logits(self, images: Tensor, text: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) RGB in [0, 1], (K, P, E) -> {"decode": (B, K, h, w), "score": (B, K, h, w)}."""
        encoded = self.encoder(self.clip.visual, images)
        return self.decode(encoded.patches, encoded.image, text)

    def decode(self, patches: Tensor, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Unit vectors (B, E, h, w), (B, E) and (K, P, E) -> both mask logits."""
        queries, memory = self.descriptor(image, text), patches.flatten(2).mT  # (B, K, P, E), (B, M, E)
        scores, _ = sinkhorn_scores(queries, memory, per_image=not self.training)  # (B, K, M)
        found = {"decode": self.decoder(queries, memory), "score": scores}
        return {name: logits.unflatten(2, patches.shape[-2:]) for name, logits in found.items()}

    def combine(self, predictions: dict[str, Tensor]) -> Tensor:
        """The mean of both (§3.4)."""
        return (predictions["decode"] + predictions["score"]) / 2
