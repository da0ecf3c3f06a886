"""The browser demo in a real headless Chromium: the boxes are the native ones, and what goes wrong is said."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnx
import pytest
from chromium import Chromium, Page, chromium, find_chromium
from models import assert_same, scene, write_checkpoint, write_scene
from servers import running

import nanogfl
from nanogfl.deploy.build import Form, build
from nanogfl.detections import Detections
from nanogfl.errors import DownloadError
from nanogfl.pictures import read_picture
from nanogfl.predictor import TorchDetector
from nanogfl.runtime import serve
from nanogfl.runtime.serve import Server
from nanogfl.runtime.web import Place, open_server, page_folder, runtime_files

PAGE = page_folder()
PIN = json.loads((PAGE / "runtime.json").read_text())
browsing = pytest.mark.skipif(find_chromium() is None, reason="no Chromium (apt-get install chromium, or set CHROMIUM)")
APP = "const app = await import('/app.js'); await app.ready;"
ALERT = "document.getElementById('alert').hidden ? '' : document.getElementById('alert-text').textContent"
SIZE = (480, 640)


class Models(NamedTuple):
    folder: Path
    sigma: Path
    core: Path
    foreign: Path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime-web in it, unless the page's own has it; skipped where it cannot be fetched."""
    cache = tmp_path_factory.mktemp("cache")
    try:
        runtime_files(PAGE, cache)
    except DownloadError as error:
        pytest.skip(str(error))
    return cache


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Files that the page takes, and files that it must refuse."""
    folder = tmp_path_factory.mktemp("models")
    made = Models(folder, folder / "sigma.onnx", folder / "core.onnx", folder / "foreign.onnx")
    detector = nanogfl.load(write_checkpoint(folder / "best.ckpt", input_size=(96, 96)))
    assert isinstance(detector, TorchDetector)
    made.sigma.write_bytes(build(detector, Form(sigma=True)).SerializeToString())
    made.core.write_bytes(build(detector, Form("core")).SerializeToString())
    foreign = onnx.load(made.sigma)
    del foreign.metadata_props[:]
    onnx.save(foreign, made.foreign)
    return made


@pytest.fixture(scope="module")
def server(models: Models, cache: Path) -> Iterator[Server]:
    with running(open_server(models.sigma, Place(port=0), cache)) as server:
        yield server


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """For a Chromium whose camera shows scenes, 30 a second, over and over."""
    film = tmp_path_factory.mktemp("film") / "scenes.y4m"
    frames = [cv2.cvtColor(scene(*SIZE, seed=i // 5), cv2.COLOR_BGR2YUV_I420).tobytes() for i in range(40)]
    film.write_bytes(b"YUV4MPEG2 W640 H480 F30:1 Ip A1:1 C420jpeg\n" + b"".join(b"FRAME\n" + f for f in frames))
    return (f"--use-file-for-fake-video-capture={film}",)


@pytest.fixture(scope="module")
def browser(flags: tuple[str, ...]) -> Iterator[Chromium]:
    with chromium(*flags) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser: Chromium, server: Server) -> Iterator[Page]:
    """The page with the model open; tests of this file share it, and leave it so."""
    with browser.page(address(server)) as page:
        page.run(APP)
        yield page


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/"


def found(page: Page, names: list[str]) -> Detections:
    """What the page found last, as the page keeps it."""
    code = "const f = app.state.found; return {b: [...f.boxes], s: [...f.scores], l: [...f.labels], d: [...f.sigma]};"
    raw = page.run(APP + code)
    boxes, sigma = (np.array(raw[k], np.float32).reshape(-1, 4) for k in "bd")
    return Detections(boxes, np.array(raw["s"], np.float32), np.array(raw["l"], np.int64), names, sigma)


def start_camera(page: Page, frames: int) -> None:
    page.run("document.getElementById('camera').click();")
    page.wait(f"Number(document.getElementById('frames').textContent) >= {frames}", 120)


def pause(page: Page) -> None:
    """Until the frame and what was found belong together."""
    page.run(APP + "document.getElementById('camera').click();")
    wait = "const n = app.state.meter.frames; await new Promise((r) => setTimeout(r, 300));"
    while not page.run(APP + wait + "return n === app.state.meter.frames;"):
        pass
    assert page.run("return document.getElementById('camera-text').textContent") == "Resume"


def camera_frame(page: Page) -> np.ndarray:
    """The pixels that were looked at last."""
    url = page.run(APP + "return app.state.frame.toDataURL('image/png')")
    frame = cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert frame is not None
    return frame


def expect(page: Page, models: Models, picture: np.ndarray) -> Detections:
    """The page's boxes are the native ones; these."""
    detector = nanogfl.load(models.sigma)
    native = detector.predict(picture, 0.05)
    assert len(native) > 5
    assert_same(found(page, detector.names), native, box_px=0.1, score=1e-3)
    return native


