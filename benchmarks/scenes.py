"""Scores of the embedded pair on the synthetic scenes: CLIP, MaskCLIP and ProxyCLIP.

    python benchmarks/scenes.py                                   the 500 test scenes, about a minute
    python benchmarks/scenes.py --more work/mini/seed1            the mean over two training runs of the pair
    python benchmarks/scenes.py --picture docs/scenes.jpg         a figure of six scenes
    python benchmarks/scenes.py --split tune                      the 200 scenes used to choose settings

All 24 classes, one name each, on scenes of 128 x 128 pixels. Prints Markdown tables. --more takes folders written by
`python tools/train_mini.py --seed 1 --out FOLDER`.
"""

import argparse
import statistics
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import proxyclip  # noqa: E402
from datasets import scenes  # noqa: E402
from datasets.scenes.dataset import SyntheticScenes  # noqa: E402
from proxyclip.errors import InputError
from proxyclip.evaluation.metrics import confusion, scores  # noqa: E402
from proxyclip.files import write_image  # noqa: E402
from proxyclip.images import to_tensor  # noqa: E402
from proxyclip.loading import find_preset  # noqa: E402
from proxyclip.methods import find_method  # noqa: E402
from proxyclip.pictures.legend import PAPER, joined, with_caption, with_legend  # noqa: E402
from proxyclip.pictures.overlay import overlay  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402
from proxyclip.segmentor import Segmentor  # noqa: E402

METHODS = {"clip": "CLIP", "maskclip": "MaskCLIP", "proxyclip": "ProxyCLIP"}
KINDS = {"stuff": scenes.STUFF, "things": scenes.THINGS}
WINDOW = 64  # pixels, the side of the VFM's input
FIGURE_SCENES, FIGURE_SIZE = scenes.SPLITS["test"][:6], 320  # the first six, so as not to select them; pixels


def load(folder: Path | None = None, **options) -> Segmentor:
    """The embedded pair, or the result of another training run with the same inference settings."""
    if folder is not None:
        if not (folder / "mini.json").is_file():
            raise InputError(f"{folder} has no mini.json; create it: python tools/train_mini.py --all --out {folder}")
        mini = find_preset("mini")  # its options apply to its own pair only, so pass them to the other run explicitly
        pair = {"clip": str(folder / "clip"), "vfm": f"dino:{folder / 'vfm'}", "vfm_layer": mini.vfm_layer}
        method = options.get("method", "proxyclip")
        options = (
            pair | mini.options_of(method, {field.name for field in fields(find_method(method).Options)}) | options
        )
    return proxyclip.load("mini", **options)


def matrices(model: Segmentor, samples: list, classes=scenes.CLASSES) -> np.ndarray:
    """The confusion matrix of each scene: (S, K, K) int64, S scenes, K classes."""
    results = model.segment_each((image for image, _ in samples), classes)
    return np.stack([confusion(r.labels, label, len(classes)) for r, (_, label) in zip(results, samples, strict=True)])


def summary(matrix: np.ndarray) -> dict:
    """(K, K) -> mIoU over all classes, stuff and things, pixel accuracy, and the IoU of each class, in percent."""
    found = scores(matrix)
    each = dict(zip(scenes.CLASSES, found["per_class"]["IoU"], strict=True))
    means = {kind: statistics.mean(each[name] for name in names) for kind, names in KINDS.items()}
    return {"mIoU": found["mIoU"], **means, "pixel accuracy": found["aAcc"]} | each


