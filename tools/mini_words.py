"""Text for the tiny CLIP: a reduced vocabulary, and the sentences it is trained on.

The vocabulary consists of the first merges of CLIP's byte-pair encoding and every later merge needed by the words of
the synthetic scenes, in the original order. Those words are split into the same tokens as with the full vocabulary.
"""

import gzip
import itertools
import re
from pathlib import Path

import numpy as np
import torch

from datasets import scenes
from datasets.scenes.colours import COLOUR_SYNONYMS
from datasets.scenes.words import OPENINGS, phrase
from proxyclip.backbones.checkpoints import import_library
from tools.mini_data import COLOUR_NAMES, FIRST_THING

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
