"""The page as it is served: over HTTP, and in a real browser, with the embedded models."""

import io
import json
import re
import resource
import shutil
from http.client import HTTPConnection
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
from hostile_files import HOSTILE, jpeg
from PIL import Image

from datasets import scenes
from proxyclip.errors import NotFound
from proxyclip.images import read_image

pytest.importorskip("gradio", reason="the page needs Gradio")

import app_server
from app_server import new_desk, served

from proxyclip.app.examples import EXAMPLES, file_of
from proxyclip.app.models import Models

OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
)
SECONDS = 60_000  # milliseconds that a step may take on a busy machine


@pytest.fixture(scope="module")
def desk():
    return new_desk(max_upload=2)


@pytest.fixture(scope="module")
def address(desk):
    with served(desk) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def tab(browser, address):
    yield from opened(browser, address)


@pytest.fixture
def other_tab(browser, address):
    yield from opened(browser, address)


def opened(browser, address):
    """A tab with the page in it; nothing may fail in it, and it may ask nobody else for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab, wrong = context.new_page(), []
    tab.set_default_timeout(SECONDS)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: wrong.append(request.url) if elsewhere(request.url, address) else None)
    tab.goto(address)
    tab.wait_for_selector("[data-example]")
    yield tab
    assert not wrong
    context.close()


def elsewhere(url: str, address: str) -> bool:
    return urlsplit(url).scheme not in ("data", "blob") and not url.startswith(address)


def until(tab, state: str):
    tab.wait_for_selector(f".viewer[data-state={state}]:not(.working)")


WATCH = """() => {
    const viewer = document.querySelector(".viewer");
    window.started = false;
    const watcher = new MutationObserver(() => {
        window.started ||= viewer.classList.contains("working");
        if (window.started) watcher.disconnect();
    });
    watcher.observe(viewer, {attributeFilter: ["class"]});
}"""


def segment(tab):
    """Presses the button and waits for the end. A refusal may come too soon for a glance at the page to see it at work:
    the page itself notes that."""
    tab.evaluate(WATCH)
    tab.click("#segment")
    tab.wait_for_function("window.started")
    tab.wait_for_selector(".viewer:not(.working)")


def areas(tab) -> dict[str, str]:
    """What the legend shows."""
    entries = tab.query_selector_all(".legend button")
    return {entry.get_attribute("title"): entry.query_selector(".areas").inner_text() for entry in entries}


def saved(tab, kind: str, nth: int = 0) -> bytes:
    with tab.expect_download() as info:
        tab.locator(f".files [data-kind={kind}]").nth(nth).click()
    return info.value.path().read_bytes()


def point_at(tab, x: float, y: float) -> str:
    """What the page says at a place of the image, 0 to 1."""
    box = tab.locator(".frame").bounding_box()
    tab.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    return tab.inner_text(".readout")


def upload(tab, name: str, content: bytes):
    tab.set_input_files(".viewer input[type=file]", {"name": name, "mimeType": "image/png", "buffer": content})


def png_of(image) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def ask(url: str, data: bytes | None = None, **headers):
    """Status, content and headers of an answer."""
    try:
        with urlopen(Request(url, data, headers), timeout=30) as answer:
            return answer.status, answer.read(), answer.headers
    except HTTPError as error:
        return error.code, error.read(), error.headers


def without_weights(models, choice, load=Models.load):
    if choice.pair != "mini":
        raise NotFound("the weights of mae are neither in the cache /root/hub nor reachable")
    return load(models, choice)


def test_hostile_uploads_are_refused(address):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, (content, message) in HOSTILE.items():
        status, answer, _ = ask(f"{address}/images?name={name}", content)
        said = json.loads(answer)["error"]
        assert status == 400 and message in said and "/" not in said, said
    connection = HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.putrequest("POST", "/images")
    connection.putheader("Content-Length", "2100000")
    connection.endheaders()  # refused before any of it is sent
    assert "larger than 2 MB" in json.loads(connection.getresponse().read())["error"]
    connection.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_only_what_the_page_needs_is_served(address):
    for path in ("gradio_api/upload", "gradio_api/file=/etc/passwd", "gradio_api/proxy=http://example.org", "docs"):
        assert ask(f"{address}/{path}")[0] == 404, path
    assert ask(f"{address}/gradio_api/upload", b"x")[0] == 404
    assert ask(f"{address}/parts/../routes.py")[0] == 404
    for path in ("images/x", "results/x/labels", "results/x/heat/0", "results/x/files/json"):
        status, answer, _ = ask(f"{address}/{path}")
        assert status == 400 and "no longer held" in json.loads(answer)["error"]
    assert json.loads(ask(f"{address}/examples/none", b"")[1])["error"] == "there is no such example"


def test_other_sites_cannot_use_the_page_of_a_visitor(address):
    own = address.removeprefix("http://")
    assert ask(f"{address}/images?name=a.jpg", jpeg(), Origin="http://example.org")[0] == 403
    status, _, headers = ask(f"{address}/images?name=a.jpg", jpeg(), Origin=f"http://{own}")
    assert status == 200
    assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_a_failure_says_nothing_about_the_server(address, monkeypatch, caplog):
    monkeypatch.setattr("proxyclip.app.uploads.read_upload", lambda *_: {}["secret"])
    status, answer, _ = ask(f"{address}/images?name=a.jpg", jpeg())
    assert status == 500 and "secret" not in answer.decode() and "secret" in caplog.text


def test_what_is_refused_is_said_and_the_page_goes_on(tab, monkeypatch):
    segment(tab)
    assert "There is no image yet" in tab.inner_text(".message")
    tab.click("[data-example=coast]")
    until(tab, "labels")
    for name, (content, message) in HOSTILE.items():
        upload(tab, name.rpartition("/")[2], content)
        tab.wait_for_selector(f".message:text('{message}')")
        assert "/" not in tab.inner_text(".message")
    upload(tab, "large.png", bytes(2_100_000))
    tab.wait_for_selector(".message:text('larger than 2 MB')")
    tab.fill("#names textarea", "sky, sky")
    segment(tab)
    tab.wait_for_selector(".message:text('given twice')")
    segment(tab)  # the same again
    assert "given twice" in tab.inner_text(".message")
    monkeypatch.setattr(Models, "load", without_weights)
    tab.get_by_label("Model").click()
    tab.get_by_role("option", name="vitb16-mae").click()
    tab.fill("#names textarea", "sky, sea")
    segment(tab)
    assert tab.inner_text(".message") == "The weights of mae are neither in the cache …/hub nor reachable"
    tab.get_by_label("Model").click()
    tab.get_by_role("option", name="mini").click()
    segment(tab)
    assert tab.inner_text(".message") == "" and sorted(areas(tab)) == ["sea", "sky"]


def test_an_example_from_image_to_files(tab, desk, monkeypatch):
    runs, run = [], Models.segment
    monkeypatch.setattr(Models, "segment", lambda self, *given: runs.append(given) or run(self, *given))
    tab.click("[data-example=garden]")
    tab.wait_for_selector(".legend [title=mushroom]")
    until(tab, "labels")
    assert tab.input_value("#names textarea") == EXAMPLES["garden"].text
    names = list(EXAMPLES["garden"].names)
    image = read_image(file_of("garden"))
    expected = desk.models.load(desk.models.first).segment(image, names)
    labels = Image.open(io.BytesIO(saved(tab, "labels")))
    assert labels.mode == "P" and np.array_equal(np.array(labels), expected.labels)
    assert json.loads(saved(tab, "json")) == json.loads(json.dumps(expected.summary()))
    tab.fill(".opacity input", "30")
    overlay = np.array(Image.open(io.BytesIO(saved(tab, "overlay"))))
    assert np.array_equal(overlay, np.array(expected.overlay(0.3)))
    assert tab.evaluate("getComputedStyle(document.querySelector('.layer')).opacity") == "0.3"

    shown = areas(tab)
    assert sorted(shown) == sorted(names)
    largest = max(expected.areas(), key=expected.areas().get)
    assert next(iter(shown)) == largest and shown[largest] == f"{100 * expected.areas()[largest]:.0f} %"
    y, x = 200, 40
    said = f"{names[expected.labels[y, x]]} {round(100 * float(expected.confidence[y, x]))} %"
    assert point_at(tab, (x + 0.5) / 320, (y + 0.5) / 320) == said
    tab.mouse.down()
    tab.mouse.up()
    assert tab.inner_text(".readout") == said and tab.is_visible(".pin")
    point_at(tab, 0.9, 0.9)
    assert tab.inner_text(".readout") == said  # the click holds it

    probability = desk.models.load(desk.models.first).segment(image, names, probabilities=["sky"]).probabilities["sky"]
    tab.click(".legend [title=sky]")
    until(tab, "heat")
    assert tab.inner_text(".readout") == f"sky {round(100 * float(probability[y, x]))} %"
    tab.click(".labels-again")
    until(tab, "labels")
    assert len(runs) == 1  # everything after it came from the one run


def test_an_upload_other_names_and_two_methods(tab, desk):
    image = np.ascontiguousarray(scenes.draw(5, 128)[0][:90])  # (90, 128, 3)
    upload(tab, "my scene.png", png_of(image))
    until(tab, "ready")
    tab.fill("#names textarea", "brick wall; wall, wooden floor\nbird")
    tab.get_by_label("Compare with").click()
    tab.get_by_role("option", name="MaskCLIP").click()
    segment(tab)
    until(tab, "labels")
    assert list(areas(tab)) and tab.is_visible(".divider")
    assert tab.locator(".tag").all_inner_texts() == ["ProxyCLIP", "MaskCLIP"]
    names = ["brick wall; wall", "wooden floor", "bird"]
    results = [desk.models.load(desk.models.first), desk.models.load(type(desk.models.first)("mini", "maskclip"))]
    results = [model.segment(image, names) for model in results]
    assert not np.array_equal(results[0].labels, results[1].labels)
    for nth, result in enumerate(results):
        assert np.array_equal(np.array(Image.open(io.BytesIO(saved(tab, "labels", nth)))), result.labels)
    for share, result in ((0.25, results[0]), (0.75, results[1])):
        label = result.labels[45, int(share * 128)]
        title = result.settings["method"]
        assert re.fullmatch(rf"{names[label]} \d+ %, {title}", point_at(tab, share, 0.5))
    tab.focus(".divider")
    tab.keyboard.press("Home")
    assert point_at(tab, 0.25, 0.5).endswith("MaskCLIP")

    tab.fill("#names textarea", "sky, dachshund")
    segment(tab)
    until(tab, "labels")
    assert sorted(areas(tab)) == ["dachshund", "sky"]
    assert "not trained on dachshund" in tab.inner_text(".notes")


def test_a_server_without_room_in_its_queue_is_said(tab):
    tab.route("**/queue/join*", lambda route: route.fulfill(status=503, json={"detail": "Queue is full."}))
    tab.click("#segment")
    tab.wait_for_selector(".message:text('busy or cannot be reached')")
    tab.unroute("**/queue/join*")
    segment(tab)
    assert tab.inner_text(".message") == ""


def test_two_tabs_do_not_mix(tab, other_tab, desk):
    for each, name in ((tab, "coast"), (other_tab, "room")):
        each.click(f"[data-example={name}]")
    for each, name in ((tab, "coast"), (other_tab, "room")):
        each.wait_for_selector(f".legend [title='{EXAMPLES[name].names[-1]}']")
        until(each, "labels")
        assert sorted(areas(each)) == sorted(EXAMPLES[name].names)
        expected = desk.models.load(desk.models.first).segment(read_image(file_of(name)), list(EXAMPLES[name].names))
        assert np.array_equal(np.array(Image.open(io.BytesIO(saved(each, "labels")))), expected.labels)


def test_a_dropped_and_a_pasted_file_are_opened(tab):
    for event, field, name in (("drop", "dataTransfer", "dropped.png"), ("paste", "clipboardData", "pasted.png")):
        content = list(png_of(scenes.draw(3, 64)[0]))
        tab.evaluate(
            """([event, field, name, content]) => {
                const held = new DataTransfer();
                held.items.add(new File([new Uint8Array(content)], name, { type: "image/png" }));
                const kind = event === "drop" ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(new kind(event, { [field]: held, bubbles: true, cancelable: true }));
            }""",
            [event, field, name, content],
        )
        tab.wait_for_selector(f".base[alt*='{name}']")
        until(tab, "ready")


def test_a_phone_shows_everything_without_scrolling_sideways(tab):
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.click("[data-example=street]")
    tab.wait_for_selector(".legend [title=car]")
    until(tab, "labels")
    edges = "[...document.querySelectorAll('.viewer *, #controls *')].map((part) => part.getBoundingClientRect().right)"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert 300 < max(tab.evaluate(edges)) <= 390
    tab.locator("#segment").scroll_into_view_if_needed()
    segment(tab)
    tab.wait_for_function("document.querySelector('.viewer').getBoundingClientRect().top > -100")


def test_the_server_connects_to_nobody(address):
    """After all that the tests above asked for."""
    assert {place[0] for place in app_server.connections} == {"127.0.0.1"}
