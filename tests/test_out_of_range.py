"""Values that no model, memory or file system can take are refused with a sentence before work starts."""

import os

import pytest

import eval as eval_script
from configs.overrides import MOST
from datasets.scenes import contact_sheet
from datasets.scenes.__main__ import main as scenes_main
from proxyclip.errors import InputError

LONG = "x" * 5000


def evaluated(tmp_path, *options, capsys) -> str:
    """What eval.py says that must refuse those options before it builds a model."""
    with pytest.raises(SystemExit) as stopped:
        eval_script.main(["--config", "scenes", "--model", "mini", "--workdir", str(tmp_path / "out"), *options])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_where_the_line_goes_is_checked_first(tmp_path, capsys, monkeypatch):
    """A result that was computed must not be lost for a name."""
    monkeypatch.setattr(eval_script, "build", None)
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for place in (str(tmp_path), "", "/dev/null", str(tmp_path / "fifo"), str(tmp_path / "file" / "x"), LONG):
        said = evaluated(tmp_path, "--json", place, capsys=capsys)
        assert said.startswith("error: ") and len(said.splitlines()) == 1


def test_workers_are_not_a_fork_bomb(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(eval_script, "build", None)
    said = evaluated(tmp_path, "--workers", str(MOST["workers"] + 1), capsys=capsys)
    assert said == f"error: --workers must be at most {MOST['workers']}, not {MOST['workers'] + 1}\n"


@pytest.mark.parametrize("size", [-5, 0, 10**7, 1.5])
def test_a_contact_sheet_is_not_made_before_its_size_is_checked(size):
    with pytest.raises(InputError, match="size must be a whole number"):
        contact_sheet(24, 0, size)


def test_a_contact_sheet_checks_its_place_first(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.scenes.__main__.contact_sheet", None)
    with pytest.raises(SystemExit):
        scenes_main(["--out", str(tmp_path)])
