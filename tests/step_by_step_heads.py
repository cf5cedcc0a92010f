"""The trainable heads the slow and obvious way: predictions, losses and, through autograd, gradients.

Attention with the matrix of all pairs of tokens, losses on maps of all classes at full resolution, Sinkhorn's algorithm
with a look at the host after each iteration. It reads the weights of a head of `heads/` and nothing else of it, and has
no dropout. The heads are held against it in the tests, and their speed in benchmarks/heads.py.
"""

import math

import torch
import torch.nn.functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def predict(head, images, text):
    """(B, 3, H, W) in [0, 1] and text embeddings -> mask logits (B, K, h, w) by name."""
    return {"ZegCLIP": zegclip, "OTSeg": otseg, "Cascade-CLIP": cascade_clip}[head.method](head, images, text)


def loss(predictions, labels, mask_weight=100.0, dice_weight=1.0):
    """The sum of the losses of all predictions; labels (B, H, W), negative where there is none."""
    return sum(mask_loss(logits, labels, mask_weight, dice_weight) for logits in predictions.values())


def zegclip(head, images, text):
    *_, patches, image = encode(head, images)
    masks = mask_decoder(head, head.decoder, descriptor(head.descriptor, image, text), flat(patches))
    return {"decode": masks.unflatten(2, patches.shape[2:])}


def cascade_clip(head, images, text):
    features = encode(head, images, head.options.levels)
    *levels, last, image = features
    size = head.options.group_size
    memories = []
    for group, weights in enumerate(head.weights):
        own = levels[group * size : (group + 1) * size]
        memories.append(sum(weight * level for weight, level in zip(weights, own, strict=True)))
    total = 0
    for decoder, query, memory in zip(head.decoders, head.descriptors, [*memories, last], strict=True):
        total = total + mask_decoder(head, decoder, descriptor(query, image, text), flat(memory))
    return {"decode": total.unflatten(2, last.shape[2:])}


def otseg(head, images, text):
    *_, patches, image = encode(head, images)
    queries, memory = descriptor(head.descriptor, image, text), flat(patches)  # (B, K, P, E), (B, M, E)
    score, _ = sinkhorn_scores(queries, memory)
    layers, product = head.decoder.attentions, 1
    for attention, update in zip(layers[:-1], head.decoder.updates, strict=True):
        scores, plan = sinkhorn_scores(linear(attention.query, queries), linear(attention.key, memory))
        mixed = torch.einsum("bkmp,bme->bkpe", plan.to(memory.dtype), linear(attention.value, memory))
        queries = network(update, queries, linear(attention.projection, mixed))
        product = product * torch.sigmoid(scores) ** (1 / (len(layers) - 1))
    scores, _ = sinkhorn_scores(linear(layers[-1].query, queries), linear(layers[-1].key, memory))
    grid = patches.shape[2:]
    return {"decode": (scores * product).unflatten(2, grid), "score": score.unflatten(2, grid)}


def encode(head, images, levels=()):
    """Unit vectors: of the patches after each level and at the end, (B, E, h, w) each, and of the images, (B, E)."""
    encoder, visual, found = head.encoder, head.clip.visual, []
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    pixels = visual.conv1((images - mean) / std)  # (B, D, h, w)
    grid = pixels.shape[2:]
    table = visual.positional_embedding[1:].T.reshape(1, -1, *visual.grid_size)
    for side in ((head.options.image_size // visual.patch_size[0],) * 2, tuple(grid)):
        table = F.interpolate(table, side, mode="bilinear")
    table = table.flatten(2).mT  # (1, h * w, D)
    first = visual.class_embedding + visual.class_embedding + visual.positional_embedding[0]
    x = torch.cat([first.expand(len(images), 1, -1), flat(pixels) + table], dim=1)  # (B, 1 + h * w, D)
    x = visual.ln_pre(x)
    depth, count = len(visual.transformer.resblocks), grid[0] * grid[1]
    further = depth - 1 if head.options.prompt_blocks is None else head.options.prompt_blocks
    for index, block in enumerate(visual.transformer.resblocks):
        own = index if further >= 0 else index - depth - further
        if 0 <= own < len(encoder.prompts):
            prompts = linear(encoder.projection, encoder.prompts[own]).expand(len(images), -1, -1)
            x = torch.cat([x[:, :1], prompts, x[:, -count:]], dim=1)
        elif further > 0 and own >= len(encoder.prompts):
            x = torch.cat([x[:, :1], x[:, -count:]], dim=1)
        x = clip_block(block, x)
        if index in levels:
            norm, projection = (getattr(head, name)[len(found)] for name in ("level_norms", "level_projections"))
            found.append(unit(norm(encoder.norm(x)) @ projection)[:, -count:].mT.unflatten(2, grid))
    if further:
        x = encoder.norm(x)
    x = unit(visual.ln_post(x) @ visual.proj)
    return *found, x[:, -count:].mT.unflatten(2, grid), x[:, 0]


def clip_block(block, x):
    attn = block.attn
    mixed = attention(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias, attn.num_heads)
    x = x + attn.out_proj(mixed)
    return x + block.mlp(block.ln_2(x))


def attention(x, weight, bias, heads):
    """(B, T, D) -> (B, T, D): softmax attention with the matrix of all pairs of tokens, for all heads."""
    query, key, value = (
        F.linear(x, weight, bias).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    )  # (B, heads, T, d)
    weights = torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), dim=-1)  # (B, heads, T, T)
    return (weights @ value).transpose(1, 2).flatten(2)


