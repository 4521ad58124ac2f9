"""Batches: which examples, which pixels, and that neither depends on processes, restarts or broken files."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ssl_jax.data import order, readers, source, tensorflow
from ssl_jax.data.images import decode, opening, stand_ins, stream
from ssl_jax.data.images.published import RECIPES
from ssl_jax.data.images.recipes import Crop, Eval, Flip, Recipe, View

RNG = np.random.default_rng(0)
CROPS = Recipe((View(Crop(), (Flip(),)), View(Crop(), (Flip(),), size=4)), Eval("resize", 1.0))
ONE = Recipe((View(Crop(antialias=False)),))
WHOLE = Recipe((View(None),), Eval("resize", 1.0))


def images(n=20, size=8, channels=3):
    return source.from_arrays(RNG.integers(0, 256, (n, size, size, channels), np.uint8), np.arange(n) % 3)


def take(n, data, recipe=CROPS, image_size=8, global_batch_size=6, seed=0, **kwargs):
    drawn = stream.batches(
        data, recipe=recipe, image_size=image_size, global_batch_size=global_batch_size, seed=seed, **kwargs
    )
    return list(itertools.islice(drawn, n))


def evaluate(data, image_size=8, global_batch_size=6, recipe_eval=WHOLE.evaluate, **kwargs):
    return list(
        stream.eval_batches(
            data, image_size=image_size, recipe_eval=recipe_eval, global_batch_size=global_batch_size, **kwargs
        )
    )


def same(a, b):
    return all(
        np.array_equal(x, y)
        for key in a
        for x, y in (zip(a[key], b[key], strict=True) if isinstance(a[key], tuple) else [(a[key], b[key])])
    )


# --- which examples


def test_every_epoch_is_a_permutation():
    epochs = [np.concatenate([order.indices(20, 6, 1, 3 * e + t) for t in range(3)]) for e in range(4)]
    for drawn in epochs:
        assert drawn.dtype == np.int64
        assert len(set(drawn.tolist())) == 18
        assert drawn.min() >= 0
        assert drawn.max() < 20
    assert len({tuple(drawn) for drawn in epochs}) == 4
    assert sorted(np.concatenate([order.indices(20, 5, 1, t) for t in range(4)])) == list(range(20))
    assert (order.indices(20, 6, 1, 0) != order.indices(20, 6, 2, 0)).any()
    assert (order.indices(20, 6, 1, 10**12) == order.indices(20, 6, 1, 10**12)).all()
    # All examples have the same chance to be left out of an epoch: 2 of 20 in each of 2000 epochs, 200 +- 13 times.
    kept = np.zeros(20)
    for e in range(2000):
        kept[np.concatenate([order.indices(20, 6, 0, 3 * e + t) for t in range(3)])] += 1
    assert np.abs(2000 - kept - 200).max() < 5 * 13.4


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"global_batch_size": 21}, "there are 20; use a number from 1 to 20"),
        ({"global_batch_size": 0}, "use a number from 1 to 20"),
        ({"global_batch_size": 10, "process_count": 4}, "10 is not divisible by 4 processes; use 8 or 12"),
        ({"process": 2, "process_count": 2}, "process 2 is out of range; use 0 to 1"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 1 << 32}, "seed 4294967296 is out of range"),
    ],
)
def test_wrong_batches_are_refused_at_once(kwargs, message):
    with pytest.raises(ValueError, match=message):
        stream.batches(images(), **{"recipe": CROPS, "image_size": 8, "global_batch_size": 6, "seed": 0} | kwargs)


# --- which pixels


def test_unaugmented_views_are_the_images():
    data = images()
    for step, batch in enumerate(take(4, data, WHOLE)):
        (view,) = batch["views"]
        assert batch["index"].tolist() == order.indices(20, 6, 0, step).tolist()
        np.testing.assert_allclose(view, data.columns["image"][batch["index"]] / 255.0, atol=1e-6)
        assert (batch["label"] == data.labels[batch["index"]]).all()
        assert view.dtype == np.float32
        assert batch["label"].dtype == batch["index"].dtype == np.int32


def test_views_differ_and_change_with_epoch_and_seed():
    recipe = Recipe((View(Crop()), View(Crop())))
    data = images(n=1)
    first, second = take(2, data, recipe, global_batch_size=1)  # two epochs of one example
    other = take(1, data, recipe, global_batch_size=1, seed=1)[0]
    seen = [*first["views"], *second["views"], *other["views"]]
    assert all((a != b).any() for a, b in itertools.combinations(seen, 2))
    assert all(view.min() >= 0 and view.max() <= 1 for view in seen)


def test_sizes_of_views_and_channels():
    (batch,) = take(1, images(channels=1))
    assert [v.shape for v in batch["views"]] == [(6, 8, 8, 1), (6, 4, 4, 1)]


def test_resume_gives_the_same_batches():
    data = images()
    batches = take(8, data)
    for start in (5,):
        for a, b in zip(take(8 - start, data, start_step=start), batches[start:], strict=True):
            assert same(a, b)
    assert len(take(100, data, WHOLE, start_step=5, total_steps=8)) == 3
    assert not same(batches[0], batches[1])
    assert take(1, data, WHOLE, start_step=10**9)[0]["index"].shape == (6,)


def test_processes_share_one_batch():
    data = images()
    whole = take(4, data)
    parts = [take(4, data, process=p, process_count=2) for p in range(2)]
    for step in range(4):
        joined = {key: np.concatenate([part[step][key] for part in parts]) for key in ("label", "index")}
        joined["views"] = tuple(np.concatenate([part[step]["views"][v] for part in parts]) for v in range(2))
        assert same(whole[step], joined)


def test_unlabelled():
    data = source.from_arrays(images().columns["image"])
    assert (take(1, data, WHOLE)[0]["label"] == -1).all()
    assert (evaluate(data)[0]["label"] == -1).all()


def test_tensorflow_is_kept_off_the_gpus_that_are_there(monkeypatch):
    visible = {"CPU": ["cpu:0"], "GPU": ["gpu:0", "gpu:1"]}

    def set_visible_devices(devices, kind):
        visible[kind] = devices

    config = SimpleNamespace(set_visible_devices=set_visible_devices)
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(config=config))
    tensorflow.__wrapped__()
    assert visible == {"CPU": ["cpu:0"], "GPU": []}


def test_tensorflow_sees_no_gpu():
    assert tensorflow().config.get_visible_devices("GPU") == []


# --- evaluation


@pytest.mark.parametrize("image_size", [8, 5])  # as they are, without TensorFlow, and resized with it
@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_counts_every_example_once(image_size, process_count):
    data = images(n=13)
    parts = [evaluate(data, image_size, process=p, process_count=process_count) for p in range(process_count)]
    assert {len(part) for part in parts} == {3}
    seen = []
    for batch in itertools.chain(*parts):
        assert batch["image"].shape == (6 // process_count, image_size, image_size, 3)
        assert batch["image"].dtype == np.float32
        assert batch["mask"].dtype == bool
        seen += batch["index"][batch["mask"]].tolist()
        assert (batch["label"] == np.where(batch["mask"], data.labels[batch["index"]], -1)).all()
        assert (batch["image"][~batch["mask"]] == 0).all()
        if image_size == 8:
            expected = data.columns["image"][batch["index"][batch["mask"]]] / 255.0
            np.testing.assert_allclose(batch["image"][batch["mask"]], expected, atol=1e-7)
    assert sorted(seen) == list(range(13))


@pytest.mark.parametrize("process_count", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_random_views_of_every_example_once(process_count):
    """Each is the view that training would make of the seed (run, number of the example), whoever makes it."""
    from ssl_jax.data.images import host

    tf, data, views = tensorflow(), images(7), (View(Crop(), (Flip(),)), View(Crop(area=(0.2, 0.5))))
    arguments = {"views": views, "image_size": 6, "global_batch_size": 4, "seed": 3, "process_count": process_count}
    parts = [list(stream.view_batches(data, process=p, **arguments)) for p in range(process_count)]
    batches = [{k: np.concatenate([part[i][k] for part in parts]) for k in parts[0][i]} for i in range(2)]
    found = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    np.testing.assert_array_equal(found["mask"], np.arange(8) < 7)
    np.testing.assert_array_equal(found["index"][:7], np.arange(7))
    np.testing.assert_array_equal(found["label"][:7], np.arange(7) % 3)
    assert not found["image"][7].any()
    for i, v in ((0, 0), (5, 1), (6, 0)):
        shape, crop = decode.from_image(tf.constant(data.columns["image"][i]))
        seed = tf.constant([3 + (v << 32), i], tf.int64)
        want = host.augment(views[v], seed, 6, shape=shape, crop=crop)
        np.testing.assert_allclose(found["image"][i, v], want, atol=1e-6)
    assert not np.array_equal(found["image"][0, 0], found["image"][0, 1])


def test_resized_evaluation_is_tf_resize():
    data = images(n=7)
    (batch, last) = evaluate(data, 5, 6, Eval("resize", 1.0, antialias=False))
    expected = tensorflow().image.resize(data.columns["image"] / np.float32(255), (5, 5)).numpy()
    np.testing.assert_allclose(np.concatenate([batch["image"], last["image"][:1]]), expected, atol=1e-6)


def test_digits_npz_and_views_on_the_device_run_without_tensorflow(tmp_path):
    code = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
import jax, numpy as np
from ssl_jax.data import order, readers
from ssl_jax.data.images import device, published, stream
batch = {"image": np.zeros((4, 8, 8, 1), np.uint8)}
out = jax.eval_shape(lambda key: device.views(published.get("digits"), 8)(batch, key, None), jax.random.key(0))
assert out["views"][1].shape == (4, 8, 8, 1)
np.savez(sys.argv[1] + "/x.npz", train_images=np.zeros((20, 8, 8), np.uint8))
readers.load(f"npz:{sys.argv[1]}/x.npz")
test = readers.load("digits").test
order.indices(100, 10, 0, 5)
print(sum(b["mask"].sum() for b in stream.eval_batches(test, image_size=8, recipe_eval=None, global_batch_size=64)))
try:
    readers.load("tfds:cifar10")
except ValueError as error:
    print(error)
"""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("359\n")
    assert "needs TensorFlow" in done.stdout


