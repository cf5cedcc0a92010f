"""Texts of the workbook come from names of classes, models and files: none is a formula, none damages the file."""

import pytest
from openpyxl import load_workbook
from runs import rendered, run

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", "\r=1+1", "\x01=1+1", "#N/A", '=HYPERLINK("x")')


@pytest.mark.parametrize("name", FORMULAS)
def test_names_are_texts_and_never_formulas(tmp_path, name):
    figures = {name: {"IoU": 1.0, "Acc": 1.0, "labelled": 1, "predicted": 1}}
    line = run(name, clip=name, model=name, vfm=name, per_class=figures, changed={name: name}, skipped={name: name},
               protocol={name: name, "words": [name]}, zero_shot={name: {"pAcc": 1.0}})  # fmt: skip
    paper = {"model": name, "clip": name, "vfm": name, "mIoU": {name: 1.0}, "note": name, "source": name}
    rendered(tmp_path, line, run(name, model=name), published={"mIoU": [paper]})
    book, clean = load_workbook(tmp_path / "results.xlsx"), name.strip("\t\r\x01")
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row if cell.value is not None]
    assert {cell.data_type for cell in cells} == {"s", "n"}
    found = [cell for cell in cells if cell.value == clean]
    assert {cell.parent.title for cell in found} >= {"benchmark", "runs", "zero-shot", "published"}
    assert all(cell.quotePrefix == (clean[0] in "=+-@") for cell in found)


def test_characters_that_spreadsheets_forbid(tmp_path):
    line = {"dataset": "ade20k", "model": "ProxyCLIP", "failed": "\x1b[31mno\nspace\x1b[0m\ufffe", "clip": "a\x00b"}
    sheet = rendered(tmp_path, line)["runs"]
    assert (sheet["P2"].value, sheet["B2"].value) == ("failed: [31mno space[0m", "ab")


def test_names_that_spreadsheets_forbid(tmp_path):
    names = "a/b:c" * 10, "a/b?c" * 10, "history", "", "'", "\x01", "runs", "published", "benchmark", "A", "a"
    book = rendered(tmp_path, *(run(name) for name in names))
    assert len({name.lower() for name in book.sheetnames}) == len(book.sheetnames) == 3 + len(names) - 1  # "" is odd
    assert [book[name]["A1"].value for name in ("benchmark", "runs", "published")] == ["Model"] * 3
    assert all(0 < len(name) <= 31 and name.lower() != "history" for name in book.sheetnames)
