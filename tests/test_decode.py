"""Odd image files: what they decode to, and what is refused."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import simplejpeg
from pictures import noise
from PIL import Image, PngImagePlugin

from ssl_jax.data.images import decode
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
        exif[decode.ORIENTATION] = orientation
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
