"""The page against visitors who mean harm, over loopback: whatever they send, it answers others as before.

127.0.0.2 and the like are other people's addresses, as far as the server can tell.
"""

import json
import random
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from hostile_files import HOSTILE, jpeg
from PIL import Image

import proxyclip
from proxyclip.images import read_image

pytest.importorskip("gradio", reason="the page needs Gradio")

from app_server import EXAMPLES, MINI, connections, served
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from proxyclip.app import server
from proxyclip.app.models import Models
from proxyclip.app.results import Limits

ROOT = Path(__file__).parents[1]
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BOUNDARY = "----b"
UPLOAD = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def page():
    with served(Limits(upload=2_000_000, memory=40_000_000)) as page:
        yield page


@pytest.fixture(scope="module")
def client(page):
    return Client(page[0], verbose=False)


@pytest.fixture(autouse=True)
def the_page_goes_on(page):
    yield
    status, _, content = ask(page[0], "GET", "/", source="127.0.0.1")
    assert status == 200 and b"proxyclip" in content


def connect(address, source="127.0.0.2") -> HTTPConnection:
    return HTTPConnection(urlsplit(address).netloc, timeout=20, source_address=(source, 0))


def ask(address, method, path, body=None, headers=None, source="127.0.0.2"):
    """Status, headers and content of an answer."""
    connection = connect(address, source)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def multipart(content: bytes, name="a.png") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def begin(address, path="/gradio_api/upload", headers=UPLOAD, source="127.0.0.2") -> HTTPConnection:
    """A request of which nothing but the start is sent."""
    connection = connect(address, source)
    connection.putrequest("POST", path)
    for header in (*headers.items(), ("Content-Length", "1000")):
        connection.putheader(*header)
    connection.endheaders(multipart(b"")[:60])
    return connection


def segment(client, file, names="sky, sea, bird") -> tuple[np.ndarray, dict]:
    labels, summary = client.predict(image=handle_file(str(file)), names=names, api_name="/segment")
    return np.array(Image.open(labels)), summary


def test_two_people_at_once_get_their_own_results(page):
    reference, expected = proxyclip.load(**MINI), {}
    for name in ("coast", "room", "street", "garden"):
        expected[name] = reference.segment(read_image(EXAMPLES / f"{name}.png"), ["sky", "wall", "bird"])

    def visit(names):
        client = Client(page[0], verbose=False)
        return [segment(client, EXAMPLES / f"{name}.png", "sky, wall, bird") for name in names]

    with ThreadPoolExecutor(2) as pool:
        for names, answers in zip(
            (people := (["coast", "room"], ["street", "garden"])), pool.map(visit, people), strict=True
        ):
            for name, (labels, summary) in zip(names, answers, strict=True):
                np.testing.assert_array_equal(labels, expected[name].labels)
                assert summary == json.loads(json.dumps(expected[name].summary()))


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/dev/zero", "app.py", "FOLDER/../../etc/passwd", "FOLDER", "http://127.0.0.1:PORT/x", 3, {}],
)
def test_nothing_that_a_visitor_sends_is_a_path(page, path):
    """In no component of any event, by no way to start one, and in no file that is asked for."""
    address, folder = page
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.1)
        if isinstance(path, str):
            path = path.replace("FOLDER", str(folder)).replace("PORT", str(listener.getsockname()[1]))
        files = set(folder.rglob("*"))
        data = {"path": path, "url": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        events = json.loads(ask(address, "GET", "/config", source="127.0.0.1")[2])["dependencies"]
        assert len(events) > 10
        for event in events:
            for value in (data, [data], [{"image": data, "caption": None}], {"value": [[data]]}):
                body = json.dumps(
                    {"data": [value] * len(event["inputs"]), "fn_index": event["id"], "session_hash": "x"}
                )
                if event["inputs"]:
                    assert ask(address, "POST", "/gradio_api/queue/join", body, JSON)[0] == 400
                    assert ask(address, "POST", "/gradio_api/run/predict", body, JSON)[0] == 400
        body = json.dumps({"data": [data, "sky"]})
        for way in ("call/segment", "call/v2/segment"):
            assert ask(address, "POST", f"/gradio_api/{way}", body, JSON)[0] == 400
        if isinstance(path, str) and path != "app.py":
            assert ask(address, "GET", f"/gradio_api/file={path}")[0] == 404
        assert set(folder.rglob("*")) == files
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", f"/gradio_api/{path}") for path in ("proxy=http://example.org", "deep_link?session_hash=x", "runs")),
        *(("GET", f"/gradio_api/{path}") for path in ("openapi.json", "file=http://example.org", "file/etc/passwd")),
        *(("GET", path) for path in ("/docs", "/openapi.json", "/monitoring", "/pwa_icon/50000", "//etc/passwd")),
        *(
            ("POST", f"/gradio_api/{path}")
            for path in ("component_server", "process_recording", "stream/x", "vibe-edit")
        ),
    ],
)
def test_only_what_the_page_needs_is_open(page, method, path):
    assert ask(page[0], method, path, "{}" if method == "POST" else None, JSON)[0] == 404