# --- what it finds ---


@browsing
def test_boxes_of_a_picture_are_the_native_ones(page: Page, models: Models, tmp_path: Path) -> None:
    picture = write_scene(tmp_path / "a picture.png", seed=7)
    page.choose_file("#picture-file", picture)
    page.wait("Number(document.getElementById('frames').textContent) === 8")
    native = expect(page, models, read_picture(picture))
    assert re.fullmatch(r"[\d.]+ m?s", page.run("return document.getElementById('p50').textContent"))
    assert page.run(f"return {ALERT}") == ""
    page.run("const s = document.getElementById('score'); s.value = 30; s.dispatchEvent(new Event('input'));")
    shown = page.run("return [...document.querySelectorAll('#found li span')].map((e) => e.textContent)")
    counts = [int(text.split(" × ")[0]) if "×" in text else 1 for text in shown]
    assert sum(counts) == (native.scores > 0.3).sum()
    assert {text.split(" × ")[-1] for text in shown} == {native.names[i] for i in native.labels[native.scores > 0.3]}


@browsing
def test_boxes_of_a_camera_frame_are_the_native_ones(page: Page, models: Models) -> None:
    start_camera(page, 12)
    assert re.fullmatch(r"[\d.]+ m?s[\d.]+ fps", page.run("return document.getElementById('pill').textContent"))
    pause(page)
    frame = camera_frame(page)
    assert frame.shape == (*SIZE, 3)
    assert min(np.abs(frame.astype(int) - scene(*SIZE, seed=i)).mean() for i in range(8)) < 8, "a frame of the film"
    expect(page, models, frame)
    page.run("const s = document.getElementById('score'); s.value = 5; s.dispatchEvent(new Event('input'));")
    drawn = page.run("const c = document.getElementById('overlay');"
                     "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v)")  # fmt: skip
    assert drawn and page.run("return document.getElementById('overlay').getAttribute('aria-label')").startswith(
        "Picture: "
    )


@browsing
def test_boxes_of_real_frames_are_the_native_ones(shared: Path, cache: Path, tmp_path: Path) -> None:
    """People in a video, before the camera, found with NanoDet-Plus' published weights."""
    film, seen = tmp_path / "people.y4m", cv2.VideoCapture(str(next((shared / "data/video").glob("*.mp4"))))
    seen.set(cv2.CAP_PROP_POS_FRAMES, 100)
    frames = [cv2.cvtColor(seen.read()[1], cv2.COLOR_BGR2YUV_I420) for _ in range(40)]
    height, width = frames[0].shape[0] * 2 // 3, frames[0].shape[1]
    head = f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode()
    film.write_bytes(head + b"".join(b"FRAME\n" + frame.tobytes() for frame in frames))
    weights, form = shared / "weights/nanodet-plus-m_320.ckpt", Form(sigma=True)
    model = nanogfl.export(weights, out=tmp_path / "people.onnx", form=form).path
    detector = nanogfl.load(model)
    with (
        running(open_server(model, Place(port=0), cache)) as server,
        chromium(f"--use-file-for-fake-video-capture={film}") as browser,
        browser.page(address(server)) as page,
    ):
        page.run(APP)
        found_people = 0
        for rounds in (3, 5):
            start_camera(page, rounds)
            pause(page)
            frame = camera_frame(page)
            assert frame.shape == (height, width, 3)
            native = detector.predict(frame, 0.05)
            assert_same(found(page, detector.names), native, box_px=0.1, score=1e-3)
            found_people += ((native.labels == detector.names.index("person")) & (native.scores > 0.4)).sum()
    assert found_people >= 2


