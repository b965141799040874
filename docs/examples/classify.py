"""python classify.py small.onnx image.jpg ...

The best class of each image and its probability, by a file of `export --include_preprocess --softmax`. It needs
`pip install onnxruntime opencv-python` and nothing of this project."""

import json
import sys

import cv2
import numpy as np
import onnxruntime

RESIZES = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
    "area": cv2.INTER_AREA,
}
if len(sys.argv) < 3:
    sys.exit(__doc__)
session = onnxruntime.InferenceSession(sys.argv[1])
card = session.get_modelmeta().custom_metadata_map  # every value is text
names, side, crop_pct = (json.loads(card[key]) for key in ("class_names", "image_resize", "crop_pct"))
height, width = side if isinstance(side, list) else (side, side)
rows, columns = int(height / crop_pct), int(width / crop_pct)
as_stored = cv2.IMREAD_IGNORE_ORIENTATION if card.get("follow_exif") == "false" else 0


def rounded(number):
    return int(number + 0.5)


for path in sys.argv[2:]:
    image = cv2.imread(path, cv2.IMREAD_COLOR | as_stored)
    if image is None:
        sys.exit(f"{path}: no image that OpenCV reads")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    high, wide = image.shape[:2]
    if rows == columns:  # the shorter side becomes that long; in float32, as validate.py computes
        longer = int(np.float32(max(high, wide) / min(high, wide)) * np.float32(rows))
        size = (rows, longer) if wide < high else (longer, rows)
    else:  # the largest part of that shape, from the centre
        part_high, part_wide = min(high, rounded(wide * rows / columns)), min(wide, rounded(high * columns / rows))
        top, left = rounded((high - part_high) / 2), rounded((wide - part_wide) / 2)
        image, size = image[top : top + part_high, left : left + part_wide], (columns, rows)
    image = cv2.resize(image, size, interpolation=RESIZES[card["interpolation"]])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    image = image[top : top + height, left : left + width]
    if card["in_channels"] == "1":
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    (probabilities,) = session.run(None, {"images": image[None]})  # uint8 (1, height, width, channels)
    best = probabilities[0].argmax()
    print(path, names[best], f"{probabilities[0][best]:.4f}", sep="\t")
