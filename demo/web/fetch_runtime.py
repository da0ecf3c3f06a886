#!/usr/bin/env python3
"""Fetch the files of onnxruntime-web that the page needs: the version pinned in runtime.json, checked, from npm.

It needs only the standard library. Run it once before you put this folder on a web server; ``nanogfl web`` runs it by
itself. The registry is $NPM_REGISTRY, else $NPM_CONFIG_REGISTRY, else npm's setting, else https://registry.npmjs.org.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

HERE = Path(__file__).resolve().parent
LARGEST = 100 * 1024 * 1024  # bytes; the package has 33 million
SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch onnxruntime-web for the page, pinned and checked.")
    parser.add_argument("--out", type=Path, default=HERE / "ort", help="folder; a folder of the version's name goes in")
    out: Path = parser.parse_args().out
    pin = json.loads((HERE / "runtime.json").read_text(encoding="utf-8"))
    folder = out / pin["version"]
    if all(checked(folder / name, sha) for name, sha in pin["sha256"].items()):
        print(f"{folder}: already there")
        return
    address = f"{registry().rstrip('/')}/{pin['package']}/-/{pin['package']}-{pin['version']}.tgz"
    try:
        package = download(address)
        if integrity(package) != pin["integrity"]:
            sys.exit(f"{address} is not the file that runtime.json pins (sha512 differs); try another registry")
        unpack(package, folder, pin["sha256"])
    except (OSError, HTTPException) as error:
        sys.exit(f"{address}: {error}; set NPM_REGISTRY to a mirror, or run it on a machine with network access")
    print(f"{folder}: {pin['package']} {pin['version']}, {len(pin['sha256'])} files")


def registry() -> str:
    """Return the npm registry's address: https, or http for a local mirror, since the checksum protects the content."""
    chosen = os.environ.get("NPM_REGISTRY") or os.environ.get("NPM_CONFIG_REGISTRY") or asked_npm()
    address = chosen or "https://registry.npmjs.org"
    if not address.startswith(("https://", "http://")):
        sys.exit(f"the npm registry {address} is not an http address; set NPM_REGISTRY=https://registry.npmjs.org")
    return address


def asked_npm() -> str:
    """Return npm's registry setting, or an empty string if npm is not installed."""
    npm = shutil.which("npm")
    if not npm:
        return ""
    done = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def download(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=SECONDS) as response:
        data = response.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(f"more than {LARGEST} bytes")
    return data


def integrity(data: bytes) -> str:
    """Return the SHA-512 of the data in npm's notation, as in its lock files."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def checked(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def unpack(package: bytes, folder: Path, wanted: dict[str, str]) -> None:
    """Extract the wanted files from package/dist, each atomically and with its checksum verified."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for name, sha256 in wanted.items():
            member = archive.extractfile(f"package/dist/{name}")
            if member is None:
                raise OSError(f"no {name} in it")
            partial = folder / f"{name}.partial"
            partial.write_bytes(member.read())
            if not checked(partial, sha256):
                partial.unlink()
                raise OSError(f"{name} differs from what runtime.json pins")
            partial.replace(folder / name)


if __name__ == "__main__":
    main()
