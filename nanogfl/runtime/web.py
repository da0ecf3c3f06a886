"""``nanogfl web``: serve the demo page with a model to browsers."""

from __future__ import annotations

import errno
import ipaddress
import json
import logging
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import gaierror

from nanogfl.errors import DownloadError, ModelError, NanogflError, UsageError
from nanogfl.runtime.serve import TYPES, Server, Site
from nanogfl.runtime.session import OnnxDetector

log = logging.getLogger(__name__)
EVERYWHERE = ("0.0.0.0", "::")  # listen on all addresses of the machine; not an address to open in a browser
NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
CHECKPOINTS = (".ckpt", ".pth", ".pt")


@dataclass(frozen=True)
class Place:
    """The address of the server; ``cert`` and ``key`` are PEM files that enable https."""

    host: str = "127.0.0.1"
    port: int = 8000
    cert: Path | None = None
    key: Path | None = None


def serve(model: Path, place: Place, cache: Path, say: Callable[[str], None]) -> None:
    """Serve the page with this model until interrupted.

    Args:
        model: an exported file of frame form.
        place: address to listen on.
        cache: folder for the runtime files that the browser needs, if the page's own folder lacks them.
        say: called with each line for the terminal.
    """
    with open_server(model, place, cache) as server:
        host, port = server.server_address[:2]
        scheme = "https" if place.cert else "http"
        shown = f"[{host!s}]" if ":" in str(host) else host
        if everywhere := str(host) in EVERYWHERE:
            shown = "127.0.0.1"
        say(f"{scheme}://{shown}:{port}/  ({model.name}; Ctrl-C stops it)")
        if everywhere and (reached := address_here()):
            say(f"{scheme}://{reached}:{port}/  from other devices")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")


def address_here() -> str:
    """Return this machine's address in its network, or an empty string; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: only the route to it is looked up
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def open_server(model: Path, place: Place, cache: Path) -> Server:
    """Return a server that listens but does not answer yet; its files are complete and its model is loaded."""
    _check_files(place)
    detector = open_model(model)
    page = page_folder()
    files = {f"/{p.relative_to(page).as_posix()}": p for p in page.iterdir() if p.suffix in TYPES}
    files |= {"/model.onnx": model, **runtime_files(page, cache)}
    try:
        place.host.encode("idna")  # UnicodeError for invalid host names; for some of them, sockets raise TypeError
        server = Server((place.host, place.port), Site(files, detector))
    except (OSError, OverflowError, UnicodeError) as error:
        raise _cannot_listen(place, error) from error
    if place.cert:
        _encrypt(server, place)
    elif not _is_local(place.host):
        port = server.server_address[1]
        log.warning(
            "%s is reachable from outside, but browsers there allow camera access only over https: use --cert and "
            "--key (mkcert creates them), or keep 127.0.0.1 and use a tunnel (phone on USB: adb reverse tcp:%d tcp:%d)",
            place.host, port, port,
        )  # fmt: skip
    return server


def _check_files(place: Place) -> None:
    """Raise UsageError for a key without a certificate, or for a file that does not exist."""
    if place.key and not place.cert:
        raise UsageError(f"--key {place.key} requires a certificate: use --cert too, or omit both for http")
    for option, file in (("--cert", place.cert), ("--key", place.key)):
        if file and not file.is_file():
            raise UsageError(f"{option} {file}: no such file; use a PEM file")


def _cannot_listen(place: Place, error: Exception) -> NanogflError:
    """Return an error with advice: another host if this machine has no such address, else another port."""
    why = getattr(error, "strerror", None) or error
    if isinstance(error, gaierror | UnicodeError) or getattr(error, "errno", None) in NO_SUCH_ADDRESS:
        return UsageError(
            f"--host {place.host}: this machine has no such address ({why}); use 127.0.0.1, or 0.0.0.0 to admit others"
        )
    return NanogflError(f"cannot listen on {place.host} port {place.port}: {why}; choose another --port")


def open_model(path: Path) -> OnnxDetector:
    """Load the detector; refuse files that the page cannot run, such as those of another form than ``frame``."""
    if path.suffix.lower() in CHECKPOINTS:
        raise UsageError(f"{path}: the browser requires an exported file; run: nanogfl export {path} --out model.onnx")
    if path.suffix.lower() != ".onnx":
        raise UsageError(f"{path}: the browser requires an exported file; use an .onnx file of nanogfl export")
    detector = OnnxDetector(path)
    if detector.card.form != "frame":
        raise ModelError(f"{path} has the form {detector.card.form}; the page requires: nanogfl export --form frame")
    return detector


def page_folder() -> Path:
    """Return the folder of the page: inside the installed package, or ``demo/web`` in a checkout."""
    packed = Path(__file__).parents[1] / "web_page"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "demo" / "web"


def runtime_files(page: Path, cache: Path) -> dict[str, Path]:
    """Return the files of onnxruntime-web by address: from the page's folder, else the cache, else from npm."""
    pin = json.loads((page / "runtime.json").read_text(encoding="utf-8"))
    version, names = pin["version"], list(pin["sha256"])
    for folder in (page / "ort" / version, cache / "ort" / version):
        if all((folder / name).is_file() for name in names):
            return {f"/ort/{version}/{name}": folder / name for name in names}
    script = page / "fetch_runtime.py"
    log.info("fetching onnxruntime-web %s for the browser (33 MB, once) ...", version)
    command = [sys.executable, str(script), "--out", str(cache / "ort")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DownloadError(f"the browser's onnxruntime-web {version} is missing, and fetching it failed: {why}")
    return {f"/ort/{version}/{name}": cache / "ort" / version / name for name in names}


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _encrypt(server: Server, place: Place) -> None:
    """Enable TLS; the handshake runs in the thread of each connection, so that a silent client blocks no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(place.cert or "", place.key)
    except (OSError, ssl.SSLError) as error:
        server.server_close()
        named = f"--cert {place.cert}" + (f" --key {place.key}" if place.key else "")
        raise UsageError(f"{named}: {error.strerror or error}; use matching PEM files for --cert and --key") from error
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
