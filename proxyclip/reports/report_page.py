"""A run's page: HTML that needs no other file."""

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from proxyclip.pictures.charts import Bar, narrowed

LINKS = {
    "never": "Never predicted",
    "confusions": "Largest confusions",
    "worst": "Worst images",
    "protocol": "Protocol",
}
AVERAGES = "mIoU is over the classes that are labelled or predicted, mIoU_present over those that are labelled."
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #22262e; background: #fff; max-width: 1080px; margin: 32px auto;
  padding: 0 20px }
a { color: #366ebe }
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


def page(title: str, run: dict, bars: list[Bar], confusions, worst: list[tuple[str, Image.Image]]) -> str:
    """The page of one run, a line of results.jsonl: bars of its classes, confusions, the worst images under titles."""
    figures = run["per_class"]
    pixels = sum(entry["labelled"] for entry in figures.values())
    tiles = [(name, run[name]) for name in ("mIoU", "aAcc", "mAcc", "mIoU_present", "fwIoU")]
    if run.get("published") is not None:
        tiles.insert(1, ("mIoU, published", run["published"]))
    present = [name for name, entry in figures.items() if entry["labelled"]]
    unheard = [name for name in present if not figures[name]["predicted"]]
    part = f"the first {limit} images only: " if (limit := run["protocol"].get("limit")) else ""
    class_rows = [
        [escape(bar.name), track(bar.value), number(bar.value), number(figures[bar.name]["Acc"]),
         number(100 * figures[bar.name]["labelled"] / pixels if pixels else None)]
        for bar in bars
    ]  # fmt: skip
    confusion_rows = [
        [escape(c.label), escape(c.prediction), track(c.of_largest), number(c.of_all), number(c.of_class)]
        for c in confusions
    ]
    skipped = run.get("skipped") or {}
    sections = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{part}{run['images']} images, {escape(run['started'])}, {run['seconds']:.0f} s</p>",
        "<p>" + " · ".join(f'<a href="#{key}">{text}</a>' for key, text in LINKS.items()) + "</p>",
        '<div class="tiles">' + "".join(f'<div class="tile"><b>{number(v)}</b>{escape(k)}</div>' for k, v in tiles),
        f"</div><p>{AVERAGES}</p>",
        '<h2 id="classes">Classes</h2>' + table(["class", ":IoU", "#IoU", "#accuracy", "#% of pixels"], class_rows),
        f'<h2 id="never">Classes never predicted: {len(unheard)} of the {len(present)} that are labelled</h2>'
        f"<p>{escape(' · '.join(unheard))}</p>",
        '<h2 id="confusions">Largest confusions</h2>'
        + table(["labelled", "predicted", ":pixels", "#% of all", "#% of the class"], confusion_rows),
        '<h2 id="worst">Worst images</h2><p>Image, label, prediction.</p>' + "".join(figure(*entry) for entry in worst),
        f"<h2>Images left out: {len(skipped)}</h2>" + table(["image", "why"], [map(escape, e) for e in skipped.items()])
        if skipped
        else "",
        '<h2 id="protocol">Protocol</h2>'
        + table([], [[escape(k), escape(str(v))] for k, v in run["protocol"].items()], "key"),
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
