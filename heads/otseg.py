"""OTSeg: several prompts per class, matched with patches by optimal transport.

Kim et al., OTSeg: Multi-prompt Sinkhorn Attention for Zero-Shot Semantic Segmentation, ECCV 2024. The transport plans
are those of Sinkhorn's algorithm in log space (Cuturi, 2013).

Shapes: B images, K classes, P prompts per class, M = h * w patches, E joint embedding width. Of the algorithm: S
problems, M rows (patches), N columns (prompts); G groups of problems that stop together.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heads.mask_decoder import QueryUpdate, RelationshipDescriptor
from heads.prompted_encoder import PromptedHead, PromptedOptions

TEMPLATES = (
    *("a photo of a {}.", "a portrait of a {}.", "a part of a {}.", "a segment of a {}."),
    *("a photo of small {}.", "a photo of medium {}.", "a photo of large {}.", "a background of a {}."),
)
OFFSET = 1e-8  # added to the marginals before their logarithm, as published
CHECK_EVERY = 10  # iterations between two looks at whether all have stopped, on an accelerator
LEAST = 1e-30  # of a kernel; far below what cosine distances reach, whose kernels lie above exp(−40) times a marginal
TERMS = 32  # of the gradient that are summed up at once: each takes the memory of a column of the costs


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
        predictions = {"decode": self.decoder(queries, memory), "score": scores}
        return {name: logits.unflatten(2, patches.shape[-2:]) for name, logits in predictions.items()}

    def combine(self, predictions: dict[str, Tensor]) -> Tensor:
        """The mean of both (§3.4)."""
        return (predictions["decode"] + predictions["score"]) / 2


def transport_plan(
    cost: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    *,
    epsilon: float = 0.05,
    threshold: float = 1e-6,
    iterations: int = 100,
    groups: int = 1,
) -> Tensor:
    """The plan (S, M, N) that transports `rows` to `columns` at the least cost (S, M, N), with regularisation epsilon.

    rows, columns: marginals (S, M) and (S, N); uniform unless given. The problems form `groups` of equal size, one
    after the other; a group stops after the iteration in which the mean change of its row potentials is below
    `threshold`, or after `iterations`. Gradients pass through all iterations.
    """
    cost = cost.to(torch.promote_types(cost.dtype, torch.float32))
    count, length, width = cost.shape
    rows = cost.new_full((count, length), 1 / length) if rows is None else rows
    columns = cost.new_full((count, width), 1 / width) if columns is None else columns
    plan, _ = _Sinkhorn.apply(cost, rows, columns, epsilon, threshold, iterations, groups)
    return plan


def iterations_needed(
    cost: Tensor, rows: Tensor, columns: Tensor, *, epsilon=0.05, threshold=1e-6, iterations=100
) -> int:
    """The number of iterations until all problems together stop."""
    return int(_Sinkhorn.apply(cost, rows, columns, epsilon, threshold, iterations, 1)[1])


class _Sinkhorn(torch.autograd.Function):
    """The first iteration in log space, the others as factors on its result.

    An iteration is u = ε (log rows − logsumexp_n((v − C) / ε)), then v = ε (log columns − logsumexp_m((u − C) / ε)).
    With the kernel K = exp((u + v − C) / ε) of the first iteration, which no cost can overflow, the others are
    a = rows / (K b), then b = columns / (Kᵀ a), where ε log a and ε log b are what potentials have changed by since.

    The backward pass needs only a and b of every iteration. The derivative of each half is a softmax, here a K b
    divided by a marginal, so what an iteration adds to the gradient of C is K times a matrix of rank two.
    """

    @staticmethod
    def forward(ctx, cost, rows, columns, epsilon, threshold, iterations, groups):
        rows, columns = rows + OFFSET, columns + OFFSET
        kernel = -cost / epsilon  # (S, M, N), from here on K in several steps
        u = rows.log() - kernel.logsumexp(2)  # (S, M), in units of ε
        kernel += u[..., None]
        kernel += (columns.log() - kernel.logsumexp(1))[:, None]
        kernel.exp_().clamp_(min=LEAST)
        a, b = torch.ones_like(rows), torch.ones_like(columns)
        history, active = [], still_moving(epsilon * u, groups, threshold)  # (G,)
        needed = torch.ones((), dtype=torch.int64, device=cost.device)  # on an accelerator, fewer than are computed
        patience = 1 if cost.device.type == "cpu" else CHECK_EVERY
        for step in range(1, iterations):
            if step % patience == 0 and not active.any():
                break
            needed += active.any()
            running = active.repeat_interleave(len(cost) // groups)[:, None]  # (S, 1)
            before = a, b
            a = torch.where(running, rows / over_columns(kernel, b), a)  # (S, M)
            b = torch.where(running, columns / over_rows(kernel, a), b)  # (S, N)
            history.append((a, before[1], b, running))
            active = active & still_moving(epsilon * (a / before[0]).log(), groups, threshold)
        plan = a[..., None] * kernel * b[:, None]  # (S, M, N)
        ctx.save_for_backward(cost, kernel, rows, columns, plan)
        ctx.history, ctx.epsilon = history, epsilon
        ctx.mark_non_differentiable(needed)
        return plan, needed

    @staticmethod
    def backward(ctx, grad, _):
        (cost, kernel, rows, columns, plan), epsilon = ctx.saved_tensors, ctx.epsilon
        grad_cost = -grad * plan / epsilon  # (S, M, N)
        grad_u, grad_v = -grad_cost.sum(2), -grad_cost.sum(1)  # (S, M), (S, N)
        left, right = [], []
        for a, b_before, b, running in reversed(ctx.history):
            share = b * torch.where(running, grad_v / columns, 0)  # (S, N)
            left.append(a)
            right.append(share)
            grad_u = grad_u - a * over_columns(kernel, share)  # (S, M)
            share = a * torch.where(running, grad_u / rows, 0)  # (S, M)
            left.append(share)
            right.append(b_before)
            # The old row potential does not enter an iteration, the old column potential does.
            grad_v = torch.where(running, 0, grad_v) - b_before * over_rows(kernel, share)  # (S, N)
            grad_u = torch.where(running, 0, grad_u)  # (S, M)
            if len(left) >= TERMS or a is ctx.history[0][0]:
                terms = torch.stack(left, 2) @ torch.stack(right, 1)  # (S, M, N)
                grad_cost += terms.mul_(kernel)
                left, right = [], []
        share = kernel * (grad_v / columns)[:, None]  # (S, M, N): the first iteration, in log space
        grad_u = grad_u - share.sum(2)  # (S, M)
        share += torch.softmax(-cost / epsilon, dim=2) * grad_u[..., None]
        return grad_cost + share, None, None, None, None, None, None


def still_moving(change: Tensor, groups: int, threshold: float) -> Tensor:
    """(G,): whether the row potentials of a group have changed by as much as the threshold; change: (S, M)."""
    return change.abs().view(groups, -1).mean(1) >= threshold


def over_columns(kernel: Tensor, b: Tensor) -> Tensor:
    """Sums over columns, weighted: (S, M, N), (S, N) -> (S, M)."""
    return (kernel @ b[..., None]).squeeze(2)


def over_rows(kernel: Tensor, a: Tensor) -> Tensor:
    """Sums over rows, weighted: (S, M, N), (S, M) -> (S, N)."""
    return (a[:, None] @ kernel).squeeze(1)
