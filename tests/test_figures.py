"""The figures are written, show what they were given, and leave no global state behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text
from PIL import Image

from ssl_jax.evals import geometry
from ssl_jax.evals.shared import canvas, curves, figures

ROOT = Path(__file__).resolve().parent.parent


def pixels(path):
    image = np.asarray(Image.open(path).convert("RGB"), np.int32)
    assert min(image.shape[:2]) > 100
    return image


def share(image, colour, tolerance=12):
    """Share of the picture that has this colour (0..255)."""
    return np.mean(np.abs(image - np.array(colour)).max(-1) <= tolerance)


def rgb(name):
    return [int(name[i : i + 2], 16) for i in (1, 3, 5)]


def test_curves(tmp_path):
    rng = np.random.default_rng(0)
    records = [
        {"step": s, "loss": 5 + rng.normal(), "probe_top1": 0.5, "proj_std_ratio": 0.9, "epoch": s / 10, "note": "x"}
        for s in range(1, 100)
    ]
    records += [{"step": 100, "loss": None, "val_knn_top1": 0.4}, {"step": 50, "val_knn_top1": 0.3}]
    curves.curves(records, tmp_path / "deep" / "curves.png")
    image = pixels(tmp_path / "deep" / "curves.png")
    assert share(image, rgb(canvas.COLOURS[0])) > 1e-3
    assert share(image, rgb(canvas.COLOURS[1])) > 1e-4  # the second series of the accuracy panel
    series = curves._series(records)
    np.testing.assert_array_equal(series["val_knn_top1"][0], [50, 100])
    np.testing.assert_array_equal(series["val_knn_top1"][1], [0.3, 0.4])
    assert np.isnan(series["loss"][1][-1])
    assert "note" not in series
    with pytest.raises(ValueError, match="no metric to draw"):
        curves.curves([{"step": 1, "loss": None}], tmp_path / "none.png")


def test_what_a_method_of_ones_own_reports_has_panels_of_its_own(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(canvas, "plain", lambda axes, title, x, y: drawn.update({title: (y, len(axes.lines))}))
    line = {"train_loss": 1.0, "train_proj_std": 1.0, "images_per_sec": 9.0, "epoch": 1.0, "input_wait": 0.1}
    own = {"train_off_diagonal": 0.5, "val_off_diagonal": 0.4, "train_beta": 0.9}
    curves.curves([line | own | {"step": step} for step in (1, 2)], tmp_path / "curves.png")
    assert drawn == {"Loss": ("loss", 1), "Off diagonal": ("off_diagonal", 2), "Beta": ("beta", 1)}


def test_curves_smooth_what_is_noisy_but_no_learning_rate(tmp_path, monkeypatch):
    steps = np.arange(1, 101)
    rate, loss = np.where(steps < 50, 0.4, 0.04), np.random.default_rng(0).normal(size=100)
    drawn = {}
    plot = Axes.plot

    def recorded(axes, x, y, **style):
        if "label" in style:
            drawn[style["label"]] = np.asarray(y)
        return plot(axes, x, y, **style)

    monkeypatch.setattr(Axes, "plot", recorded)
    records = [{"step": s, "learning_rate": r, "train_loss": v} for s, r, v in zip(steps, rate, loss, strict=True)]
    curves.curves(records, tmp_path / "curves.png")
    np.testing.assert_array_equal(drawn["learning_rate"], rate)
    assert drawn["train_loss"].std() < 0.6 * loss.std()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_views_show_the_images_as_they_are(tmp_path, dtype):
    top = 255 if dtype == np.uint8 else 1
    red, blue = np.zeros((3, 8, 8, 3), dtype), np.zeros((3, 5, 5, 3), dtype)
    red[..., 0], blue[..., 2] = top, top
    figures.image_rows({"original": red, "view 1": blue, "view 2": blue}, tmp_path / "views.png")
    image = pixels(tmp_path / "views.png")
    assert 0.15 < share(image, (255, 0, 0)) < 0.4
    assert share(image, (0, 0, 255)) == pytest.approx(2 * share(image, (255, 0, 0)), rel=0.1)


def test_grey_views_keep_their_brightness(tmp_path):
    figures.image_rows({"a": np.full((2, 8, 8, 1), 0.5), "b": np.full((2, 8, 8, 1), 2.0)}, tmp_path / "grey.png")
    assert share(pixels(tmp_path / "grey.png"), (128, 128, 128), 2) > 0.2


def test_neighbours_frames_tell_right_from_wrong(tmp_path):
    queries, found = np.full((2, 8, 8, 1), 0.5), np.full((2, 3, 8, 8, 1), 0.5)
    shares = []
    for labels in (np.array([[0, 0, 0], [1, 1, 1]]), np.array([[0, 0, 0], [0, 0, 0]])):
        path = tmp_path / "n.png"
        figures.neighbours(
            queries, found, path, query_labels=np.array([0, 1]), neighbour_labels=labels, class_names=("cat", "dog")
        )
        image = pixels(path)
        shares.append((share(image, rgb(canvas.RIGHT)), share(image, rgb(canvas.WRONG))))
    assert shares[0][0] > 3 * shares[0][1]
    assert shares[1][0] == pytest.approx(shares[1][1], rel=0.15)
    figures.neighbours(queries, found, tmp_path / "plain.png")
    image = pixels(tmp_path / "plain.png")
    assert share(image, rgb(canvas.RIGHT)) == share(image, rgb(canvas.WRONG)) == 0


def test_neighbours_have_their_captions_below_them(tmp_path):
    queries, found = np.full((1, 8, 8, 1), 0.5), np.full((1, 2, 8, 8, 1), 0.5)
    paths = [tmp_path / f"{name}.png" for name in ("empty", "said")]
    for path, captions in zip(paths, ([["", "", ""]], [["query_1.png", "0.91 a.png", "0.87 b.png"]]), strict=True):
        figures.neighbours(queries, found, path, captions=captions)
    dark = [(pixels(path) < 200).all(-1).sum() for path in paths]
    assert dark[1] > dark[0] + 100


NAMES = ("472288710_2abee16d6f.jpg", "ILSVRC2012_val_00012345.JPEG", "WWWWWWWWWWWWWWWWWWWWWWW.png", "x" * 300)


def test_captions_of_neighbours_do_not_overlap(tmp_path, saved):
    captions = [[name, *(f"0.9{j}\n{NAMES[j % 4]}" for j in range(7))] for name in NAMES]
    images = np.full((4, 8, 8, 8, 1), 0.5)
    figures.neighbours(images[:, 0], images[:, 1:], tmp_path / "n.png", captions=captions, title="simclr")
    texts = [text for text in saved[0].axes[0].texts if text.get_fontsize() < 7]
    assert len(texts) == 4 * (1 + 2 * 7)
    assert {text.get_text() for text in texts} >= {f"0.9{j}" for j in range(7)}
    assert any("…" in text.get_text() and text.get_text().startswith("4722") for text in texts)
    boxes = [text.get_window_extent() for text in texts]
    for number, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[number + 1 :]), texts[number].get_text()


def test_axes_begin_at_zero_or_say_where(tmp_path, saved):
    steps = range(1, 11)
    found = {
        "train_loss": (4.0, 2.5),
        "val_knn_top1": (0.9, 1.0),
        "train_effective_rank": (20, 26),
        "train_proj_std_ratio": (0.9, 0.95),
        "train_proj_std": (0.9 / 6, 0.95 / 6),
        "train_temperature": (0.070, 0.071),
        "train_energy": (-3.0, 1.0),
        "val_geometry_rankme": (40, 44),
    }
    lines = [{"step": s} | {k: a + (b - a) * (s - 1) / 9 for k, (a, b) in found.items()} for s in steps]
    curves.curves(lines, tmp_path / "c.png", rows=31)
    panels = {axes.get_title(loc="left"): axes for axes in saved[0].axes}
    for title in ("Loss", "Accuracy", "Effective rank", "Spread of projections", "Geometry rankme"):
        assert panels[title].get_ylim()[0] == 0
    for title, most in (("Loss", 4.0), ("Accuracy", 1.0), ("Geometry rankme", 44)):
        assert 1.03 * most < panels[title].get_ylim()[1] < 1.1 * most  # no point lies on the edge
    assert panels["Energy"].get_ylim()[0] < -3.0
    low, label = panels["Temperature"].get_ylim()[0], panels["Temperature"].get_ylabel()
    assert low > 0.0699
    assert label == f"temperature, axis from {low:.3g}"
    rank = panels["Effective rank"]
    assert [line.get_ydata()[0] for line in rank.lines if line.get_linestyle() == "--"] == [30]  # 31 rows, 36 wide
    assert rank.get_ylabel() == "dimensions, of 30"
    curves.curves(lines, tmp_path / "c.png", rows=900)
    assert "dimensions, of 36" in [axes.get_ylabel() for axes in saved[1].axes]

    rows = {"a": [([1, 2], [0.9, 1.0])]}
    drawn = {"val_knn_top1": rows, "val_loss": rows, "val_perplexity": {"a": [([1, 2], [90, 80])]}}
    curves.learning_curves(drawn, tmp_path / "l.png", "simclr on digits")
    accuracy, loss, perplexity = saved[2].axes
    assert accuracy.get_ylim() == pytest.approx((0, 1.05))
    assert loss.get_ylabel().startswith("axis from 0.89")
    assert (perplexity.get_yscale(), perplexity.get_ylabel()) == ("log", "log scale")
    assert saved[2].get_suptitle() == "simclr on digits"
    worse = {"a": [([1, 2], [0.2, 0.4])]}
    curves.learning_curves({"a val_top1": rows, "b val_top1": worse}, tmp_path / "two.png", table=[["a"], ["1"]])
    assert [axes.get_ylim() for axes in saved[3].axes[1:]] == [pytest.approx((0, 1.05))] * 2
    both = {"a": rows["a"], "b": worse["a"]}
    curves.learning_curves({"loss": both, "rank": both, "x": both}, tmp_path / "d.png", columns=1, dashed=["b"])
    assert saved[4].axes[0].get_gridspec().ncols == 1
    assert [line.get_linestyle() for line in saved[4].axes[0].lines] == ["-", "--"]


@pytest.fixture
def saved(monkeypatch):
    """The figures that were written."""
    found, save = [], canvas.save

    def noting(figure, path, **how):
        save(figure, path, **how)
        found.append(figure)

    monkeypatch.setattr(canvas, "save", noting)
    return found


def test_label_efficiency(tmp_path):
    table = {"1": {"raw": [0.2, 0.02], "ours": [0.4, 0.01]}, "all": {"raw": [0.3, None], "ours": [0.301, None]}}
    figures.label_efficiency(table, tmp_path / "l.png")
    image = pixels(tmp_path / "l.png")
    assert share(image, rgb(canvas.COLOURS[0])) > 1e-3
    assert share(image, rgb(canvas.COLOURS[1])) > 1e-3


def test_labels_at_line_ends_do_not_overlap():
    moved = figures._spread([0.5, 0.1, 0.5, 0.51], 0.05)
    assert np.diff(np.sort(moved)).min() > 0.049
    assert moved[1] == pytest.approx(0.1)
    np.testing.assert_array_equal(np.argsort(moved, kind="stable"), [1, 0, 2, 3])


def test_reconstructions(tmp_path):
    red, grey = np.zeros((4, 8, 8, 3), np.uint8), np.full((4, 8, 8, 3), 0.5)
    red[..., 0] = 255
    figures.image_rows({"image": red, "reconstruction": grey}, tmp_path / "r.png")
    image = pixels(tmp_path / "r.png")
    assert 0.2 < share(image, (255, 0, 0)) == pytest.approx(share(image, (128, 128, 128), 2), rel=0.1)


def test_energy_and_spectrum(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 8))
    for name, y in (("apart", x + 0.3 * rng.normal(size=x.shape)), ("flat", rng.normal(size=x.shape))):
        figures.energy(geometry.energy_histograms(x, y), tmp_path / f"{name}.png")
        image = pixels(tmp_path / f"{name}.png")
        assert share(image, rgb(canvas.COLOURS[0])) > 1e-3
        assert share(image, rgb(canvas.COLOURS[1])) > 1e-3
    figures.energy(geometry.energy_histograms(np.ones((9, 3)), np.ones((9, 3))), tmp_path / "collapsed.png")
    assert share(pixels(tmp_path / "collapsed.png"), rgb(canvas.COLOURS[1])) > 1e-3
    eigenvalues = geometry.spectrum(x)
    figures.spectrum(eigenvalues, *geometry.power_law(eigenvalues), tmp_path / "s.png")
    image = pixels(tmp_path / "s.png")
    assert share(image, rgb(canvas.COLOURS[0])) > 1e-3
    line = np.argwhere(np.abs(image - rgb(canvas.COLOURS[1])).max(-1) <= 12)
    height, place = line[line[:, 1] > 300].T  # right of the legend
    assert np.polyfit(place, height, 1)[0] > 0.02  # it falls
    figures.spectrum(np.zeros(5), np.nan, np.nan, tmp_path / "none.png")
    assert share(pixels(tmp_path / "none.png"), rgb(canvas.COLOURS[1])) == 0


@pytest.mark.parametrize(("classes", "legend"), [(0, False), (3, True), (20, True), (40, False)])
def test_projection(tmp_path, classes, legend):
    points = np.random.default_rng(0).normal(size=(120, 2))
    panels = {"PCA": (points, "trustworthiness 0.90   0.1 s"), "t-SNE": (points[::-1], "trustworthiness 0.97   3.1 s")}
    labels = np.arange(120) % classes if classes else None
    figures.projection(panels, tmp_path / "p.png", labels=labels)
    image = pixels(tmp_path / "p.png")
    colourful = np.ptp(image, axis=2).max(0) > 60  # columns with a coloured pixel
    assert colourful.any()
    assert colourful[int(0.92 * len(colourful)) :].mean() > 0
    assert (image.shape[1] > 1100) == legend
    coloured = image[np.ptp(image, axis=2) > 60]
    hues = len(np.unique(np.round(coloured / 48).astype(int), axis=0))
    assert (hues < 8) if classes == 0 else (hues > 2 * min(classes, 6))


def test_projection_shows_unknown_labels_grey(tmp_path):
    points = np.random.default_rng(0).normal(size=(60, 2))
    figures.projection({"PCA": (points, "")}, tmp_path / "p.png", labels=np.full(60, -1) + (np.arange(60) < 1))
    image = pixels(tmp_path / "p.png")
    assert share(image, rgb(canvas.FAINT), 60) > 5 * np.mean(np.ptp(image, axis=2) > 60)


ODD = [
    "a_$1",
    "a$b$",
    r"\frac",
    "a\nb",
    "caf\udce9",
    "\u202egnp",
    "שלום",
    "\U0001f600中",
    "",
    "  ",
    "_x",
    "x" * 200,
    "^_{",
]


def test_any_class_name_is_drawn(tmp_path):
    """Warnings are errors here: a glyph that no font has, a label that matplotlib would leave out."""
    labels = np.arange(len(ODD))
    points = np.random.default_rng(0).normal(size=(len(ODD), 2))
    figures.projection({"PCA": (points, "")}, tmp_path / "p.png", labels=labels, class_names=ODD)
    images = np.zeros((len(ODD), 4, 4, 1))
    near = {"query_labels": labels, "neighbour_labels": labels[:, None], "class_names": ODD}
    figures.neighbours(images, images[:, None], tmp_path / "n.png", **near)
    assert {path.name for path in tmp_path.iterdir()} == {"p.png", "n.png"}
    assert pixels(tmp_path / "p.png").shape[1] < 2500  # a long name does not push the picture aside
    text = Text()
    canvas.say(text, "a_$1\U0001f600")
    assert text.get_text() in (r"a_$1\U0001f600", "a_$1\U0001f600")
    assert not text.get_parse_math()


def test_a_picture_that_cannot_be_drawn_is_named_and_the_rest_is_there(tmp_path):
    def broken(path):
        raise RuntimeError("ParseException: Expected end of text\nand more")

    (tmp_path / "b.png").write_bytes(b"of an earlier time")
    draws = {
        "a.png": lambda path: path.write_bytes(b"x"),
        "b.png": broken,
        "c.png": lambda path: path.write_bytes(b"y"),
    }
    missing = canvas.drawn(tmp_path, draws)
    assert missing == {"b.png": "RuntimeError: ParseException: Expected end of text"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "c.png"}


@pytest.mark.slow
def test_no_global_state():
    code = "import sys; from ssl_jax.evals.shared import figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
