#!/usr/bin/env bash
# Check that an exported file gives the same results on ARM: run it with aarch64 onnxruntime under qemu-user, and compare
# boxes and raw outputs with those of this machine.
#
#   export/aarch64_parity.sh model.onnx [WORK_FOLDER]
#
# Needs Debian or Ubuntu with apt-get, dpkg and network access, but not root. Nothing is installed: the emulator and an
# aarch64 Python from Debian's packages are unpacked into WORK_FOLDER (about 250 MB); numpy and onnxruntime for aarch64
# come from PyPI. PYTHON is the Python in which nanogfl is installed.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[[ $# -ge 1 && -f "$1" ]] || { echo "usage: $0 model.onnx [WORK_FOLDER]" >&2; exit 2; }
model="$(realpath "$1")"
work="$(realpath -m "${2:-${TMPDIR:-/tmp}/nanogfl-aarch64}")"
python="${PYTHON:-python3}"
release="${RELEASE:-bookworm}"             # its Python is 3.11
onnxruntime="${ONNXRUNTIME:-1.20.1}"       # newer versions crash with a segmentation fault under bookworm's qemu 7.2
numpy="${NUMPY:-2.2.6}"

# Run apt-get for arm64 packages, with apt's state in WORK_FOLDER, so that the machine's own state does not change.
apt_aarch64() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::Etc::SourceList="$work/sources.list" \
    -o Dir::Etc::SourceParts=- -o Dir::State="$work/apt" -o Dir::State::status="$work/apt/status" \
    -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}

if [[ ! -e "$work/ready" ]]; then
  mkdir -p "$work"/{apt/lists/partial,apt/cache/archives/partial,debs,root,qemu,site}
  touch "$work/apt/status"
  echo "deb http://deb.debian.org/debian $release main" > "$work/sources.list"
  apt_aarch64 update
  cd "$work/debs"
  apt_aarch64 download libc6 libgcc-s1 libstdc++6 libpython3.11-minimal libpython3.11-stdlib python3.11-minimal \
    zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3
  for deb in ./*.deb; do dpkg -x "$deb" "$work/root"; done
  if ! command -v qemu-aarch64-static > /dev/null; then
    cd "$work/qemu"
    apt-get -qq download qemu-user-static
    dpkg -x ./qemu-user-static*.deb .
  fi
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux2014_aarch64 \
    --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 -d "$work/wheels" \
    "numpy==$numpy" "onnxruntime==$onnxruntime"
  for wheel in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$work/site"; done
  touch "$work/ready"
fi

qemu="$(command -v qemu-aarch64-static || echo "$work/qemu/usr/bin/qemu-aarch64-static")"
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1  # the emulator fails with numpy's threads
"$python" "$here/aarch64_parity.py" "$model" \
  "$qemu" -L "$work/root" -E "PYTHONPATH=$work/site" -E PYTHONDONTWRITEBYTECODE=1 "$work/root/usr/bin/python3.11" -u
