"""What went well and what did not, for eyes: charts as PNG and one page that needs no other file."""

import base64
import io
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from proxyclip.charts import Bar, bar_chart, narrowed, stack
from proxyclip.errors import InputError
from proxyclip.files import writable_folder, write_whole
from proxyclip.images import to_tensor
from proxyclip.kept import panels
from proxyclip.progress import Tally
from proxyclip.reading import read_ahead

CONFUSIONS, WORST = 20, 8
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #22262e; background: #fff; max-width: 1080px; margin: 32px auto;
  padding: 0 20px }
h1 { font-size: 24px; margin: 0 } h2 { font-size: 18px; margin: 40px 0 8px } p, .faint { color: #5d6675 }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 }
.tile { border: 1px solid #d8dee8; border-radius: 8px; padding: 10px 16px; min-width: 96px }
.tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600; color: #5d6675 }
th, td { padding: 3px 10px 3px 0; border-bottom: 1px solid #edf0f5; vertical-align: middle }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.bar { width: 34% } .track { background: #eaeef4; border-radius: 3px } .fill { background: #366ebe; height: 12px;
  border-radius: 3px } .key td:first-child { color: #5d6675; width: 180px } .key td { overflow-wrap: anywhere }
figure { margin: 20px 0 } figure img { max-width: 100%; border: 1px solid #d8dee8 } figcaption { margin-bottom: 4px }
"""


class Confusion(NamedTuple):
    """Pixels of the class `label` that were given to `prediction`: how many, and which percentage of the label's."""

    label: str
    prediction: str
    pixels: int
    share: float


def write(folder: Path, run: dict, tally: Tally, samples, colours, predict, short_side: int) -> Path:
    """Writes report.html, per_class.png, confusions.png and worst.png into `folder`; returns the page.

    run: the line of results.jsonl. tally, samples, predict, short_side: see `evaluation`; the worst images are
    segmented once more. colours: (r, g, b) of each class.
    """
    folder, classes = writable_folder(folder), list(run["per_class"])
    confusions = largest_confusions(tally.matrix, classes)
    worst = worst_images(tally, samples, classes, colours, predict, short_side)
    title = ", ".join(str(run[key]) for key in ("dataset", "model", "clip", "vfm") if run[key])
    charts = {
        "per_class.png": bar_chart(title, "IoU of each class, percent", class_bars(run)),
        "confusions.png": bar_chart(
            title,
            "largest confusions: percent of the pixels of the one class that were taken for the other",
            [Bar(f"{c.label} as {c.prediction}", c.share, f"{c.share:.1f}") for c in confusions],
        ),
        "worst.png": stack([(f"{title}: images with the lowest mIoU", Image.new("RGB", (1, 1), "white")), *worst]),
    }
    page = html(title, run, confusions, worst)
    try:
        for name, picture in charts.items():
            write_whole(folder / name, lambda file, picture=picture: picture.save(file, "PNG"))
        return write_whole(folder / "report.html", lambda file: file.write(page.encode()))
    except OSError as error:
        raise InputError(f"the report cannot be written to {folder} ({error.strerror or error})") from None


def largest_confusions(matrix: np.ndarray, classes: list[str]) -> list[Confusion]:
    """The pairs of different classes that share the most pixels, largest first; matrix (K, K)."""
    wrong = matrix - np.diag(matrix.diagonal())  # (K, K)
    labelled = matrix.sum(1)  # (K,)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [
        Confusion(classes[i], classes[j], int(wrong[i, j]), float(100 * wrong[i, j] / labelled[i]))
        for i, j in pairs
        if wrong[i, j]
    ]


def worst_images(tally: Tally, samples, classes, colours, predict, short_side) -> list[tuple[str, Image.Image]]:
    """Titles and panels of the images with the lowest mIoU, lowest first."""
    scored = {
        stem: scores for stem, scores in tally.images.items() if scores[1] is not None and not np.isnan(scores[1])
    }
    stems = sorted(scored, key=lambda stem: (scored[stem][1], stem))[:WORST]
    index = {item.stem: place for place, item in enumerate(samples.items)}
    pictures = []
    for ready in read_ahead(samples, [index[stem] for stem in stems], short_side, workers=0):
        if ready.problem:
            continue
        labels = predict(to_tensor(ready.picture), ready.label.shape)  # (H, W)
        accuracy, iou = scored[ready.stem]
        title = f"{ready.stem}: mIoU {iou:.1f}, pixel accuracy {accuracy:.1f}"
        pictures.append((title, panels(ready.picture, ready.label, labels, classes, colours)))
    return pictures


def class_bars(run: dict) -> list[Bar]:
    """Every class, best first; those that occur nowhere last."""
    figures = run["per_class"]
    order = sorted(figures, key=lambda name: -1 if figures[name]["IoU"] is None else figures[name]["IoU"], reverse=True)
    return [Bar(name, iou := figures[name]["IoU"], "absent" if iou is None else f"{iou:.1f}") for name in order]


def html(title: str, run: dict, confusions: list[Confusion], worst) -> str:
    """The page."""
    figures = run["per_class"]
    pixels = sum(entry["labelled"] for entry in figures.values())
    tiles = [(name, run[name]) for name in ("mIoU", "aAcc", "mAcc", "mIoU_present", "fwIoU")]
    if run["published"] is not None:
        tiles.insert(1, ("mIoU, published", run["published"]))
    unheard = [name for name, entry in figures.items() if entry["labelled"] and not entry["predicted"]]
    class_rows = [
        [escape(bar.name), track(bar.value), number(bar.value), number(figures[bar.name]["Acc"]),
         number(100 * figures[bar.name]["labelled"] / pixels if pixels else None)]
        for bar in class_bars(run)
    ]  # fmt: skip
    confusion_rows = [
        [escape(c.label), escape(c.prediction), track(c.share), number(c.share), number(100 * c.pixels / pixels)]
        for c in confusions
    ]
    skipped = run.get("skipped") or {}
    sections = [
        f"<h1>{escape(title)}</h1><p>{run['images']} images, {escape(run['started'])}, {run['seconds']:.0f} s</p>",
        '<div class="tiles">' + "".join(f'<div class="tile"><b>{number(v)}</b>{escape(k)}</div>' for k, v in tiles),
        "</div>",
        "<h2>Classes</h2>" + table(["class", ":IoU", "#IoU", "#accuracy", "#% of pixels"], class_rows),
        f"<h2>Classes never predicted: {len(unheard)}</h2><p>{escape(', '.join(unheard) or 'none')}</p>",
        "<h2>Largest confusions</h2>"
        + table(["labelled", "predicted", ":share", "#% of the class", "#% of pixels"], confusion_rows),
        "<h2>Worst images</h2><p>Image, label, prediction.</p>" + "".join(figure(*entry) for entry in worst),
        f"<h2>Images left out: {len(skipped)}</h2>" + table(["image", "why"], [map(escape, e) for e in skipped.items()])
        if skipped
        else "",
        "<h2>Protocol</h2>" + table([], [[escape(k), escape(str(v))] for k, v in run["protocol"].items()], "key"),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{"".join(sections)}</body></html>\n'


def table(titles: list[str], rows, name: str = "") -> str:
    """A title that starts with # heads a column of numbers, one that starts with : a column of bars."""
    kinds = [{"#": ' class="n"', ":": ' class="bar"'}.get(title[0], "") for title in titles] or ["", ""]
    head = "".join(f"<th{kind}>{escape(title.lstrip('#:'))}</th>" for title, kind in zip(titles, kinds, strict=False))
    lines = ("".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True)) for row in rows)
    return f'<table class="{name}"><tr>{head}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def track(value: float | None) -> str:
    return f'<div class="track"><div class="fill" style="width:{value or 0:.1f}%"></div></div>'


def number(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.2f}"


def figure(title: str, picture: Image.Image) -> str:
    """A picture inside the page itself."""
    data = io.BytesIO()
    narrowed(picture, 1600).save(data, "JPEG", quality=85)
    source = base64.b64encode(data.getvalue()).decode()
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><img alt="" src="data:image/jpeg;base64,{source}"></figure>'
    )
