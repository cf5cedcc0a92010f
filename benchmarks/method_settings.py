"""Effect of each setting of ProxyCLIP on the 500 synthetic test scenes, with the embedded pair.

    python benchmarks/method_settings.py                                    ten minutes on two cores
    python benchmarks/method_settings.py --more work/mini/seed1             means over two training runs of the pair
    python benchmarks/method_settings.py --only windows templates           selected tables

Prints Markdown tables. Each row changes one setting from the pair's defaults. "difference" is the change in mIoU from
the defaults, with its standard error over scenes (bootstrap) for the given training runs.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.scenes import grouping, load, matrices, summary  # noqa: E402
from datasets import scenes  # noqa: E402
from proxyclip.evaluation.metrics import scores  # noqa: E402
from proxyclip.runtime import main_guard  # noqa: E402
from proxyclip.segmentor import Segmentor  # noqa: E402

OWN = "default"
RESAMPLINGS = 200
TABLES = {
    "beta": [(f"β {beta:g}", {"beta": beta}) for beta in (0.0, 0.8, 1.0, 1.4, 1.6)],
    "gamma": [(f"γ {gamma:g}", {"gamma": gamma}) for gamma in (1.0, 3.0, 10.0, 40.0, 80.0)],
    "layer": [(f"after block {layer} of 4", {"vfm_layer": layer}) for layer in (1, 3, 4)],
    "windows": [
        ("windows of 64, stride 64", {"stride": 64}),
        ("windows of 64, stride 16", {"stride": 16}),
        ("windows of 48, stride 24", {"crop": 48, "stride": 24}),
        ("windows of 96, stride 32", {"crop": 96, "stride": 32}),
        ("no windows: whole image at once", {"crop": 0}),
        ("image at 96, windows of 64, stride 32", {"short_side": 96}),
        ("image at 192, windows of 64, stride 32", {"short_side": 192}),
    ],
    "templates": [
        ("name alone", {"templates": ["{}"]}),
        ('"a photo of a {}."', {"templates": ["a photo of a {}."]}),
    ],
    "precision": [("bf16", {"precision": "bf16"})],
}
# β and γ of the pair were chosen for its own VFM; for others, the best of these on the "tune" scenes
GRID = [(beta, gamma) for beta in (1.0, 1.2, 1.4) for gamma in (3.0, 10.0, 20.0, 40.0)]


class MeanColour(nn.Module):
    """A VFM without weights: the mean colour of each patch, relative to that of the window."""

    patch_size, name = 4, "mean colour"

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, c, c) in [0, 1] -> (B, 3, c / 4, c / 4)."""
        colours = F.avg_pool2d(images.float(), self.patch_size)  # (B, 3, c / 4, c / 4)
        return colours - colours.mean((2, 3), keepdim=True)


def untrained(vfm: nn.Module) -> nn.Module:
    """The same VFM with the random weights that training starts from."""
    torch.manual_seed(0)
    for module in vfm.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    vfm.vit.init_weights()
    return vfm


def with_vfm(kind: str, folder, **options) -> Segmentor:
    """The pair with its VFM replaced."""
    model = load(folder, **options)
    model.vfm = untrained(model.vfm) if kind == "random weights" else MeanColour()
    return model


def best_on_tune(kind: str, folder) -> dict:
    """β and γ for a VFM, chosen on 100 of the "tune" scenes."""
    samples = [scenes.draw(seed) for seed in scenes.SPLITS["tune"][:100]]

    def reached(pair) -> float:
        return summary(matrices(with_vfm(kind, folder, beta=pair[0], gamma=pair[1]), samples).sum(0))["mIoU"]

    return dict(zip(("beta", "gamma"), max(GRID, key=reached), strict=True))


def rows(name: str, trainings: list, samples: list) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The rows of a table: a title, and the confusion matrices of all scenes (S, K, K) for each training run."""
    if name == "names":
        several = ["; ".join(scenes.SYNONYMS[name]) for name in scenes.CLASSES]
        last = [scenes.SYNONYMS[name][-1] for name in scenes.CLASSES]
        for title, classes in (("all known names of each class", several), ("only the last name of each class", last)):
            yield title, [matrices(load(folder), samples, classes) for folder in trainings]
    elif name == "vfm":
        for kind in ("random weights", "mean colour"):
            models = [with_vfm(kind, folder) for folder in trainings]
            area = statistics.mean(grouping(model.vfm, scenes.SPLITS["test"][:100]) for model in models)
            yield f"{kind} (grouping {area:.1f} %)", [matrices(model, samples) for model in models]
            chosen = [best_on_tune(kind, folder) for folder in trainings]
            settings = " or ".join(dict.fromkeys(f"β {one['beta']:g} and γ {one['gamma']:g}" for one in chosen))
            found = [matrices(with_vfm(kind, f, **c), samples) for f, c in zip(trainings, chosen, strict=True)]
            yield f"{kind}, {settings} (best on the tune scenes)", found
    else:
        for title, settings in TABLES[name]:
            yield title, [matrices(load(folder, **settings), samples) for folder in trainings]


def difference(found: list[np.ndarray], own: list[np.ndarray]) -> tuple[float, float]:
    """Change in mIoU in points, the mean over training runs, and its standard error over scenes."""
    random = np.random.default_rng(0)

    def between(chosen) -> float:
        pairs = zip(found, own, strict=True)
        return statistics.mean(scores(a[chosen].sum(0))["mIoU"] - scores(b[chosen].sum(0))["mIoU"] for a, b in pairs)

    scenes_count = len(own[0])
    draws = [between(random.integers(0, scenes_count, scenes_count)) for _ in range(RESAMPLINGS)]
    return between(np.arange(scenes_count)), statistics.stdev(draws)


@main_guard
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*TABLES, "vfm", "names"]
    parser.add_argument("--more", type=Path, nargs="+", default=[], metavar="FOLDER", help="more training runs")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="TABLE", help=", ".join(names))
    options = parser.parse_args()
    trainings = [None, *options.more]
    samples = [scenes.draw(seed) for seed in scenes.SPLITS["test"]]
    own = [matrices(load(folder), samples) for folder in trainings]
    line = partial(print_row, own=own)
    for name in options.only:
        print(f"| {name} | mIoU | stuff | things | difference |\n| --- | --- | --- | --- | --- |")
        line(OWN, own)
        for title, found in rows(name, trainings, samples):
            line(title, found)
        print()


def print_row(title: str, found: list[np.ndarray], own: list[np.ndarray]) -> None:
    summaries = [summary(one.sum(0)) for one in found]
    means = [statistics.mean(one[column] for one in summaries) for column in ("mIoU", "stuff", "things")]
    change, error = difference(found, own)
    text = "–" if found is own else f"{round(change, 1) + 0.0:+.1f} ± {error:.1f}".replace("-", "−")
    print(f"| {title} | " + " | ".join(f"{mean:.1f}" for mean in means) + f" | {text} |", flush=True)


if __name__ == "__main__":
    main()
