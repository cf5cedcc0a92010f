"""Overlays, heat maps and panels, pixel by pixel."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stripes import names, stripes

from proxyclip.errors import InputError
from proxyclip.pictures import overlay as overlay_module
from proxyclip.pictures.legend import as_image, font_size
from proxyclip.pictures.overlay import (
    ALPHA,
    GAP,
    LONGEST,
    NOT_SCORED,
    borders,
    colour_scale,
    display_size,
    heatmap,
    nearest,
    oklab,
    overlay,
    panels,
    quantised,
)

ROOT = Path(__file__).parents[1]
RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def test_colours_lie_over_the_image():
    labels = np.zeros((400, 400), np.uint8)
    labels[:, 200:] = 1
    image = np.zeros((400, 400, 3), np.uint8)
    image[:200] = 200  # a bright half, a dark half
    colours = np.array([RED, BLUE], np.uint8)
    pixels = np.asarray(overlay(image, labels, colours, alpha=0.5))
    assert pixels[100, 100].tolist() == [228, 100, 100]
    assert pixels[300, 300].tolist() == [0, 0, 128]
    assert pixels[300, 199].min() > 180  # the line between the two
    image[:] = 200, 100, 0  # of brightness 118.5, and half of the colour goes
    assert np.asarray(overlay(image, labels, colours, alpha=0))[100, 100].tolist() == [159, 109, 59]


def test_bands_of_rows_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    image, labels = random.integers(0, 256, (350, 330, 3), np.uint8), random.integers(0, 3, (350, 330), np.uint8)
    colours, probability = np.array([RED, BLUE, GREEN], np.uint8), random.random((350, 330), np.float32)
    whole = overlay(image, labels, colours, 0.5), heatmap(image, probability)
    monkeypatch.setattr(overlay_module, "BAND_PIXELS", 1000)
    for one, other in zip(whole, (overlay(image, labels, colours, 0.5), heatmap(image, probability)), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_borders():
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]])
    assert borders(labels, 1).astype(int).tolist() == [[0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert borders(labels[:1, :1], 3).tolist() == [[False]]


def test_tiny_images_are_enlarged_with_sharp_labels():
    pixels = stripes(30, 40, classes=("road", "car", "sky")).overlay(legend=False)
    assert pixels.size == (320, 240)
    assert len(np.unique(np.asarray(pixels)[120], axis=0)) == 3  # two flat colours and the line


@pytest.mark.parametrize(
    "size, displayed",
    [((400, 600), (400, 600)), ((30, 40), (240, 320)), ((1, 1), (320, 320)), ((1, 60_000), (1, LONGEST)),
     ((60_000, 3), (LONGEST, 2)), ((LONGEST, 20), (LONGEST, 20)), ((90_000, 900), (LONGEST, 300))],
)  # fmt: skip
def test_display_size(size, displayed):
    assert display_size(*size) == displayed


def test_nearest():
    values = np.array([[1, 2], [3, 4]])
    assert nearest(values, (4, 6)).tolist() == [[1, 1, 1, 2, 2, 2]] * 2 + [[3, 3, 3, 4, 4, 4]] * 2
    image = np.random.default_rng(0).integers(0, 9, (37, 61)).astype(np.int32)
    for size in ((20, 90), (100, 7), (1, 1)):
        expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(nearest(image, size), np.asarray(expected))


@pytest.mark.parametrize("alpha", [-0.1, 2, float("nan")])
def test_an_alpha_that_is_no_weight(alpha):
    with pytest.raises(InputError, match="alpha is .*; it must be a number between 0 and 1"):
        stripes().overlay(alpha=alpha)


@pytest.mark.parametrize("height, width", [(1, 300), (300, 1), (1, 1), (40, 30), (400, 600), (600, 400), (3, 3000)])
@pytest.mark.parametrize("count", [1, 4, 30, 300])
def test_overlay_of_any_shape_holds_its_legend(height, width, count):
    result = stripes(height, width, names(count))
    plain, full = result.overlay(legend=False), result.overlay(caption="random weights: the colours mean nothing")
    assert full.width >= plain.width
    assert full.height > plain.height
    assert full.width > plain.width or width >= height  # beside a portrait
    assert full.width * full.height < 20 * max(plain.width * plain.height, 500 * 500)


@pytest.mark.parametrize("height, width", [(1, 60_000), (60_000, 1), (2_000_000, 1), (1, 2_000_000)])
def test_thin_images_take_little_memory(height, width):
    probability = np.full((height, width), 0.5, np.float32)
    result = stripes(height, width, names(30), probabilities={"sky 0": probability})
    label = result.labels.astype(np.int32)
    tracemalloc.start()
    for _, image in result.images(caption="a caption"):
        assert image.width * image.height < 20_000_000
    assert panels(result.image, label, label, result.classes, result.colours()).height < 1.1 * LONGEST
    assert tracemalloc.get_traced_memory()[1] < 400_000_000
    tracemalloc.stop()


# Heat maps


def test_heatmap_has_its_scale_beside_it():
    probability = np.linspace(0, 1, 500, dtype=np.float32)[None].repeat(300, axis=0)
    pixels = np.asarray(heatmap(np.zeros((300, 500, 3), np.uint8), probability, alpha=1))
    assert pixels.shape[0] == 300
    assert pixels.shape[1] > 500
    lightness = oklab(pixels[150, :500] / 255)[:, 0]
    assert lightness[0] < 0.2
    assert lightness[-1] > 0.9
    assert (np.diff(lightness) > -1e-3).all()
    # The bar runs from 1 at the top to 0 at the bottom.
    size = font_size(300, 500)
    bar = pixels[:, 500 + size + 3].astype(int)
    np.testing.assert_allclose(bar[size + 1], pixels[150, 499], atol=8)
    np.testing.assert_allclose(bar[-size - 2], pixels[150, 0], atol=8)
    np.testing.assert_allclose(bar[150], pixels[150, 250], atol=8)


def test_the_scale_is_labelled_from_0_at_the_bottom(monkeypatch):
    figures = []
    monkeypatch.setattr(overlay_module, "as_image", lambda figure: figures.append(figure) or as_image(figure))
    colour_scale(300, 500)
    (axes,) = figures[0].axes
    heights = {label.get_text(): label.get_window_extent().y0 for label in axes.get_yticklabels()}
    assert heights["0"] < heights["0.5"] < heights["1"]


def test_probabilities_that_are_not_numbers_count_as_nothing():
    values = np.array([0, 0.5, 1, 2, -1, np.nan, np.inf, -np.inf], np.float32)
    with np.errstate(invalid="raise"):  # what becomes of nan as an integer depends on the processor
        assert quantised(values, np.uint8).tolist() == [0, 128, 255, 255, 0, 0, 255, 0]
        assert quantised(values, np.uint16).tolist() == [0, 32768, 65535, 65535, 0, 0, 65535, 0]


# Panels


def test_panels_show_image_ground_truth_and_prediction():
    """Each map in its own place, in its classes' colours, void in grey."""
    height, width = 300, 400
    image = np.full((height, width, 3), 100, np.uint8)
    ground_truth = np.zeros((height // 2, width // 2), np.int32)  # at another size than the image
    ground_truth[:, 100:] = 1
    ground_truth[:50] = -1
    prediction = np.full((height // 2, width // 2), 2, np.int32)
    prediction[75:] = 0
    sheet = np.asarray(panels(image, ground_truth, prediction, ["sky", "car; truck", "cow"], [RED, BLUE, GREEN]))

    top = next(row for row in range(100) if (sheet[row, 200] == 100).all() and (sheet[row, 5] == 100).all())
    pixel = lambda panel, row, column: sheet[top + row, panel * (width + GAP) + column].tolist()  # noqa: E731
    tinted = lambda colour: [round((1 - ALPHA) * 100 + ALPHA * part) for part in colour]  # noqa: E731
    np.testing.assert_array_equal(sheet[top : top + height, :width], image)
    assert (sheet[top : top + height, width : width + GAP] == 255).all()
    assert pixel(1, 50, 100) == pixel(1, 50, 300) == tinted(NOT_SCORED)
    assert pixel(1, 200, 100) == tinted(RED)
    assert pixel(1, 200, 300) == tinted(BLUE)
    assert pixel(2, 50, 100) == pixel(2, 50, 300) == tinted(GREEN)
    assert pixel(2, 200, 100) == pixel(2, 200, 300) == tinted(RED)
    legend = {tuple(colour) for colour in sheet[top + height :].reshape(-1, 3).tolist()}
    assert {RED, BLUE, GREEN, NOT_SCORED} <= legend


def test_panels_without_void_list_no_void():
    label = np.zeros((300, 400), np.int32)
    sheet = np.asarray(panels(np.zeros((300, 400, 3), np.uint8), label, label, ["sky", "cow"], [RED, BLUE]))
    legend = {tuple(colour) for colour in sheet[340:].reshape(-1, 3).tolist()}
    assert RED in legend
    assert not {BLUE, NOT_SCORED} & legend


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, proxyclip.segmentation, proxyclip.pictures.charts, proxyclip.pictures.overlay; "
    code += "print('matplotlib' in sys.modules); from PIL import Image; "
    code += "from proxyclip.pictures.charts import bar_chart; bar_chart('', '', []); "
    code += "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
