"""Find objects in a picture and draw them: python demo/image.py model.onnx photo.jpg drawn.jpg."""

import sys

import cv2

import nanogfl

model, photo, drawn = sys.argv[1:4]
picture = cv2.imread(photo)
found = nanogfl.load(model).predict(picture, score=0.3)
for name, score, (x1, y1, x2, y2) in zip(
    (found.names[i] for i in found.labels), found.scores, found.boxes, strict=True
):
    print(f"{name} {score:.2f}: {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}")
    cv2.rectangle(picture, (round(x1), round(y1)), (round(x2), round(y2)), (255, 153, 0), 2)
cv2.imwrite(drawn, picture)
