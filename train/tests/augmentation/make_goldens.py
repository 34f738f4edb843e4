"""Writes goldens.json and goldens.safetensors: what torchvision makes of small pictures with given parameters.

    pip install torch==2.11.0 torchvision==0.26.0 pillow==13.0.0 numpy safetensors
    python train/tests/augmentation/make_goldens.py

Each case has up to two results: `pil`, the 8-bit pipeline that MoCo's recipes run in (rounded after each operation), and
`tensor`, torchvision's own arithmetic on real numbers, kept as round(65535 x). `cuts` are statistics of torchvision's
RandomResizedCrop on pictures of several shapes.
"""

import itertools
import json
import pathlib

import numpy as np
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as F
from PIL import Image, ImageFilter
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
ADJUSTMENTS = {"brightness": F.adjust_brightness, "contrast": F.adjust_contrast, "saturation": F.adjust_saturation, "hue": F.adjust_hue}

arrays = {}


def keep(name, array):
    arrays[name] = np.ascontiguousarray(array)
    return name


def colours(width, height):
    """Hard edges and full colours, greys, black and white among them."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    blocks[0, :6] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [128, 128, 128]]
    return blocks.repeat(4, 0).repeat(4, 1)[:height, :width]


def photo(width, height):
    """Smooth light, one colour cast, some grain."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[0:height, 0:width]
    light = 120 + 60 * np.sin(x / 7.0) + 50 * np.cos(y / 5.0 + x / 11.0)
    cast = np.array([1.1, 0.9, 0.7])
    return (light[..., None] * cast + rng.normal(0, 8, (height, width, 3))).clip(0, 255).round().astype(np.uint8)


def to_tensor(picture):
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255


def as_u16(tensor):
    return (tensor.permute(1, 2, 0).double() * 65535).round().numpy().astype(np.uint16)


def cut_cases(picture_name, picture):
    height, width, _ = picture.shape
    boxes = [(0, 0, width, height), (3, 5, 24, 24), (10, 2, 40, 30), (7, 11, 9, 13), (30, 0, 5, 31), (0, 20, width, 1), (12, 9, 1, 1)]
    cases = []
    for i, (left, top, w, h) in enumerate(boxes):
        turns, flip = i % 4, i % 3 == 1
        view = F.resized_crop(Image.fromarray(picture), top, left, h, w, [24, 24], interpolation=F.InterpolationMode.BILINEAR)
        view = np.rot90(np.asarray(view), -turns)
        view = np.asarray(F.hflip(Image.fromarray(view))) if flip else view
        name = keep(f"cut.{picture_name}.{i}", view)
        cases.append({"picture": picture_name, "cut": [left, top, w, h], "turns": turns, "flip": flip, "pil": name})
    return cases


def value_cases(picture_name, picture):
    cases = []

    def case(name, effects, pil, tensor=None):
        entry = {"name": name, "picture": picture_name, "effects": effects, "pil": keep(f"{name}.{picture_name}.pil", np.asarray(pil))}
        if tensor is not None:
            entry["tensor"] = keep(f"{name}.{picture_name}.tensor", as_u16(tensor))
        cases.append(entry)

    image = Image.fromarray(picture)
    for kind, factors in {
        "brightness": [0.0, 0.6, 1.0, 1.4],
        "contrast": [0.0, 0.6, 1.4],
        "saturation": [0.0, 0.6, 1.4],
        "hue": [-0.5, -0.4, -0.07, 0.1, 0.4],
    }.items():
        for factor in factors:
            adjust = ADJUSTMENTS[kind]
            case(f"{kind} {factor}", [[kind, factor]], adjust(image, factor), adjust(to_tensor(picture), factor))
    case("grayscale", [["grayscale", 0]], F.rgb_to_grayscale(image, 3), F.rgb_to_grayscale(to_tensor(picture), 3))
    for sigma in [0.1, 0.5, 0.9, 1.3, 2.0]:
        case(f"blur {sigma}", [["blur", sigma]], image.filter(ImageFilter.GaussianBlur(sigma)))
    return cases


def order_cases(picture_name, picture):
    """All orders of the four adjustments, each with factors of its own."""
    rng = np.random.default_rng(3)
    cases = []
    for i, order in enumerate(itertools.permutations(ADJUSTMENTS)):
        # Far enough from doing nothing that another order shows.
        effects = []
        for kind in order:
            away = float(rng.choice([-1, 1]) * rng.uniform(0.6, 1.0))
            effects.append([kind, round(0.1 * away if kind == "hue" else 1 + 0.4 * away, 4)])
        pil, tensor = Image.fromarray(picture), to_tensor(picture)
        for kind, factor in effects:
            pil, tensor = ADJUSTMENTS[kind](pil, factor), ADJUSTMENTS[kind](tensor, factor)
        name = f"order {i}"
        entry = {"name": name, "picture": picture_name, "effects": effects}
        entry["pil"] = keep(f"{name}.pil", np.asarray(pil))
        entry["tensor"] = keep(f"{name}.tensor", as_u16(tensor))
        cases.append(entry)
    return cases


def cut_statistics():
    """Mean and deviation of left, top, width and height."""
    draws = 40_000
    statistics = []
    for (width, height), scale in itertools.product([(500, 375), (48, 48), (40, 400), (300, 20)], [(0.2, 1.0), (0.08, 1.0)]):
        torch.manual_seed(4)
        picture = torch.zeros(1, height, width)
        cuts = np.array([T.RandomResizedCrop.get_params(picture, scale, (3 / 4, 4 / 3)) for _ in range(draws)], dtype=float)
        cuts = cuts[:, [1, 0, 3, 2]]  # top, left, height, width → left, top, width, height
        statistics.append({"picture": [width, height], "scale": scale, "draws": draws, "mean": cuts.mean(0).tolist(), "deviation": cuts.std(0).tolist()})
    return statistics


def main():
    torch.set_num_threads(1)
    wide = {"wide": colours(56, 44), "wide photo": photo(61, 47)}
    square = {"colours": colours(24, 24), "photo": photo(24, 24)}
    for name, picture in {**wide, **square}.items():
        keep(f"picture.{name}", picture)
    goldens = {
        "cuts": [case for name, picture in wide.items() for case in cut_cases(name, picture)],
        "values": [case for name, picture in square.items() for case in value_cases(name, picture)],
        "orders": order_cases("colours", square["colours"]),
        "statistics": cut_statistics(),
    }
    (HERE / "goldens.json").write_text(json.dumps(goldens, indent=1) + "\n")
    save_file(arrays, HERE / "goldens.safetensors")


if __name__ == "__main__":
    main()
