"""Reading the reference cases: NAME.json (hyper-parameters), NAME.safetensors (tensors), weights/ beside them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[2] / ".." / "shared" / "golden") / "proxyclip"


@dataclass(frozen=True)
class Case:
    """One reference case; `settings` is its json, `tensors` its inputs and outputs."""

    file: Path

    @property
    def settings(self) -> dict:
        return json.loads(self.file.read_text())

    @property
    def tensors(self) -> dict:
        return load_file(self.file.with_suffix(".safetensors"))

    def __str__(self) -> str:
        return f"{self.file.parent.name}-{self.file.stem}"


def all_cases() -> list[Case]:
    """Every json of the folder, whatever its name."""
    return [Case(file) for file in sorted(FOLDER.glob("*.json"))]


def weights(name: str) -> tuple[dict, dict]:
    """Configuration and tensors of weights/NAME."""
    stem = FOLDER / name
    return json.loads(stem.with_suffix(".json").read_text())["config"], load_file(stem.with_suffix(".safetensors"))
