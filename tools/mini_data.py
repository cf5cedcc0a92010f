"""Training scenes, generated once into arrays on disk, and batches of crops from them.

B crops, S scenes, P maximum number of parts per scene, c side of a crop in the scene, r side after resizing.
"""

import gzip
import itertools
import multiprocessing
import re
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from tqdm import tqdm

from datasets import scenes
from datasets.scenes.textures import COLOUR_SYNONYMS
from datasets.scenes.words import OPENINGS, phrase
from proxyclip.backbones.checkpoints import import_library

SIDE = 128
MOST_PARTS = 8  # four kinds of stuff and four things
FIRST_THING = len(scenes.STUFF)  # classes below are stuff
COLOUR_NAMES = tuple(scenes.COLOURS)
SHAPES = {"images": (SIDE, SIDE, 3), "instances": (SIDE, SIDE), "parts": (MOST_PARTS, 4)}  # of a scene, uint8


def progress(iterable, title: str, total: int, unit: str, first: int = 0) -> tqdm:
    """A progress bar; in a log file, a line every half minute."""
    return tqdm(iterable, title, total, unit=unit, initial=first, mininterval=0.3 if sys.stderr.isatty() else 30)


def generate_once(folder: Path, count: int, workers: int) -> Path:
    """Generates the first `count` training scenes in `folder`, unless they exist."""
    final = folder / f"scenes-{count}"
    if final.exists():
        return final
    unfinished = folder / f"scenes-{count}.unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    arrays = [
        open_memmap(unfinished / f"{name}.npy", "w+", np.uint8, (count, *shape)) for name, shape in SHAPES.items()
    ]
    first = scenes.SPLITS["train"][0]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        generated = pool.imap(_generate, range(first, first + count), chunksize=64)
        for k, parts in enumerate(progress(generated, "generating scenes", count, "scene")):
            for array, part in zip(arrays, parts, strict=True):
                array[k] = part
    for array in arrays:
        array.flush()
    unfinished.rename(final)
    return final


