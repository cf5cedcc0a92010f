"""What each refinement gains and costs on the synthetic scenes, with the embedded pair.

    python benchmarks/refine.py                                the 500 test scenes
    python benchmarks/refine.py --limit 100                    the first 100 of them
    python benchmarks/refine.py --split tune --only proxyclip  the scenes used to choose settings, one method

Prints a Markdown table for each method: mIoU over all classes, its change from no refinement with the standard error
over scenes (bootstrap), and milliseconds of one thread's processor time per image of 128 x 128 pixels, masks read from
files. Masks are of two kinds. "regions" are found in the image alone: mean shift (Comaniciu & Meer, 2002), then
neighbours of almost one colour. "instances (oracle)" are the true outlines of everything in a scene, which no program
knows: they show what perfect masks would gain.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.method_settings import difference  # noqa: E402
from benchmarks.scenes import METHODS, load  # noqa: E402
from datasets import scenes  # noqa: E402
from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import confusion, scores  # noqa: E402
from proxyclip.files import write_image  # noqa: E402
from proxyclip.pictures.legend import PAPER, joined, with_caption  # noqa: E402
from proxyclip.pictures.overlay import overlay  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402

NONE = "none"
REFINEMENTS = {
    NONE: None,
    "pamr": "pamr",
    "pamr, dilations 1 and 2": "pamr:dilations=1,2",
    "pamr, dilations 2 and 4": "pamr:dilations=2,4",
    "masks: regions": "masks:{}/regions",
    "masks: instances (oracle)": "masks:{}/instances",
}
RADIUS, COLOURS, TOLERANCE = 4, 16, (5, 5, 5)  # of mean shift, in pixels and colour; between neighbours of a region


def regions(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) int32, the region of each pixel, from 1."""
    smooth = cv2.pyrMeanShiftFiltering(image, RADIUS, COLOURS)
    found = np.zeros(image.shape[:2], np.int32)
    for number, place in enumerate(np.ndindex(found.shape), start=1):
        if found[place] == 0:
            around = np.pad((found > 0).astype(np.uint8), 1)
            cv2.floodFill(smooth, around, place[::-1], 0, TOLERANCE, TOLERANCE, cv2.FLOODFILL_MASK_ONLY | 2 << 8)
            found[around[1:-1, 1:-1] == 2] = number
    return np.unique(found, return_inverse=True)[1].reshape(found.shape) + 1


def write_masks(folder: Path, seeds) -> None:
    """folder/regions/SEED.png and folder/instances/SEED.png."""
    for kind in ("regions", "instances"):
        (folder / kind).mkdir()
    for seed in seeds:
        scene = scenes.compose(seed)
        numbers = {"regions": regions(scene.image), "instances": scene.instances.astype(np.int32) + 1}
        for kind, found in numbers.items():
            Image.fromarray(found.astype(np.uint16)).save(folder / kind / f"{seed}.png")


def measured(model, samples: dict) -> tuple[np.ndarray, float]:
    """The confusion matrix of each scene (S, K, K), and milliseconds of processor time per image."""
    images, labels = zip(*samples.values(), strict=True)
    model.segment(images[0], scenes.CLASSES, names=str(next(iter(samples))))  # what is computed once
    begun = time.process_time()
    results = model.segment(list(images), scenes.CLASSES, names=[str(seed) for seed in samples])
    spent = 1000 * (time.process_time() - begun) / len(samples)
    pairs = zip(results, labels, strict=True)
    return np.stack([confusion(result.labels, label, len(scenes.CLASSES)) for result, label in pairs]), spent


def table(method: str, samples: dict, folder: Path) -> str:
    lines = ["| refinement | mIoU | change | ms |", "| --- | --- | --- | --- |"]
    plain = None
    for title, text in REFINEMENTS.items():
        found, spent = measured(load(method=method, refine=text and text.format(folder)), samples)
        plain = found if plain is None else plain
        change = "–"
        if title != NONE:
            points, error = difference([found], [plain])
            change = f"{points:+.1f} ± {error:.1f}".replace("-", "−")
        lines.append(f"| {title} | {scores(found.sum(0))['mIoU']:.1f} | {change} | {spent:.1f} |")
    return "\n".join(lines)


def picture(folder: Path, samples: dict) -> Image.Image:
    """The first scenes without and with each refinement of ProxyCLIP."""
    from datasets.scenes.dataset import SyntheticScenes

    colours = np.array(SyntheticScenes().colours, np.uint8)  # (K, 3)
    first = dict(list(samples.items())[:4])
    rows = {"ground truth": [label for _, label in first.values()]}
    for title, text in REFINEMENTS.items():
        model = load(refine=text and text.format(folder))
        names = [str(seed) for seed in first]
        rows[title] = [r.labels for r in model.segment([i for i, _ in first.values()], scenes.CLASSES, names=names)]
    strips = []
    for title, maps in rows.items():
        images = zip(first.values(), maps, strict=True)
        panels = [overlay(image, labels, colours, 0.75) for (image, _), labels in images]
        strips.append(with_caption(joined(panels, below=False), title, PAPER))
    return joined(strips)


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("test", "tune"), default="test")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N scenes")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="some of the methods")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="only write a figure of four scenes to FILE")
    options = parser.parse_args()
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit must be at least 1, not {options.limit}")
    torch.set_num_threads(1)
    samples = {seed: scenes.draw(seed) for seed in scenes.SPLITS[options.split][: options.limit]}
    with tempfile.TemporaryDirectory() as folder:
        seeds = list(samples)[:4] if options.picture else samples
        write_masks(Path(folder), seeds)
        if options.picture:
            print(write_image(options.picture, picture(Path(folder), samples)))
            return
        for method in options.only:
            print(f"{METHODS[method]}, {len(samples)} scenes\n\n{table(method, samples, Path(folder))}\n", flush=True)


if __name__ == "__main__":
    main()
