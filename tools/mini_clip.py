"""Trains the tiny CLIP: an open_clip model whose value features are trained as well, since inference uses them.

A contrastive loss on whole captions alone matches images well but gives no usable dense features. Each batch is
therefore also trained on which phrases are true of a crop, twice: from the image embedding, and from the best-matching
value embedding of a patch (value projection, output projection, final norm, projection: the path used at inference).
No masks or pixel labels are used: a phrase is either true of a crop or not.

B crops, T phrases, N patches, D width, E joint embedding.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from datasets import scenes
from proxyclip.backbones.checkpoints import import_library
from tools import mini_data
from tools.mini_data import Scenes, crop_batch

CROP, PATCH = 64, 8
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # every CLIP's
LARGE, SMALL = (40, 128), (26, 49)  # sides of the crops in the scene, in pixels
BATCH = 128
SMALL_SHARE = 0.75  # of the batches: close-up views train patches, wide views train scenes
DENSE_WEIGHT = 2.0


def model_config(vocabulary_size: int, vocabulary_file: str) -> dict:
    text = {"context_length": mini_data.CONTEXT, "vocab_size": vocabulary_size, "width": 128, "heads": 4, "layers": 2}
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": CROP, "layers": 6, "width": 128, "head_width": 32, "patch_size": PATCH},
        "text_cfg": text | {"tokenizer_kwargs": {"bpe_path": vocabulary_file}},
    }


def new_clip(config: dict):
    """An open_clip model with random weights."""
    text = {name: value for name, value in config["text_cfg"].items() if name != "tokenizer_kwargs"}
    return import_library("open_clip").CLIP(config["embed_dim"], config["vision_cfg"], text)


class Lesson(nn.Module):
    """The CLIP and four numbers that turn its cosine similarity into odds; they are discarded after training."""

    def __init__(self, clip):
        super().__init__()
        self.clip = clip
        self.image_scale, self.image_bias = nn.Parameter(torch.tensor(2.5)), nn.Parameter(torch.tensor(-2.0))
        self.patch_scale, self.patch_bias = nn.Parameter(torch.tensor(2.5)), nn.Parameter(torch.tensor(-2.0))
        # Frequency of each class: without these prior odds, common stuff classes would win everywhere.
        self.register_buffer("frequency", torch.full((len(scenes.CLASSES),), 0.12))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1))

    def forward(self, batch):
        images = (batch["images"].to(self.mean.device).float() / 255 - self.mean) / self.deviation  # (B, 3, r, r)
        whole, patches = self.embed_images(images)  # (B, E), (B, N, E)
        phrases = self.embed_texts(batch["phrases"])  # (T, E)
        targets, counted = batch["targets"].to(whole.device), batch["counted"].to(whole.device)  # (B, T)
        odds = self.prior_odds(targets)  # (T)

        logits = self.image_scale.exp() * whole @ phrases.T + self.image_bias + odds  # (B, T)
        image_loss = _sigmoid_loss(logits, targets, counted)
        similarity = patches @ phrases.T  # (B, N, T)
        sharpness = 10.0 if similarity.shape[1] <= 16 else 15.0
        best = torch.logsumexp(similarity * sharpness, 1) - math.log(similarity.shape[1])  # (B, T)
        logits = self.patch_scale.exp() * best / sharpness + self.patch_bias + odds  # (B, T)
        patch_loss = _sigmoid_loss(logits, targets, counted)

        loss, numbers = image_loss + DENSE_WEIGHT * patch_loss, {"image": image_loss.item(), "patch": patch_loss.item()}
        if "captions" in batch:
            logits = (
                self.clip.logit_scale.exp().clamp(max=100) * whole @ self.embed_texts(batch["captions"]).T
            )  # (B, B)
            pairs = torch.arange(len(logits), device=logits.device)
            contrast = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
            loss, numbers["caption"] = loss + contrast, contrast.item()
        return loss, numbers

    def prior_odds(self, targets):
        """The log-odds of each phrase: classes from a running average, phrases with colours from this batch."""
        classes = len(self.frequency)
        if self.training:
            self.frequency.lerp_(targets[:, :classes].mean(0), 0.02)
        frequency = torch.cat([self.frequency, targets[:, classes:].mean(0) * 0.5 + 0.01])
        return torch.logit(frequency.clamp(0.005, 0.9))

    def embed_texts(self, tokens):
        """Text embeddings (T, E) of tokens (T, L); texts need not be padded to the whole context."""
        clip = self.clip
        tokens = tokens.to(clip.positional_embedding.device)
        length = tokens.shape[1]
        x = clip.token_embedding(tokens) + clip.positional_embedding[:length]  # (T, L, D)
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        x = x[torch.arange(len(x)), tokens.argmax(1)] @ clip.text_projection  # (T, E)
        return F.normalize(x.float(), dim=-1)

    def embed_images(self, images):
        """Image embeddings (B, E) and the patches' value-path embeddings (B, N, E), all of unit length."""
        tower = self.clip.visual
        x = tower.conv1(images)  # (B, D, h, w)
        side = x.shape[-1]
        x = x.flatten(2).mT  # (B, N, D)
        where = _positions(tower.positional_embedding[1:], side)  # (N, D)
        x = x + where.to(x.dtype)
        if self.training and side == CROP // PATCH:  # half of the patches of a wide view are enough, and twice as fast
            sample = torch.rand(x.shape[:2], device=x.device).argsort(1)[:, : x.shape[1] // 2]  # (B, N/2)
            x = x.gather(1, sample[..., None].expand(-1, -1, x.shape[-1]))  # (B, N/2, D)
        first = (tower.class_embedding + tower.positional_embedding[0]).to(x.dtype).expand(len(x), 1, -1)
        x = tower.ln_pre(torch.cat([first, x], 1))  # (B, 1 + N, D)
        *blocks, last = tower.transformer.resblocks
        for block in blocks:
            x = block(x)
        attention, normed = last.attn, last.ln_1(x)[:, 1:]  # (B, N, D)
        width = normed.shape[-1]
        values = F.linear(normed, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
        patches = tower.ln_post(attention.out_proj(values)) @ tower.proj  # (B, N, E)
        whole = tower.ln_post(last(x)[:, 0]) @ tower.proj  # (B, E)
        return F.normalize(whole.float(), dim=-1), F.normalize(patches.float(), dim=-1)


def _positions(table, side):
    """Position embeddings (side * side, D) of a random part of the full grid, for a small crop is part of a window."""
    full = math.isqrt(len(table))
    top, left = torch.randint(full - side + 1, (2,)).tolist()
    return table.unflatten(0, (full, full))[top : top + side, left : left + side].flatten(0, 1)


def _sigmoid_loss(logits, targets, counted):
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (each * counted).sum(1).mean() / 3


def make_batch(data: Scenes, tokenizer, seed: int, step: int) -> dict[str, torch.Tensor]:
    """The training batch of one step: crops, phrases and whether they are true, and captions for wide views."""
    rng, dice = np.random.default_rng((seed, 1, step)), scenes.Dice(seed * 10**9 + step)
    small = rng.random() < SMALL_SHARE
    sides, resized, on_things = (SMALL, CROP // 2, 0.85) if small else (LARGE, CROP, 0.5)
    images, parts, shares = crop_batch(data, rng, BATCH, sides, resized, on_things)
    texts, targets, counted = mini_data.phrases(parts, shares, dice)
    batch = {"images": images, "phrases": mini_data.read_tokens(tokenizer, texts)}
    batch |= {"targets": torch.from_numpy(targets), "counted": torch.from_numpy(counted)}
    if not small:
        batch["captions"] = mini_data.read_tokens(tokenizer, mini_data.captions(parts, shares, dice))
    return batch
