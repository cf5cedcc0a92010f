"""What went well and what did not, for eyes: charts as PNG and one page that needs no other file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.evaluation.partial_counts import Counts
from proxyclip.evaluation.prefetch import read_ahead
from proxyclip.files import writable_folder, write_whole
from proxyclip.pictures.charts import Bar, bar_chart, stack
from proxyclip.pictures.panels import panels
from proxyclip.reports.report_page import page

CONFUSIONS, WORST = 20, 8


class Confusion(NamedTuple):
    """Pixels of the class `label` that were given to `prediction`.

    of_all, of_class, of_largest: percent of all scored pixels, of the label's, and of those of the largest confusion.
    """

    label: str
    prediction: str
    of_all: float
    of_class: float
    of_largest: float

    @property
    def title(self) -> str:
        """By the first names of both, for a chart."""
        return " as ".join(name.split(";")[0].split(",")[0] for name in (self.label, self.prediction))


def write(folder: Path, run: dict, tally: Counts, samples, colours, predict, resize) -> Path:
    """Writes report.html, per_class.png, confusions.png and worst.png into `folder`; returns the page.

    run: the line of results.jsonl. tally, samples, predict, resize: see `evaluation`; the worst images are
    segmented once more. colours: (r, g, b) of each class.
    """
    folder, classes, bars = writable_folder(folder), list(run["per_class"]), class_bars(run)
    confusions = largest_confusions(tally.matrix, classes)
    worst = worst_images(tally, samples, classes, colours, predict, resize)
    title = ", ".join(str(run[key]) for key in ("dataset", "model", "clip", "vfm") if run[key])
    charts = {
        "per_class.png": bar_chart(title, "IoU of each class, percent", bars),
        "confusions.png": bar_chart(
            title,
            "largest confusions: pixels of the one class that were taken for the other, largest first",
            [
                Bar(c.title, c.of_largest, f"{c.of_all:.2f} % of all, {c.of_class:.1f} % of its class")
                for c in confusions
            ],
        ),
        "worst.png": stack([(f"{title}: images with the lowest mIoU", Image.new("RGB", (1, 1), "white")), *worst]),
    }
    text = page(title, run, bars, confusions, worst)
    try:
        for name, picture in charts.items():
            write_whole(folder / name, lambda file, picture=picture: picture.save(file, "PNG"))
        return write_whole(folder / "report.html", lambda file: file.write(text.encode()))
    except OSError as error:
        raise InputError(f"the report cannot be written to {folder} ({error.strerror or error})") from None


def largest_confusions(matrix: np.ndarray, classes: list[str]) -> list[Confusion]:
    """The pairs of different classes that share the most pixels, largest first; matrix (K, K)."""
    wrong = matrix - np.diag(matrix.diagonal())  # (K, K)
    labelled = matrix.sum(1)  # (K,)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    of_all, of_class = wrong / max(labelled.sum(), 1), wrong / np.maximum(labelled, 1)[:, None]  # (K, K) each
    return [
        Confusion(classes[i], classes[j], *(float(100 * x[i, j]) for x in (of_all, of_class, wrong / wrong.max())))
        for i, j in pairs
        if wrong[i, j]
    ]


def worst_images(tally: Counts, samples, classes, colours, predict, resize) -> list[tuple[str, Image.Image]]:
    """Titles and panels of the images with the lowest mIoU, lowest first."""
    scored = {
        stem: scores for stem, scores in tally.images.items() if scores[1] is not None and not np.isnan(scores[1])
    }
    stems = sorted(scored, key=lambda stem: (scored[stem][1], stem))[:WORST]
    index = {item.stem: place for place, item in enumerate(samples.items)}
    pictures = []
    for ready in read_ahead(samples, [index[stem] for stem in stems], resize, workers=0):
        if ready.problem:
            continue
        labels = predict(ready.tensor, ready.label.shape)  # (H, W)
        accuracy, iou = scored[ready.stem]
        title = f"{ready.stem}: mIoU {iou:.1f}, pixel accuracy {accuracy:.1f}"
        pictures.append((title, panels(ready.image, ready.label, labels, classes, colours)))
    return pictures


def class_bars(run: dict) -> list[Bar]:
    """Every class, best first; those that occur nowhere last."""
    figures = run["per_class"]
    order = sorted(figures, key=lambda name: -1 if figures[name]["IoU"] is None else figures[name]["IoU"], reverse=True)
    return [Bar(name, iou := figures[name]["IoU"], "absent" if iou is None else f"{iou:.1f}") for name in order]
