"""A camera with boxes in a window, in a few lines: python demo/webcam.py model.onnx [0 | video.mp4 | rtsp://...].

The command ``nanogfl webcam`` does the same and more. Whoever wants a window of their own writes a class with ``show``,
``wait`` and ``close``, and gives it as the screen.
"""

import sys

import nanogfl
from nanogfl.runtime.capture import open_source
from nanogfl.runtime.screen import open_window
from nanogfl.runtime.track import Tracker
from nanogfl.runtime.webcam import Webcam

model, source = (*sys.argv[1:], "0")[:2]
webcam = Webcam(nanogfl.load(model), open_source(source), screen=open_window(model), tracker=Tracker())
if webcam.screen is None:
    webcam.report = print
print(webcam.run())
