"""The report: its numbers, and that the page needs nothing else."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_benchmark import CLASSES, Item, Samples, one_by_one, predict, resized
from PIL import Image

from proxyclip.errors import InputError
from proxyclip.evaluation import metrics as metric
from proxyclip.evaluation.loop import evaluate
from proxyclip.pictures.charts import Bar, bar_chart, stack
from proxyclip.reports.html_report import largest_confusions, render_page, write_report
from proxyclip.reports.run_log import to_plain

NAMES = ["cat", "dog & <b>puppy</b>", "cow", "sky", "sea"]
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
PAPERS = {
    "mIoU": [
        {"model": "ProxyCLIP", "clip": "tiny", "vfm": None, "mIoU": {"fake": 12.3}, "confirmed": True}
        | {"same_protocol_as_ours": True}
    ],
}
AGAIN = {"colours": COLOURS, "predict": one_by_one(predict), "resize": resized, "published": PAPERS}
HOSTILE = (
    "<script>alert(1)</script>",
    "</style><style>*{display:none}",
    "\"' onload=alert(1) x='",
    "{{ 7 * 7 }}",
    "a\ud800b",
)


@pytest.fixture
def evaluated():
    samples = Samples(10, broken=[3])
    counts = evaluate(one_by_one(predict), samples, CLASSES, resize=resized, skip_bad=True)
    scores = metric.scores(counts.matrix)
    figures = scores.pop("per_class")
    run = {"dataset": "fake", "model": "ProxyCLIP", "clip": "tiny", "vfm": None, "images": 9, "seconds": 1.0, **scores,
           "started": "2026-01-01 10:00:00", "skipped": counts.skipped, "changed": {}, "protocol": {"crop": 336},
           "per_class": {n: {k: v[i] for k, v in figures.items()} for i, n in enumerate(NAMES)}}  # fmt: skip
    return run, counts, samples


def test_page_and_pictures(evaluated, tmp_path):
    run, counts, samples = evaluated
    page = write_report(tmp_path / "report", run, counts, samples, **AGAIN).read_text()
    assert f"{run['mIoU']:.2f}" in page and "<b>12.3</b>mIoU, published" in page
    assert "not confirmed" not in page and "Not the benchmark" not in page
    assert "dog &amp; &lt;b&gt;puppy&lt;/b&gt;" in page and "<b>puppy" not in page
    assert "image003.jpg is truncated" in page
    worst = sorted((stem for stem in counts.images), key=lambda stem: counts.images[stem][1])[:8]
    assert re.findall(r"<figcaption>(\S+):", page) == worst
    sources = re.findall(r'(?:src|href)="([^"#]*)"', page)
    assert all(f'id="{link}"' in page for link in re.findall(r'href="#(\w+)"', page))
    assert len(sources) == 8 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "http" not in page and "@import" not in page and "<script" not in page
    for name in ("per_class.png", "confusions.png", "worst.png"):
        assert Image.open(tmp_path / "report" / name).width > 500


def test_file_names_that_are_not_utf8(evaluated, tmp_path):
    run, counts, samples = evaluated
    worst = min(counts.images, key=lambda stem: counts.images[stem][1])
    index = [item.stem for item in samples.items].index(worst)
    samples.items[index] = Item("a\udce9")
    counts.images["a\udce9"] = counts.images.pop(worst)
    page = write_report(tmp_path, run, counts, samples, **AGAIN).read_text()
    assert r"<figcaption>a\udce9: mIoU" in page


def test_largest_confusions():
    matrix = np.array([[50, 30, 20], [0, 80, 0], [5, 0, 15]])
    found = largest_confusions(matrix, ["cat", "dog", "cow; bull"])
    pairs = [("cat", "dog"), ("cat", "cow; bull"), ("cow; bull", "cat")]
    shares = [(15, 30, 100), (10, 20, 200 / 3), (2.5, 25, 50 / 3)]  # of all, of the class, of the largest
    assert [one[:2] for one in found] == pairs
    assert [one[2:] for one in found] == [pytest.approx(three) for three in shares]
    assert found[2].title == "cow as cat"


def test_a_perfect_result_has_no_confusions():
    assert largest_confusions(np.diag([3, 0, 5]), NAMES[:3]) == []


def test_never_predicted_classes_are_listed(evaluated, tmp_path):
    run, counts, samples = evaluated
    run["per_class"]["cow"] |= {"predicted": 0, "IoU": None}
    page = write_report(tmp_path, run, counts, samples, **AGAIN).read_text()
    assert "Classes never predicted: 1 of the 5 that are labelled</h2>\n<p>cow</p>" in page


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


def test_a_changed_run_says_so_and_has_no_published_score(evaluated, tmp_path):
    run, counts, samples = evaluated
    run["changed"] = {"limit": 9, "beta": 1.6}
    page = write_report(tmp_path, run, counts, samples, **AGAIN).read_text()
    assert "standard protocol: beta 1.6, first 9 images." in page and "12.3" not in page
    assert "<h1>fake, ProxyCLIP (beta 1.6, first 9 images), tiny</h1>" in page


class Elements(HTMLParser):
    """Counts the elements of a page, and gathers their attributes and texts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts = [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, text):
        self.texts.append(text)


@pytest.mark.parametrize("count", [len(HOSTILE), 847])
def test_hostile_names_stay_texts(evaluated, count):
    """Wherever a name stands, the page has the same elements as with harmless ones."""

    def page_of(names):
        figures = {name: {"IoU": 1.0, "Acc": 1.0, "labelled": 1, "predicted": 0} for name in names}
        texts = names[:5]
        line = to_plain(run | {"per_class": figures, "dataset": texts[0], "model": texts[1], "clip": texts[2],
                               "changed": {texts[3]: texts[1]}, "skipped": {texts[0]: texts[1]}, "started": texts[2],
                               "protocol": {texts[1]: texts[0], "words": list(texts)}})  # fmt: skip
        classes = list(line["per_class"])
        pairs = largest_confusions(np.ones((len(classes), len(classes)), int), classes)
        worst = [(text, Image.new("RGB", (8, 8))) for text in texts[:4]]
        return Elements(render_page(line, pairs, worst, PAPERS))

    run, _, _ = evaluated
    hostile = page_of([HOSTILE[i % len(HOSTILE)] + " " * (i // len(HOSTILE)) for i in range(count)])
    harmless = page_of([f"class {i}" for i in range(count)])
    assert hostile.tags == harmless.tags and hostile.attributes == harmless.attributes
    texts = [text.strip() for text in hostile.texts]
    assert set(HOSTILE[:4]) <= set(texts) and r"a\ud800b" in texts


def test_folder_that_cannot_be_written_to(evaluated, tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(InputError, match="a file of that name"):
        write_report(tmp_path / "report", *evaluated, **AGAIN)
