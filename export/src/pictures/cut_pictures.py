"""Cuts the exporter's built-in pictures out of the BCCD data set (MIT licence).

    python3 export/src/pictures/cut_pictures.py BCCD_FOLDER export/src/pictures      # needs Pillow

Eight windows in colour from eight source pictures, from a single cell (96 px) to a crowd (384 px), each brought to
128 px. Colour and scale vary on purpose: grey pictures would hide swapped channels, alike ones a dead encoder.
"""

import shutil
import sys
from pathlib import Path

from PIL import Image

SIDE = 128
# source picture, centre x, centre y, window
WINDOWS = (
    (0, 340, 270, 256),
    (32, 320, 240, 384),
    (65, 200, 200, 96),
    (99, 330, 250, 160),
    (140, 400, 300, 96),
    (210, 250, 180, 200),
    (272, 320, 240, 300),
    (371, 150, 330, 128),
)


def main(bccd: Path, out: Path) -> None:
    for number, x, y, window in WINDOWS:
        name = f"BloodImage_{number:05}.jpg"
        box = (x - window // 2, y - window // 2, x - window // 2 + window, y - window // 2 + window)
        picture = Image.open(bccd / "JPEGImages" / name).convert("RGB").crop(box)
        picture.resize((SIDE, SIDE), Image.Resampling.BOX).save(out / name, quality=92, subsampling=0, optimize=True)
    shutil.copyfile(bccd / "LICENSE", out / "LICENSE")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
