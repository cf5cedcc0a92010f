"""From the similarity of patches and class names to mask logits: CAT-Seg's cost aggregation and decoder.

Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024, §3.2 and §3.3.

Without gradients, all that treats each class on its own takes a few classes at a time, so intermediate results stay
in a processor's cache, and memory does not grow with the number of classes. The guidance is the same for all classes,
so its share of a projection or convolution is computed once for an image.

Shapes: B images, K classes, P prompts per class, N = B * K, E joint embedding width, h × w patches, C hidden width, G
guidance width, H heads of width d, s side of W windows, S places of the pooled maps, O width after an upsampling.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proxyclip.backbones.layers import linear

LEFT_OUT = -100.0  # logits of classes that are not aggregated
CPU_TOKENS, ACCELERATOR_TOKENS = 4608, 147_456  # places of classes at a time: 8 and 256 classes of 24 x 24 patches
EPSILON = 1e-6  # of linear attention


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
        sizes = {"width": hidden, "guidance": image_guidance, "text_guidance": text_guidance, "grid": grid}
        sizes |= {"heads": attention_heads, "window": window, "pooling": pooling, "kind": attention, "pad": pad_len}
        self.layers = nn.ModuleList(Layer(**sizes) for _ in range(layers))
        self.upsampling = nn.ModuleList(
            UpsamplingBlock(channels, guidance=guidance, out=out)
            for channels, guidance, out in zip((hidden, decoder[0]), decoder_guidance, decoder, strict=True)
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
        aggregated = self.aggregate(cost[rows, chosen], guidance, levels, names[rows, chosen])
        logits = aggregated.new_full((len(cost), len(text), *aggregated.shape[2:]), LEFT_OUT)  # (B, K, 4 h, 4 w)
        return logits.index_put((rows, chosen), aggregated)

    def cost(self, features: Tensor, text: Tensor) -> Tensor:
        """Cosine similarities (B, K, P, h, w)."""
        features, text = F.normalize(features.float(), dim=1), F.normalize(text.float(), dim=-1)
        cosines = text.flatten(0, 1) @ features.flatten(2)  # (B, K * P, h * w)
        return cosines.unflatten(2, features.shape[2:]).unflatten(1, text.shape[:2])

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


class SpatialBlock(nn.Module):
    """One pre-norm block of attention within (shifted) windows of each class's map, with a feed-forward network.

    Windows of Liu et al., Swin Transformer, 2021, §3.2, without a relative position bias; queries and keys are
    projections of the concatenation of a class's tokens and the image guidance.
    """

    def __init__(self, width: int, guidance: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width + guidance, width)
        self.key = nn.Linear(width + guidance, width)
        self.value = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)
        self.norm_network = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def share(self, guidance: Tensor) -> Tensor:
        """What all classes share: (B, h, w, G) -> (B, h * w, 3 C), summands of queries, keys and values."""
        width = self.value.weight.shape[0]
        weight = torch.cat([self.query.weight[:, width:], self.key.weight[:, width:]])  # (2 C, G)
        bias = torch.cat([self.query.bias, self.key.bias])
        shared = linear(self.rolled(guidance, -1).flatten(1, 2), weight, bias)  # (B, h * w, 2 C)
        return torch.cat([shared, self.value.bias.to(shared.dtype).expand(*shared.shape[:2], -1)], dim=2)

    def forward(self, x: Tensor, shared: Tensor, mask: Tensor | None) -> Tensor:
        """(B, K, h, w, C) -> the same shape. shared: from `share`. mask: from `window_mask`, if windows are shifted."""
        grid, width = x.shape[2:4], x.shape[4]
        weight = torch.cat([self.query.weight[:, :width], self.key.weight[:, :width], self.value.weight])  # (3 C, C)
        normed = self.rolled(self.norm_attention(x).flatten(0, 1), -1)  # (N, h, w, C)
        projected = linear(normed.flatten(1, 2), weight).unflatten(0, x.shape[:2])  # (B, K, h * w, 3 C)
        projected = projected.add_(shared[:, None]).flatten(0, 1).unflatten(1, grid)  # (N, h, w, 3 C)
        mixed = self.rolled(self.attend(projected, mask), 1).flatten(1, 2)  # (N, h * w, C)
        x = x.flatten(0, 1).flatten(1, 2)  # (N, h * w, C)
        x = x + linear(mixed, self.projection.weight, self.projection.bias)
        hidden = F.gelu(linear(self.norm_network(x), self.widen.weight, self.widen.bias))  # (N, h * w, 4 C)
        x = x + linear(hidden, self.narrow.weight, self.narrow.bias)
        return x.unflatten(1, grid).unflatten(0, (len(shared), -1))  # (B, K, h, w, C)

    def attend(self, projected: Tensor, mask: Tensor | None) -> Tensor:
        """Queries, keys and values (N, h, w, 3 C) -> (N, h, w, C), each window on its own."""
        count, height, width, _ = projected.shape
        rows, columns = height // self.window, width // self.window
        parts = projected.view(count, rows, self.window, columns, self.window, 3, self.heads, -1)
        parts = parts.permute(5, 0, 1, 3, 6, 2, 4, 7)  # (3, N, rows, columns, heads, s, s, d)
        query, key, value = parts.reshape(3, count, rows * columns * self.heads, self.window**2, -1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (N, W * heads, s * s, d)
        mixed = mixed.view(count, rows, columns, self.heads, self.window, self.window, -1)
        return mixed.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, height, width, -1)  # (N, h, w, C)

    def rolled(self, x: Tensor, direction: int) -> Tensor:
        """(N, h, w, C), shifted by half a window."""
        return x.roll((direction * self.shift,) * 2, dims=(1, 2)) if self.shift else x


def window_mask(grid: tuple[int, int], window: int, shift: int, heads: int) -> Tensor:
    """What is added to the scores of shifted windows: (1, W * heads, s * s, s * s), -100 between patches that are no
    neighbours in the image."""
    height, width = grid
    regions = [torch.zeros(length, dtype=torch.long) for length in grid]
    for region, length in zip(regions, grid, strict=True):
        region[length - window : length - shift], region[length - shift :] = 1, 2
    region = 3 * regions[0][:, None] + regions[1]  # (h, w)
    region = region.view(height // window, window, width // window, window).transpose(1, 2).reshape(-1, window**2)
    mask = torch.where(region[:, :, None] == region[:, None], 0.0, -100.0)  # (W, s * s, s * s)
    return mask.repeat_interleave(heads, dim=0)[None]


class ClassAttention(nn.Module):
    """One pre-norm block of attention among the classes at each place, guided by the text, with a feed-forward network.

    Linear attention: Katharopoulos et al., Transformers are RNNs, 2020, §3.2. The published code pads the classes with
    a learned token to `pad_len` and lets it take part in the attention. All padding is alike, so it enters here as one
    token that counts several times.
    """

    def __init__(
        self,
        width: int,
        guidance: int,
        heads: int,
        pooling: tuple[int, int],
        kind: Literal["linear", "full"],
        pad: int,
    ):
        """pooling: sides of the places in patches, in training and in evaluation. pad: number of classes below which
        padding takes part, `pad_len`."""
        super().__init__()
        self.heads, self.pooling, self.kind, self.pad = heads, pooling, kind, pad
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width + guidance, width)
        self.key = nn.Linear(width + guidance, width)
        self.value = nn.Linear(width, width)
        self.norm_network = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        if pad:
            self.padding = nn.Parameter(torch.zeros(1, 1, width))
            self.padding_guidance = nn.Parameter(torch.zeros(1, 1, guidance))

    def forward(self, x: Tensor, guidance: Tensor, at_a_time: int) -> Tensor:
        """(B, K, h, w, C), text guidance (B, K, G) -> (B, K, h, w, C). at_a_time: places."""
        batch, classes, height, width, _ = x.shape
        pooled, side = x, self.pooling[0 if self.training else 1]
        if side > 1:
            maps = F.avg_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), side)  # (B * K, C, h', w')
            pooled = maps.permute(0, 2, 3, 1).unflatten(0, (batch, classes))  # (B, K, h', w', C)
        places = pooled.shape[2:4]
        attend = partial(self.at_places, guidance=guidance)
        tokens = in_parts(attend, pooled.flatten(2, 3), 2, at_a_time)  # (B, K, h' * w', C)
        if side == 1:
            return x + tokens.view_as(x)
        maps = tokens.unflatten(2, places).flatten(0, 1).permute(0, 3, 1, 2)  # (B * K, C, h', w')
        maps = F.interpolate(maps, (height, width), mode="bilinear", align_corners=True)  # (B * K, C, h, w)
        return x + maps.permute(0, 2, 3, 1).reshape(x.shape)

    def at_places(self, tokens: Tensor, guidance: Tensor) -> Tensor:
        """(B, K, S, C), (B, K, G) -> (B, K, S, C): the block at S places, each on its own."""
        tokens = tokens + self.attention(self.norm_attention(tokens), guidance)
        hidden = linear(self.norm_network(tokens).flatten(1, 2), self.widen.weight, self.widen.bias).relu_()
        return tokens + linear(hidden, self.narrow.weight, self.narrow.bias).view_as(tokens)

    def attention(self, tokens: Tensor, guidance: Tensor) -> Tensor:
        """(B, K, S, C), (B, K, G) -> (B, K, S, C), at each of the S places among the classes."""
        width = tokens.shape[3]
        weight = torch.cat([self.query.weight[:, :width], self.key.weight[:, :width], self.value.weight])  # (3 C, C)
        of_text = torch.cat([self.query.weight[:, width:], self.key.weight[:, width:]])  # (2 C, G)
        bias = torch.cat([self.query.bias, self.key.bias])
        shared = F.linear(guidance, of_text, bias)  # (B, K, 2 C): the same at all places
        shared = torch.cat([shared, self.value.bias.to(shared.dtype).expand(*shared.shape[:2], -1)], dim=2)
        projected = linear(tokens.flatten(1, 2), weight).view(*tokens.shape[:3], -1).add_(shared[:, :, None])
        parts = projected.unflatten(3, (3, self.heads, -1)).permute(3, 0, 2, 4, 1, 5)  # (3, B, S, H, K, d)
        key, value, count = self.padded(tokens.shape[1])
        mixed = (linear_attention if self.kind == "linear" else full_attention)(*parts, key, value, count)
        return mixed.permute(0, 3, 1, 2, 4).flatten(3)  # (B, K, S, C)

    def padded(self, classes: int) -> tuple[Tensor | None, Tensor | None, int]:
        """Key and value (H, 1, d) of the padding, and how often it counts."""
        if not self.pad:
            return None, None, 0
        normed = self.norm_attention(self.padding)  # (1, 1, C)
        key = self.key(torch.cat([normed, self.padding_guidance], dim=2))
        parts = (part.view(self.heads, 1, -1) for part in (key, self.value(normed)))
        return *parts, max(0, self.pad - classes)


def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, pad_key: Tensor | None, pad_value: Tensor | None, count: int
) -> Tensor:
    """(..., H, K, d) each, and of the padding (H, 1, d) -> (..., H, K, d)."""
    query, key = F.elu(query) + 1, F.elu(key) + 1
    products, total = key.mT @ value, key.sum(-2, keepdim=True)  # (..., H, d, d), (..., H, 1, d)
    if pad_key is not None:
        pad_key = (F.elu(pad_key) + 1) * count
        products, total = products + pad_key.mT @ pad_value, total + pad_key
    return (query @ products) / (query @ total.mT + EPSILON)


def full_attention(
    query: Tensor, key: Tensor, value: Tensor, pad_key: Tensor | None, pad_value: Tensor | None, count: int
) -> Tensor:
    """Softmax attention; the arguments are those of `linear_attention`."""
    mask = None
    if pad_key is not None:
        shape = (*key.shape[:-2], 1, key.shape[-1])
        key, value = (torch.cat([own, pad.to(own.dtype).expand(shape)], dim=-2)
                      for own, pad in ((key, pad_key), (value, pad_value)))  # fmt: skip
        mask = torch.zeros(key.shape[-2], dtype=query.dtype, device=query.device)  # (K + 1,)
        mask[-1] = math.log(count) if count else -math.inf
        mask = mask.expand(query.shape[-2], -1)  # (K, K + 1)
    start = query.shape[:-3]
    parts = (part.flatten(0, -4) for part in (query, key, value))  # (M, H, K or K + 1, d)
    return F.scaled_dot_product_attention(*parts, attn_mask=mask).unflatten(0, start)


# Row a, b of the result lies s - 1 + a, ... rows away: SHIFTS[a, s, y, p] is 1 where row y of a 3 x 3 kernel, for pixel
# a of a patch, meets pixel p of the patch s - 1 + a rows further down.
SHIFTS = torch.zeros(2, 2, 3, 2)
for _pixel in range(2):
    for _row in range(3):
        _place = _pixel + _row - 1
        SHIFTS[_pixel, _place // 2 + 1 - _pixel, _row, _place % 2] = 1


class UpsamplingBlock(nn.Module):
    """Each class's map, twice as large: (B, K, h, w, C) -> (B, K, 2 h, 2 w, O).

    A transposed convolution, concatenation with the guidance, and two convolutions. The transposed convolution and the
    first convolution are linear with nothing in between, so they are one convolution of the small map with 2 × 2
    kernels, one for each of the four pixels that a patch becomes.
    """

    def __init__(self, channels: int, guidance: int, out: int):
        super().__init__()
        self.lift = nn.ConvTranspose2d(channels, channels - guidance, kernel_size=2, stride=2)
        self.first = nn.Conv2d(channels, out, kernel_size=3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(out // 16, out)
        self.second = nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(out // 16, out)
        self.register_buffer("shifts", SHIFTS.clone(), persistent=False)

    def share(self, guidance: Tensor) -> tuple[Tensor, Tensor]:
        """What all classes share, from the guidance (B, G, 2 h, 2 w): kernels (4 O, C, 2, 2), and the summand
        (B, h, 2, w, 2, O) of guidance and bias."""
        middle = self.lift.bias.shape[0]
        bias = self.lift.bias.to(guidance.dtype)[None, :, None, None].expand(len(guidance), -1, *guidance.shape[-2:])
        summand = self.first(torch.cat([bias, guidance], dim=1)).permute(0, 2, 3, 1)  # (B, 2 h, 2 w, O)
        weight = torch.einsum("omyx,asyp,btxq->asbtompq", self.first.weight[:, :middle], self.shifts, self.shifts)
        kernels = torch.einsum("asbtompq,cmpq->abocst", weight, self.lift.weight)  # (2, 2, O, C, 2, 2)
        return kernels.flatten(0, 2), summand.unflatten(1, (-1, 2)).unflatten(3, (-1, 2))

    def forward(self, x: Tensor, kernels: Tensor, summand: Tensor) -> Tensor:
        batch, classes, height, width, _ = x.shape
        maps = x.flatten(0, 1).permute(0, 3, 1, 2)  # (N, C, h, w)
        x = F.conv2d(maps, kernels, padding=1).permute(0, 2, 3, 1)  # (N, h + 1, w + 1, 4 O)
        x = x.unflatten(3, (2, 2, -1))  # (N, h + 1, w + 1, 2, 2, O)
        rows = [
            torch.stack([x[:, a : a + height, b : b + width, a, b] for b in range(2)], dim=3) for a in range(2)
        ]  # (N, h, w, 2, O) each
        x = torch.stack(rows, dim=2).unflatten(0, (batch, classes)) + summand[:, None]  # (B, K, h, 2, w, 2, O)
        x = x.flatten(0, 1).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)  # (N, O, 2 h, 2 w)
        x = self.first_norm(x).relu_()
        x = self.second_norm(self.second(x)).relu_()
        return x.permute(0, 2, 3, 1).unflatten(0, (batch, classes))  # (B, K, 2 h, 2 w, O)


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor, dim: int, at_a_time: int) -> Tensor:
    """The function of x, without gradients for `at_a_time` entries of a dimension at a time.

    The function must treat them independently, and keep the dimension.
    """
    if torch.is_grad_enabled() or x.shape[dim] <= at_a_time:
        return function(x)
    return torch.cat([function(part) for part in x.split(at_a_time, dim=dim)], dim=dim)