def _generate(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scene = scenes.compose(seed, SIDE)
    parts = np.full((MOST_PARTS, 4), 255, np.uint8)  # class, colour, centre x, centre y of each part
    for number, (name, colour) in enumerate(scene.parts):
        rows, columns = np.nonzero(scene.instances == number)
        centre = (columns.mean(), rows.mean()) if len(rows) else (SIDE / 2, SIDE / 2)
        parts[number] = scenes.CLASSES.index(name), COLOUR_NAMES.index(colour), *centre
    return scene.image, scene.instances, parts


class Scenes:
    """The generated scenes: images (S, 128, 128, 3), instances (S, 128, 128), parts (S, P, 4), all uint8.

    The place of a crop is the number of its scene, its top and its left; the places of a batch are three arrays (B,).
    """

    def __init__(self, folder: Path):
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.instances = np.load(folder / "instances.npy", mmap_mode="r")
        self.parts = np.load(folder / "parts.npy")

    def places(self, rng, count: int, side: int, on_things: float):
        """Of random crops; a share `on_things` of them shows a thing."""
        numbers = rng.integers(len(self.images), size=count)
        tops, lefts = (rng.integers(0, SIDE - side + 1, size=count) for _ in range(2))
        for k in np.flatnonzero(rng.random(count) < on_things):
            parts = self.parts[numbers[k]]
            things = parts[(parts[:, 0] >= FIRST_THING) & (parts[:, 0] < 255)]
            if len(things):
                x, y = things[rng.integers(len(things)), 2:] + rng.uniform(-0.25, 0.25, 2) * side
                tops[k], lefts[k] = np.clip((y - side / 2, x - side / 2), 0, SIDE - side)
        return numbers, tops, lefts

    def cut(self, places, side: int, resized: int) -> torch.Tensor:
        """The crops: (B, 3, r, r) uint8."""
        crops = np.stack([self.images[n, y : y + side, x : x + side] for n, y, x in zip(*places, strict=True)])
        crops = torch.from_numpy(crops).permute(0, 3, 1, 2)  # (B, 3, c, c)
        if side != resized:
            crops = F.interpolate(crops, (resized, resized), mode="bilinear", antialias=True)  # (B, 3, r, r)
        return crops.contiguous()

    def shares(self, places, side: int) -> np.ndarray:
        """How much of each crop each part of its scene covers: (B, P), 0 to 1."""
        maps = np.stack([self.instances[n, y : y + side, x : x + side] for n, y, x in zip(*places, strict=True)])
        rows = np.arange(len(maps))[:, None, None] * MOST_PARTS  # (B, 1, 1)
        counts = np.bincount((maps + rows).ravel(), minlength=len(maps) * MOST_PARTS)
        return counts.reshape(len(maps), MOST_PARTS) / (side * side)


def crop_batch(data: Scenes, rng, count: int, sides: tuple[int, int], resized: int, on_things: float, groups: int = 4):
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


FIRST_MERGES, CONTEXT = 1500, 32
SMALLEST_THING, SMALLEST_STUFF = 0.012, 0.03  # minimum share of a crop for a part to count as visible
TEMPLATES = (
    "a photo of a {}.",
    "a picture of the {}.",
    "an image of a {}.",
    "{}",
    "a drawing of a {}.",
    "there is a {} in the scene.",
    "a photo of the {}.",
)
JOINING_WORDS = ("a", "an", "and", "the", "on", "in", "front", "of", "with", "under", "near", "photo", "scene")
MOST_COLOUR_PHRASES = 32


def colour_names() -> list[str]:
    """Every word for a colour."""
    return [name for colour in COLOUR_NAMES for name in COLOUR_SYNONYMS.get(colour, (colour,))]


def known_words() -> list[str]:
    """Every word that the captions, the class names and the usual prompt templates are made of, sorted."""
    texts = [*OPENINGS, *TEMPLATES, *JOINING_WORDS, *colour_names()]
    texts += [name for names in scenes.SYNONYMS.values() for name in names]
    texts += [template("") for template in import_library("open_clip").OPENAI_IMAGENET_TEMPLATES]
    return sorted({word for text in texts for word in re.findall("[a-z]+", text.lower())})


def write_vocabulary(path: Path) -> None:
    """Writes the reduced merges as open_clip reads them; the same bytes every time."""
    tokenizer = import_library("open_clip.tokenizer").SimpleTokenizer()
    needed = {pair for word in known_words() for pair in _merges_of(word, tokenizer.bpe_ranks)}
    ranked = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    merges = [" ".join(pair) for rank, pair in enumerate(ranked) if rank < FIRST_MERGES or pair in needed]
    text = "\n".join(["#version: 0.2, cut down", *merges])  # no newline at the end: it would count as one more merge
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _merges_of(word: str, ranks: dict):
    """The pairs that byte-pair encoding merges on its way to the tokens of a word."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        best = min(itertools.pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            return
        yield best
        merged = []
        for piece in pieces:
            if merged and (merged[-1], piece) == best:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged


def read_tokens(tokenizer, texts: list[str]) -> torch.Tensor:
    """Token numbers (T, L); L is the length of the longest text, at most CONTEXT."""
    tokens = tokenizer(texts, context_length=CONTEXT)
    return tokens[:, : (tokens != 0).sum(1).max()]


def captions(parts: np.ndarray, shares: np.ndarray, dice: scenes.Dice) -> list[str]:
    """A sentence for each crop from the parts visible in it; parts (B, P, 4), shares (B, P)."""
    visible = shares > _smallest(parts)  # (B, P)
    sentences = []
    for row, share, shown in zip(parts, shares, visible, strict=True):
        order = [k for k in np.argsort(-share, kind="stable") if shown[k]][:6]
        sentences.append(scenes.caption([(scenes.CLASSES[row[k, 0]], COLOUR_NAMES[row[k, 1]]) for k in order], dice))
    return sentences


def phrases(parts: np.ndarray, shares: np.ndarray, dice: scenes.Dice) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Phrases for the crops of a batch, and which crops they are true of.

    Returns the texts (T): one per class, then up to 32 of a colour and a class; targets (B, T), 1 where true;
    counted (B, T), 0 where too little of the part is visible to decide.
    """
    visible = shares > _smallest(parts)  # (B, P)
    traces = (shares > 0) & ~visible
    pairs = np.unique(parts[..., :2][visible], axis=0)  # (pairs, 2)
    pairs = dice.shuffled([tuple(pair) for pair in pairs.tolist()])[:MOST_COLOUR_PHRASES]
    texts, targets, counted = [], [], []
    for number, colour in [(k, None) for k in range(len(scenes.CLASSES))] + pairs:
        name = scenes.CLASSES[number]
        words = dice.pick(scenes.SYNONYMS[name]) if colour is None else phrase(name, COLOUR_NAMES[colour], dice)
        texts.append(dice.pick(TEMPLATES).format(words))
        same = (parts[..., 0] == number) & (True if colour is None else parts[..., 1] == colour)  # (B, P)
        targets.append((same & visible).any(1))
        counted.append(targets[-1] | ~(same & traces).any(1))
    return texts, np.stack(targets, 1).astype(np.float32), np.stack(counted, 1).astype(np.float32)


def _smallest(parts: np.ndarray) -> np.ndarray:
    return np.where(parts[..., 0] >= FIRST_THING, SMALLEST_THING, SMALLEST_STUFF)
