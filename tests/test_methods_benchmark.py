"""What `benchmarks/methods.py` makes of its results."""

from openpyxl import load_workbook
from PIL import Image

from benchmarks.methods import Kept
from benchmarks.methods_report import Row, apart, is_slow, markdown, picture, sheet

ROWS = [
    Row("A", [40.0, 42.0], [50.0, 52.0], [60.0, 62.0], 1.0, 90.0, 1.2),
    Row("B", [30.0, 32.0], [51.2, 51.8], [70.0, 70.0], 1.05, 95.0, 1.1),
    Row("C", [70.0, 72.0], [71.0, 73.0], [75.0, 75.0], 9.0, 300.0, 9.5),
]


def test_table_and_workbook_have_the_means(tmp_path):
    lines = markdown(ROWS).splitlines()
    assert lines[2] == "| A | 41.0 (40.0, 42.0) | 51.0 (50.0, 52.0) | 61.0 (60.0, 62.0) | 1.00 | 90 | 1.20 |"
    one = ROWS[0]._replace(published=[40.0], plain=[50.0], refined=[60.0])
    assert markdown([one]).splitlines()[2] == "| A | 40.0 | 50.0 | 60.0 | 1.00 | 90 | 1.20 |"
    page = load_workbook(sheet(tmp_path / "methods.xlsx", ROWS)).active
    assert [cell.value for cell in page[2]] == ["A", 41, 51, 61, 1, 90, 1.2]
    assert [page.cell(4, column).font.bold for column in (2, 3, 4)] == [True] * 3 and not page.cell(2, 3).font.bold


def test_labels_do_not_meet(tmp_path):
    heights = apart(ROWS)
    assert heights[0] == 51 and heights[1] >= heights[0] + 2 and heights[2] == 72
    assert not any(is_slow(row, ROWS) for row in ROWS)
    assert is_slow(ROWS[0]._replace(seconds=1.3), ROWS)
    with Image.open(picture(tmp_path / "methods.png", ROWS)) as image:
        assert image.size == (1000, 640) and len(image.getcolors(10**6)) > 10


def test_what_is_computed_is_not_computed_again(tmp_path):
    class Pool:
        submitted = 0

        def submit(self, function, *task):
            from concurrent.futures import Future

            self.submitted += 1
            future = Future()
            future.set_result(function(*task))
            return future

    pool = Pool()
    for expected in (2, 2, 3):
        tasks = [("a", 1), ("b", 2), ("a", 1)] + [("c", 3)] * (expected == 3)
        found = Kept(tmp_path / "kept.json").all(pool, twice, tasks)
        assert found == {task: 2 * task[1] for task in tasks} and pool.submitted == expected


def twice(name, number):
    return 2 * number