def test_other_sites_cannot_use_the_page_of_a_visitor(page):
    host, port = urlsplit(page[0]).hostname, urlsplit(page[0]).port
    for origin in ("http://example.org", f"http://{host}:{port + 1}", "null", f"http://localhost:{port}"):
        headers = UPLOAD | {"Origin": origin}
        assert ask(page[0], "POST", "/gradio_api/upload", multipart(jpeg()), headers)[0] == 403
        assert ask(page[0], "GET", "/config", None, headers)[0] == 403
    for own in ({"Origin": page[0]}, {"Origin": "https://our.org", "X-Forwarded-Host": "our.org"}):
        status, headers, content = ask(page[0], "POST", "/gradio_api/upload", multipart(jpeg()), UPLOAD | own)
        assert status == 200
    status, headers, _ = ask(page[0], "GET", f"/gradio_api/file={json.loads(content)[0]}")
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert "default-src 'self'" in headers["Content-Security-Policy"]


def mutated(generator: random.Random, body: dict) -> bytes:
    """The body with something wrong."""
    odd = [None, -1, 10**30, 1e308, [], {}, "", "\0", "\ud800", "x" * 5000, [[]], True, {"path": None}, "../.."]
    wrong = dict(body)
    for key in generator.sample([*body, "event_data", "trigger_id", "data", "fn_index"], 2):
        wrong[key] = generator.choice([*odd, [generator.choice(odd) for _ in range(generator.randrange(9))]])
    text = json.dumps(wrong).encode()
    kind = generator.randrange(5)
    if kind == 0:
        return text[: generator.randrange(len(text))]
    if kind == 1:
        return bytes(generator.randrange(256) for _ in range(200))
    if kind == 2:
        return b"[" * generator.choice([40, 5000, 100_000])
    return text


def test_200_malformed_requests(page, client):
    generator = random.Random(0)
    events = [event["id"] for event in client.config["dependencies"]]
    paths = ("queue/join", "run/predict", "call/segment", "call/v2/segment", "cancel", "reset", "upload")
    statuses = []
    for number in range(200):
        body = {"data": [1, "a"], "fn_index": generator.choice(events), "session_hash": f"m{number}", "event_id": "e"}
        headers = generator.choice([JSON, JSON, JSON, UPLOAD, {}, {"Content-Type": "text/plain"}])
        status, _, content = ask(
            page[0], "POST", f"/gradio_api/{generator.choice(paths)}", mutated(generator, body), headers
        )
        assert b"Traceback" not in content and b"site-packages" not in content
        statuses.append(status)
    assert len(statuses) == 200 and statuses.count(400) > 20
    labels, _ = segment(client, EXAMPLES / "coast.png")
    assert labels.shape == (320, 320)


def test_bodies_are_limited_while_they_are_read(page):
    address, folder = page
    assert ask(address, "POST", "/gradio_api/queue/join", b'"' + bytes(300_000), JSON)[0] == 413
    before, sent = len(list(folder.rglob("*"))), 0
    for path, headers, most in (("queue/join", JSON, 20e6), ("upload", UPLOAD, 40e6), ("login", FORM, 20e6)):
        connection = connect(address, "127.0.0.3")
        path = f"/gradio_api/{path}" if path != "login" else "/login"
        connection.putrequest("POST", path)
        for header in (*headers.items(), ("Transfer-Encoding", "chunked")):
            connection.putheader(*header)
        connection.endheaders()
        chunk, sent = multipart(b"")[:80] + bytes(100_000), 0
        try:  # a body without an end
            while sent < most:
                connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                sent += len(chunk)
        except OSError:
            pass
        assert sent < most, path
        connection.close()
    assert ask(address, "POST", "/gradio_api/upload", multipart(bytes(2_100_000)), UPLOAD)[0] == 413
    deadline = time.monotonic() + 5
    while len(list(folder.rglob("*"))) > before + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(list(folder.rglob("*"))) <= before + 2


