"""The log of a training run: one JSON object per line, and the same numbers for TensorBoard."""

import json
import math
from pathlib import Path

from proxyclip.errors import InputError
from proxyclip.files import write_whole

LOG, BOARD = "train.jsonl", "tensorboard"
MISSING = "note: TensorBoard is not installed, so no files are written for it: pip install tensorboard"


class TrainingLog:
    """WORKDIR/train.jsonl and WORKDIR/tensorboard, continued after `iteration`.

    Later lines, which a resumed run computes again, are removed: scores of iterations after `evaluated`, and all others
    after `iteration`. Without TensorBoard one sentence is printed.
    """

    def __init__(self, folder: Path, iteration: int, evaluated: int):
        self.path = folder / LOG
        lines = read_log(self.path)
        kept = [line for line in lines if line["iteration"] <= (evaluated if "scores" in line else iteration)]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        with_reason(self.path, lambda: write_whole(self.path, lambda file: file.write(text.encode())))
        self.board = open_board(folder / BOARD, iteration)

    def add(self, iteration: int, group: str, numbers: dict[str, float]) -> None:
        """Adds a line {"iteration": ..., GROUP: {...}}; values that are not finite become null. Raises InputError if
        it cannot be written."""
        plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        line = json.dumps({"iteration": iteration, group: plain}) + "\n"

        def append() -> None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line)

        with_reason(self.path, append)
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(f"{group}/{name}", value, iteration)

    def close(self) -> None:
        if self.board:
            self.board.close()


def with_reason(path: Path, write) -> None:
    """Calls `write`; InputError with the reason if the system refuses."""
    try:
        write()
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}); the last checkpoint is intact: fix this, then rerun "
            "with --resume"
        ) from None


def open_board(folder: Path, iteration: int):
    """TensorBoard's writer, or None, with a sentence, if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(MISSING)
        return None
    return SummaryWriter(str(folder), purge_step=iteration + 1)


def read_log(path: Path) -> list[dict]:
    """All lines of a log, oldest first; no file: none. A last line that a killed run left unfinished is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict) and "iteration" in line]
