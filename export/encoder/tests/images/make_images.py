"""Makes the pictures that the decoding and preprocessing tests read, and what Pillow and numpy make of them.

    python3 export/encoder/tests/images/make_images.py pictures export/encoder/tests/images
    python3 export/encoder/tests/images/make_images.py photos PHOTOS export/encoder/tests/images

Needs Pillow 13, numpy and safetensors. `pictures` writes small computed pictures of every kind into OUT/files, and the
results of each stage apart, H×W×3 under the file's name:

    decoded.safetensors     upright, opaque, 8 bits    from the file
    resized.safetensors     shorter side RESIZE        from decoded
    prepared.safetensors    the middle, CROP×CROP      from resized

and their embeddings by `encoder.safetensors`, as numpy_encoder.py computes them: `embeddings.safetensors`.

`photos` keeps of each photograph in a folder no picture, but 300 pixels after decoding and 300 after preprocessing, at
places that follow from the size, and the embedding: `photos.safetensors`.

Where the samples of a lossless file are known, they are the golden, and a file in which Pillow sees others is named:
those of 16 bits, which we scale and Pillow clips or cuts, and a GIF's bare canvas, which is transparent for us.
"""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy
from PIL import Image, ImageOps
from safetensors.numpy import save

import numpy_encoder

RESIZE, CROP = 32, 28
# Of photographs, pixels are kept as ImageNet's networks see them and embeddings of a smaller view, for time's sake.
PHOTO_PIXELS, PHOTO_EMBEDDED = (256, 224), (128, 112)
BACKGROUND = (40, 90, 200)
SAMPLED = 300


# Pictures, computed.


def scene(width, height, seed=0):
    """H×W×3 of 8 bits with what photographs have: slopes of light, edges at every angle, texture, a little noise."""
    random = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:height, 0:width].astype(float)
    u, v = x / max(width - 1, 1), y / max(height - 1, 1)
    picture = numpy.stack([60 + 130 * u, 50 + 120 * v, 160 - 90 * u * v], axis=-1)
    for _ in range(6):
        centre, radius = random.uniform(0, 1, 2) * (width, height), random.uniform(0.08, 0.3) * max(width, height)
        edge = numpy.clip(radius - numpy.hypot(x - centre[0], y - centre[1]), 0, 1)[..., None]
        picture = picture * (1 - edge) + random.uniform(20, 235, 3) * edge
    picture += 12 * numpy.sin(x * 0.9 + y * 0.5)[..., None]
    picture += random.normal(0, 3, (height, width, 1))
    return numpy.clip(picture.round(), 0, 255).astype(numpy.uint8)