# --- files


def smooth(h, w):
    y, x = np.mgrid[:h, :w]
    return np.stack([127 + 120 * np.sin(x / 7), 127 + 120 * np.cos(y / 9), (x * 3 + y * 2) % 256], -1).astype(np.uint8)


def decode_with_pillow(file, channels=3):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(*image.size[::-1], channels)


@pytest.fixture
def files(tmp_path):
    """A folder of one class in which every third file is no plain JPEG."""
    where = tmp_path / "x" / "a"
    where.mkdir(parents=True)
    for i in range(24):
        exif = Image.Exif()
        exif[opening.ORIENTATION] = 6 if i % 6 == 0 else 1
        suffix = "png" if i % 6 == 3 else "jpg"
        Image.fromarray(smooth(40 + i, 60 - i)).save(where / f"{i:02}.{suffix}", exif=exif, quality=90)
    return readers.load(f"folder:{tmp_path}/x", cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpg", {}),
        ("jpg", {"subsampling": 0}),
        ("jpg", {"progressive": True}),
        ("png", {}),
        ("webp", {"lossless": True}),
    ],
)
def test_crop_of_a_file_is_the_crop_of_its_pixels(tmp_path, suffix, options, channels):
    file = tmp_path / f"x.{suffix}"
    Image.fromarray(smooth(50, 70)).convert("RGB" if channels == 3 else "L").save(file, **options)
    pixels = decode_with_pillow(file, channels)
    tf = tensorflow()
    plain = decode.is_plain(file)
    assert plain == (suffix == "jpg" and "progressive" not in options)
    for known, whole in itertools.product((plain, tf.constant(plain)), (False, True)):
        shape, crop = decode.from_encoded(tf.constant(file.read_bytes()), known, channels, whole=whole)
        assert shape.numpy().tolist() == [50, 70, channels]
        for y, x, h, w in ((0, 0, 50, 70), (13, 9, 20, 31), (49, 69, 1, 1)):
            got = crop(tf.constant([y, x, h, w])).numpy()
            assert got.shape == (h, w, channels)
            error = np.abs(got * 255 - pixels[y : y + h, x : x + w])
            # Both are libjpeg's accurate DCT. At the edge of a crop subsampled colour lacks its neighbours.
            subsampled = plain and channels == 3 and not options and not whole and (h, w) != (50, 70)
            assert error[2:-2, 2:-2].max(initial=0) < 1e-3
            assert error.max() < (12 if subsampled else 1e-3)


