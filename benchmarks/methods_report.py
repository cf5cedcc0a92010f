"""The results of `benchmarks/methods.py` as a table in Markdown, as a workbook, and as a picture."""

import statistics
from pathlib import Path
from typing import NamedTuple

from proxyclip.files import write_image, write_whole
from proxyclip.pictures.figure import as_image, empty_figure
from proxyclip.reports.cell_styles import ONE_DECIMAL, TWO_DECIMALS, bold_best, fit, header, score, write

WIDTH, HEIGHT = 1000, 640  # pixels
PLAIN, REFINED, INK, LINE, FAINT = "#366ebe", "#d97b29", "#222228", "#c3c9d4", "#eaeef4"
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32)  # seconds
SPACE, NEAR = 2.6, 1.6  # between labels, in points of mIoU; factor of seconds within which they could meet


class Row(NamedTuple):
    """A method: mIoU of each training run with the published settings, with the chosen ones, and with PAMR; seconds and
    MiB for an image, and seconds with PAMR."""

    title: str
    published: list[float]
    plain: list[float]
    refined: list[float]
    seconds: float
    memory: float
    refined_seconds: float

    def mean(self, name: str) -> float:
        """The mean over training runs."""
        return statistics.mean(getattr(self, name))


TITLES = (
    *("method", "mIoU, published settings", "mIoU", "mIoU with PAMR"),
    *("s an image", "MiB", "s with PAMR"),
)


def markdown(rows: list[Row]) -> str:
    lines = [f"| {' | '.join(TITLES)} |", "|" + " --- |" * len(TITLES)]
    for row in rows:
        scores = [with_runs(values) for values in row[1:4]]
        costs = [f"{row.seconds:.2f}", f"{row.memory:.0f}", f"{row.refined_seconds:.2f}"]
        lines.append(f"| {' | '.join([row.title, *scores, *costs])} |")
    return "\n".join(lines)


def with_runs(values: list[float]) -> str:
    """The mean, and in brackets each run if there are several."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ({', '.join(f'{value:.1f}' for value in values)})" if len(values) > 1 else mean


def sheet(path: Path, rows: list[Row]) -> Path:
    """One sheet, the best scores in bold."""
    from openpyxl import Workbook

    book = Workbook()
    page = book.active
    page.title = "methods"
    header(page, 1, list(TITLES))
    for number, row in enumerate(rows, start=2):
        write(page.cell(number, 1), row.title)
        for column, value in enumerate([*map(statistics.mean, row[1:4]), *row[4:]], start=2):
            score(
                page.cell(number, column), float(value), number_format=TWO_DECIMALS if column in (5, 7) else ONE_DECIMAL
            )
    for column in (2, 3, 4):
        bold_best([page.cell(number, column) for number in range(2, 2 + len(rows))])
    fit(page, 1, frozen="B2")
    write_whole(path, book.save)
    return path


def picture(path: Path, rows: list[Row]) -> Path:
    """mIoU against seconds, one point per method without and one with PAMR, connected by a line."""
    figure = empty_figure(WIDTH, HEIGHT)
    axes = figure.add_axes((0.08, 0.11, 0.89, 0.8))
    for row in rows:
        axes.plot(
            (row.seconds, row.refined_seconds),
            (row.mean("plain"), row.mean("refined")),
            color=FAINT,
            linewidth=2,
            zorder=1,
        )
    for label, colour, points in (
        ("without refinement", PLAIN, [(row.seconds, row.mean("plain")) for row in rows]),
        ("with PAMR", REFINED, [(row.refined_seconds, row.mean("refined")) for row in rows]),
    ):
        axes.scatter(*zip(*points, strict=True), s=70, color=colour, label=label, zorder=2)
    fastest, slowest = min(row.seconds for row in rows), max(row.refined_seconds for row in rows)
    for slow in (False, True):
        side = [row for row in rows if is_slow(row, rows) == slow]
        for row, height in zip(side, apart(side), strict=True):
            place = {"xytext": (row.seconds * (1.08 if slow else 0.88), height), "ha": "left" if slow else "right"}
            line = {"arrowstyle": "-", "color": LINE}
            point = row.seconds, row.mean("plain")
            axes.annotate(row.title, point, arrowprops=line, va="center", fontsize=14, color=INK, **place)
    axes.set_xscale("log")
    axes.set_xlim(fastest * 0.5, slowest * 1.15)
    axes.set_xticks(ticks := [tick for tick in TICKS if fastest * 0.5 < tick < slowest * 1.15], map(str, ticks))
    axes.minorticks_off()
    axes.set_xlabel("seconds for an image of 500x375 pixels (ViT-B/16, one thread)", fontsize=15, color=INK)
    axes.set_ylabel("mIoU on the synthetic scenes, %", fontsize=15, color=INK)
    axes.set_title("Training-free methods under one protocol", fontsize=18, color=INK, loc="left")
    axes.tick_params(labelsize=13, which="both")
    axes.grid(color=FAINT, linewidth=1.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=14, frameon=False, loc="lower right")
    return write_image(path, as_image(figure))


def is_slow(row: Row, rows: list[Row]) -> bool:
    """Whether a method is among the slower ones of those that cost about as much: its label is on the right."""
    near = [other.seconds for other in rows if 1 / NEAR < other.seconds / row.seconds < NEAR]
    return row.seconds > 1.12 * min(near)


def apart(rows: list[Row]) -> list[float]:
    """The heights of the labels: those of the points, in ascending order, or higher where labels would meet."""
    heights: list[float] = []
    for number, row in enumerate(rows):
        near = [
            height
            for other, height in zip(rows[:number], heights, strict=True)
            if 1 / NEAR < other.seconds / row.seconds < NEAR
        ]
        heights.append(max([row.mean("plain"), *(height + SPACE for height in near)]))
    return heights
