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
from tools.mini_data import COLOUR_NAMES, FIRST_THING, SMALLEST_STUFF, SMALLEST_THING

FIRST_MERGES = 1500
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


def colour_names():
    """Every word for a colour."""
    return [name for colour in COLOUR_NAMES for name in COLOUR_SYNONYMS.get(colour, (colour,))]


def known_words():
    """Every word that the captions, the class names and the usual prompt templates are made of, sorted."""
    texts = [*OPENINGS, *TEMPLATES, *JOINING_WORDS, *colour_names()]
    texts += [name for names in scenes.SYNONYMS.values() for name in names]
    texts += [template("") for template in import_library("open_clip").OPENAI_IMAGENET_TEMPLATES]
    return sorted({word for text in texts for word in re.findall("[a-z]+", text.lower())})


def write_vocabulary(path: Path):
    """Writes the cut-down merges as open_clip reads them; the same bytes every time."""
    tokenizer = import_library("open_clip.tokenizer").SimpleTokenizer()
    needed = set()
    for word in known_words():
        needed.update(_merges_of(word, tokenizer.bpe_ranks))
    ranked = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    merges = [" ".join(pair) for rank, pair in enumerate(ranked) if rank < FIRST_MERGES or pair in needed]
    text = "\n".join(["#version: 0.2, cut down", *merges])  # no newline at the end: it would count as one more merge
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _merges_of(word, ranks):
    """The pairs that byte-pair encoding joins on its way to the pieces of a word."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        best = min(itertools.pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            return
        yield best
        joined, k = [], 0
        while k < len(pieces):
            if tuple(pieces[k : k + 2]) == best:
                joined.append(pieces[k] + pieces[k + 1])
                k += 2
            else:
                joined.append(pieces[k])
                k += 1
        pieces = joined


class Reader:
    """Texts to token numbers (T, L), with each word encoded once; L is the longest text's length, not the context."""

    def __init__(self, vocabulary: Path, context: int):
        self.tokenizer = import_library("open_clip.tokenizer").SimpleTokenizer(str(vocabulary))
        self.context, self.known = context, {}

    def __call__(self, texts):
        rows = [self._encode(text) for text in texts]
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for row, numbers in zip(tokens, rows, strict=True):
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens

    def _encode(self, text):
        numbers = [self.tokenizer.sot_token_id]
        for word in re.findall("[a-z]+|[.,]", text.lower()):
            if word not in self.known:
                self.known[word] = self.tokenizer.encode(word)
            numbers += self.known[word]
        return [*numbers[: self.context - 1], self.tokenizer.eot_token_id]


def captions(parts, shares, dice):
    """A sentence for each crop from the parts seen in it; parts (B, P, 4), shares (B, P)."""
    seen = shares > _smallest(parts)  # (B, P)
    sentences = []
    for table, share, visible in zip(parts, shares, seen, strict=True):
        order = [k for k in np.argsort(-share, kind="stable") if visible[k]][:6]
        seen_parts = [(scenes.CLASSES[table[k, 0]], COLOUR_NAMES[table[k, 1]]) for k in order]
        sentences.append(scenes.caption(seen_parts, dice))
    return sentences


def phrases(parts, shares, dice):
    """Phrases for the crops of a batch, and which crops they are true of.

    Returns the texts (T): one per class, then up to 32 of a colour and a class; targets (B, T), 1 where true;
    counted (B, T), 0 where too little of the part is visible to decide.
    """
    seen = shares > _smallest(parts)  # (B, P)
    hinted = (shares > 0) & ~seen
    pairs = np.unique(parts[..., :2][seen], axis=0)  # (pairs, 2)
    pairs = dice.shuffled([tuple(pair) for pair in pairs.tolist()])[:MOST_COLOUR_PHRASES]
    asked = [(k, None) for k in range(len(scenes.CLASSES))] + pairs
    texts, targets, counted = [], [], []
    for class_number, colour in asked:
        name = scenes.CLASSES[class_number]
        words = dice.pick(scenes.SYNONYMS[name]) if colour is None else phrase(name, COLOUR_NAMES[colour], dice)
        texts.append(dice.pick(TEMPLATES).format(words))
        same = parts[..., 0] == class_number
        if colour is not None:
            same &= parts[..., 1] == colour
        targets.append((same & seen).any(1))
        counted.append(targets[-1] | ~(same & hinted).any(1))
    return texts, np.stack(targets, 1).astype(np.float32), np.stack(counted, 1).astype(np.float32)


def _smallest(parts):
    return np.where(parts[..., 0] >= FIRST_THING, SMALLEST_THING, SMALLEST_STUFF)
