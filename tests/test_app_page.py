"""The page in a real browser, with the embedded models."""

import io
import json
import shutil
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

import proxyclip
from datasets import scenes
from proxyclip.images import read_image

pytest.importorskip("gradio", reason="the page needs Gradio")

import app_server
from app_server import EXAMPLES, MINI, served

from proxyclip.app.models import Models
from proxyclip.app.results import Limits
from proxyclip.errors import NotFound

OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
)
SECONDS = 12_000  # milliseconds that a step may take on a busy machine
ORDER = ["street", "room", "garden", "coast"]  # of the examples on the page


@pytest.fixture(scope="module")
def address():
    with served(Limits(upload=2_000_000)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page in a new profile; nothing may fail in it, and it may ask nobody else for anything."""
    contexts, wrong = [], []

    def open_page(width=1280, height=900):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(SECONDS)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: wrong.append(request.url) if elsewhere(request.url, address) else None)
        tab.goto(address)
        tab.get_by_role("button", name="Segment").wait_for()
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def tab(open_page):
    return open_page()


@pytest.fixture(scope="module")
def reference():
    return proxyclip.load(**MINI)


def elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


def names(tab):
    return tab.get_by_label("Names").first


def choose(tab, label: str, option: str):
    tab.get_by_label(label, exact=True).click()
    tab.get_by_role("option", name=option, exact=True).click()


def example(tab, name: str):
    """Clicks an example, which is segmented at once."""
    tab.locator("#examples .gallery-item").nth(ORDER.index(name)).click()
    ready(tab, f"{name}_labels.png")


def ready(tab, file: str):
    tab.get_by_role("button", name=f"Download {file}").wait_for()


def saved(tab) -> tuple[str, bytes]:
    with tab.expect_download() as info:
        tab.get_by_role("button", name="Download ").click()
    return info.value.suggested_filename, info.value.path().read_bytes()


def upload(tab, *files: tuple[str, bytes]):
    entries = [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in files]
    tab.locator("input[type=file]").first.set_input_files(entries)


def png_of(image) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def areas(tab) -> dict[str, str]:
    """What the table shows: class -> share in percent."""
    tab.get_by_role("gridcell").first.wait_for()
    rows = [row.inner_text().split("\n") for row in tab.get_by_role("row").all()[1:]]
    return {row[0]: row[1] for row in rows}


def pixel(tab, x: float, y: float) -> str:
    """What the page says of a place in the picture, 0 to 1."""
    picture = tab.locator("[role=tabpanel]:visible img").first
    box, before = picture.bounding_box(), tab.get_by_label("Clicked pixel").input_value()
    picture.click(position={"x": x * box["width"], "y": y * box["height"]})
    tab.wait_for_function(
        "before => document.querySelector('#pixel textarea, #pixel input').value !== before", arg=before
    )
    return tab.get_by_label("Clicked pixel").input_value()


def test_an_example_from_picture_to_file(tab, reference):
    example(tab, "garden")
    classes = json.loads(EXAMPLES.with_suffix(".json").read_text())["garden"]
    assert names(tab).input_value().splitlines() == classes
    image = read_image(EXAMPLES / "garden.png")
    expected = reference.segment(image, classes)
    name, content = saved(tab)
    assert name == "garden_labels.png"
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(content))), expected.labels)
    shares = {name.split(";")[0]: f"{100 * area:.1f}".removesuffix(".0") for name, area in expected.areas().items()}
    assert areas(tab) == shares

    legend = tab.locator("[role=tabpanel]:visible .legend-item, [role=tabpanel]:visible .legend > *")
    assert sorted(legend.all_inner_texts()) == sorted(name for name, share in shares.items() if share != "0")
    legend.get_by_text("sky").click()  # its heat map
    tab.get_by_label("Clicked pixel").wait_for()
    assert tab.get_by_label("Heat map of").input_value() == "sky"
    label, percent = expected.labels[200, 40], 100 * expected.confidence[200, 40]
    choose(tab, "Heat map of", "all classes in colour")
    tab.wait_for_timeout(500)
    assert pixel(tab, 40.5 / 320, 200.5 / 320) == f"ProxyCLIP: {classes[label].split(';')[0]} {percent:.0f} %"

    choose(tab, "File", "summary")
    ready(tab, "garden_summary.json")
    assert json.loads(saved(tab)[1]) == json.loads(json.dumps(expected.summary()))


def test_several_pictures_two_methods_and_a_zip(tab, reference):
    images = {name: np.ascontiguousarray(scenes.draw(seed, 96)[0][:64]) for name, seed in (("my scene", 5), ("b", 6))}
    upload(tab, *((f"{name}.png", png_of(image)) for name, image in images.items()))
    names(tab).fill("brick wall; wall, wooden floor\nbird")
    choose(tab, "Compare with", "MaskCLIP")
    tab.get_by_role("button", name="Segment").click()
    ready(tab, "2_images_labels.zip")
    with zipfile.ZipFile(io.BytesIO(saved(tab)[1])) as archive:
        for name, image in images.items():
            labels = Image.open(io.BytesIO(archive.read(f"labels/{name}.png")))
            expected = reference.segment(image, ["brick wall; wall", "wooden floor", "bird"])
            np.testing.assert_array_equal(np.array(labels), expected.labels)
    before = areas(tab)
    choose(tab, "Result of", "b")
    tab.wait_for_function(
        "before => ![...document.querySelectorAll('[role=gridcell]')].some(cell => cell.innerText === before)",
        arg=next(iter(before.values())),
    )
    tab.get_by_role("tab", name="Compare").click()
    sides = tab.locator("[role=tabpanel]:visible img")
    assert sides.count() == 2 and len({side.get_attribute("src") for side in sides.all()}) == 2


def test_names_and_settings_are_kept_and_changes_are_said(tab):
    example(tab, "coast")
    said = tab.get_by_text("have changed since this result")
    assert not said.is_visible()
    names(tab).fill("sky, sea")
    said.wait_for()
    choose(tab, "Method", "MaskCLIP")
    tab.get_by_role("button", name="Segment").click()
    said.wait_for(state="hidden")
    tab.reload()
    tab.get_by_role("button", name="Segment").wait_for()
    tab.wait_for_function("[...document.querySelectorAll('textarea')].some(area => area.value === 'sky, sea')")
    assert tab.get_by_label("Method", exact=True).input_value() == "MaskCLIP"


def without_weights(models, *arguments, segment=Models.segment, pair, **options):
    if pair != "mini":
        raise NotFound("the weights of mae are neither in the cache /root/hub nor reachable")
    return segment(models, *arguments, pair=pair, **options)


def test_what_is_refused_is_said_and_the_page_goes_on(tab, monkeypatch):
    start = tab.get_by_role("button", name="Segment")
    names(tab).fill("sky, sky")
    start.click()
    tab.get_by_text("given twice").wait_for()
    names(tab).fill("sky, dachshund")
    start.click()
    tab.get_by_text("open one, or choose an example").wait_for()
    upload(tab, ("notes.png", b"no picture"))
    tab.locator("img[src*=notes]").first.wait_for(state="attached")
    start.click()
    tab.get_by_text("'notes.png': unsupported format").wait_for()
    example(tab, "coast")
    names(tab).fill("sky, dachshund")
    start.click()
    tab.get_by_text("was not trained on dachshund").wait_for()
    monkeypatch.setattr(Models, "segment", without_weights)
    tab.get_by_label("Model").click()
    tab.get_by_role("option", name="vitb16-mae").click()
    start.click()
    tab.get_by_text("The weights of mae are neither in the cache …/hub nor reachable").wait_for()


def test_a_run_is_cancelled_after_its_image(tab, monkeypatch):
    segment, calls = Models.segment, []

    def slow_segment(*arguments, **options):
        calls.append(time.sleep(0.5))
        return segment(*arguments, **options)

    monkeypatch.setattr(Models, "segment", slow_segment)
    upload(tab, *((f"{seed}.png", png_of(scenes.draw(seed, 64)[0])) for seed in range(6)))
    names(tab).fill("sky, sea")
    tab.get_by_role("button", name="Segment").click()
    while not calls:
        tab.wait_for_timeout(50)
    tab.get_by_role("button", name="Cancel").click()
    tab.wait_for_timeout(1500)
    before = len(calls)
    assert before < 4
    tab.wait_for_timeout(1000)
    assert len(calls) == before


def test_a_pasted_picture_is_opened(tab):
    content = list(png_of(scenes.draw(3, 64)[0]))
    tab.evaluate(
        """async content => {
            const item = new ClipboardItem({"image/png": new Blob([new Uint8Array(content)], {type: "image/png"})});
            navigator.clipboard.read = async () => [item];
        }""",
        content,
    )
    tab.get_by_role("button", name="clipboard").first.click()
    tab.locator(".gallery-item img, .grid-wrap img, .preview img").first.wait_for(state="attached")


# What axe says of Gradio's own components: pictures of examples without text, a button around a file input.
OF_GRADIO = {"button-name": "gallery-item", "nested-interactive": "icon-button"}


@pytest.mark.parametrize("width", [1280, 390])
def test_everyone_can_use_it_at_any_width(open_page, width):
    """No scrolling sideways; axe finds nothing that is ours."""
    tab = open_page(width)
    choose(tab, "Compare with", "MaskCLIP")
    example(tab, "street")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe checks accessibility")
    for name in ("Compare", "Pixels", "Classes"):
        tab.get_by_role("tab", name=name).click()
        tab.locator("[role=tabpanel]:visible img").first.wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        if name != "Compare" or width == 390:
            violations = axe.Axe().run(tab).response["violations"]
            nodes = [(rule["id"], node["html"]) for rule in violations for node in rule["nodes"]]
            assert not [(rule, html) for rule, html in nodes if OF_GRADIO.get(rule, "no such class") not in html]


def test_the_server_connects_to_nobody(address):
    """After all that the tests above asked for."""
    assert app_server.connections <= {"127.0.0.1"}