def test_batches_of_files_are_pillows_pixels(files):
    (batch,) = take(1, files.train, WHOLE, image_size=32, global_batch_size=len(files.train))
    tf = tensorflow()
    kinds = set()
    for i, view in zip(batch["index"], batch["views"][0], strict=True):
        with Image.open(files.train.columns["path"][i]) as image:
            turned = image.getexif().get(opening.ORIENTATION, 1) == 6
            pixels = np.rot90(np.asarray(image), -1) if turned else np.asarray(image)
            kinds.add((image.format, turned))
        expected = tf.image.resize(pixels / np.float32(255), (32, 32), antialias=True).numpy()
        assert np.abs(view - expected).max() < 2.5 / 255
    assert kinds == {("JPEG", False), ("JPEG", True), ("PNG", False)}


@pytest.mark.slow
def test_files_resume_too(files):
    batches = take(5, files.train, recipe=ONE, image_size=16)
    assert same(take(1, files.train, recipe=ONE, image_size=16, start_step=4)[0], batches[4])
    joined = [take(5, files.train, recipe=ONE, image_size=16, process=p, process_count=3) for p in range(3)]
    assert same({"v": batches[4]["views"][0]}, {"v": np.concatenate([part[4]["views"][0] for part in joined])})


def test_encoded_in_memory_is_the_same_as_files(files):
    paths = files.train.columns["path"]
    data = np.empty(len(paths), object)
    data[:] = [Path(path).read_bytes() for path in paths]
    encoded = source.Source(
        {"encoded": data, "plain": files.train.columns["plain"]}, files.train.labels, ("a",), "made here"
    )
    sizes = [len(d) for d in data]
    joined = files.train.columns["path"][0] + "-all"
    Path(joined).write_bytes(b"".join(data))
    inside = source.Source(
        {
            "path": np.full(len(paths), joined, object),
            "offset": np.cumsum([0, *sizes[:-1]]),
            "length": np.array(sizes),
            "plain": files.train.columns["plain"],
        },
        files.train.labels,
        ("a",),
        "made here",
    )
    for a, b, c in zip(*(take(3, s, recipe=ONE, image_size=16) for s in (files.train, encoded, inside)), strict=True):
        assert same(a, b)
        assert same(a, c)


