"""nanogfl: small object detectors for phones, from your pictures to one ONNX file."""

__version__ = "0.1.0"
