"""The network. This package imports torch, but neither Lightning nor OpenCV nor the code that reads data sets."""
