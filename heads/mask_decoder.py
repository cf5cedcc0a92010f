"""The decoder of ZegCLIP: class queries attend to patches, and the attention scores of the last layer are the masks.

Zhang et al., SegViT, 2022, §3.1 (attention to mask); Zhou et al., ZegCLIP, 2023, §3.4 (relationship descriptor).

Shapes: B images, K classes, M patches, E width, d width of a head.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from proxyclip.errors import InputError


class RelationshipDescriptor(nn.Module):
    """Class queries of an image: a projection of [image ⊙ text, text] (ZegCLIP, equation 5)."""

    def __init__(self, width: int):
        super().__init__()
        self.projection = nn.Linear(2 * width, width)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """(B, E) and (K, E) or (K, P, E) -> (B, K, E) or (B, K, P, E)."""
        image = image.reshape(len(image), *[1] * (text.dim() - 1), -1)  # (B, 1, [1,] E)
        product = image * text  # (B, K, [P,] E)
        return self.projection(torch.cat([product, text.expand_as(product)], dim=-1))


class CrossAttention(nn.Module):
    """Attention of queries to patches; without a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        if width % heads:
            raise InputError(f"decoder_heads {heads} does not divide the width {width} of this CLIP's embeddings")
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.projection = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, K, E), (B, M, E) -> (B, K, E)."""
        parts = (self.query(queries), self.key(memory), self.value(memory))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, heads, ., d)
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        return self.projection(mixed.transpose(1, 2).flatten(2))  # (B, K, E)


class MaskAttention(nn.Module):
    """Scores of queries and patches: the mean over heads of an attention before its softmax.

    The mean over heads of the heads' scaled products is the product over the whole width, divided by the number of
    heads and scaled as in a head.
    """

    def __init__(self, attention: CrossAttention):
        """attention: where the weights start from."""
        super().__init__()
        self.query, self.key = copy.deepcopy(attention.query), copy.deepcopy(attention.key)
        width = attention.query.out_features
        self.scale = (width // attention.heads) ** -0.5 / attention.heads

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, K, E), (B, M, E) -> (B, K, M)."""
        return self.query(queries) @ self.key(memory).mT * self.scale


class QueryUpdate(nn.Module):
    """What follows an attention in every decoder layer: residual, norm, feed-forward network, norm."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm_attention, self.norm_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, mixed: Tensor) -> Tensor:
        """Queries and what the attention returned for them, both (..., E) -> (..., E)."""
        queries = self.norm_attention(queries + self.dropout(mixed))
        hidden = self.dropout(F.relu(self.widen(queries)))  # (..., 4 E)
        return self.norm_network(queries + self.dropout(self.narrow(hidden)))


class MaskDecoder(nn.Module):
    """Layers of cross attention from classes to patches, without self-attention; the last one gives the masks.

    The published decoders have more weights: self-attention in all layers, and everything behind the scores of the
    last one. Neither takes part in any result, and they are not built here.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        attention, update = CrossAttention(width, heads, dropout), QueryUpdate(width, dropout)
        # All layers start from the same weights, as in the published code.
        self.attentions = nn.ModuleList([copy.deepcopy(attention) for _ in range(layers - 1)])
        self.updates = nn.ModuleList([copy.deepcopy(update) for _ in range(layers - 1)])
        self.masks = MaskAttention(attention)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, K, E), (B, M, E) -> mask logits (B, K, M)."""
        for attention, update in zip(self.attentions, self.updates, strict=True):
            queries = update(queries, attention(queries, memory))  # (B, K, E)
        return self.masks(queries, memory)