@browsing
def test_the_page_is_isolated_and_asks_nobody_else(page: Page, server: Server, browser: Chromium) -> None:
    assert page.run("return crossOriginIsolated")
    expected = page.run("const d = await import('/detector.js'); return d.threadsHere()")
    assert page.run(APP + "return app.state.detector.threads") == expected >= 1
    asked = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert asked and [url for url in asked if not url.startswith((address(server), "blob:", "data:"))] == []
    policy = page.run("return document.querySelector('meta[http-equiv]').content")
    assert policy.startswith("default-src 'self';") and "http:" not in policy and "unsafe-inline" not in policy
    thrown = [e for e in browser.events if e["method"] == "Runtime.exceptionThrown"]
    assert thrown == []


@browsing
def test_the_share_card_says_what_ran_where(page: Page, models: Models, tmp_path: Path) -> None:
    expect_picture(page, models, tmp_path)
    page.run("document.getElementById('share').click()")
    page.wait("document.getElementById('card-dialog').open")
    with_picture = page.run("return document.getElementById('card').toDataURL()")
    device = page.run("return document.getElementById('device').value")
    page.run("document.getElementById('with-picture').click()")
    without = page.run("const c = document.getElementById('card'); return [c.width, c.height, c.toDataURL()]")
    page.run("document.getElementById('with-picture').click(); document.getElementById('card-close').click()")
    assert device and without[:2] == [1080, 1350] and without[2] != with_picture


# --- what goes wrong ---


NO_ONNX = "is not an ONNX file; choose a file that nanogfl export wrote"
PART = "is not an ONNX file, or only a part of one; choose a file that nanogfl export wrote"