def test_a_file_that_breaks_later_is_replaced_and_named(files, caplog):
    data = files.train
    n = len(data)
    before = take(n // 6 * 2, data, recipe=ONE, image_size=16)
    png = next(i for i in range(n) if data.columns["path"][i].endswith("png"))
    jpg = next(i for i in range(n) if data.columns["plain"][i] and i != png + 1)
    for i in (png, jpg):
        file = Path(data.columns["path"][i])
        file.write_bytes(file.read_bytes()[:300])
    gone = next(i for i in range(n) if i not in (png, jpg, png + 1, jpg + 1))
    Path(data.columns["path"][gone]).unlink()
    with caplog.at_level(logging.WARNING):
        after = take(n // 6 * 2, data, recipe=ONE, image_size=16)
    broken = {png, jpg, gone}
    for a, b in zip(before, after, strict=True):
        for row in range(6):
            i, j = int(a["index"][row]), int(b["index"][row])
            if i in broken:
                assert j == next(k for k in stand_ins._candidates(i, n) if k not in broken)
            else:
                assert i == j
                assert (a["views"][0][row] == b["views"][0][row]).all()
    for i in broken & {int(i) for a in before for i in a["index"]}:
        assert data.columns["path"][i] in caplog.text
    caplog.clear()
    batches = evaluate(data, 16)
    seen = [int(i) for b in batches for i in b["index"][b["mask"]]]
    assert sorted(seen) == [i for i in range(n) if i not in broken]
    assert all(data.columns["path"][i] in caplog.text for i in broken)
    assert "(3 so far)" in caplog.text


@pytest.mark.slow
def test_examples_that_break_have_many_stand_ins_which_are_the_same_everywhere(tmp_path):
    """In a run from the start, in one that goes on, in each of several processes, and where a stand-in breaks later."""
    where = tmp_path / "x" / "a"
    where.mkdir(parents=True)
    for i in range(90):
        Image.fromarray(smooth(8, 8) + np.uint8(i)).save(where / f"{i:02}.png")
    data = readers.load(f"folder:{tmp_path}/x", cache_dir=str(tmp_path / "cache")).train
    n = len(data)
    kwargs = {"recipe": WHOLE, "image_size": 8, "global_batch_size": n // 2}
    before = np.concatenate([batch["index"] for batch in take(2, data, **kwargs)])

    def lose(i):
        Path(data.columns["path"][i]).unlink()

    for i in range(20):  # of a folder that somebody deletes
        lose(i)
    found = set()
    drawn = stream.batches(data, seed=0, unreadable=found, **kwargs)
    first = [next(drawn) for _ in range(2)]
    after = np.concatenate([batch["index"] for batch in first])
    broken = before < 20
    assert found == set(before[broken].tolist())
    assert (after[~broken] == before[~broken]).all()
    assert after.min() >= 20
    assert len(set(after[broken].tolist())) > 12  # 20 of some 50 at random are 16 +- 2 different ones
    assert same(take(1, data, start_step=1, **kwargs)[0], first[1])
    halves = [take(2, data, process=p, process_count=2, **kwargs) for p in range(2)]
    for step in range(2):
        assert (np.concatenate([half[step]["index"] for half in halves]) == first[step]["index"]).all()
    lose(int(after[broken][0]))
    later = list(itertools.islice(drawn, 24))[20:]  # past what had been read ahead
    assert all(same(a, b) for a, b in zip(later, take(4, data, start_step=22, **kwargs), strict=True))


def test_a_run_stops_once_too_many_examples_broke(files):
    data = files.train
    n = len(data)
    for i in (1, 4, 7, 8):
        Path(data.columns["path"][i]).unlink()
    kwargs = {"recipe": ONE, "image_size": 16, "global_batch_size": n}
    (batch,) = take(1, data, max_unreadable=4 / n, **kwargs)
    assert not {1, 4, 7, 8} & set(batch["index"].tolist())
    with pytest.raises(ValueError, match=rf"^4 of {n} train examples cannot be read any more \(.*max_unread") as error:
        take(1, data, max_unreadable=3 / n, **kwargs)
    assert "\n" not in str(error.value)
    assert " and 1 more)" in str(error.value)
    assert "(example " in str(error.value)


@pytest.fixture
def half_damaged(tmp_path, monkeypatch):
    """``make(verify)``: JPEGs, every third of them with damage that Pillow reads over and TensorFlow does not."""
    monkeypatch.setattr(decode, "refuse_damage", lambda data: None)  # else the full check would leave them out
    where = tmp_path / "x" / "a"
    where.mkdir(parents=True)
    for i in range(12):
        file = where / f"{i:02}.jpg"
        Image.fromarray(smooth(60, 80 + i)).save(file, quality=90)
        whole = file.read_bytes()
        for at in range(len(whole) // 2, len(whole)) if i % 3 == 0 else ():
            damaged = whole[:at] + b"\xff" + whole[at + 1 :]
            file.write_bytes(damaged)
            try:
                decode.read(damaged)
            except decode.Unreadable:
                continue
            if not decode.is_whole_to_tensorflow(damaged):
                break
        else:
            assert i % 3
    return lambda verify: readers.load(f"folder:{tmp_path}/x", verify=verify, cache_dir=str(tmp_path / verify)).train


@pytest.mark.slow
@pytest.mark.parametrize("views", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_tensorflow_alone_refuses_is_read_by_pillow(half_damaged, caplog, views):
    """With checked headers as with checked files, whenever the stream begins and whatever else is broken."""
    header, full = half_damaged("header"), half_damaged("full")
    n = len(header)
    assert header.columns["path"].tolist() == full.columns["path"].tolist()
    assert header.columns["plain"].all()
    damaged = np.flatnonzero(~full.columns["plain"])
    assert len(damaged) > 3
    kwargs = {"recipe": Recipe((View(Crop(), (Flip(),)),) * views), "image_size": 16, "global_batch_size": n // 3}
    with caplog.at_level(logging.WARNING):
        found, want = take(6, header, **kwargs), take(6, full, **kwargs)
        later = take(2, header, start_step=4, **kwargs)
        sources = (header, full) if views == 1 else ()  # what follows has no such views
        whole = [take(2, data, WHOLE, image_size=32, global_batch_size=n) for data in sources]
        seen = [evaluate(data, 32) for data in sources]
    assert caplog.text == ""  # nothing was replaced
    drawn = set()
    for a, b in zip(found, want, strict=True):
        assert (a["index"] == b["index"]).all()
        drawn |= {int(i) for i in a["index"]} & {int(i) for i in damaged}
        for x, y in zip(a["views"], b["views"], strict=True):
            # One view decodes its own box, and needs the damaged rows in few of them: edges of colours may differ.
            np.testing.assert_allclose(x, y, atol=1e-6 if views == 2 else 0.08)
    assert len(drawn) > 3
    for a, b in zip(found[4:], later, strict=True):
        assert same(a, b)
    for a, b in zip(*whole, strict=True):
        assert same(a, b)
    for a, b in zip(*seen, strict=True):
        assert same(a, b)
    gone = next(i for i in found[0]["index"] if i not in damaged)
    Path(header.columns["path"][gone]).unlink()
    (first,) = take(1, header, **kwargs)
    assert [i for i, j in zip(found[0]["index"], first["index"], strict=True) if i != j] == [gone]
    rows = found[0]["index"] != gone
    assert all((a[rows] == b[rows]).all() for a, b in zip(first["views"], found[0]["views"], strict=True))


def test_no_file_left(files):
    for path in files.train.columns["path"]:
        Path(path).unlink()
    with pytest.raises(ValueError, match="no example of the dataset can be read any more"):
        take(1, files.train.take(np.arange(6)), WHOLE)
    with pytest.raises(ValueError, match="no example of the dataset can be read any more"):
        evaluate(files.train.take(np.arange(6)))


# --- real data


@pytest.mark.slow  # photographs and records are read by tests of their own
def test_cifar10_with_simclrs_recipe(data_dir):
    data = readers.load(
        "tfds:cifar10", data_dir=str(data_dir / "tfds"), train_split="test[:1000]", test_split="test[1000:1009]"
    )
    kwargs = {"recipe": RECIPES["simclr_cifar"], "image_size": 32, "global_batch_size": 16}
    batches = take(3, data.train, **kwargs)
    assert same(take(1, data.train, start_step=2, **kwargs)[0], batches[2])
    for view in batches[0]["views"]:
        assert view.shape == (16, 32, 32, 3)
        assert 0.2 < view.mean() < 0.8
        assert view.std() > 0.1


@pytest.mark.slow
def test_hymenoptera_photographs(data_dir, tmp_path):
    data = readers.load("folder:folders/hymenoptera", data_dir=str(data_dir), cache_dir=str(tmp_path))
    part = data.test.take(np.arange(8))
    (batch,) = evaluate(part, 64, 8, Eval("resize_crop", 224 / 256))
    for i, image in zip(batch["index"], batch["image"], strict=True):
        with Image.open(part.columns["path"][i]) as photo:
            w, h = photo.size
            short = 64 * 256 // 224
            box = photo.resize((short * w // min(h, w), short * h // min(h, w)), Image.Resampling.BILINEAR)
            left, top = round((box.width - 64) / 2), round((box.height - 64) / 2)
            expected = np.asarray(box.crop((left, top, left + 64, top + 64))) / 255.0
        assert np.abs(image - expected).mean() < 1.5 / 255
