"""Reading the reference cases, and comparing with them.

A case is NAME.json (hyper-parameters), NAME.safetensors (inputs and outputs), and weights, either in a file of its own
or in one that its json names.
"""

import json
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

SHIPPED = Path(__file__).parent / "data"
CLIP_WORDS = 49408  # in CLIP's vocabulary


@dataclass(frozen=True)
class Case:
    """One reference case, by the path of its json."""

    file: Path

    @cached_property
    def settings(self) -> dict:
        return json.loads(self.file.read_text(encoding="utf-8"))

    @property
    def hyperparameters(self) -> dict:
        return self.settings.get("hyperparameters", self.settings)

    @property
    def values(self) -> dict:
        """Single numbers among the expected results."""
        return self.settings.get("values", {})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Inputs and outputs by name; stored in whatever precision, numbers are float32."""
        stored = load_file(self.file.with_suffix(".safetensors"))
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}

    def weights(self, prefix: str = "") -> dict[str, Tensor]:
        """The weights whose names begin with `prefix`, without it."""
        name = self.values.get("weights_file", f"{self.file.stem}.weights.safetensors")
        state = load_file(self.file.parent / name)
        return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}

    def model(self, name: str) -> tuple[dict, dict[str, Tensor]]:
        """Configuration and weights of a model that several cases share, by its path beside them."""
        file = self.file.parent / name
        return json.loads(file.with_suffix(".json").read_text())["config"], load_file(file.with_suffix(".safetensors"))

    def compare(self, computed: dict[str, Tensor], left_out: tuple[str, ...] = ()) -> None:
        """Every stored output against what was computed under its name; whole numbers must be equal.

        left_out: names of outputs that have no counterpart here, with * for any letters.
        """
        for name, expected in self.tensors.items():
            is_input = self.settings["tensors"][name].get("role", "").startswith(("input", "ground truth"))
            if not is_input and not any(fnmatchcase(name, pattern) for pattern in left_out):
                assert name in computed, f"{name} was not computed"
                self.assert_close(name, computed[name].detach(), expected)

    def assert_close(self, name: str, result: Tensor, expected: Tensor) -> None:
        """Within 1e-5, plus 1e-4 of the value, plus five times the distance between the published code in float32 and
        in float64, which the json has for the tensor of that name."""
        assert result.shape == expected.shape, f"{name}: {tuple(result.shape)} instead of {tuple(expected.shape)}"
        if not expected.is_floating_point():
            assert torch.equal(result.long(), expected.long()), name
            return
        distances, table = self.settings.get("fp64_max_abs_diff", {}), self.settings["tensors"]
        distance = distances.get(name) or table.get(name, {}).get("max_abs_diff_vs_float64") or 0.0
        limits = {"atol": 1e-5 + 5 * distance, "rtol": 1e-4, "equal_nan": True}
        torch.testing.assert_close(result.float(), expected, **limits, msg=lambda text: f"{name}: {text}")

    def __str__(self) -> str:
        return f"{self.file.parent.name}-{self.file.stem}"


def all_cases(folder: str) -> list[Case]:
    """The cases of one subfolder: the shipped ones, and those of $GOLDEN_DIR, which replace shipped ones by name."""
    folders = [SHIPPED, *filter(None, [os.environ.get("GOLDEN_DIR")])]
    files = {file.name: file for root in folders for file in Path(root, folder).glob("*.json")}
    return [Case(file) for _, file in sorted(files.items())]


def all_rows(rows: Tensor, indices: Tensor, count: int = CLIP_WORDS) -> Tensor:
    """A table (count, D) of which a case holds only the rows that it needs; NaN in all others, so that none is read
    unnoticed."""
    return rows.new_full((count, rows.shape[1]), float("nan")).index_copy_(0, indices, rows)
