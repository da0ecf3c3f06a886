"""onnxruntime for the stand-in beside: model frame height width folder -> the outputs' bytes in the folder."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

model, frame, height, width, folder = sys.argv[1:]
image = np.fromfile(frame, np.uint8).reshape(int(height), int(width), 3)
names = ["boxes", "scores", "labels"]
for name, value in zip(names, ort.InferenceSession(model).run(names, {"image": image}), strict=True):
    value.tofile(Path(folder, name))
