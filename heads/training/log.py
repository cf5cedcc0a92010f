"""The log of a training run: a JSON object per line, the same numbers for TensorBoard, and curves as an image."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxyclip.errors import InputError
from proxyclip.files import write_image, write_whole
from proxyclip.pictures.legend import as_image, empty_figure

LOG, BOARD, CURVES = "train.jsonl", "tensorboard", "curves.png"
MISSING = "note: TensorBoard is not installed, so no files are written for it: pip install tensorboard"
WIDTH, HEIGHT = 1500, 420  # of one panel, in pixels of an image meant for two per screen pixel
INK, FAINT = "#222228", "#dde2ea"
COLOURS = ("#366ebe", "#d9622b", "#2f8f5b", "#8a4fb0", "#b08a1e", "#54606e")
TITLES = {"rate": "learning rate", "accuracy": "pixel accuracy on training crops, %"}


class TrainingLog:
    """WORKDIR/train.jsonl and WORKDIR/tensorboard, continued after `iteration`.

    Later lines, which a resumed run computes again, are removed: scores of iterations after `evaluated`, and all others
    after `iteration`. Without TensorBoard one sentence is printed.
    """

    def __init__(self, folder: Path, iteration: int, evaluated: int):
        self.path = folder / LOG
        lines = [(line, evaluated if any(map(is_of_scores, line)) else iteration) for line in read_log(self.path)]
        text = "".join(json.dumps(line) + "\n" for line, last in lines if line["iteration"] <= last)
        with explain_failed_write(self.path):
            write_whole(self.path, lambda file: file.write(text.encode()))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print(MISSING)
            self.board = None
        else:
            self.board = SummaryWriter(str(folder / BOARD), purge_step=iteration + 1)

    def add(self, iteration: int, group: str, numbers: dict[str, float]) -> None:
        """Adds a line {"iteration": ..., GROUP: {...}}; values that are not finite become null. Raises InputError if
        it cannot be written."""
        plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        with explain_failed_write(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration, group: plain}) + "\n")
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(f"{group}/{name}", value, iteration)

    def close(self) -> None:
        if self.board:
            self.board.close()


@contextmanager
def explain_failed_write(path: Path) -> Iterator[None]:
    """InputError with the reason if the system refuses to write a file of a run."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}); the last save is intact: fix this, then rerun with "
            "--resume"
        ) from None


def read_log(path: Path) -> list[dict]:
    """All lines of a log, oldest first; no file: none. A last line that a killed run left unfinished is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict) and "iteration" in line]


def is_of_scores(group: str) -> bool:
    return group.startswith("scores")


def write_curves(log: Path, image: Path) -> Path | None:
    """Draws a log: losses, rates and scores, one panel below the other. None, and no file, if there is nothing."""
    panels = panels_of(read_log(log))
    if not panels:
        return None
    figure = empty_figure(WIDTH, HEIGHT * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        for colour, (name, points) in zip(COLOURS * len(curves), curves.items(), strict=False):
            marker = "o" if len(points) < 30 else None
            panel.plot(*zip(*points, strict=True), label=name, linewidth=2, color=colour, marker=marker)
        if title == "losses":
            panel.set_yscale("log")
            panel.yaxis.set_major_formatter("{x:g}")
        panel.set_title(title, loc="left", fontsize=20, color=INK)
        panel.grid(color=FAINT)
        panel.tick_params(labelsize=16, labelcolor=INK)
        panel.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1:
            panel.legend(fontsize=16, frameon=False)
    axes[-1].set_xlabel("iteration", fontsize=18, color=INK)
    figure.tight_layout(pad=1.5)
    return write_image(image, as_image(figure))


def panels_of(lines: list[dict]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Title -> name of the curve -> (iteration, value)."""
    panels = {}
    for line in lines:
        for group, numbers in line.items():
            for name, value in numbers.items() if isinstance(numbers, dict) else ():
                title = "losses" if name == "loss" or "loss_" in name else TITLES.get(name)
                if is_of_scores(group):
                    title = f"{group.replace('_', ' ')} on the evaluation split, %"
                if title and value is not None:
                    panels.setdefault(title, {}).setdefault(name, []).append((line["iteration"], value))
    return panels
