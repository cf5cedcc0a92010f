"""What the embedded pair reaches on the drawn scenes: CLIP as it is, its values alone, ProxyCLIP.

    python benchmarks/scenes.py                                   the 500 test scenes, about a minute
    python benchmarks/scenes.py --more work/mini/seed1            and the mean with a second training of the pair
    python benchmarks/scenes.py --picture docs/scenes.jpg         six of the scenes as a picture
    python benchmarks/scenes.py --split tune                      the 200 scenes that settings are chosen on

Class names as they are, all 24 classes against each other, scenes of 128 x 128 pixels. Prints Markdown tables. A
further training is a folder as `python tools/train_mini.py --seed 1 --out FOLDER` writes it.
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
from proxyclip.errors import InputError, main_guard  # noqa: E402
from proxyclip.evaluation.metrics import confusion, scores  # noqa: E402
from proxyclip.files import write_image  # noqa: E402
from proxyclip.image_io import to_tensor  # noqa: E402
from proxyclip.methods import find_method  # noqa: E402
from proxyclip.pictures.legend import PAPER, joined, with_caption, with_legend  # noqa: E402
from proxyclip.pictures.overlay import overlay  # noqa: E402
from proxyclip.presets import find_preset  # noqa: E402
from proxyclip.segmentor import Segmentor  # noqa: E402

METHODS = {"clip": "CLIP as it is", "maskclip": "its values alone (MaskCLIP)", "proxyclip": "ProxyCLIP"}
KINDS = {"stuff": scenes.STUFF, "things": scenes.THINGS}
WINDOW = 64  # pixels; what the VFM sees at a time
SHOWN, SHOWN_SIZE = scenes.SPLITS["test"][:6], 320  # the first test scenes, so that nobody has picked them; pixels


def load(folder: Path | None = None, **options) -> Segmentor:
    """The embedded pair, or another training of it with the same settings for inference."""
    if folder is not None:
        if not (folder / "mini.json").is_file():
            raise InputError(f"{folder} holds no mini.json; python tools/train_mini.py --out {folder} writes such one")
        mini = find_preset("mini")  # its options belong to its own pair; another training of it takes them too
        pair = {"clip": str(folder / "clip"), "vfm": f"dino:{folder / 'vfm'}", "vfm_layer": mini.vfm_layer}
        known = {field.name for field in fields(find_method(options.get("method", "proxyclip")).Options)}
        options = pair | {name: value for name, value in mini.options.items() if name in known} | options
    return proxyclip.load("mini", **options)


def matrices(model: Segmentor, drawn: list, classes=scenes.CLASSES) -> np.ndarray:
    """The confusion matrix of each scene: (S, K, K) int64, S scenes, K classes."""
    results = model.segment_each((image for image, _ in drawn), classes)
    return np.stack([confusion(r.labels, label, len(classes)) for r, (_, label) in zip(results, drawn, strict=True)])


def summary(matrix: np.ndarray) -> dict:
    """(K, K) -> mIoU over all classes, over stuff and over things, pixel accuracy, and the IoU of each, percent."""
    found = scores(matrix)
    each = dict(zip(scenes.CLASSES, found["per_class"]["IoU"], strict=True))
    means = {kind: statistics.mean(each[name] for name in names) for kind, names in KINDS.items()}
    return {"mIoU": found["mIoU"], **means, "pixel accuracy": found["aAcc"]} | each


@torch.inference_mode()
def grouping(vfm, seeds: range) -> float:
    """How well a VFM's similarity tells one instance from another: area under the ROC curve, percent.

    Over the pairs of patches of a window, of which each lies at least to three quarters on one instance: whether a
    pair of the same instance is more alike than a pair of two. Mean over the windows.
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
    """(h, w) -> the instance that covers most of each patch of side × side pixels, and its share: (N,) each."""
    height, width = instances.shape
    patches = instances.reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(-1, side * side)
    counts = np.stack([np.bincount(patch, minlength=256) for patch in patches])  # (N, 256)
    return counts.argmax(1), counts.max(1) / side**2


def area_under_curve(values: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive's value lies above a negative's; equal values count half. Both (P,)."""
    _, rank, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2  # the mean of the places that equal values share, from 1 on
    positives, negatives = positive.sum(), (~positive).sum()
    return (middle[rank][positive].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def table(columns: list[str], rows: dict[str, list[list[float]]]) -> str:
    """Markdown: a row's figures are the trainings' means, with each training's own in brackets if there are several."""
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for title, cells in rows.items():
        texts = [f"{statistics.mean(cell):.1f}" for cell in cells]
        if len(cells[0]) > 1:
            texts = [f"{text} ({', '.join(f'{x:.1f}' for x in cell)})" for text, cell in zip(texts, cells, strict=True)]
        lines.append(f"| {title} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def picture() -> Image.Image:
    """Six scenes side by side; below each other the images, the truth, and what each method makes of it."""
    colours = np.array(SyntheticScenes().colours, np.uint8)  # (K, 3)
    drawn = [scenes.draw(seed, SHOWN_SIZE) for seed in SHOWN]
    maps = {"the truth": [label for _, label in drawn]}
    for method, title in METHODS.items():
        results = load(method=method).segment([image for image, _ in drawn], scenes.CLASSES)
        maps[title] = [result.labels for result in results]
    rows = {"drawn scenes": [Image.fromarray(image) for image, _ in drawn]} | {
        title: [overlay(image, one, colours, 0.75) for (image, _), one in zip(drawn, labels, strict=True)]
        for title, labels in maps.items()
    }
    strips = [with_caption(joined(panels, below=False), title, PAPER) for title, panels in rows.items()]
    share = (
        np.bincount(np.stack(maps["the truth"]).ravel(), minlength=len(colours)) / len(drawn) / SHOWN_SIZE**2
    )  # (K,)
    entries = [(name, share[k], colours[k]) for k, name in enumerate(scenes.CLASSES) if share[k] > 0]
    strips[-1] = with_legend(strips[-1], sorted(entries, key=lambda entry: -entry[1]))
    return joined(strips)


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("test", "tune"), default="test")
    parser.add_argument("--more", type=Path, nargs="+", default=[], metavar="FOLDER", help="more trainings of the pair")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write six test scenes there, and stop")
    options = parser.parse_args()
    if options.picture:
        write_image(options.picture, picture())
        print(options.picture)
        return
    trainings = [None, *options.more]
    drawn = [scenes.draw(seed) for seed in scenes.SPLITS[options.split]]
    found = {
        title: [summary(matrices(load(folder, method=method), drawn).sum(0)) for folder in trainings]
        for method, title in METHODS.items()
    }
    columns = ["mIoU", *KINDS, "pixel accuracy"]
    rows = {title: [[run[column] for run in runs] for column in columns] for title, runs in found.items()}
    print(table(columns, rows), end="\n\n")
    rows = {name: [[run[name] for run in runs] for runs in found.values()] for name in scenes.CLASSES}
    print(table([f"IoU, {title}" for title in found], rows), end="\n\n")
    areas = [grouping(load(folder).vfm, scenes.SPLITS[options.split]) for folder in trainings]
    print(f"same instance or not, by the VFM's similarity: {', '.join(f'{x:.1f}' for x in areas)} % of pairs in order")


if __name__ == "__main__":
    main()