@torch.inference_mode()
def grouping(vfm, seeds: range) -> float:
    """How well a VFM's patch similarity separates instances: area under the ROC curve, in percent.

    The pairs of patches in a window are ranked by similarity; pairs from the same instance are the positives. Only
    patches with at least three quarters of their pixels in one instance take part. Mean over the windows.
    """
    areas = []
    for scene in (scenes.compose(seed) for seed in seeds):
        for top, left in np.ndindex(scene.image.shape[0] // WINDOW, scene.image.shape[1] // WINDOW):
            window = np.s_[top * WINDOW : (top + 1) * WINDOW, left * WINDOW : (left + 1) * WINDOW]
            features = vfm(to_tensor(scene.image[window])[None])[0].flatten(1)  # (C, N)
            unit = torch.nn.functional.normalize(features.float(), dim=0)
            owner, share = owners(scene.instances[window], vfm.patch_size)  # (N,)
            sure = np.flatnonzero(share >= 0.75)
            first, second = (sure[side] for side in np.triu_indices(len(sure), 1))
            same = owner[first] == owner[second]
            if same.any() and not same.all():
                areas.append(area_under_curve((unit.T @ unit).numpy()[first, second], same))
    return 100 * statistics.mean(areas)


def owners(instances: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) -> the instance covering most of each patch of side × side pixels, and its share: (N,) each."""
    height, width = instances.shape
    patches = instances.reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(-1, side * side)
    counts = np.stack([np.bincount(patch, minlength=256) for patch in patches])  # (N, 256)
    return counts.argmax(1), counts.max(1) / side**2


def area_under_curve(values: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive has a higher value than a negative; ties count half. Both (P,)."""
    _, rank, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2  # mean rank of tied values, counted from 1
    positives, negatives = positive.sum(), (~positive).sum()
    return (middle[rank][positive].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def table(columns: list[str], rows: dict[str, list[list[float]]]) -> str:
    """A Markdown table of means over training runs, with each run's value in brackets if there are several."""
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for title, values in rows.items():
        texts = [f"{statistics.mean(runs):.1f}" for runs in values]
        if len(values[0]) > 1:
            each = [", ".join(f"{value:.1f}" for value in runs) for runs in values]
            texts = [f"{text} ({several})" for text, several in zip(texts, each, strict=True)]
        lines.append(f"| {title} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def picture() -> Image.Image:
    """Six scenes side by side, with rows for the images, the ground truth and each method's prediction."""
    colours = np.array(SyntheticScenes().colours, np.uint8)  # (K, 3)
    samples = [scenes.draw(seed, FIGURE_SIZE) for seed in FIGURE_SCENES]
    maps = {"ground truth": [label for _, label in samples]}
    for method, title in METHODS.items():
        results = load(method=method).segment([image for image, _ in samples], scenes.CLASSES)
        maps[title] = [result.labels for result in results]
    rows = {"synthetic scenes": [Image.fromarray(image) for image, _ in samples]} | {
        title: [overlay(image, one, colours, 0.75) for (image, _), one in zip(samples, labels, strict=True)]
        for title, labels in maps.items()
    }
    strips = [with_caption(joined(panels, below=False), title, PAPER) for title, panels in rows.items()]
    share = (
        np.bincount(np.stack(maps["ground truth"]).ravel(), minlength=len(colours)) / len(samples) / FIGURE_SIZE**2
    )  # (K,)
    entries = [(name, share[k], colours[k]) for k, name in enumerate(scenes.CLASSES) if share[k] > 0]
    strips[-1] = with_legend(strips[-1], sorted(entries, key=lambda entry: -entry[1]))
    return joined(strips)


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("test", "tune"), default="test")
    parser.add_argument("--more", type=Path, nargs="+", default=[], metavar="FOLDER", help="more training runs")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="only write a figure of six test scenes to FILE")
    options = parser.parse_args()
    if options.picture:
        write_image(options.picture, picture())
        print(options.picture)
        return
    trainings = [None, *options.more]
    samples = [scenes.draw(seed) for seed in scenes.SPLITS[options.split]]
    found = {
        title: [summary(matrices(load(folder, method=method), samples).sum(0)) for folder in trainings]
        for method, title in METHODS.items()
    }
    columns = ["mIoU", *KINDS, "pixel accuracy"]
    rows = {title: [[run[column] for run in runs] for column in columns] for title, runs in found.items()}
    print(table(columns, rows), end="\n\n")
    rows = {name: [[run[name] for run in runs] for runs in found.values()] for name in scenes.CLASSES}
    print(table([f"IoU, {title}" for title in found], rows), end="\n\n")
    areas = [grouping(load(folder).vfm, scenes.SPLITS[options.split]) for folder in trainings]
    percent = ", ".join(f"{area:.1f}" for area in areas)
    print(f"grouping of instances by the VFM's similarity, area under the ROC curve: {percent} %")


if __name__ == "__main__":
    main()
