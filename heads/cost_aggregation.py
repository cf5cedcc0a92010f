"""From the similarity of patches and class names to mask logits: CAT-Seg's cost aggregation.

Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024, §3.2 and §3.3.

Without gradients, all that treats each class on its own takes a few classes at a time, so intermediate results stay
in a processor's cache, and memory does not grow with the number of classes.

Shapes: B images, K classes, P prompts per class, E joint embedding width, h × w patches, C hidden width.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heads.class_attention import ClassAttention
from heads.parts import in_parts
from heads.spatial_attention import SpatialBlock, window_mask
from heads.upsampling_decoder import UpsamplingBlock

LEFT_OUT = -100.0  # logits of classes that are not aggregated
CPU_TOKENS, ACCELERATOR_TOKENS = 4608, 147_456  # places of classes at a time: 8 and 256 classes of 24 x 24 patches


class Layer(nn.Module):
    """Two spatial blocks, the second with shifted windows, and attention among the classes."""

    def __init__(self, width, guidance, text_guidance, heads, window, grid, pooling, kind, pad):
        super().__init__()
        shift = window // 2 if min(grid) > window else 0
        self.guidance_norm = nn.LayerNorm(guidance)
        self.spatial = nn.ModuleList(SpatialBlock(width, guidance, heads, window, by) for by in (0, shift))
        self.classes = ClassAttention(width, text_guidance, heads, pooling, kind, pad)
        mask = window_mask(grid, window, shift, heads) if shift else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, guidance: Tensor, text: Tensor, tokens: int) -> Tensor:
        """(B, K, h, w, C), image guidance (B, h, w, G), text guidance (B, K, G') -> (B, K, h, w, C). tokens: places of
        classes at a time."""
        batch, classes, height, width, _ = x.shape
        x = self.among_places(x, guidance, max(1, tokens // (batch * height * width)))
        return self.classes(x, text, max(1, tokens // (batch * classes)))

    def among_places(self, x: Tensor, guidance: Tensor, at_a_time: int) -> Tensor:
        """The spatial blocks alone. at_a_time: classes."""
        guidance = self.guidance_norm(guidance)
        shared = [block.share(guidance) for block in self.spatial]
        mask = None if self.mask is None else self.mask.to(x.dtype)

        def spatial(part: Tensor) -> Tensor:
            for block, summand in zip(self.spatial, shared, strict=True):
                part = block(part, summand, mask if block.shift else None)
            return part

        return in_parts(spatial, x, 1, at_a_time)


class CostAggregation(nn.Module):
    """Cosine similarities, aggregated over places and classes, and decoded at four times their resolution.

    features, guidance, levels: channels of the embeddings, of the image guidance, and of the two decoder guidances.
    grid: h, w. pooling: in training and in evaluation. For the others see `heads.cat_seg.Options`.
    """

    def __init__(
        self,
        *,
        features: int,
        guidance: int,
        levels: tuple[int, int],
        grid: tuple[int, int],
        prompts: int,
        hidden: int,
        layers: int,
        attention_heads: int,
        window: int,
        pooling: tuple[int, int],
        attention: Literal["linear", "full"],
        pad_len: int,
        image_guidance: int,
        text_guidance: int,
        decoder: tuple[int, int],
        decoder_guidance: tuple[int, int],
    ):
        super().__init__()
        self.pad_len, self.checkpointing = pad_len, False
        self.embed = nn.Conv2d(prompts, hidden, kernel_size=7, padding=3)
        self.image_guidance = nn.Conv2d(guidance, image_guidance, kernel_size=3, padding=1)
        self.text_guidance = nn.Linear(features, text_guidance)
        self.decoder_guidance = nn.ModuleList(
            nn.Conv2d(level, width, kernel_size=3, padding=1)
            for level, width in zip(levels, decoder_guidance, strict=True)
        )
        shape = hidden, image_guidance, text_guidance, attention_heads, window, grid, pooling, attention, pad_len
        self.layers = nn.ModuleList(Layer(*shape) for _ in range(layers))
        self.upsampling = nn.ModuleList(
            UpsamplingBlock(*sizes) for sizes in zip((hidden, decoder[0]), decoder_guidance, decoder, strict=True)
        )
        self.score = nn.Conv2d(decoder[1], 1, kernel_size=3, padding=1)

    def forward(self, features: Tensor, guidance: Tensor, levels: list[Tensor], text: Tensor) -> Tensor:
        """Embeddings of patches (B, E, h, w), image guidance (B, F, h, w), decoder guidance (B, L, 2 h, 2 w) and
        (B, L', 4 h, 4 w), embeddings of names (K, P, E) -> mask logits (B, K, 4 h, 4 w).

        With more than `pad_len` classes, those with the highest similarity anywhere in an image are aggregated; all
        others get -100 there.
        """
        cost = self.cost(features, text)  # (B, K, P, h, w)
        names = F.relu(self.text_guidance(F.normalize(text.mean(1), dim=-1)))  # (K, G')
        names = names.expand(len(cost), -1, -1)  # (B, K, G')
        if not 0 < self.pad_len < len(text):
            return self.aggregate(cost, guidance, levels, names)
        chosen = cost.amax((2, 3, 4)).topk(self.pad_len, dim=1).indices.sort(dim=1).values  # (B, pad_len)
        rows = torch.arange(len(cost), device=cost.device)[:, None]
        found = self.aggregate(cost[rows, chosen], guidance, levels, names[rows, chosen])
        logits = found.new_full((len(cost), len(text), *found.shape[2:]), LEFT_OUT)  # (B, K, 4 h, 4 w)
        return logits.index_put((rows, chosen), found)

    def cost(self, features: Tensor, text: Tensor) -> Tensor:
        """Cosine similarities (B, K, P, h, w)."""
        features, text = F.normalize(features.float(), dim=1), F.normalize(text.float(), dim=-1)
        found = text.flatten(0, 1) @ features.flatten(2)  # (B, K * P, h * w)
        return found.unflatten(2, features.shape[2:]).unflatten(1, text.shape[:2])

    def aggregate(self, cost: Tensor, guidance: Tensor, levels: list[Tensor], names: Tensor) -> Tensor:
        """Similarities (B, K, P, h, w), text guidance (B, K, G') -> logits (B, K, 4 h, 4 w)."""
        tokens = CPU_TOKENS if cost.device.type == "cpu" else ACCELERATOR_TOKENS
        guidance = F.relu(self.image_guidance(guidance)).permute(0, 2, 3, 1)  # (B, h, w, G)
        x = self.embed(cost.flatten(0, 1)).permute(0, 2, 3, 1).unflatten(0, cost.shape[:2])  # (B, K, h, w, C)
        x = x.contiguous()
        for layer in self.layers:
            x = self.run(layer, x, guidance, names, tokens)
        shared = [
            block.share(F.relu(project(level)))
            for block, project, level in zip(self.upsampling, self.decoder_guidance, levels, strict=True)
        ]

        def decode(part: Tensor) -> Tensor:
            for block, parts in zip(self.upsampling, shared, strict=True):
                part = self.run(block, part, *parts)
            maps = part.flatten(0, 1).permute(0, 3, 1, 2)  # (B * K, O, 4 h, 4 w)
            return self.score(maps)[:, 0].unflatten(0, part.shape[:2])  # (B, K, 4 h, 4 w)

        return in_parts(decode, x, 1, max(1, tokens // cost[:, 0, 0].numel()))

    def run(self, module: nn.Module, *inputs) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)
