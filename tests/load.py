"""Half an hour of load: python tests/load.py --seconds 1800. Not collected by pytest.

Two real programs at once: ``nanogfl web``, which is posted picture after picture, and the video path of
``nanogfl webcam``, tracking and recording a stream that this program sends. Each minute their resident memory and
their delays are printed; at the end the last fifth is compared with the second one.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from models import scene, write_checkpoint

import nanogfl
from nanogfl.deploy.build import Form, build
from nanogfl.predictor import TorchDetector

RATE = 12  # pictures of the stream a second
BITS, BLOCK = 24, 16  # the time of sending, in ms, is drawn as a row of black and white blocks
GROWTH_MB, SLOWER = 15.0, 1.5  # more than these between the second and the last fifth is a failure
WATCH = """\
import json, sys, time
import numpy as np
import nanogfl
from nanogfl.runtime.capture import open_source
from nanogfl.runtime.track import Tracker
from nanogfl.runtime.webcam import Webcam
from load import sent_ms

class Clocked:
    def __init__(self, detector):
        self.detector, self.names = detector, detector.names
    def predict(self, picture, score):
        found = self.detector.predict(picture, score)
        print(json.dumps((1000 * time.time() - sent_ms(picture)) % (1 << 24)), flush=True)
        return found

detector = Clocked(nanogfl.load(sys.argv[2]))
Webcam(detector, open_source(sys.argv[1]), tracker=Tracker(), record=sys.argv[3]).run()
"""


class Stream(BaseHTTPRequestHandler):
    """An endless motion-JPEG stream whose pictures tell when they were sent."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        pictures = [scene(480, 640, seed) for seed in range(20)]
        number, began = 0, time.monotonic()
        try:
            while True:
                _, jpeg = cv2.imencode(".jpg", stamped(pictures[number % 20]))
                head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                self.wfile.write(head + jpeg.tobytes() + b"\r\n")
                number += 1
                time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        except OSError:
            return

    def log_message(self, *args: object) -> None:
        pass


def stamped(picture: np.ndarray) -> np.ndarray:
    """The picture with the time of now in its upper rows."""
    made, now = picture.copy(), int(1000 * time.time()) % (1 << BITS)
    bits = np.array([now >> bit & 1 for bit in range(BITS)], np.uint8)
    made[:BLOCK, : BITS * BLOCK] = np.repeat(bits * 255, BLOCK)[None, :, None]
    return made


def sent_ms(picture: np.ndarray) -> int:
    """The time that is drawn into a picture."""
    middle = picture[BLOCK // 2, BLOCK // 2 : BITS * BLOCK : BLOCK].mean(axis=1) > 127
    return sum(1 << bit for bit, on in enumerate(middle) if on)


def resident_mb(process: subprocess.Popen[str]) -> float:
    status = Path("/proc", str(process.pid), "status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-u", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as process:
        try:
            yield process
        finally:
            process.terminate()


def post_forever(port: int, delays: list[float], ended: threading.Event) -> None:
    """Pictures of several sizes one after another, on a new connection every hundred."""
    pictures = [cv2.imencode(".jpg", scene(h, w, h))[1].tobytes() for h, w in [(480, 640), (720, 1280), (300, 200)]]
    number = 0
    while not ended.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(100):
            began = time.perf_counter()
            connection.request("POST", "/predict", pictures[number % 3], {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            json.loads(answer.read())
            if number % 3 == 0:  # the delay of one size
                delays.append(1000 * (time.perf_counter() - began))
            number += 1
            if ended.is_set():
                break
        connection.close()


def read_delays(process: subprocess.Popen[str], delays: list[float]) -> None:
    assert process.stdout
    delays.extend(map(json.loads, process.stdout))


def verdict(title: str, memory: Sequence[float], delays: Sequence[float]) -> bool:
    """Print how the last fifth compares with the second; whether it holds."""
    fifth = max(1, len(memory) // 5)
    grown = median(memory[-fifth:]) - median(memory[fifth : 2 * fifth])
    slower = median(delays[-fifth:]) / median(delays[fifth : 2 * fifth])
    print(f"{title}: memory {grown:+.1f} MB, delay x{slower:.2f}, from the second to the last fifth")
    return grown <= GROWTH_MB and slower <= SLOWER


def measure(seconds: float, step: float, folder: Path) -> bool:
    """Run both programs for so long; whether neither grew."""
    model = folder / "model.onnx"
    detector = nanogfl.load(write_checkpoint(folder / "best.ckpt", input_size=(320, 320)))
    assert isinstance(detector, TorchDetector)
    model.write_bytes(build(detector, Form()).SerializeToString())
    served = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    served.daemon_threads = True
    threading.Thread(target=served.serve_forever, daemon=True).start()
    stream = f"http://127.0.0.1:{served.server_address[1]}/stream"
    web_code = "from nanogfl.cli import main; main()"
    with (
        running("-c", web_code, "web", model, "--port", 0) as web,
        running("-c", WATCH, stream, model, folder / "recorded.mp4") as video,
    ):
        assert web.stdout
        port = int(web.stdout.readline().split(":")[2].split("/")[0])
        posted, seen, ended = list[float](), list[float](), threading.Event()
        posting = threading.Thread(target=post_forever, args=(port, posted, ended))
        posting.start()
        threading.Thread(target=read_delays, args=(video, seen), daemon=True).start()
        rows: list[tuple[float, float, float, float]] = []
        print("   min   web MB  posted  delay ms   video MB  frames  delay ms")
        for number in range(1, round(seconds / step) + 1):
            before = len(posted), len(seen)
            time.sleep(step)
            new = posted[before[0] :], seen[before[1] :]
            assert web.poll() is None and video.poll() is None and all(new), "both programs go on"
            rows.append((resident_mb(web), median(new[0]), resident_mb(video), median(new[1])))
            a, b, c, d = rows[-1]
            print(
                f"{number * step / 60:6.1f} {a:8.1f} {3 * len(new[0]):7d} {b:9.1f} {c:10.1f} {len(new[1]):7d} {d:9.1f}",
                flush=True,
            )
        ended.set()
        posting.join()
    columns = list(zip(*rows, strict=True))
    return all([verdict("web", columns[0], columns[1]), verdict("video", columns[2], columns[3])])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--step", type=float, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not measure(given.seconds, given.step, Path(folder)))
