"""The whole method the slow and obvious way, one step after another, from the models' weights.

Explicit softmax attention, one window at a time, score maps of all queries at full size. The engine is held against
it in the tests, and its speed is measured against it in benchmarks/speed.py. It covers a CLIP and a DINO.
"""

import math

import torch
import torch.nn.functional as F


def attention(x, weight, bias, heads):
    """(T, D) -> (T, D): softmax attention with the matrix of all pairs of tokens, for all heads."""
    query, key, value = F.linear(x, weight, bias).unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)  # (heads, T, d) each
    weights = torch.softmax(query @ key.mT / math.sqrt(query.shape[-1]), dim=-1)  # (heads, T, T)
    return (weights @ value).transpose(0, 1).flatten(1)  # (T, D)


def resampled(table, grid, side):
    """A position table (side * side, D) for another grid, bicubic, by the scale factors (n + 0.1) / side."""
    table = table.T.reshape(1, -1, side, side)
    scale = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
    return F.interpolate(table, scale_factor=scale, mode="bicubic")[0].flatten(1).T  # (h * w, D)


def normalised(window, mean, std):
    return (window - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def clip_tokens(clip, window):
    """(3, H, W) in [0, 1] -> (1 + h * w, D) before the last block, and the grid (h, w)."""
    visual = clip.visual
    patches = visual.conv1(normalised(window, clip.mean, clip.std)[None])[0]  # (D, h, w)
    grid = tuple(patches.shape[1:])
    table = visual.positional_embedding
    if len(table) != 1 + grid[0] * grid[1]:
        table = torch.cat([table[:1], resampled(table[1:], grid, visual.grid_size[0])])
    x = visual.ln_pre(torch.cat([visual.class_embedding[None], patches.flatten(1).T]) + table)
    for block in visual.transformer.resblocks[:-1]:
        x = clip_block(block, x)
    return x, grid


def clip_block(block, x):
    attn = block.attn
    x = x + attn.out_proj(attention(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias, attn.num_heads))
    return x + block.mlp(block.ln_2(x))


def dino_features(vfm, window):
    """(3, H, W) in [0, 1] -> (C, h, w)."""
    vit = vfm.vit
    patches = vit.patch_embed.proj(normalised(window, vfm.mean, vfm.std)[None])[0]  # (C, h, w)
    grid = tuple(patches.shape[1:])
    table, side = vit.pos_embed[0], vit.patch_embed.grid_size[0]
    if grid != (side, side):
        table = torch.cat([table[:1], resampled(table[1:], grid, side)])
    x = torch.cat([vit.cls_token[0], patches.flatten(1).T]) + table
    for block in vit.blocks:
        attn = block.attn
        x = x + attn.proj(attention(block.norm1(x), attn.qkv.weight, attn.qkv.bias, attn.num_heads))
        x = x + block.mlp(block.norm2(x))
    return vit.norm(x)[1:].T.unflatten(1, grid)


def proxy_mask(features, beta, gamma):
    """(C, h, w) -> (N, N): every row a softmax over the patches that are similar enough."""
    patches = features.flatten(1).T
    patches = patches / patches.norm(dim=1, keepdim=True)
    similarity = patches @ patches.T
    logits = gamma * (similarity - beta * similarity.mean())
    for i in range(len(logits)):
        own = logits[i, i].clone()
        logits[i][logits[i] < 0] = -math.inf
        logits[i, i] = own
    return torch.softmax(logits, dim=-1)


def window_logits(clip, vfm, words, window, attention_kind="proxy", beta=1.2, gamma=3.0):
    """Cosines (Q, h, w) of one window (3, H, W)."""
    x, grid = clip_tokens(clip, window)
    visual = clip.visual
    block = visual.transformer.resblocks[-1]
    width = x.shape[1]
    if attention_kind == "vanilla":
        out = visual.ln_post(clip_block(block, x)[1:]) @ visual.proj
    else:
        value = F.linear(block.ln_1(x)[1:], block.attn.in_proj_weight[-width:], block.attn.in_proj_bias[-width:])
        if attention_kind == "proxy":
            features = dino_features(vfm, window)
            value = F.interpolate(value.T.unflatten(1, grid)[None], features.shape[1:], mode="bilinear")[0]
            value = proxy_mask(features, beta, gamma) @ value.flatten(1).T
            grid = tuple(features.shape[1:])
        out = visual.ln_post(block.attn.out_proj(value)) @ visual.proj
    out = out / out.norm(dim=1, keepdim=True)
    return (words @ out.T).unflatten(1, grid)


def segment(
    clip, vfm, words, class_of_query, picture, crop, stride, size, *,
    attention_kind="proxy", beta=1.2, gamma=3.0, logit_scale=40.0, threshold=0.0, multiple=56,
):  # fmt: skip
    """Labels (H, W) and class probabilities (K, H, W) at `size` of a picture (3, h, w) in [0, 1]."""
    if crop == 0:
        logits = window_logits(clip, vfm, words, picture, attention_kind, beta, gamma)[None]
    else:
        logits = stitched(clip, vfm, words, picture, crop, stride, attention_kind, beta, gamma, multiple)
    logits = F.interpolate(logits, size, mode="bilinear")[0]
    probabilities = torch.softmax(logits * logit_scale, dim=0)  # (Q, H, W)
    classes = torch.stack(
        [
            probabilities[[q for q, k in enumerate(class_of_query) if k == index]].amax(0)
            for index in range(max(class_of_query) + 1)
        ]
    )  # (K, H, W)
    best, labels = classes.max(0)
    labels[best < threshold] = 0
    return labels, classes


def stitched(clip, vfm, words, picture, crop, stride, attention_kind, beta, gamma, multiple):
    """Cosines (1, Q, h, w) of a picture (3, h, w), averaged over its windows."""
    _, height, width = picture.shape
    total = torch.zeros(len(words), height, width)
    count = torch.zeros(height, width)
    mean = torch.tensor(clip.mean).view(3, 1, 1)
    for i in range(max(height - crop + stride - 1, 0) // stride + 1):
        for j in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + crop, height), min(j * stride + crop, width)
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            window = picture[:, top:bottom, left:right]
            h, w = window.shape[1:]
            missing_h, missing_w = -h % multiple, -w % multiple
            above, before = missing_h // 2, missing_w // 2
            padded = mean.expand(3, h + missing_h, w + missing_w).clone()
            padded[:, above : above + h, before : before + w] = window
            logits = window_logits(clip, vfm, words, padded, attention_kind, beta, gamma)
            logits = F.interpolate(logits[None], padded.shape[1:], mode="bilinear")[0]
            total[:, top:bottom, left:right] += logits[:, above : above + h, before : before + w]
            count[top:bottom, left:right] += 1
    return (total / count)[None]
