"""Decoding of image files, in part where that can be.

Two decoders, so that every file is read and the common case is fast. A *plain* file (baseline 8-bit JPEG, grey or
YCbCr, EXIF orientation 1) goes through TensorFlow with the accurate integer DCT: for one view
``tf.image.decode_and_crop_jpeg`` reads the rows and columns of the crop alone, for several all is read once. Every
other file goes through Pillow (:func:`read`) in a numpy_function, and so does a plain one at whose damage TensorFlow
stops and Pillow does not. Both give RGB, or grey where a dataset has one channel.

Pixels of more than 8 bits (16-bit grey and colour, 32-bit integers, floating point) become 8 bits as
``source.Decoding`` says; those of 8 bits, all plain files among them, are taken as they are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ssl_jax.data import tensorflow
from ssl_jax.data.images import deep
from ssl_jax.data.images.opening import Refused, Unreadable, opened, orientation, turned
from ssl_jax.data.source import DEFAULT_DECODING, Decoding

# What libjpeg says where the pixels are not those that were stored. Bytes too many before the end of an image (marker
# 0xd9) are not among it: now and then damage ends so, but in images from the web they are common, and harmless.
DAMAGE = re.compile(
    r"Corrupt JPEG data: (?!\d+ extraneous bytes before marker 0xd9)|Inconsistent progression|Premature end of JPEG"
)


def contents(record: Any) -> bytes:
    """The bytes of a record's image file."""
    if "encoded" in record:
        return record["encoded"]
    if "record" in record:  # offset and length are inside it
        data = array_record(record["path"], int(record["record"]))
        return data[record["offset"] : record["offset"] + record["length"]]
    with open(record["path"], "rb") as file:
        if "offset" not in record:
            return file.read()
        file.seek(record["offset"])  # inside a record file
        return file.read(record["length"])


@functools.lru_cache(maxsize=512)  # each holds a file open, of which a process may often have no more than 1,024
def array_record_reader(path: str) -> Any:
    """A reader of an ArrayRecord file, which threads may share.

    Raises:
      Unreadable: it is not there or cut short.
      ValueError: array_record is not installed.
    """
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise ValueError(f"{path} needs array_record ({error}); `pip install array_record`") from error
    with open(path, "rb"):  # a missing file would be an empty one
        reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=1 << 15)
    if not reader.ok():
        raise Unreadable(f"{path} has not the head and foot of one")
    return reader


def array_record(path: str, i: int) -> bytes:
    """Record ``i`` of an ArrayRecord file; ``Unreadable`` if it is damaged."""
    reader = array_record_reader(path)
    try:
        return reader.read([i])[0]
    except (RuntimeError, IndexError) as error:
        raise Unreadable(f"record {i} of {path}: {error}") from error


def is_plain(file: Any, decoding: Decoding = DEFAULT_DECODING) -> bool:
    """Whether TensorFlow may decode ``file`` (a path or bytes) in part. Reads the header alone.

    Raises:
      Unreadable: if it is no image, larger than ``decoding.max_pixels``, or floating-point without a range.
    """
    with opened(file, decoding) as image:
        if image.mode == "F" and decoding.value_range is None:
            raise Refused(deep.NO_RANGE)
        return (
            image.format == "JPEG"
            and image.mode in ("L", "RGB")
            and image.info.get("adobe_transform") != 0  # RGB stored as such
            and "progressive" not in image.info
            and "progression" not in image.info
            and orientation(image) in (0, 1)
        )


def refuse_damage(data: bytes) -> None:
    """Refuse a JPEG in whose coded pixels libjpeg notices damage, over which Pillow and TensorFlow decode in silence.

    A JPEG has no checksum: damage that happens to be valid codes gives other pixels, which nobody can notice. It
    passes, and so do damage that ends in the harmless warning of ``DAMAGE`` and what simplejpeg cannot decode.

    Raises:
      Unreadable: it is damaged.
    """
    import simplejpeg

    if not data.startswith(b"\xff\xd8"):
        return
    try:
        # An eighth of the size, grey: all codes are read, which is all that is asked.
        simplejpeg.decode_jpeg(_without_oddities(data), "GRAY", min_factor=8, strict=True)
    except ValueError as error:
        if DAMAGE.match(str(error)):
            raise Unreadable(str(error)) from error


def _without_oddities(data: bytes) -> bytes:
    """A JPEG without what libjpeg warns of in its header: only its first warning is told, and this one is harmless.

    That is bytes between segments, versions and profiles in application data, and the numbers of a baseline scan.
    """
    kept, at, baseline = [data[:2]], 2, False
    while (at := data.find(b"\xff", at)) >= 0:
        marker, end = data[at + 1 : at + 2], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker in (b"\0", b"\1", b"\xff") or b"\xd0" <= marker <= b"\xd9":  # none, or one without a segment
            at += 1
            continue
        if marker == b"\xda":
            scan = data[at : end - 3] + b"\0\x3f\0" if baseline else data[at:end]
            return b"".join([*kept, scan, data[end:]])
        baseline |= marker in (b"\xc0", b"\xc1")
        if marker == b"\xee" or not b"\xe0" <= marker <= b"\xef":  # 0xee says how colours are stored
            kept.append(data[at:end])
        at = end
    return data


