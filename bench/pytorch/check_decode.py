"""Compares darts-data's decoded pixels with Pillow's, image by image.

    cargo run --release -p darts-data --example decode -- OUT FILE...
    python bench/pytorch/check_decode.py OUT FILE...

Exits with 1 when the mean absolute difference of an image exceeds two levels of 255.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

LIMIT = 2.0


def main() -> int:
    out, files = Path(sys.argv[1]), sys.argv[2:]
    worst, total = 0.0, 0.0
    for number, file in enumerate(files):
        ours = np.asarray(Image.open(out / f"{number}.ppm"), dtype=np.int16)
        theirs = np.asarray(Image.open(file).convert("RGB"), dtype=np.int16)
        if ours.shape != theirs.shape:
            print(f"{file}: {ours.shape}, Pillow has {theirs.shape}")
            return 1
        difference = np.abs(ours - theirs)
        mean = float(difference.mean())
        worst, total = max(worst, mean), total + mean
        if mean > LIMIT:
            print(f"{file}: {mean:.3f} levels apart in the mean, {difference.max()} at most")
    print(f"{len(files)} images: {total / len(files):.3f} levels apart in the mean, {worst:.3f} in the worst image")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