def test_one_address_cannot_push_out_the_files_of_others(page, monkeypatch):
    address, folder = page
    own = ask(address, "POST", "/gradio_api/upload", multipart(jpeg()), UPLOAD)
    path = json.loads(own[2])[0]
    statuses = []
    for number in range(12):  # 24 MB, of 40 that are held
        content = multipart(bytes([number]) + bytes(1_900_000))
        statuses.append(ask(address, "POST", "/gradio_api/upload", content, UPLOAD, "127.0.0.4")[0])
    assert statuses.count(200) == 5 and statuses[-1] == 413  # 10 MB
    assert ask(address, "GET", f"/gradio_api/file={path}")[0] == 200
    monkeypatch.setattr(server, "WINDOW", 0.001)  # ten minutes later, again and again
    for number in range(30):
        content = multipart(bytes([number + 100]) + bytes(1_900_000))
        assert ask(address, "POST", "/gradio_api/upload", content, UPLOAD, "127.0.0.4")[0] == 200
        assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 42_000_000
    assert ask(address, "GET", "/", source="127.0.0.1")[0] == 200
    examples = [file for file in folder.rglob("*.png") if file.name == "coast.png"]
    assert examples, "those of the page stay"


def test_slow_clients_are_sent_away(page, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE", 1)
    for path, headers in (("/gradio_api/queue/join", JSON), ("/gradio_api/upload", UPLOAD), ("/login", FORM)):
        connection = begin(page[0], path, headers)
        start = time.monotonic()
        while time.monotonic() - start < 0.9:
            connection.send(b"-")
            time.sleep(0.2)
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.headers["Connection"]) == (408, "close"), path
        connection.sock is None or connection.sock.settimeout(3)
        assert connection.sock is None or connection.sock.recv(1) == b""


def test_uploads_and_streams_at_once_are_limited(page, client):
    held = [begin(page[0], source="127.0.0.5") for _ in range(10)]
    time.sleep(0.5)
    statuses = []
    for connection in held[server.MOST[True][0] :]:
        statuses.append(connection.getresponse().status)
    assert statuses == [429] * (10 - server.MOST[True][0])
    assert segment(client, EXAMPLES / "coast.png")[0].shape == (320, 320)  # from another address
    for connection in held:
        connection.close()
    streams = []
    for number in range(server.MOST[False][0] + 5):
        connection = connect(page[0], "127.0.0.6")
        connection.request("GET", f"/gradio_api/heartbeat/h{number}")
        streams.append(connection)
    assert streams[-1].getresponse().status == 429
    assert ask(page[0], "GET", "/", source="127.0.0.6")[0] == 429
    assert segment(client, EXAMPLES / "coast.png")[0].shape == (320, 320)
    for connection in streams:
        connection.close()
    deadline = time.monotonic() + 10
    while ask(page[0], "GET", "/", source="127.0.0.6")[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ask(page[0], "GET", "/", source="127.0.0.6")[0] == 200


def test_bombs_and_other_hostile_files(client, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, (content, message) in HOSTILE.items():
        file = tmp_path / name.rpartition("/")[2]
        file.write_bytes(content)
        with pytest.raises(AppError, match=message.replace("is an empty file", "unsupported format")) as caught:
            segment(client, file)
        assert "/" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_a_defect_says_nothing_about_the_server(client, monkeypatch, capfd):
    monkeypatch.setattr(Models, "segment", lambda *_, **__: {}["secret"])
    with pytest.raises(AppError, match="log says more") as caught:
        segment(client, EXAMPLES / "coast.png")
    assert "secret" not in str(caught.value) and "KeyError: 'secret'" in capfd.readouterr().err


def test_a_password_is_asked_for_everywhere(page):
    """In this module's last server: the folder of files is one for all of a process."""
    with served(auth=("anna", "secret")) as (address, _):
        for method, path in (("GET", "/config"), ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join")):
            body = multipart(jpeg()) if "upload" in path else '{"data": [], "session_hash": "x", "fn_index": 0}'
            headers = UPLOAD if "upload" in path else JSON
            assert ask(address, method, path, body if method == "POST" else None, headers)[0] == 401
        with pytest.raises(Exception, match="[Aa]uth|401|login"):
            Client(address, verbose=False)
        client = Client(address, auth=("anna", "secret"), verbose=False)
        assert segment(client, EXAMPLES / "coast.png")[0].shape == (320, 320)


def test_the_server_connects_to_nobody():
    """After all that the tests above asked for."""
    assert threading.active_count() and connections <= {"127.0.0.1"}
