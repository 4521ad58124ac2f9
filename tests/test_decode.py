"""Odd image files: what they decode to, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from pictures import noise
from PIL import Image, PngImagePlugin

from ssl_jax.data.images import decode, deep, opening
from ssl_jax.data.source import Decoding

RNG = np.random.default_rng(0)


def test_exif_orientation(tmp_path):
    image = noise(6, 9)
    for orientation, stored in {  # how a camera stores what should look like ``image``, by the EXIF standard
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.swapaxes(0, 1),
        6: np.rot90(image, 1),
        7: image[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(image, -1),
    }.items():
        exif = Image.Exif()
        exif[opening.ORIENTATION] = orientation
        for suffix in ("png", "jpg", "tif"):
            file = tmp_path / f"{orientation}.{suffix}"
            Image.fromarray(np.ascontiguousarray(stored)).save(file, exif=exif)
            if suffix != "jpg":
                assert (decode.read(file) == image).all(), file
            assert decode.read(file).shape == (6, 9, 3)
            assert decode.is_plain(file) == (suffix == "jpg" and orientation == 1)


def test_cmyk(tmp_path):
    stored = noise(8, 8, 4)
    Image.fromarray(stored, "CMYK").save(tmp_path / "x.tif")
    assert (decode.read(tmp_path / "x.tif") == np.asarray(Image.open(tmp_path / "x.tif").convert("RGB"))).all()
    smooth = np.full((16, 16, 4), (0, 255, 255, 0), np.uint8)  # no cyan, all magenta and yellow: red
    Image.fromarray(smooth, "CMYK").save(tmp_path / "x.jpg", quality=95)
    assert not decode.is_plain(tmp_path / "x.jpg")
    assert np.abs(decode.read(tmp_path / "x.jpg").astype(int) - [255, 0, 0]).max() <= 3


def test_sixteen_bits(tmp_path):
    grey = noise(7, 5, 1, np.uint16)
    grey[0, :2] = 0, 65535
    Image.fromarray(grey).save(tmp_path / "x.png")
    expected = np.rint(grey / 65535 * 255).astype(np.uint8)
    assert (decode.read(tmp_path / "x.png") == expected[..., None].repeat(3, -1)).all()
    assert (decode.read(tmp_path / "x.png", 1) == expected[..., None]).all()


def stored_tiff(pixels, order, *, signs=1, colours=1, compressed=False, extra=None):
    """A TIFF of one strip; ``signs`` is its SampleFormat, ``colours`` its PhotometricInterpretation."""
    pixels = pixels.astype(pixels.dtype.newbyteorder(order))
    h, w, c = pixels.shape
    data = zlib.compress(pixels.tobytes()) if compressed else pixels.tobytes()
    bits = 8 * pixels.dtype.itemsize
    tags = {256: w, 257: h, 258: [bits] * c, 259: 8 if compressed else 1, 262: colours, 273: 0, 277: c, 278: h}
    tags |= {279: len(data)} | ({338: extra} if extra is not None else {}) | {339: [signs] * c}
    beyond, entries, start = b"", b"", 8 + 2 + 12 * len(tags) + 4
    where = start + sum(4 * len(v) for v in tags.values() if isinstance(v, list) and len(v) > 1)
    for tag, value in (tags | {273: where}).items():
        numbers = value if isinstance(value, list) else [value]
        inside = len(numbers) == 1
        entries += struct.pack(f"{order}HHII", tag, 4, len(numbers), numbers[0] if inside else start + len(beyond))
        beyond += b"" if inside else struct.pack(f"{order}{len(numbers)}I", *numbers)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + beyond + data


def stored_png(pixels):
    """A PNG of 16 bits; grey, grey and alpha, RGB or RGBA."""
    h, w, c = pixels.shape

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    data = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "channels", "options"),
    [
        ("u2", 1, {}),
        ("i2", 1, {"signs": 2}),
        ("u4", 1, {}),
        ("i4", 1, {"signs": 2}),
        ("f4", 1, {"signs": 3}),
        ("u2", 3, {"colours": 2}),
        ("u2", 4, {"colours": 2, "extra": 2}),
        ("u2", 4, {"colours": 5}),
    ],
)
def test_numbers_of_tiffs(dtype, channels, options, order, compressed):
    """All bits of what is stored, in both orders of bytes, also where Pillow has 8 of 16 or turns them round."""
    if np.dtype(dtype).kind == "f":
        pixels = RNG.normal(0, 1000, (7, 5, channels)).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        pixels = RNG.integers(limits.min, limits.max, (7, 5, channels), dtype, endpoint=True)
    data = stored_tiff(pixels, order, compressed=compressed, **options)
    if dtype == "u4" and order == ">":  # which Pillow does not know
        with pytest.raises(decode.Unreadable, match="no image that Pillow knows; of TIFFs it knows up to 16 bits"):
            deep.values(data)
        return
    assert deep.is_deep(data)
    assert np.array_equal(deep.values(data), pixels[..., 0] if channels == 1 else pixels)
    low, high = float(pixels.min()), float(pixels.max())
    grey = decode.read(data, 1, Decoding("image"))
    assert grey.shape == (7, 5, 1)
    if channels == 1:
        scaled = (pixels.astype(np.float64) - low) / (high - low) * 255
        assert np.abs(grey - scaled).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_numbers_of_pngs(channels):
    pixels = RNG.integers(0, 4096, (7, 5, channels), np.uint16)
    pixels[..., -1] = 65535 if channels in (2, 4) else pixels[..., -1]  # opaque
    data = stored_png(pixels)
    assert deep.is_deep(data)
    assert np.array_equal(deep.values(data), pixels[..., 0] if channels == 1 else pixels)
    colours = pixels[..., : 1 if channels < 3 else 3]
    made = decode.read(data, 3, Decoding((0.0, 4095.0)))
    assert np.array_equal(made, np.broadcast_to(np.rint(colours / 4095 * 255), made.shape))
    today = colours >> 8 if channels > 1 else np.rint(colours / 257)  # Pillow's high byte, and what grey always was
    assert np.array_equal(decode.read(data), np.broadcast_to(today, made.shape))


def test_transparent_colours_of_sixteen_bits_lie_over_white():
    pixels = np.full((1, 2, 4), 1000, np.uint16)
    pixels[0, :, 3] = 0, 65535
    assert decode.read(stored_png(pixels), 3, Decoding((0.0, 2000.0))).tolist() == [[[255] * 3, [128] * 3]]


def test_numbers_of_a_pgm():
    """It names its own maximum; a range counts as it is stored."""
    for most in (1000, 65535):
        data = b"P5 2 2 %d\n" % most + np.array([0, 100, 500, 1000], ">u2").tobytes()
        assert np.array_equal(decode.read(data, 1, Decoding((0.0, 1000.0))).ravel(), [0, 26, 128, 255])
        today = np.rint(np.array([0, 100, 500, 1000]) / most * 255)
        assert np.abs(decode.read(data, 1).ravel() - today).max() <= 1


def test_what_is_no_number_or_lies_outside_the_range():
    stored = np.array([[np.nan, -np.inf, np.inf, -5, 0, 1, 2, 9]], np.float32)
    assert deep.to_bytes(stored, (0.0, 2.0)).tolist() == [[0, 0, 255, 0, 0, 128, 255, 255]]
    assert deep.to_bytes(stored, "image").tolist() == [[0, 0, 255, 0, 91, 109, 128, 255]]
    assert deep.to_bytes(np.full((2, 2), 7), "image").tolist() == [[0, 0], [0, 0]]
    every = np.arange(65536)
    assert np.array_equal(deep.to_bytes(every, None), deep.to_bytes(every, (0.0, 65535.0)))
    assert np.array_equal(deep.to_bytes(np.arange(256), (0.0, 255.0)), np.arange(256))
    with pytest.raises(decode.Unreadable, match=r"give data.value_range="):
        deep.to_bytes(stored, None)


def test_eight_bits_are_taken_as_they_are(tmp_path):
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK"):
        file = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        Image.fromarray(noise(9, 7)).convert("RGB").convert(mode).save(file)
        assert not deep.is_deep(file)
        for limits in ((0.0, 4095.0), "image"):
            assert np.array_equal(decode.read(file, 3, Decoding(limits)), decode.read(file))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((6, 6), v, np.uint8)) for v in (10, 100, 200)]
    for suffix in ("gif", "tif", "png"):
        file = tmp_path / f"x.{suffix}"
        frames[0].save(file, save_all=True, append_images=frames[1:])
        assert (decode.read(file) == 10).all()
        assert decode.read(file).shape == (6, 6, 3)


def test_transparency_over_white(tmp_path):
    rgba = noise(8, 8, 4)
    Image.fromarray(rgba).save(tmp_path / "x.png")
    alpha = rgba[..., 3:] / 255.0
    expected = rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)
    assert np.abs(decode.read(tmp_path / "x.png") - expected).max() <= 1.0
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert decode.read(tmp_path / "p.png").tolist() == [[[200, 0, 0], [255, 255, 255]]]


def test_grey_palette_bilevel_and_wrong_suffix(tmp_path):
    grey = noise(5, 6, 1)
    Image.fromarray(grey).save(tmp_path / "x.png")
    assert (decode.read(tmp_path / "x.png") == grey[..., None]).all()
    Image.fromarray(grey > 127).save(tmp_path / "b.png")
    assert (decode.read(tmp_path / "b.png") == np.where(grey > 127, 255, 0)[..., None]).all()
    (tmp_path / "x.png").rename(tmp_path / "x.jpg")
    assert (decode.read(tmp_path / "x.jpg") == grey[..., None]).all()
    assert not decode.is_plain(tmp_path / "x.jpg")


def test_progressive_is_not_plain(tmp_path):
    image = Image.fromarray(noise(32, 32))
    image.save(tmp_path / "b.jpg")
    image.save(tmp_path / "p.jpg", progressive=True)
    image.convert("L").save(tmp_path / "g.jpg")
    assert [decode.is_plain(tmp_path / f"{k}.jpg") for k in "bpg"] == [True, False, True]


def jpeg(**options):
    file = io.BytesIO()
    y, x = np.mgrid[:120, :160]
    image = np.stack([127 + 120 * np.sin(x / 3), 127 + 120 * np.cos(y / 5), (x * 3 + y * 2) % 256], -1)
    Image.fromarray(image.astype(np.uint8)).convert(options.pop("mode", "RGB")).save(
        file, "JPEG", quality=95, **options
    )
    return file.getvalue()


def damaged(data):
    """Without some of its codes; Pillow reads it, and in the wrong place from there on."""
    return data[:1500] + data[2400:]


@pytest.mark.parametrize("options", [{}, {"mode": "L"}, {"mode": "CMYK"}, {"progressive": True}, {"keep_rgb": True}])
def test_damaged_codes_are_refused_where_pillow_is_silent(options):
    whole = jpeg(**options)
    decode.refuse_damage(whole)
    decode.read(damaged(whole))
    with pytest.raises(decode.Unreadable, match="Corrupt JPEG data: "):
        decode.refuse_damage(damaged(whole))


def test_harmless_oddities_of_a_jpeg_are_read_and_hide_no_damage():
    """libjpeg tells its first warning alone."""
    whole = jpeg()
    tables, version = whole.index(b"\xff\xdb"), whole.index(b"JFIF\0") + 5
    scan = whole.index(b"\xff\xda")
    length = int.from_bytes(whole[scan + 2 : scan + 4])
    odd = {
        "extraneous bytes before marker 0xdb": whole[:tables] + b"\x12\x34" + whole[tables:],
        "unknown JFIF revision": whole[:version] + b"\7" + whole[version + 1 :],
        "Invalid SOS": whole[: scan + length - 1] + b"\0\0\0" + whole[scan + length + 2 :],
    }
    for said, data in odd.items():
        with pytest.raises(ValueError, match=said):
            simplejpeg.decode_jpeg(data, strict=True)
        decode.refuse_damage(data)
        assert (decode.read(data) == decode.read(whole)).all(), said
        with pytest.raises(decode.Unreadable, match="Corrupt JPEG data: "):
            decode.refuse_damage(damaged(data))
    longer = whole[:-2] + b"?" * 99 + whole[-2:]
    with pytest.raises(ValueError, match=r"\d extraneous bytes before marker 0xd9"):
        simplejpeg.decode_jpeg(longer, strict=True)
    decode.refuse_damage(longer)
    assert (decode.read(longer) == decode.read(whole)).all()
    decode.refuse_damage(whole + b"?" * 99)


def test_a_jpeg_whose_end_was_never_written_is_refused():
    """As a copy that was interrupted leaves it, where the file had its length from the start."""
    whole = jpeg()
    unwritten = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    decode.read(unwritten)
    with pytest.raises(decode.Unreadable, match="Premature end of JPEG file"):
        decode.refuse_damage(unwritten)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8 no", b"\x89PNG"])
def test_what_simplejpeg_cannot_decode_is_left_to_pillow(data):
    decode.refuse_damage(data)


def test_odd_sampling_of_colours_is_read():
    """Whatever simplejpeg says that is no warning of damage."""
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        decode.refuse_damage(jpeg(subsampling=subsampling))
    whole = jpeg(subsampling="4:4:4")
    frame = whole.index(b"\xff\xc0")
    odd = bytearray(whole)
    odd[frame + 11 : frame + 18 : 3] = b"\x31\x13\x11"  # sampling factors of no name
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(bytes(odd), strict=True)
    decode.refuse_damage(bytes(odd))


def test_bombs_are_refused_by_their_header(tmp_path):
    chunk = b"IHDR" + (60_000).to_bytes(4) * 2 + b"\x08\x02\0\0\0"
    header = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) + bytes(3) + b"\1IDAT\0"
    with pytest.raises(decode.Unreadable, match=r"3600000000 pixels are more than data.max_pixels=89478485; raise it"):
        decode.is_plain(header)
    Image.fromarray(noise(10, 10)).save(tmp_path / "x.png")
    with pytest.raises(decode.Unreadable, match=r"10 x 10 pixels are more than data.max_pixels=99; raise it"):
        decode.read(tmp_path / "x.png", decoding=Decoding(max_pixels=99))


def test_text_chunk_bombs_do_not_stop_the_index(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (2 << 20), zip=True)  # more than Pillow's limit for text
    Image.fromarray(noise()).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(decode.Unreadable):
        decode.read(tmp_path / "x.png")