def is_whole_to_tensorflow(data: bytes) -> bool:
    """Whether TensorFlow decodes the bytes of a plain file to the end: it refuses damage that Pillow reads over."""
    tf = tensorflow()
    try:
        tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE")
    except tf.errors.OpError:
        return False
    return True


def read(file: Any, channels: int = 3, decoding: Decoding = DEFAULT_DECODING) -> np.ndarray:
    """The image in ``file`` (a path or bytes) as uint8 ``[h, w, channels]``, by Pillow.

    The first frame of an animation, turned as its EXIF orientation says, transparency over white, CMYK as RGB, more
    than 8 bits as ``decoding`` says.

    Raises:
      Unreadable: if it cannot be decoded in whole, is larger than ``decoding.max_pixels``, or has floating-point
        pixels and there is no ``decoding.value_range``.
    """
    from PIL import Image

    with opened(file, decoding) as image:
        try:
            if image.mode.startswith(("I", "F")):  # "I;16"; 16 or 32 bits held in 32; floating point
                image = Image.fromarray(deep.to_bytes(deep.values(file, decoding), decoding.value_range))
            elif decoding.value_range is not None and deep.holds_deep(image):
                image = deep.colours(deep.values(file, decoding), image.mode, decoding)
            else:
                image = turned(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        except Unreadable:
            raise
        except Exception as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from error
    return image[..., None] if channels == 1 else image


Shape = Any  # int32 [3] tensor
Crop = Callable[[Any], Any]  # int32 [y, x, h, w] -> float32 [h, w, c] in [0, 1]


def from_image(image: Any) -> tuple[Shape, Crop]:
    """``shape`` and ``crop`` of a uint8 tensor ``[h, w, c]``, for the augmentation."""
    tf = tensorflow()

    def crop(box):
        part = tf.slice(image, [box[0], box[1], 0], [box[2], box[3], image.shape[-1]])
        return tf.cast(part, tf.float32) / 255.0

    return tf.shape(image), crop


def from_encoded(
    data: Any,
    plain: Any,
    channels: int,
    decoding: Decoding = DEFAULT_DECODING,
    *,
    whole: bool = False,
    careful: bool = False,
) -> tuple[Shape, Crop]:
    """``shape`` and ``crop`` of the bytes of an image file, a string tensor.

    Args:
      data: scalar string tensor.
      plain: bool, or a scalar bool tensor: TensorFlow may decode it.
      channels: 1 or 3, what ``crop`` gives.
      decoding: how Pillow decodes it; a plain file has 8 bits.
      whole: decode all of a plain file, once for all crops, instead of each crop's part of it. Cheaper from two views
        on, and at the edge of a crop colours have their neighbours.
      careful: where TensorFlow fails on a plain file, Pillow reads it. Costs a tenth of a millisecond or two a decode.
    """
    tf = tensorflow()

    def by_pillow():
        # Bytes in a graph, but an array of them where TensorFlow runs eagerly.
        image = tf.numpy_function(
            lambda d: read(np.asarray(d, object).item(), channels, decoding), [data], tf.uint8, stateful=False
        )
        image.set_shape([None, None, channels])
        return image

    def tried(plainly, otherwise):
        return (lambda: first_that_works(plainly, otherwise)) if careful else plainly

    def by_header():
        return tf.concat([tf.image.extract_jpeg_shape(data)[:2], [channels]], 0)

    def by_tensorflow():
        return tf.io.decode_jpeg(data, channels=channels, dct_method="INTEGER_ACCURATE")

    # Outside the crop, so that a file that is not plain is decoded once, however many views are cut from it.
    later = tf.zeros([0, 0, channels], tf.uint8)
    decoded = either(plain, tried(by_tensorflow, by_pillow) if whole else lambda: later, by_pillow)
    shape = either(plain, tried(by_header, lambda: tf.shape(by_pillow())), lambda: tf.shape(decoded))

    def crop(box):
        def of(image):
            return tf.slice(image, [box[0], box[1], 0], [box[2], box[3], channels])

        def in_part():
            return tf.image.decode_and_crop_jpeg(data, box, channels=channels, dct_method="INTEGER_ACCURATE")

        part = of(decoded) if whole else either(plain, tried(in_part, lambda: of(by_pillow())), lambda: of(decoded))
        part.set_shape([None, None, channels])
        return tf.cast(part, tf.float32) / 255.0

    return shape, crop


def first_that_works(first: Callable, second: Callable) -> Any:
    """``first()``, or where it fails ``second()``: graphs catch no errors, but a dataset of one element drops it."""
    tf = tensorflow()
    one = tf.data.Dataset.from_tensors(0)
    made = (one.map(tf.autograph.experimental.do_not_convert(lambda _, make=make: make())) for make in (first, second))
    first_made, second_made = made
    return first_made.ignore_errors().concatenate(second_made).take(1).get_single_element()


def either(which: Any, yes: Callable, no: Callable) -> Any:
    """``yes()`` or ``no()``, chosen when the graph is built if ``which`` is a Python bool."""
    return (yes() if which else no()) if isinstance(which, bool) else tensorflow().cond(which, yes, no)
