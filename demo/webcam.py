"""The live demo, identical to the command ``nanogfl webcam``: python demo/webcam.py model.onnx --source 0 --track.

``--help`` lists all options. For a window of your own, see ``Screen`` in nanogfl/runtime/screen.py.
"""

import sys

from nanogfl.cli import main

main(["webcam", *sys.argv[1:]])
