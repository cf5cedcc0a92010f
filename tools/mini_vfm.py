"""Trains the tiny vision foundation model without labels: a timm ViT whose features group patches.

First, masked autoencoding: three quarters of the patches are masked and reconstructed. Then, a contrastive loss on
patches: in two overlapping crops of one scene, a patch should resemble nearby patches of the same colour, weighted like
a bilateral filter, and differ from patches of other scenes. Distant patches of the same scene are excluded; used as
negatives, they make the features encode position and texture instead of grouping.

B crops, N patches of a crop, D width, Q query patches.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from proxyclip.backbones.checkpoints import import_library
from tools.mini_data import SIDE, Scenes

CROP, PATCH, WIDTH = 64, 4, 128
ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS = {"img_size": CROP, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 4, "num_heads": 4, "num_classes": 0}
SIDES = (40, 128)  # of the crops that are painted again, in pixels of the scene
PAIR_SIDES = (40, 90)  # of the crops that are compared
BATCH, PAIRS = 128, 32
HIDDEN = 0.75
NEAR = 16.0  # pixels in the scene over which "near" falls off
ALIKE = 0.1  # distance of mean colours, in RGB from 0 to 1, over which "of one colour" falls off
TEMPERATURE = 0.1
QUERIES, NEGATIVES = 96, 768  # query patches per crop, negatives from other scenes


def new_vfm():
    return import_library("timm").create_model(ARCHITECTURE, **MODEL_ARGS)


def normalised(images):
    return images.float() / 127.5 - 1  # the mean and deviation of 0.5 that the configuration file states


def embed(vit, images):
    """Patches with their positions, before the blocks: (B, N, D)."""
    return vit.patch_embed(images) + vit.pos_embed[:, 1:]


def encode(vit, patches):
    """The blocks and the last norm over the class token and some patches: (B, N, D) -> (B, N, D)."""
    first = (vit.cls_token + vit.pos_embed[:, :1]).to(patches.dtype).expand(len(patches), -1, -1)  # (B, 1, D)
    return vit.norm(vit.blocks(torch.cat([first, patches], 1)))[:, 1:]  # (B, N, D)


class Reconstruction(nn.Module):
    """Masked autoencoding: the ViT sees a quarter of the patches, a small decoder paints the others."""

    def __init__(self, vit):
        super().__init__()
        width, count = 96, (CROP // PATCH) ** 2
        block = import_library("timm.models.vision_transformer").Block
        self.vit = vit
        self.narrow = nn.Linear(WIDTH, width)
        self.hidden_embed = nn.Parameter(torch.zeros(1, 1, width))
        self.place_embed = nn.Parameter(torch.randn(1, count, width) * 0.02)
        self.block, self.norm = block(width, 3), nn.LayerNorm(width)
        self.paint = nn.Linear(width, 3 * PATCH * PATCH)

    def forward(self, batch):
        images = normalised(batch.to(self.place_embed.device))  # (B, 3, r, r)
        wanted = F.unfold(images, PATCH, stride=PATCH).mT  # (B, N, 3 * p * p)
        count = wanted.shape[1]
        order = torch.rand(wanted.shape[:2], device=images.device).argsort(1)  # (B, N)
        visible, hidden = order.tensor_split([round(count * (1 - HIDDEN))], 1)
        x = _at(embed(self.vit, images), visible)  # (B, N/4, D)
        x = self.narrow(encode(self.vit, x))  # (B, N/4, d)
        x = _in_place(x, self.hidden_embed.to(x.dtype), order) + self.place_embed  # (B, N, d)
        painted = self.paint(self.norm(self.block(x)))  # (B, N, 3 * p * p)
        loss = (_at(painted.float(), hidden) - _at(wanted, hidden)).square().mean()
        return loss, {"reconstruction": loss.item()}


class Grouping(nn.Module):
    """The contrast of patches between two crops of a scene."""

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, batch):
        device = self.vit.pos_embed.device
        images, places, colours = (part.to(device) for part in batch)  # (2 B, 3, r, r), (2 B, N, 2), (2 B, N, 3)
        features = F.normalize(encode(self.vit, embed(self.vit, normalised(images))).float(), dim=-1)  # (2 B, N, D)
        (queries, keys), (here, there), (mine, theirs) = (x.chunk(2) for x in (features, places, colours))
        chosen = torch.rand(queries.shape[:2], device=device).argsort(1)[:, :QUERIES]  # (B, Q)
        queries, here, mine = _at(queries, chosen), _at(here, chosen), _at(mine, chosen)  # (B, Q, ...)
        distance = torch.cdist(here, there)  # (B, Q, N)
        wanted = distance.square() / NEAR**2 + torch.cdist(mine, theirs).square() / ALIKE**2
        wanted = torch.exp(-wanted / 2)  # (B, Q, N)
        counted = (distance.amin(-1) < PATCH).float()  # (B, Q): is the place in the other crop at all?

        scene, patch = (torch.randint(n, (NEGATIVES,), device=device) for n in keys.shape[:2])  # (O), (O)
        unlike = queries @ keys[scene, patch].T / TEMPERATURE  # (B, Q, O)
        own = scene == torch.arange(len(queries), device=device)[:, None]  # (B, O)
        unlike = unlike.masked_fill(own[:, None], float("-inf")).logsumexp(-1, keepdim=True)  # (B, Q, 1)
        each = F.softplus(unlike - queries @ keys.mT / TEMPERATURE)  # (B, Q, N): each wanted one against the others
        each = (each * wanted).sum(-1) / wanted.sum(-1).clamp(min=1e-6)  # (B, Q)
        loss = (each * counted).sum() / counted.sum().clamp(min=1)
        return loss, {"grouping": loss.item()}


def _at(x, order):
    """The patches of x (B, N, D) in an order (B, M): (B, M, D)."""
    rows = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]  # (B, 1)
    return x.flatten(0, 1).index_select(0, (rows + order).flatten()).unflatten(0, order.shape)  # whole rows: fast


def _in_place(visible, filler, order):
    """All N patches in order: the visible ones (B, M, D), the first M of an order (B, N), and a filler elsewhere."""
    hidden = filler.expand(len(visible), order.shape[1] - visible.shape[1], -1)  # (B, N - M, D)
    return _at(torch.cat([visible, hidden], 1), order.argsort(1))  # (B, N, D)


def pair_batch(data: Scenes, rng, count):
    """Two crops of each of `count` scenes, lit differently; first come all first crops, then all second ones.

    Returns images (2 count, 3, r, r), values 0 to 255; places (2 count, N, 2), the centre (y, x) of each patch in the
    scene in pixels; colours (2 count, N, 3), the mean of each patch before the light was changed, 0 to 1.
    """
    sides = np.exp(rng.uniform(*np.log(PAIR_SIDES), 2)).astype(int)
    numbers, tops, lefts = data.places(rng, count, sides[0], on_things=0.6)
    shift = (sides[0] - sides[1]) / 2 + rng.uniform(-0.3, 0.3, (2, count)) * sides.min()
    second = np.clip(np.stack([tops, lefts]) + shift, 0, SIDE - sides[1]).astype(int)
    images, places, colours = [], [], []
    centres = (np.stack(np.mgrid[: CROP // PATCH, : CROP // PATCH], -1).reshape(-1, 2) + 0.5) * PATCH / CROP  # (N, 2)
    for side, (top, left) in zip(sides, ((tops, lefts), second), strict=True):
        crops = data.cut((numbers, top, left), side, CROP).float()  # (count, 3, r, r)
        colours.append(F.avg_pool2d(crops, PATCH).flatten(2).mT / 255)  # (count, N, 3)
        contrast = rng.uniform(0.85, 1.15, (count, 1, 1, 1)) * rng.uniform(0.93, 1.07, (count, 3, 1, 1))
        brightness = torch.from_numpy(rng.uniform(-15, 15, (count, 1, 1, 1))).float()
        images.append(((crops - 128) * torch.from_numpy(contrast).float() + 128 + brightness).clamp(0, 255))
        places.append(np.stack([top, left], -1)[:, None] + centres * side)  # (count, N, 2)
    return torch.cat(images), torch.from_numpy(np.concatenate(places)).float(), torch.cat(colours)
