"""Reading the reference cases: NAME.json (hyper-parameters), NAME.safetensors (tensors), and the folder weights/."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

SHIPPED = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Case:
    """One reference case; `settings` is its json, `tensors` its inputs and outputs."""

    file: Path

    @property
    def settings(self) -> dict:
        return json.loads(self.file.read_text(encoding="utf-8"))

    @property
    def tensors(self) -> dict:
        return load_file(self.file.with_suffix(".safetensors"))

    def weights(self, name: str) -> tuple[dict, dict]:
        """Configuration and tensors of a model, stored in the folder of the case."""
        stem = self.file.parent / name
        return json.loads(stem.with_suffix(".json").read_text())["config"], load_file(stem.with_suffix(".safetensors"))

    def __str__(self) -> str:
        return f"{self.file.parent.name}-{self.file.stem}"


def all_cases(folder: str) -> list[Case]:
    """The cases of one subfolder: the shipped ones, and those of $GOLDEN_DIR, which replace shipped ones by name."""
    folders = [SHIPPED, *filter(None, [os.environ.get("GOLDEN_DIR")])]
    found = {file.name: file for root in folders for file in Path(root, folder).glob("*.json")}
    return [Case(file) for _, file in sorted(found.items())]
