"""Find objects in a picture and draw them: python demo/image.py model.onnx photo.jpg drawn.jpg."""

import sys

import cv2

import nanogfl
from nanogfl.pictures import read_picture

if len(sys.argv) != 4:
    sys.exit(__doc__)
model, photo, drawn = sys.argv[1:]
try:
    picture = read_picture(photo)
    found = nanogfl.load(model).predict(picture, score=0.3)
except nanogfl.NanogflError as error:
    sys.exit(f"error: {error}")
for record in found.records():
    x1, y1, x2, y2 = map(round, record["box"])
    print(f"{record['class']} {record['score']:.2f}: {x1} {y1} {x2} {y2}")
    cv2.rectangle(picture, (x1, y1), (x2, y2), (255, 153, 0), 2)
try:
    done = cv2.imwrite(drawn, picture)
except cv2.error:  # an unknown suffix
    done = False
if not done:
    sys.exit(f"error: {drawn} could not be written; check the folder, and that the name ends in .jpg or .png")
