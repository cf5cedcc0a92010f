"""The report: its numbers, and that the page needs nothing else."""

import re

import numpy as np
import pytest
from fake_benchmark import CLASSES, Samples, predict, resized
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.evaluation import metrics as metric
from proxyclip.evaluation.counting import Settings
from proxyclip.evaluation.evaluate import evaluate
from proxyclip.pictures.charts import Bar, bar_chart, stack
from proxyclip.reports import html_report as report

NAMES = ["cat", "dog & <b>puppy</b>", "cow", "sky", "sea"]
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]


@pytest.fixture
def evaluated():
    samples = Samples(10, broken=[3])
    tally = evaluate(predict, samples, CLASSES, resized, Settings(workers=0, skip_bad=True))
    scores = metric.scores(tally.matrix)
    figures = scores.pop("per_class")
    run = {"dataset": "fake", "model": "ProxyCLIP", "clip": "tiny", "vfm": None, "images": 9, "seconds": 1.0, **scores,
           "started": "2026-01-01 10:00:00", "skipped": tally.skipped, "published": 12.3, "protocol": {"crop": 336},
           "per_class": {n: {k: v[i] for k, v in figures.items()} for i, n in enumerate(NAMES)}}  # fmt: skip
    return run, tally, samples


def test_page_and_pictures(evaluated, tmp_path):
    run, tally, samples = evaluated
    page = report.write(tmp_path / "report", run, tally, samples, COLOURS, predict, resized).read_text()
    assert f"{run['mIoU']:.2f}" in page and "12.30" in page
    assert "dog &amp; &lt;b&gt;puppy&lt;/b&gt;" in page and "<b>puppy" not in page
    assert "image003.jpg is truncated" in page
    worst = sorted((stem for stem in tally.images), key=lambda stem: tally.images[stem][1])[:8]
    assert re.findall(r"<figcaption>(\S+):", page) == worst
    sources = re.findall(r'(?:src|href)="([^"#]*)"', page)
    assert all(f'id="{link}"' in page for link in re.findall(r'href="#(\w+)"', page))
    assert len(sources) == 8 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "http" not in page and "@import" not in page and "<script" not in page
    for name in ("per_class.png", "confusions.png", "worst.png"):
        assert Image.open(tmp_path / "report" / name).width > 500


def test_largest_confusions():
    matrix = np.array([[50, 30, 20], [0, 80, 0], [5, 0, 15]])
    found = report.largest_confusions(matrix, ["cat", "dog", "cow; bull"])
    pairs = [("cat", "dog"), ("cat", "cow; bull"), ("cow; bull", "cat")]
    shares = [(15, 30, 100), (10, 20, 200 / 3), (2.5, 25, 50 / 3)]  # of all, of the class, of the largest
    assert [one[:2] for one in found] == pairs
    assert [one[2:] for one in found] == [pytest.approx(three) for three in shares]
    assert found[2].title == "cow as cat"


def test_a_perfect_result_has_no_confusions():
    assert report.largest_confusions(np.diag([3, 0, 5]), NAMES[:3]) == []


def test_never_predicted_classes_are_listed(evaluated, tmp_path):
    run, tally, samples = evaluated
    run["per_class"]["cow"] |= {"predicted": 0, "IoU": None}
    page = report.write(tmp_path, run, tally, samples, COLOURS, predict, resized).read_text()
    assert "Classes never predicted: 1 of the 5 that are labelled</h2><p>cow</p>" in page


def test_bars_are_as_long_as_their_values():
    bars = [Bar("all", 100.0, "100"), Bar("half", 50.0, "50"), Bar("none", None, "absent")]
    pixels = np.asarray(bar_chart("title", "subtitle", bars))
    blue = (pixels == (54, 110, 190)).all(-1).sum(1)  # blue pixels of each row
    lengths = sorted(set(blue[blue > 0].tolist()))
    assert len(lengths) == 2 and lengths[1] == pytest.approx(2 * lengths[0], abs=2)


@pytest.mark.parametrize("count", [171, 847])
def test_many_classes_take_several_columns(count):
    """A strip of one row of columns could not be read on any screen."""
    sheet = bar_chart("title", "", [Bar(f"class {i}", i / 9, "") for i in range(count)])
    assert 1 / 2 < sheet.width / sheet.height < 2


def test_a_long_title_is_not_cut():
    sheet = bar_chart("a long title " * 20, "", [Bar("all", 100.0, "100")])
    assert (np.asarray(sheet)[:, -24:] == 255).all() and sheet.width > 1500


def test_a_stack_is_as_wide_as_its_widest_picture():
    sheet = stack([("a", Image.new("RGB", (200, 10))), ("b", Image.new("RGB", (3000, 50)))], most_width=300)
    assert sheet.width == 300 + 2 * 24
    assert stack([("a title that is wider than its picture", Image.new("RGB", (20, 10)))]).width > 300


def test_a_run_of_some_images_says_so(evaluated, tmp_path):
    run, tally, samples = evaluated
    run["protocol"]["limit"] = 9
    page = report.write(tmp_path, run, tally, samples, COLOURS, predict, resized).read_text()
    assert "the first 9 images only: 9 images" in page


def test_folder_that_cannot_be_written_to(evaluated, tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(InputError, match="a file of that name"):
        report.write(tmp_path / "report", *evaluated, COLOURS, predict, resized)