def wrong_files(models: Models) -> dict[str, tuple[bytes, str]]:
    model = models.sigma.read_bytes()
    graph = bytearray(model)
    start = len(model) // 3
    graph[start : start + 4000] = b"\xff" * 4000
    return {
        "empty.onnx": (b"", NO_ONNX),
        "text.onnx": (b"this is a letter to my aunt", PART),
        "picture.onnx": (cv2.imencode(".png", scene())[1].tobytes(), PART),
        "half.onnx": (model[: len(model) // 2], PART),
        "foreign.onnx": (
            models.foreign.read_bytes(),
            "is not an ONNX file of nanogfl (it has no nanogfl.schema); create one with: nanogfl export",
        ),
        "core.onnx": (
            models.core.read_bytes(),
            "has the form core; the page requires: nanogfl export --form frame",
        ),
        "schema.onnx": (
            with_metadata(models, schema="2"),
            "has schema 2, expected 1; use a newer page, or re-export the file",
        ),
        "classes.onnx": (
            with_metadata(models, classes='"red"'),
            "has invalid metadata (nanogfl.classes); re-export it",
        ),
        "size.onnx": (
            with_metadata(models, input_size="96"),
            "has invalid metadata (nanogfl.input_size); re-export it",
        ),
        "varint.onnx": (b"\x08" + b"\xff" * 40, PART),
        "long.onnx": (b"\x3a" + b"\xff" * 8 + b"\x7f" + b"x", PART),
    }


def with_metadata(models: Models, **changed: str) -> bytes:
    """The right model with other values in its metadata."""
    model = onnx.load(models.sigma)
    for entry in model.metadata_props:
        entry.value = changed.get(entry.key.removeprefix("nanogfl."), entry.value)
    return model.SerializeToString()


@browsing
def test_a_model_that_was_chosen_outlives_a_reload_of_its_tab_only(
    browser: Chromium, server: Server, models: Models, tmp_path: Path
) -> None:
    other = tmp_path / "other.onnx"
    shutil.copy(models.sigma, other)
    name = APP + "return app.state.file"
    with browser.page(address(server)) as page:
        assert page.run(name) == models.sigma.name
        page.choose_file("#model-file", other)
        page.wait("document.getElementById('model-line')?.textContent.startsWith('other.onnx')")
        page.call("Page.reload")
        page.wait("document.getElementById('model-line')?.textContent.includes('.onnx')")
        assert page.run(name) == "other.onnx"
        page.run("sessionStorage.clear()")  # as a new tab has it
        page.call("Page.reload")
        page.wait(f"document.getElementById('model-line')?.textContent.startsWith('{models.sigma.name}')")


@browsing
def test_each_wrong_model_is_named_and_the_right_one_stays(page: Page, models: Models, tmp_path: Path) -> None:
    for name, (content, words) in wrong_files(models).items():
        (tmp_path / name).write_bytes(content)
        page.choose_file("#model-file", tmp_path / name)
        message = page.wait(f"({ALERT}).startsWith({json.dumps(name)}) && ({ALERT})")
        assert message == f"{name} {words}"
    assert page.run(APP + "return app.state.file") == "sigma.onnx"
    expect_picture(page, models, tmp_path)


@browsing
def test_a_model_whose_graph_is_damaged(page: Page, models: Models, tmp_path: Path) -> None:
    """Its metadata can be read, so that only the runtime finds out."""
    damaged = onnx.load(models.sigma)
    damaged.graph.node[5].op_type = "NoSuchOperator"
    onnx.save(damaged, tmp_path / "damaged.onnx")
    page.choose_file("#model-file", tmp_path / "damaged.onnx")
    message = page.wait(ALERT)
    assert message.startswith("damaged.onnx cannot be opened and may be damaged (")
    assert message.endswith("); re-export it")
    expect_picture(page, models, tmp_path)


def expect_picture(page: Page, models: Models, folder: Path) -> None:
    """Whatever happened before, the page goes on with its model."""
    picture = write_scene(folder / "next.png", seed=3)
    page.choose_file("#picture-file", picture)
    page.wait("Number(document.getElementById('frames').textContent) === 8")
    expect(page, models, read_picture(picture))
    assert page.run(f"return {ALERT}") == ""


@browsing
def test_the_card_of_a_model_cut_anywhere_is_a_message_at_once(page: Page) -> None:
    code = """
      const { readCard, ModelFault } = await import('/modelfile.js');
      const whole = new Uint8Array(await (await fetch('/model.onnx')).arrayBuffer());
      const card = readCard(whole.buffer, 'm');
      let wrong = 0;
      for (let n = 0; n < 400; n++) {
        const cut = whole.slice(0, Math.floor(whole.length * n / 400));
        const noise = whole.slice();
        for (let k = 0; k < 50; k++) noise[Math.floor(Math.random() * 200)] = Math.floor(Math.random() * 256);
        for (const bytes of [cut, noise]) {
          try { readCard(bytes.buffer, 'm'); } catch (error) { if (!(error instanceof ModelFault)) wrong += 1; }
        }
      }
      return [card.names, card.inputSize, wrong];"""
    assert page.run(code) == [["red", "green", "blue"], [96, 96], 0]


@browsing
def test_a_picture_that_is_none(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not really")
    page.choose_file("#picture-file", tmp_path / "broken.jpg")
    said = "broken.jpg is not a picture that this browser can read; choose a JPEG or a PNG"
    assert page.wait(ALERT) == said
    page.run("document.getElementById('alert-close').click()")
    assert page.run(f"return {ALERT}") == ""


@browsing
def test_where_the_detector_or_the_page_fails_the_message_says_what_to_do(page: Page) -> None:
    """A picture whose size is none makes the worker throw; so does a button's work make the page."""
    broken = "{width: -1, height: 1, data: {buffer: new ArrayBuffer(4)}}"
    code = f"return app.state.detector.run({broken}).catch((error) => error.message)"
    said = r"The detector failed \(.+\); try another picture, or open the model again"
    assert re.fullmatch(said, page.run(APP + code))
    page.run(APP + "await app.useModel(Promise.reject(new Error('no such luck')), 'a.onnx')")
    assert page.run(f"return {ALERT}") == "The page failed (no such luck); reload it and try again"
    page.run("document.getElementById('alert-close').click()")


@browsing
def test_a_camera_that_was_lost_is_said(page: Page) -> None:
    page.run("document.getElementById('camera').click()")
    page.wait("document.getElementById('camera-text').textContent === 'Pause'")
    page.run("document.getElementById('video').srcObject.getTracks()[0].dispatchEvent(new Event('ended'))")
    assert page.wait(ALERT) == "The camera was lost; press Camera to start it again"
    assert page.run("return document.getElementById('camera-text').textContent") == "Camera"
    page.run("document.getElementById('alert-close').click()")


ASKING = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', '%s') }"
CAMERAS = {
    "": "The camera was refused; allow it",
    ASKING % "NotFoundError": "No camera was found",
    ASKING % "NotReadableError": "in use by another",
    "Object.defineProperty(navigator, 'mediaDevices', { value: undefined })": "only over https or on localhost",
}


@browsing
def test_a_camera_that_is_not_to_be_had(browser: Chromium, server: Server) -> None:
    with browser.page(address(server), camera=False) as page:
        page.run(APP)
        for change, words in CAMERAS.items():
            page.run(
                f"document.getElementById('alert').hidden = true; {change}; document.getElementById('camera').click()"
            )
            assert words in page.wait(ALERT), words
            assert page.run("return document.getElementById('camera-text').textContent") == "Camera"


GATED = """
  const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  window.gates = []; window.made = [];
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    await new Promise((open) => gates.push(open));
    made.push(await real(wanted));
    return made.at(-1);
  };
  window.on = () => made.filter((stream) => stream.getTracks()[0].readyState === 'live').length;"""


@browsing
def test_no_camera_stays_on_that_nobody_looks_at(
    browser: Chromium, server: Server, models: Models, tmp_path: Path
) -> None:
    """A picture is chosen while the browser asks for the camera; then Flip is pressed twice before it answers."""
    with browser.page(address(server)) as page:
        page.run(APP + GATED)
        page.run("document.getElementById('camera').click()")
        page.wait("gates.length === 1")
        expect_picture(page, models, tmp_path)
        page.run("gates[0]()")
        page.wait("made.length === 1 && on() === 0")
        assert page.run(APP + "return app.state.source") == "picture"
        page.run("document.getElementById('camera').click()")
        page.wait("gates.length === 2")
        page.run("gates[1]()")
        page.wait("Number(document.getElementById('frames').textContent) >= 3 && on() === 1", 120)
        page.run(
            "const f = document.getElementById('flip'); f.disabled = false; f.click(); f.disabled = false; f.click()"
        )
        page.wait("gates.length === 4 && on() === 0")
        page.run("gates[3]()")
        page.wait("made.length === 3")
        page.run("gates[2]()")
        page.wait("made.length === 4 && on() === 1")
        page.wait("Number(document.getElementById('frames').textContent) >= 3", 120)
        assert page.run("return document.getElementById('video').srcObject === made[2] && on()") == 1
        assert page.run(f"return {ALERT}") == ""


@browsing
def test_what_a_person_chose_is_not_replaced_by_what_arrives_later(
    browser: Chromium, server: Server, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The served model over a slow network; and of two pictures the one that is read longer."""
    shutil.copy(models.sigma, tmp_path / "own.onnx")
    arrives, sent = threading.Event(), serve.Handler._send_file

    def late(handler: serve.Handler, file: Path) -> None:
        if file.suffix == ".onnx":
            arrives.wait(60)
        sent(handler, file)

    monkeypatch.setattr(serve.Handler, "_send_file", late)
    with browser.page(address(server)) as page:
        page.wait("!document.getElementById('choose-model').disabled")
        page.choose_file("#model-file", tmp_path / "own.onnx")
        page.wait("document.getElementById('model-line').textContent.startsWith('own.onnx')")
        arrives.set()
        page.run(APP + "await new Promise((r) => setTimeout(r, 500));")
        assert page.run("return document.getElementById('model-line').textContent").startswith("own.onnx")
        slow = """const read = window.createImageBitmap, go = [];
            window.createImageBitmap = async (file, how) => {
              if (file.name === 'slow.png') await new Promise((r) => go.push(r));
              return read(file, how);
            };
            const blob = (w) => new Promise((r) => Object.assign(
              document.createElement('canvas'), {width: w, height: 40}).toBlob(r));
            const first = app.usePicture(new File([await blob(60)], 'slow.png'));
            await app.usePicture(new File([await blob(90)], 'fast.png'));
            go[0]();
            await first;
            return app.state.frame.width;"""
        assert page.run(APP + slow) == 90


@browsing
def test_a_browser_that_stores_nothing_opens_the_served_model(browser: Chromium, server: Server) -> None:
    refused = "CacheStorage.prototype.open = () => Promise.reject(new DOMException('no', 'SecurityError'))"
    with browser.page(address(server), before=refused) as page:
        assert page.run(APP + "return app.state.file") == "sigma.onnx"
        assert page.run(f"return {ALERT}") == ""


@browsing
def test_without_simd_the_page_says_which_browsers_have_it(browser: Chromium, server: Server) -> None:
    with browser.page(address(server), before="WebAssembly.validate = () => false") as page:
        page.run(APP)
        assert re.search(r"no SIMD.*Safari 16\.4, Chrome 91, Firefox 89", page.run(f"return {ALERT}"))
        assert page.run(
            "return ['camera', 'picture', 'choose-model'].every((id) => document.getElementById(id).disabled)"
        )


@browsing
def test_without_the_runtime_the_page_says_what_to_run(browser: Chromium, models: Models, cache: Path) -> None:
    with running(open_server(models.sigma, Place(port=0), cache)) as bare:
        for path in [path for path in bare.site.files if path.startswith("/ort/")]:
            del bare.site.files[path]
        with browser.page(address(bare)) as page:
            page.run(APP)
            assert "run: python demo/web/fetch_runtime.py" in page.run(f"return {ALERT}")


# --- offline, and for a long time ---


@browsing
def test_it_works_without_the_server_after_the_first_visit(
    browser: Chromium, models: Models, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = """
      await navigator.serviceWorker.ready;
      const cache = await caches.open('nanogfl-page'), asked = async () => (await cache.keys()).map((r) => r.url);
      const missing = async () => (await asked()).filter((url) => url.includes('/ort/')).length < 2;
      while (await missing()) await new Promise((r) => setTimeout(r, 50));"""
    monkeypatch.setattr(serve.Handler, "timeout", 2)  # connections that the browser keeps open end soon, too
    with ExitStack() as stack:
        with running(open_server(models.sigma, Place(port=0), cache)) as server:
            page = stack.enter_context(browser.page(address(server)))
            page.run(APP + kept)
        time.sleep(2.5)
        page.call("Page.reload")
        page.wait("document.readyState === 'complete' && document.getElementById('camera')?.disabled === false")
        assert page.run("return fetch('/health').then(() => true, () => false)") is False
        assert page.run(APP + "return [app.state.file, crossOriginIsolated]") == ["sigma.onnx", True]
        expect_picture(page, models, tmp_path)


@browsing
def test_a_redirect_is_followed_where_the_service_worker_is(
    browser: Chromium, models: Models, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As static hosts redirect /index.html to /; the worker gets an answer of status 0, which it must not rebuild."""
    asked, real = list[str](), serve.Handler._get

    def redirect(handler: serve.Handler) -> None:
        asked.append(handler.path)
        if handler.path == "/index.html":
            handler._send_head(308, {"Location": "/", "Content-Length": "0"})
        else:
            real(handler)

    monkeypatch.setattr(serve.Handler, "_get", redirect)
    with running(open_server(models.sigma, Place(port=0), cache)) as server, browser.page(address(server)) as page:
        page.run(APP)
        page.wait("navigator.serviceWorker.controller !== null")
        asked.clear()
        went = page.call("Page.navigate", url=address(server) + "index.html")
        assert "errorText" not in went, went
        page.wait("document.readyState === 'complete' && document.getElementById('camera')?.disabled === false")
        assert asked[:2] == ["/index.html", "/"]
        assert page.run("return [location.pathname, navigator.serviceWorker.controller !== null]") == ["/", True]
        assert page.run(APP + "return [app.state.file, crossOriginIsolated]") == ["sigma.onnx", True]


def watch_memory(page: Page, frames: int) -> list[float]:
    """MB of the browser's pages in memory, WebAssembly's included, eleven times while the camera gives so many frames.

    Nothing asks for a collection of garbage: what piles up between two collections fills a phone as well.
    """
    start_camera(page, 20)
    measured = []
    for part in range(11):
        page.wait(f"Number(document.getElementById('frames').textContent) >= {20 + part * frames // 10}", 240)
        measured.append(sum(map(resident_mb, renderers(page.browser))))
    pause(page)
    return measured


def renderers(browser: Chromium) -> list[Path]:
    processes = browser.call("SystemInfo.getProcessInfo")["processInfo"]
    return [Path("/proc", str(process["id"]), "status") for process in processes if process["type"] == "renderer"]


def resident_mb(status: Path) -> float:
    """Anonymous memory: JavaScript's and WebAssembly's, and all that the page allocates.

    Not the files that are mapped: without a GPU, Chromium 150 maps another 1.2 MB for each frame of 640 x 480 that any
    page draws from a video onto a canvas (seen on a page that does nothing else).
    """
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status.read_text())[0]) / 1024


@browsing
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read memory from")
@pytest.mark.parametrize("frames", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_frames_need_no_more_memory_than_a_few(frames: int, flags: tuple[str, ...], server: Server) -> None:
    with chromium(*flags) as alone, alone.page(address(server)) as page:  # pages of other tests are collected meanwhile
        page.run(APP)
        measured = watch_memory(page, frames)
        assert page.run(APP + "return app.state.meter.frames") >= frames
    assert max(measured) < measured[0] + 150, measured  # collectors come by every hundred frames of 1.2 MB


# --- without a browser ---


def test_the_service_worker_keeps_every_file_of_the_page() -> None:
    kept = set(re.findall(r'"([\w.-]+\.\w+)"', (PAGE / "sw.js").read_text().split("];")[0]))
    wanted = {p.name for p in PAGE.iterdir() if p.suffix not in (".py", ".md") and p.is_file()}
    assert kept == wanted - {"sw.js", "index.html"}, "index.html is kept as ./"


ANSWERS = """
  const handlers = {}, kinds = ['opaqueredirect', 'opaque', 'basic'], told = {};
  const bodiless = { status: 0, ok: false, statusText: '', body: null, headers: new Headers() };
  const page = Object.defineProperty(new Response('hello', { status: 404 }), 'type', { value: 'basic' });
  const cache = { put() {}, match: async () => undefined };
  const scope = {
    addEventListener: (name, handler) => { handlers[name] = handler; }, Headers, Response, URL,
    location: new URL('https://host/'), caches: { open: async () => cache },
    fetch: async (request) => request.answer,
  };
  require('vm').runInNewContext(require('fs').readFileSync(process.argv[1], 'utf8'), scope);
  (async () => {
    for (const kind of kinds) {
      const answer = kind === 'basic' ? page : { ...bodiless, type: kind };
      let given;
      const request = { method: 'GET', url: 'https://host/index.html', answer };
      handlers.fetch({ request, respondWith: (promise) => { given = promise; } });
      const got = await given.catch((error) => ({ status: String(error), headers: new Headers() }));
      told[kind] = [got === answer, got.status, got.headers.get('Cross-Origin-Embedder-Policy')];
    }
    console.log(JSON.stringify(told));
  })();"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_the_service_worker_rebuilds_only_what_can_be_rebuilt() -> None:
    """In node, whose Response, too, takes no status of 0: answers without one are given as they are."""
    done = subprocess.run(["node", "-e", ANSWERS, PAGE / "sw.js"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "opaqueredirect": [True, 0, None],
        "opaque": [True, 0, None],
        "basic": [False, 404, "require-corp"],
    }


def test_the_manifest_makes_it_installable() -> None:
    manifest = json.loads((PAGE / "manifest.webmanifest").read_text())
    assert manifest["display"] == "standalone" and manifest["start_url"] == "./"
    for icon in manifest["icons"]:
        path = PAGE / icon["src"]
        if path.suffix == ".png":
            picture = cv2.imread(str(path))
            assert picture is not None and f"{picture.shape[1]}x{picture.shape[0]}" == icon["sizes"]
    assert {"192x192", "512x512"} <= {icon["sizes"] for icon in manifest["icons"]}


PAIRS = [("ink", "ground"), ("ink", "card"), ("dim", "ground"), ("dim", "card")]
PAIRS += [("on-accent", "accent"), ("bad", "bad-ground")]


def test_text_stands_out_from_its_ground() -> None:
    """WCAG AA: 4.5 to 1, in the light and in the dark."""
    light, dark = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(), re.DOTALL)[:2]
    for theme in (light, dark):
        colors = dict(re.findall(r"--([\w-]+): (#\w+)", theme))
        for ink, ground in PAIRS:
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)


def contrast(a: str, b: str) -> float:
    low, high = sorted(map(luminance, (a, b)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    text = color[1:] if len(color) == 7 else "".join(2 * c for c in color[1:])
    rgb = np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_nothing_comes_from_another_site() -> None:
    for path in PAGE.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            addresses: list[Any] = re.findall(r"(?:https?:)?//[\w.-]+\.\w{2,}", path.read_text())
            assert addresses == [], path.name


def test_every_control_has_a_name_and_every_message_is_heard() -> None:
    html = (PAGE / "index.html").read_text()
    for button in re.findall(r"<button.*?</button>", html):
        assert "aria-label=" in button or re.sub(r"<[^>]+>", "", button).strip(), button
    for number in re.findall(r'<input id="([\w-]+)"(?![^>]*hidden)', html):
        assert f'for="{number}"' in html or re.search(rf'<label[^>]*><input id="{number}"', html), number
    assert 'role="alert"' in html and 'aria-live="polite"' in html and '<html lang="en">' in html


def test_the_short_page_loads_the_version_that_is_tested_here() -> None:
    text = (Path(__file__).parents[1] / "export/browser/README.md").read_text(encoding="utf-8")
    assert re.findall(r"onnxruntime-web@([\d.]+)/", text) == [PIN["version"]] and "onnxruntime-web/dist" not in text
