"""The curves of a training run as an image: losses, the learning rate, and the scores of its evaluations."""

from pathlib import Path

from PIL import Image

from heads.training.log import read_log
from proxyclip.files import write_image
from proxyclip.pictures.figure import as_image, empty_figure

CURVES = "curves.png"
WIDTH, HEIGHT = 1500, 420  # of one panel, in pixels of an image meant for two per screen pixel
INK, FAINT = "#222228", "#dde2ea"
COLOURS = ("#366ebe", "#d9622b", "#2f8f5b", "#8a4fb0", "#b08a1e", "#54606e")


def write_curves(log: Path, image: Path) -> Path | None:
    """Draws a log; None, and no file, if there is nothing to draw."""
    panels = panels_of(read_log(log))
    return write_image(image, draw(panels)) if panels else None


def panels_of(lines: list[dict]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Title -> name of the curve -> (iteration, value)."""
    found = {}
    for line in lines:
        for group, numbers in line.items():
            if not isinstance(numbers, dict):
                continue
            for name, value in numbers.items():
                title = title_of(group, name)
                if title and value is not None:
                    found.setdefault(title, {}).setdefault(name, []).append((line["iteration"], value))
    return found


def title_of(group: str, name: str) -> str | None:
    """The panel that a number belongs to."""
    if group == "scores":
        return "scores on the evaluation split, %"
    if name == "loss" or "loss_" in name:
        return "losses"
    return {"rate": "learning rate", "accuracy": "pixel accuracy on training crops, %"}.get(name)


def draw(panels: dict) -> Image.Image:
    """One panel below the other, with a common axis of iterations."""
    figure = empty_figure(WIDTH, HEIGHT * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for place, (title, curves) in zip(axes, panels.items(), strict=True):
        for index, (name, points) in enumerate(curves.items()):
            style = {"color": COLOURS[index % len(COLOURS)], "marker": "o" if len(points) < 30 else None}
            place.plot(*zip(*points, strict=True), label=name, linewidth=2, **style)
        if title == "losses":
            place.set_yscale("log")
            place.yaxis.set_major_formatter("{x:g}")
        place.set_title(title, loc="left", fontsize=20, color=INK)
        place.grid(color=FAINT)
        place.tick_params(labelsize=16, labelcolor=INK)
        place.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1:
            place.legend(fontsize=16, frameon=False)
    axes[-1].set_xlabel("iteration", fontsize=18, color=INK)
    figure.tight_layout(pad=1.5)
    return as_image(figure)
