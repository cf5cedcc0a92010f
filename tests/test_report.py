"""The report: its numbers, and that the page needs nothing else."""

import re

import numpy as np
import pytest
from fake_benchmark import CLASSES, Samples, predict
from PIL import Image

from proxyclip import metric, report
from proxyclip.charts import Bar, bar_chart
from proxyclip.errors import InputError
from proxyclip.evaluation import Settings, evaluate

NAMES = ["cat", "dog & <b>puppy</b>", "cow", "sky", "sea"]
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]


@pytest.fixture
def evaluated():
    samples = Samples(10, broken=[3])
    tally = evaluate(predict, samples, CLASSES, 16, Settings(workers=0, skip_bad=True))
    scores = metric.scores(tally.matrix)
    figures = scores.pop("per_class")
    run = {"dataset": "fake", "model": "ProxyCLIP", "clip": "tiny", "vfm": None, "images": 9, "seconds": 1.0, **scores,
           "started": "2026-01-01 10:00:00", "skipped": tally.skipped, "published": 12.3, "protocol": {"crop": 336},
           "per_class": {n: {k: v[i] for k, v in figures.items()} for i, n in enumerate(NAMES)}}  # fmt: skip
    return run, tally, samples


def test_page_and_pictures(evaluated, tmp_path):
    run, tally, samples = evaluated
    page = report.write(tmp_path / "report", run, tally, samples, COLOURS, predict, 16).read_text()
    assert f"{run['mIoU']:.2f}" in page and "12.30" in page
    assert "dog &amp; &lt;b&gt;puppy&lt;/b&gt;" in page and "<b>puppy" not in page
    assert "image003.jpg is truncated" in page
    worst = sorted((stem for stem in tally.images), key=lambda stem: tally.images[stem][1])[:8]
    assert re.findall(r"<figcaption>(\S+):", page) == worst
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 8 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "http" not in page and "@import" not in page and "<script" not in page
    for name in ("per_class.png", "confusions.png", "worst.png"):
        assert Image.open(tmp_path / "report" / name).width > 500


def test_largest_confusions():
    matrix = np.array([[50, 30, 20], [0, 10, 0], [5, 0, 0]])
    found = report.largest_confusions(matrix, ["cat", "dog", "cow"])
    assert found == [("cat", "dog", 30, 30.0), ("cat", "cow", 20, 20.0), ("cow", "cat", 5, 100.0)]


def test_never_predicted_classes_are_listed(evaluated, tmp_path):
    run, tally, samples = evaluated
    run["per_class"]["cow"] |= {"predicted": 0, "IoU": None}
    page = report.write(tmp_path, run, tally, samples, COLOURS, predict, 16).read_text()
    assert "Classes never predicted: 1</h2><p>cow</p>" in page


def test_bars_are_as_long_as_their_values():
    bars = [Bar("all", 100.0, "100"), Bar("half", 50.0, "50"), Bar("none", None, "absent")]
    pixels = np.asarray(bar_chart("title", "subtitle", bars))
    blue = (pixels == (54, 110, 190)).all(-1).sum(1)  # blue pixels of each row
    lengths = sorted(set(blue[blue > 0].tolist()))
    assert len(lengths) == 2 and lengths[1] == pytest.approx(2 * lengths[0], abs=2)


def test_many_classes_take_several_columns():
    sheet = bar_chart("title", "", [Bar(f"class {i}", i / 9, "") for i in range(847)])
    assert sheet.height < 1700 and sheet.width < 20_000


def test_folder_that_cannot_be_written_to(evaluated, tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(InputError, match="a file of that name"):
        report.write(tmp_path / "report", *evaluated, COLOURS, predict, 16)