def descriptor(module, image, text):
    """(B, E) and (K, E) or (K, P, E) -> a query for each image and text."""
    return torch.stack([linear(module.projection, torch.cat([one * text, text], dim=-1)) for one in image])


def mask_decoder(head, decoder, queries, memory):
    """(B, K, E), (B, M, E) -> (B, K, M): the mean over heads of the last layer's scores."""
    heads = head.options.decoder_heads
    for attend, update in zip(decoder.attentions, decoder.updates, strict=True):
        scores = head_scores(attend, heads, queries, memory)
        value = linear(attend.value, memory).unflatten(2, (heads, -1)).transpose(1, 2)
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2)
        queries = network(update, queries, linear(attend.projection, mixed))
    return head_scores(decoder.masks, heads, queries, memory).mean(1)


def head_scores(attend, heads, queries, memory):
    """(B, heads, K, M)."""
    query = linear(attend.query, queries).unflatten(2, (heads, -1)).transpose(1, 2)
    key = linear(attend.key, memory).unflatten(2, (heads, -1)).transpose(1, 2)
    return query @ key.mT / math.sqrt(query.shape[-1])


def network(update, queries, mixed):
    x = update.norm_attention(queries + mixed)
    return update.norm_network(x + linear(update.narrow, torch.relu(linear(update.widen, x))))


def sinkhorn_scores(queries, memory):
    """(B, K, P, E), (B, M, E) -> scores (B, K, M) and transport plans (B, K, M, P)."""
    with torch.autocast(memory.device.type, enabled=False):
        similarity = torch.einsum("bkpe,bme->bkmp", unit(queries), unit(memory))  # (B, K, M, P)
        plan = sinkhorn((1 - similarity).flatten(0, 1)).view_as(similarity)
        return plan.shape[2] * plan.shape[3] * (plan * similarity).sum(-1), plan


def sinkhorn(cost, epsilon=0.05, threshold=1e-6, iterations=100):
    """(S, M, N) -> (S, M, N); one stop for all problems together."""
    count, rows, columns = cost.shape
    mu, nu = cost.new_full((count, rows), 1 / rows), cost.new_full((count, columns), 1 / columns)
    u, v = torch.zeros_like(mu), torch.zeros_like(nu)

    def kernel():
        return (u[:, :, None] + v[:, None] - cost) / epsilon

    for _ in range(iterations):
        before = u
        u = u + epsilon * (torch.log(mu + 1e-8) - torch.logsumexp(kernel(), dim=2))
        v = v + epsilon * (torch.log(nu + 1e-8) - torch.logsumexp(kernel(), dim=1))
        if (u - before).abs().mean().item() < threshold:
            break
    return torch.exp(kernel())


def mask_loss(logits, labels, mask_weight, dice_weight):
    """Focal and dice loss of all classes, on maps (B, K, H, W); pixels without a label are negative for every class."""
    classes = logits.shape[1]
    x = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear")  # (B, K, H, W)
    target = torch.stack([(labels == index).float() for index in range(classes)], dim=1)  # (B, K, H, W)
    present = target.flatten(2).amax(2)  # (B, K)
    masks = max(present.sum().item(), 1)
    p = torch.sigmoid(x)
    entropy = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    right = p * target + (1 - p) * (1 - target)
    alpha = 0.25 * target + 0.75 * (1 - target)
    focal = (alpha * entropy * (1 - right) ** 2).flatten(2).mean(2).sum()
    p, target = p.flatten(2), target.flatten(2)  # (B, K, H * W)
    dice = 1 - (2 * (p * target).sum(2) + 1) / (p.sum(2) + target.sum(2) + 1)  # (B, K)
    return (mask_weight * focal + dice_weight * (dice * present).sum()) / masks


def linear(module, x):
    return F.linear(x, module.weight, module.bias)


def unit(x):
    x = x.float()
    return x / x.norm(dim=-1, keepdim=True)


def flat(maps):
    """(B, C, h, w) -> (B, h * w, C)."""
    return maps.flatten(2).mT
