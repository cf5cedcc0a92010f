"""The published implementations' outputs, case by case, within the tolerances of the reference data.

The shipped cases (tests/golden/data) always run, $GOLDEN_DIR adds more, and some shipped cases leave out large tensors.
Every tensor of a case must be computed here, or be named with the reason why it cannot be.
"""

import pytest
import torch
from golden import attention, cat_seg, engine, label_maps, methods, prompted_heads
from golden.cases import SHIPPED, all_cases

KINDS = {  # by folder, and by how the names of their cases begin
    "proxyclip": engine.KINDS,
    "methods": label_maps.KINDS | attention.KINDS | methods.KINDS,
    "heads": prompted_heads.KINDS | cat_seg.KINDS,
}
CASES = [case for folder in KINDS for case in all_cases(folder)]
TABLES = ("class_splits", "official_configs")  # read by other tests


def kind_of(folder: str, stem: str) -> str:
    """The longest kind that the name of a case begins with; "" if there is none."""
    return max((kind for kind in KINDS[folder] if stem.startswith(kind)), key=len, default="")


@pytest.mark.parametrize("case", [case for case in CASES if case.file.stem not in TABLES], ids=str)
def test_golden(case):
    folder = case.file.parent.name
    kind = kind_of(folder, case.file.stem)
    assert kind, f"{case.file.stem} is a case of unknown kind; known: {', '.join(KINDS[folder])}"
    with torch.set_grad_enabled(folder == "heads"):
        KINDS[folder][kind](case)


@pytest.mark.parametrize("folder", KINDS)
def test_every_family_of_cases_is_shipped(folder):
    """Not every kind: the weights of whole towers, and of several decoders, are too large."""
    shipped = {kind_of(folder, file.stem).partition("_")[0] for file in (SHIPPED / folder).glob("*.json")}
    assert shipped - {""} == {kind.partition("_")[0] for kind in KINDS[folder]} - {"cascade"}


def test_shipped_cases_are_small():
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 5_000_000


def test_golden_dir_replaces_shipped_cases_by_name(tmp_path, monkeypatch):
    monkeypatch.delenv("GOLDEN_DIR", raising=False)
    shipped = all_cases("proxyclip")
    (tmp_path / "proxyclip").mkdir()
    for name in ("metric.json", "another.json"):
        (tmp_path / "proxyclip" / name).write_text("{}")
    monkeypatch.setenv("GOLDEN_DIR", str(tmp_path))
    cases = all_cases("proxyclip")
    assert len(cases) == len(shipped) + 1
    assert [case.file.stem for case in cases if case.settings == {}] == ["another", "metric"]
