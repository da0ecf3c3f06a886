"""The live demo, as the command ``nanogfl webcam`` has it: python demo/webcam.py model.onnx --source 0 --track.

All options: ``--help``. For a window of your own, see ``Screen`` in nanogfl/runtime/screen.py.
"""

import sys

from nanogfl.cli import main

main(["webcam", *sys.argv[1:]])