def chart(width, height):
    """H×W×3 of saturated fields with sharp edges, of no symmetry: what colour decoding gets wrong shows here."""
    colours = numpy.array(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255], [0, 0, 0], [255, 255, 255]],
        dtype=numpy.uint8,
    )
    y, x = numpy.mgrid[0:height, 0:width]
    return colours[(x // 5 + 3 * (y // 4)) % 8]


def grey(width, height, seed=0):
    return scene(width, height, seed).mean(axis=2).round().astype(numpy.uint8)


def opacity(width, height):
    """0 to 255: fully transparent and fully opaque parts, and every step between."""
    y, x = numpy.mgrid[0:height, 0:width]
    return numpy.clip((x + y) * 320 // max(width + height - 2, 1) - 30, 0, 255).astype(numpy.uint8)


def deep(picture):
    """16 bits whose low bytes matter: x·257 plus something between −128 and 127, where there is room."""
    low = numpy.arange(picture.size).reshape(picture.shape) * 37 % 256 - 128
    return numpy.clip(picture.astype(int) * 257 + low, 0, 65_535).astype(numpy.uint16)


# Our rules, in numpy.


def to_8_bits(samples):
    return ((samples.astype(numpy.int64) + 128) // 257).astype(numpy.uint8)


def composite(colour, alpha):
    """round((s·α + b·(255 − α)) / 255), which is Pillow's alpha_composite over an opaque picture."""
    colour, alpha = numpy.broadcast_to(colour, alpha.shape + (3,)).astype(int), alpha[..., None].astype(int)
    over = ((colour * alpha + numpy.array(BACKGROUND) * (255 - alpha) + 127) // 255).astype(numpy.uint8)
    rgba = numpy.concatenate([colour, alpha], axis=-1).astype(numpy.uint8)
    under = Image.new("RGBA", rgba.shape[1::-1], (*BACKGROUND, 255))
    by_pillow = numpy.asarray(Image.alpha_composite(under, Image.fromarray(rgba, "RGBA")))[..., :3]
    assert (over == by_pillow).all()
    return over


def tripled(samples):
    return numpy.repeat(samples[..., None], 3, axis=-1)


# Writers for what Pillow does not write.


def png(samples, bits, colour_type, palette=None, transparent=None, interlaced=False, extra=()):
    samples = numpy.atleast_3d(samples)
    height, width, _ = samples.shape

    def rows(part):
        for row in part:
            flat = row.reshape(-1)
            if bits == 16:
                packed = flat.astype(">u2").tobytes()
            else:
                each_bit = (flat[:, None] >> numpy.arange(bits - 1, -1, -1)) & 1
                packed = numpy.packbits(each_bit.reshape(-1).astype(numpy.uint8)).tobytes()
            yield b"\0" + packed

    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in steps] if interlaced else [samples]
    pixels = b"".join(row for part in parts if part.size for row in rows(part))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced))
    for kind, content in extra:
        file += chunk(kind, content)
    if palette is not None:
        file += chunk(b"PLTE", bytes(palette.reshape(-1)))
    if transparent is not None:
        file += chunk(b"tRNS", transparent)
    return file + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")


def tiff(samples, order, photometric):
    """One uncompressed strip; `order` is `<` or `>`."""
    samples = numpy.atleast_3d(samples)
    height, width, channels = samples.shape
    bits = samples.dtype.itemsize * 8
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    pixels += b"\0" * (len(pixels) % 2)
    bits_at = 8 + len(pixels)
    directory_at = bits_at + 2 * channels
    short, long = 3, 4
    entries = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, channels, bits if channels == 1 else bits_at),
        (259, short, 1, 1),
        (262, short, 1, photometric),
        (273, long, 1, 8),
        (277, short, 1, channels),
        (278, long, 1, height),
        (279, long, 1, height * width * channels * bits // 8),
    ]
    file = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory_at) + pixels
    file += struct.pack(f"{order}{channels}H", *[bits] * channels) + struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        inline = struct.pack(order + "HH", value, 0) if kind == short and count == 1 else struct.pack(order + "I", value)
        file += struct.pack(order + "HHI", tag, kind, count) + inline
    return file + struct.pack(order + "I", 0)


def bmp_of_runs(indices, palette):
    """8 bits a pixel, run-length encoded (BI_RLE8), rows from the bottom up."""
    height, width = indices.shape
    pixels = b""
    for row in indices[::-1]:
        start = 0
        while start < width:
            end = start + 1
            while end < width and end - start < 255 and row[end] == row[start]:
                end += 1
            pixels += bytes([end - start, row[start]])
            start = end
        pixels += b"\0\0"
    pixels += b"\0\1"
    colours = b"".join(bytes([b, g, r, 0]) for r, g, b in palette)
    offset = 14 + 40 + len(colours)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 2835, 2835, len(palette), 0)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + info + colours + pixels


