"""Cuts the demo's pictures, single blood cells, out of the BCCD data set (MIT licence).

    python3 tests/data/cut_cells.py BCCD_FOLDER tests/data/cells      # needs numpy and Pillow

For each annotated cell: a window of 96 px around its centre, whatever the cell's size, so that scale stays; where the
window would leave the picture it is moved inside. Grey, halved to 48 px, and each standardised to mean 128 and
deviation 45 before it is cut off at 0 and 255: three colour means alone would tell the classes apart (91 % by k-NN) and hide what was learned.

361 cells of each class, as many as the rarest has, chosen by a hash of their names. The pictures of the data set's own
test list are held out: the split is by source picture, never by cell. Labels only score; training never reads them.
"""

import hashlib
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy
from PIL import Image

CLASSES = ("Platelets", "RBC", "WBC")
CELLS_A_CLASS = 361
WINDOW = 96
SIDE = 48
MEAN, DEVIATION = 128.0, 45.0


def cells(bccd: Path):
    """Yields (class, name, centre x, centre y) of every annotated cell."""
    for path in sorted((bccd / "Annotations").glob("*.xml")):
        for index, item in enumerate(ElementTree.parse(path).getroot().iter("object")):
            box = [int(item.find("bndbox/" + side).text) for side in ("xmin", "ymin", "xmax", "ymax")]
            yield item.find("name").text, path.stem, index, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def cut(picture: Image.Image, x: float, y: float) -> Image.Image:
    left = min(max(round(x - WINDOW / 2), 0), picture.width - WINDOW)
    top = min(max(round(y - WINDOW / 2), 0), picture.height - WINDOW)
    window = picture.convert("L").crop((left, top, left + WINDOW, top + WINDOW)).resize((SIDE, SIDE), Image.Resampling.BOX)
    values = numpy.asarray(window, dtype=numpy.float64)
    values = (values - values.mean()) / max(values.std(), 1.0) * DEVIATION + MEAN
    return Image.fromarray(numpy.clip(values.round(), 0, 255).astype(numpy.uint8), "L")


def main(bccd: Path, out: Path) -> None:
    held_out = set((bccd / "ImageSets/Main/test.txt").read_text().split())
    by_class = {name: [] for name in CLASSES}
    for label, picture, index, x, y in cells(bccd):
        by_class[label].append((hashlib.sha256(f"{picture}-{index}".encode()).hexdigest(), picture, index, x, y))
    for label, found in by_class.items():
        for _, picture, index, x, y in sorted(found)[:CELLS_A_CLASS]:
            folder = out / ("held-out" if picture in held_out else "train") / label
            folder.mkdir(parents=True, exist_ok=True)
            source = Image.open(bccd / "JPEGImages" / f"{picture}.jpg")
            cut(source, x, y).save(folder / f"{picture}-{index:02}.png", optimize=True)
    shutil.copyfile(bccd / "LICENSE", out / "LICENSE")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
