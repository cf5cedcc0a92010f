"""Training scenes, generated once into arrays on disk, and batches of crops from them.

B crops, S scenes, P maximum number of parts per scene, c side of a crop in the scene, r side after resizing.
"""

import multiprocessing
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap

from datasets import scenes
from tools.mini_loop import progress

SIDE = 128
MOST_PARTS = 8  # four kinds of stuff and four things
FIRST_THING = len(scenes.STUFF)  # classes below are stuff
COLOUR_NAMES = tuple(scenes.COLOURS)
SMALLEST_THING, SMALLEST_STUFF = 0.012, 0.03  # minimum share of a crop for a part to count as visible


def draw_once(folder: Path, count: int, workers: int):
    """Generates the first `count` training scenes in `folder`, unless they exist."""
    final = folder / f"scenes-{count}"
    if final.exists():
        return final
    unfinished = folder / f"scenes-{count}.unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    images = open_memmap(unfinished / "images.npy", "w+", np.uint8, (count, SIDE, SIDE, 3))
    instances = open_memmap(unfinished / "instances.npy", "w+", np.uint8, (count, SIDE, SIDE))
    parts = open_memmap(unfinished / "parts.npy", "w+", np.uint8, (count, MOST_PARTS, 4))
    first = scenes.SPLITS["train"][0]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        generated = pool.imap(_draw, range(first, first + count), chunksize=64)
        for k, result in enumerate(progress(generated, "generating scenes", count, "scene")):
            images[k], instances[k], parts[k] = result
    for array in (images, instances, parts):
        array.flush()
    unfinished.rename(final)
    return final


def _draw(seed):
    scene = scenes.compose(seed, SIDE)
    table = np.full((MOST_PARTS, 4), 255, np.uint8)  # class, colour, centre x, centre y of each part
    for number, (name, colour) in enumerate(scene.parts):
        rows, columns = np.nonzero(scene.instances == number)
        centre = (columns.mean(), rows.mean()) if len(rows) else (SIDE / 2, SIDE / 2)
        table[number] = scenes.CLASSES.index(name), COLOUR_NAMES.index(colour), *centre
    return scene.image, scene.instances, table


class Scenes:
    """The generated scenes: images (S, 128, 128, 3), instances (S, 128, 128), parts (S, P, 4), all uint8."""

    def __init__(self, folder: Path):
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.instances = np.load(folder / "instances.npy", mmap_mode="r")
        self.parts = np.load(folder / "parts.npy")

    def places(self, rng, count, side, on_things):
        """Scene numbers, tops and lefts of random crops, each (count,); a share `on_things` of them shows a thing."""
        numbers = rng.integers(len(self.images), size=count)
        tops = rng.integers(0, SIDE - side + 1, size=count)
        lefts = rng.integers(0, SIDE - side + 1, size=count)
        for k in np.flatnonzero(rng.random(count) < on_things):
            table = self.parts[numbers[k]]
            things = table[(table[:, 0] >= FIRST_THING) & (table[:, 0] < 255)]
            if len(things):
                x, y = things[rng.integers(len(things)), 2:] + rng.uniform(-0.25, 0.25, 2) * side
                tops[k], lefts[k] = np.clip((y - side / 2, x - side / 2), 0, SIDE - side)
        return numbers, tops, lefts

    def cut(self, places, side, resized):
        """The crops at some places: (B, 3, r, r) uint8."""
        crops = np.stack([self.images[n, y : y + side, x : x + side] for n, y, x in zip(*places, strict=True)])
        crops = torch.from_numpy(crops).permute(0, 3, 1, 2)  # (B, 3, c, c)
        if side != resized:
            crops = F.interpolate(crops, (resized, resized), mode="bilinear", antialias=True)  # (B, 3, r, r)
        return crops.contiguous()

    def shares(self, places, side):
        """How much of each crop each part of its scene covers: (B, P), 0 to 1."""
        maps = np.stack([self.instances[n, y : y + side, x : x + side] for n, y, x in zip(*places, strict=True)])
        rows = np.arange(len(maps))[:, None, None] * MOST_PARTS  # (B, 1, 1)
        counts = np.bincount((maps + rows).ravel(), minlength=len(maps) * MOST_PARTS)
        return counts.reshape(len(maps), MOST_PARTS) / (side * side)


def crop_batch(data: Scenes, rng, count, sides, resized, on_things, groups=4):
    """A batch of crops: images (B, 3, r, r) uint8, parts (B, P, 4), shares (B, P).

    The side of the crops is sampled from the range `sides`, log-uniformly, once for each of a few groups.
    Half of the crops are mirrored.
    """
    images, parts, shares = [], [], []
    for _ in range(groups):
        side = int(np.exp(rng.uniform(np.log(sides[0]), np.log(sides[1] + 0.99))))
        places = data.places(rng, count // groups, side, on_things)
        images.append(data.cut(places, side, resized))
        parts.append(data.parts[places[0]])
        shares.append(data.shares(places, side))
    images = torch.cat(images)
    mirrored = torch.from_numpy(rng.random(len(images)) < 0.5)
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images, np.concatenate(parts), np.concatenate(shares)