def saved(picture, **options):
    out = io.BytesIO()
    picture.save(out, **options)
    return out.getvalue()


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def ycck(picture):
    """A JPEG of four components, the first three stored as YCbCr: CMYK under another name in its Adobe segment."""
    inverse = 255 - numpy.asarray(picture.convert("RGB"))
    luma = numpy.asarray(Image.fromarray(255 - inverse).convert("YCbCr"))
    black = (inverse.min(axis=2) // 3)[..., None]
    # Pillow stores CMYK inverted, as Adobe does; hand it the inverse, so that the file holds Y, Cb, Cr and 255 − K.
    planes = numpy.concatenate([255 - luma, black], axis=-1).astype(numpy.uint8)
    file = bytearray(saved(Image.fromarray(planes, "CMYK"), format="JPEG", quality=92, subsampling=0))
    adobe = file.index(b"\xff\xee\0\x0eAdobe")
    assert file[adobe + 15] == 0
    file[adobe + 15] = 2
    return bytes(file)


def pictures():
    """Yields (name, file, decoded): `decoded` is None where Pillow's own reading of the file is the golden."""
    image = Image.fromarray
    rgb, rgb_odd = image(scene(48, 36)), image(scene(53, 37, 1))

    def jpeg(picture, **options):
        return saved(picture, format="JPEG", **{"quality": 90, **options})

    yield "444.jpg", jpeg(rgb, subsampling="4:4:4"), None
    yield "422.jpg", jpeg(rgb_odd, subsampling="4:2:2"), None
    yield "420.jpg", jpeg(rgb, subsampling="4:2:0"), None
    yield "420-odd-sides.jpg", jpeg(rgb_odd, subsampling="4:2:0", quality=95), None
    yield "420-q50.jpg", jpeg(image(scene(96, 64, 2)), subsampling="4:2:0", quality=50), None
    yield "420-narrow.jpg", jpeg(image(scene(13, 40, 3)), subsampling="4:2:0"), None
    yield "440.jpg", ratio_440(rgb_odd), None
    yield "444-chart.jpg", jpeg(image(chart(48, 36)), subsampling="4:4:4"), None
    yield "rgb-components.jpg", jpeg(rgb, keep_rgb=True), None
    yield "optimised.jpg", jpeg(rgb, optimize=True, subsampling="4:4:4"), None
    yield "restarts.jpg", jpeg(rgb_odd, restart_marker_blocks=2, subsampling="4:2:0"), None
    yield "progressive-444.jpg", jpeg(rgb, progressive=True, subsampling="4:4:4"), None
    yield "progressive-420.jpg", jpeg(rgb_odd, progressive=True, subsampling="4:2:0"), None
    yield "grey.jpg", jpeg(image(grey(41, 33))), None
    yield "grey-progressive.jpg", jpeg(image(grey(41, 33, 4)), progressive=True), None
    yield "cmyk.jpg", jpeg(image(cmyk(48, 36), "CMYK"), subsampling=0), None
    yield "ycck.jpg", ycck(rgb), None
    yield "profile-and-comment.jpg", jpeg(rgb, icc_profile=b"\0" * 300, comment=b"not sRGB", subsampling="4:4:4"), None
    yield "1x1.jpg", jpeg(image(scene(1, 1))), None
    yield "1x37.jpg", jpeg(image(scene(1, 37)), subsampling="4:4:4"), None
    yield "37x1.jpg", jpeg(image(scene(37, 1)), subsampling="4:4:4"), None
    for value in range(1, 9):
        yield f"orientation-{value}.jpg", jpeg(image(scene(40, 24, 5)), exif=orientation(value), subsampling="4:4:4"), None

    small, mask = scene(43, 31, 6), opacity(43, 31)
    flat, levels = grey(43, 31, 7), tripled(grey(43, 31, 7))
    yield "rgb.png", png(small, 8, 2), small
    yield "rgb-pillow.png", saved(image(small), format="PNG", optimize=True), small
    yield "rgb-interlaced.png", png(small, 8, 2, interlaced=True), small
    yield "rgb-colour-key.png", png(small, 8, 2, transparent=struct.pack(">HHH", *map(int, small[5, 5]))), keyed(small, small[5, 5])
    yield "rgb-gamma-and-profile.png", png(small, 8, 2, extra=[(b"gAMA", struct.pack(">I", 100_000)), profile_chunk()]), small
    yield "rgb16.png", png(deep(small), 16, 2), to_8_bits(deep(small))
    yield "rgba.png", png(numpy.dstack([small, mask]), 8, 6), composite(small, mask)
    yield "rgba-interlaced.png", png(numpy.dstack([small, mask]), 8, 6, interlaced=True), composite(small, mask)
    both = deep(numpy.dstack([small, mask]))
    yield "rgba16.png", png(both, 16, 6), composite(to_8_bits(both[..., :3]), to_8_bits(both[..., 3]))
    yield "grey.png", png(flat, 8, 0), levels
    yield "grey16.png", png(deep(flat), 16, 0), tripled(to_8_bits(deep(flat)))
    yield "grey16-interlaced.png", png(deep(flat), 16, 0, interlaced=True), tripled(to_8_bits(deep(flat)))
    for bits in (1, 2, 4):
        steps = flat >> (8 - bits)
        yield f"grey{bits}.png", png(steps, bits, 0), tripled((steps.astype(int) * 255 // ((1 << bits) - 1)).astype(numpy.uint8))
    yield "grey-colour-key.png", png(flat, 8, 0, transparent=struct.pack(">H", flat[3, 3])), keyed(levels, levels[3, 3])
    yield "grey-alpha.png", png(numpy.dstack([flat, mask]), 8, 4), composite(levels, mask)
    both = deep(numpy.dstack([flat, mask]))
    yield "grey-alpha16.png", png(both, 16, 4), composite(tripled(to_8_bits(both[..., 0])), to_8_bits(both[..., 1]))
    for bits in (1, 2, 4, 8):
        indices = (flat.astype(int) * (1 << bits) // 256).astype(numpy.uint8)
        palette = scene(1 << bits, 1, bits)[0]
        yield f"palette{bits}.png", png(indices, bits, 3, palette), palette[indices]
    clear = opacity(200, 1)[0]
    yield "palette-alpha.png", png(indices, 8, 3, palette, bytes(clear)), composite(
        palette[indices], numpy.append(clear, numpy.full(56, 255, numpy.uint8))[indices]
    )
    yield "animated.png", saved(image(small), format="PNG", save_all=True, append_images=[image(255 - small)]), small
    block = orientation(6).tobytes().removeprefix(b"Exif\0\0")
    yield "orientation-6.png", png(small, 8, 2, extra=[(b"eXIf", block)]), numpy.rot90(small, 3)
    yield "1x1.png", png(scene(1, 1), 8, 2), scene(1, 1)
    yield "1x29.png", png(scene(1, 29), 8, 2), scene(1, 29)
    yield "200x2.png", png(scene(200, 2), 8, 2), scene(200, 2)
    yield "28x28.png", png(scene(28, 28), 8, 2), scene(28, 28)
    yield "32x32.png", png(scene(32, 32), 8, 2), scene(32, 32)
    yield "chart.png", png(chart(90, 70), 8, 2), chart(90, 70)

    few = image(small).quantize(64)
    indices, palette = numpy.asarray(few), numpy.array(few.getpalette(), numpy.uint8).reshape(-1, 3)
    yield "plain.gif", saved(few, format="GIF", interlace=0), palette[indices]
    yield "interlaced.gif", saved(few, format="GIF", interlace=1), palette[indices]
    see_through = (indices != 9) * numpy.uint8(255)
    yield "transparent.gif", saved(few, format="GIF", transparency=9), composite(palette[indices], see_through)
    other = image(255 - small).quantize(64)
    yield "animated.gif", saved(few, format="GIF", save_all=True, append_images=[other], duration=50), palette[indices]
    # The frame at (6, 4) of a larger canvas; what it leaves bare is transparent, as in browsers.
    file = bytearray(saved(few, format="GIF", interlace=0))
    file[6:10] = struct.pack("<HH", 43 + 9, 31 + 6)
    frame = file.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 43, 31))
    file[frame + 1 : frame + 5] = struct.pack("<HH", 6, 4)
    canvas = numpy.broadcast_to(numpy.array(BACKGROUND, numpy.uint8), (37, 52, 3)).copy()
    canvas[4:35, 6:49] = palette[indices]
    yield "offset-frame.gif", bytes(file), canvas
    yield "1x1.gif", saved(image(scene(1, 1)).quantize(2), format="GIF"), None

    def webp(picture, **options):
        return saved(picture, format="WEBP", method=6, **options)

    rgba = image(numpy.dstack([small, mask]), "RGBA")
    yield "lossy.webp", webp(rgb, quality=85), None
    yield "lossy-odd-sides.webp", webp(rgb_odd, quality=50), None
    yield "lossy-alpha.webp", webp(rgba, quality=90), None
    yield "lossless.webp", webp(image(small), lossless=True), small
    # `exact` keeps the colour of what cannot be seen.
    yield "lossless-alpha.webp", webp(rgba, lossless=True, exact=True), composite(small, mask)
    yield "animated.webp", webp(image(small), lossless=True, save_all=True, append_images=[image(255 - small)]), small
    yield "orientation-8.webp", webp(image(small), lossless=True, exif=orientation(8)), numpy.rot90(small)
    yield "1x1.webp", webp(image(scene(1, 1)), lossless=True), scene(1, 1)

    yield "24-bits.bmp", saved(image(small), format="BMP"), small
    yield "8-bits.bmp", saved(few, format="BMP"), palette[indices]
    yield "grey.bmp", saved(image(flat), format="BMP"), levels
    yield "1-bit.bmp", saved(image(flat).convert("1"), format="BMP"), None
    yield "runs.bmp", bmp_of_runs(flat >> 4, scene(16, 1)[0]), scene(16, 1)[0][flat >> 4]
    yield "1x1.bmp", saved(image(scene(1, 1)), format="BMP"), scene(1, 1)

    yield "rgb.tif", saved(image(small), format="TIFF"), small
    yield "rgb-lzw.tif", saved(image(small), format="TIFF", compression="tiff_lzw"), small
    yield "rgb-deflate.tif", saved(image(small), format="TIFF", compression="tiff_adobe_deflate"), small
    yield "rgb-packbits.tif", saved(image(small), format="TIFF", compression="packbits"), small
    yield "rgb-big-endian.tif", tiff(small, ">", 2), small
    yield "rgb16.tif", tiff(deep(small), "<", 2), to_8_bits(deep(small))
    yield "rgb16-big-endian.tif", tiff(deep(small), ">", 2), to_8_bits(deep(small))
    yield "grey.tif", saved(image(flat), format="TIFF"), levels
    yield "grey16.tif", tiff(deep(flat), "<", 1), tripled(to_8_bits(deep(flat)))
    yield "grey-white-is-zero.tif", tiff(flat, "<", 0), 255 - levels
    yield "1-bit.tif", saved(image(flat).convert("1"), format="TIFF"), None
    yield "rgba.tif", saved(rgba, format="TIFF"), composite(small, mask)
    yield "cmyk.tif", saved(image(cmyk(43, 31), "CMYK"), format="TIFF"), None
    pages = [image(255 - small)]
    yield "two-pages.tif", saved(image(small), format="TIFF", save_all=True, append_images=pages), small
    yield "orientation-3.tif", saved(image(small), format="TIFF", tiffinfo={274: 3}), numpy.rot90(small, 2)
    yield "1x1.tif", saved(image(scene(1, 1)), format="TIFF"), scene(1, 1)


def cmyk(width, height):
    """Inks of their own, black among them: more than what a conversion from RGB would use."""
    return numpy.dstack([scene(width, height, 8), grey(width, height, 9) // 2])


def keyed(picture, key):
    """What a colour key leaves: one exact colour is transparent."""
    return composite(picture, (picture != key).any(axis=2) * numpy.uint8(255))


def profile_chunk():
    return b"iCCP", b"display\0\0" + zlib.compress(b"\0" * 200)


def ratio_440(picture):
    """4:4:0, chroma halved from top to bottom only, which Pillow does not write: a 4:2:2 file whose frame header says
    that each two blocks of luma lie below each other. As many units, so the file stays sound; the picture is another."""
    file = bytearray(saved(picture, format="JPEG", quality=90, subsampling="4:2:2"))
    frame = file.index(b"\xff\xc0")
    assert file[frame + 11] == 0x21
    file[frame + 11] = 0x12
    units_down, units_across = -(-picture.height // 8), -(-picture.width // 16)
    file[frame + 5 : frame + 9] = struct.pack(">HH", units_down * 16, units_across * 8)
    return bytes(file)


# What the files should become.


def decoded(file):
    """By Pillow: first picture, upright, opaque."""
    picture = Image.open(io.BytesIO(file))
    picture.load()
    value = picture.getexif().get(0x0112, 1)
    if picture.mode in ("P", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in ("LA", "RGBA"):
        rgba = numpy.asarray(picture.convert("RGBA"))
        pixels = composite(rgba[..., :3], rgba[..., 3])
    else:
        pixels = numpy.asarray(picture.convert("RGB"))
    upright = Image.fromarray(pixels)
    upright.getexif()[0x0112] = value
    return numpy.asarray(ImageOps.exif_transpose(upright))


def resized(pixels, resize):
    """torchvision's Resize: the shorter side becomes `resize`, the longer is rounded down."""
    height, width = pixels.shape[:2]
    size = (resize, resize * height // width) if width <= height else (resize * width // height, resize)
    return numpy.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def prepared(pixels, crop):
    """torchvision's CenterCrop."""
    top, left = (round((side - crop) / 2.0) for side in pixels.shape[:2])
    return pixels[top : top + crop, left : left + crop]


def encoder():
    views = [scene(32, 32, seed) for seed in range(100, 140)] + [chart(32, 32)[:, ::-1] // 2 + 60]
    return numpy_encoder.Encoder(numpy.stack(views))


def write(path, tensors, resize, crop):
    # One entry only: the order of several would differ from run to run.
    contiguous = {name: numpy.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    path.write_bytes(save(contiguous, {"moco.encoder": numpy_encoder.manifest(resize, crop, BACKGROUND)}))


def write_pictures(out):
    files = out / "files"
    files.mkdir(exist_ok=True)
    for old in files.iterdir():
        old.unlink()
    by_decoding, by_resizing, by_preparing = {}, {}, {}
    for name, file, pixels in pictures():
        (files / name).write_bytes(file)
        by_pillow = decoded(file)
        if pixels is None:
            pixels = by_pillow
        elif not numpy.array_equal(pixels, by_pillow):
            print(f"{name}: Pillow reads something else than what was written")
        by_decoding[name] = pixels
        smaller = resized(pixels, RESIZE)
        if smaller.shape[0] + smaller.shape[1] < 5 * RESIZE:  # a long thin picture becomes a large one
            by_resizing[name] = smaller
        by_preparing[name] = prepared(smaller, CROP)
    network = encoder()
    embeddings = network.features(numpy.stack(list(by_preparing.values())))
    write(out / "encoder.safetensors", network.tensors, RESIZE, CROP)
    write(out / "decoded.safetensors", by_decoding, RESIZE, CROP)
    write(out / "resized.safetensors", by_resizing, RESIZE, CROP)
    write(out / "prepared.safetensors", by_preparing, RESIZE, CROP)
    write(out / "embeddings.safetensors", dict(zip(by_preparing, embeddings.astype(numpy.float32))), RESIZE, CROP)
    print(f"{len(by_decoding)} pictures, mean cosine between them {between(embeddings):.3f}")


def between(embeddings):
    """The mean cosine of different embeddings: near 1 they would agree whatever was shown."""
    unit = embeddings / numpy.linalg.norm(embeddings, axis=1, keepdims=True)
    count = len(unit)
    return ((unit @ unit.T).sum() - count) / (count * (count - 1))


def sampled(pixels):
    """SAMPLED pixels of a picture, at places that the tests find again: multiples of a large prime, modulo its size."""
    places = numpy.arange(SAMPLED, dtype=numpy.int64) * 2_654_435_761 % (pixels.shape[0] * pixels.shape[1])
    return pixels.reshape(-1, 3)[places]


def write_photos(photos, out):
    network, tensors, embeddings = encoder(), {}, []
    for path in sorted(photos.iterdir()):
        pixels = decoded(path.read_bytes())
        (resize, crop), (embedded_resize, embedded_crop) = PHOTO_PIXELS, PHOTO_EMBEDDED
        embeddings.append(network.features(prepared(resized(pixels, embedded_resize), embedded_crop)[None])[0])
        tensors[f"{path.name}/decoded"] = sampled(pixels)
        tensors[f"{path.name}/prepared"] = sampled(prepared(resized(pixels, resize), crop))
        tensors[f"{path.name}/embedding"] = embeddings[-1].astype(numpy.float32)
    write(out / "photos.safetensors", tensors, *PHOTO_EMBEDDED)
    print(f"{len(embeddings)} photos, mean cosine between them {between(numpy.stack(embeddings)):.3f}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["pictures", out]:
            write_pictures(Path(out))
        case ["photos", photos, out]:
            write_photos(Path(photos), Path(out))
        case _:
            sys.exit(__doc__)
