"""Text as data: what lies where, tokens and their numbers, streams and documents."""

from __future__ import annotations

import itertools
import json

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer

from configs.common import base
from ssl_jax.data import readers
from ssl_jax.data.readers import text
from ssl_jax.data.text import documents, streams, tokens
from ssl_jax.experiment import make_modality


def write(folder, files: dict[str, str | bytes]):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"text:{folder}"


def texts(source):
    return [str(t) for t in source.columns["text"]]


# --- what lies where


@pytest.mark.slow
def test_wikitext_has_the_published_counts(data_dir):
    found = readers.load(f"text:{data_dir}/text/wikitext-2")
    data = base().data
    data.tokenizer.update({"kind": "spaced", "min_frequency": 1})
    tokenizer = tokens.learn(texts(found.train), data)
    assert tokenizer.get_vocab_size() == 33_278 + 4  # <unk> and <eos> are among the published
    counts = [sum(map(len, tokens.lines(tokenizer, texts(part)))) for part in found]
    assert counts == [2_088_628, 217_646, 245_569]
    assert [len(part) for part in found] == [629, 60, 62]


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        (" = A = \n a \n = = B = = \n b \n = C = \n c \n", [" = A = \n a \n = = B = = \n b ", " = C = \n c "]),
        ("a\nb\n\nc\n\n\nd", ["a\nb\n", "c\n\n", "d"]),
        ("a\nb\nc\n", ["a", "b", "c"]),
    ],
)
def test_a_file_of_text_is_parted_into_documents(content, documents):
    found, _ = text.split_documents(content)
    assert found == documents


def test_splits_classes_and_unlabelled_folders(tmp_path):
    reviews = {
        f"{split}/{name}/{i}.txt": f"{split} {name} {i}"
        for split in ("train", "test")
        for name in ("pos", "neg")
        for i in range(10)
    }
    spec = write(tmp_path, reviews | {f"train/unsup/{i}.txt": f"more {i}" for i in range(5)} | {"README": "x"})
    train, val, test = readers.load(spec)
    assert train.class_names == test.class_names == ("neg", "pos")
    assert sorted(np.unique(train.labels)) == [-1, 0, 1]
    for source in (train, val, test):
        for sentence, label in zip(texts(source), source.labels, strict=True):
            assert label == (-1 if sentence.startswith("more") else ["neg", "pos"].index(sentence.split()[1]))


def test_a_validation_file_is_the_validation_part(tmp_path):
    spec = write(tmp_path, {f"{name}.txt": f"{name} one\n\n{name} two\n" for name in ("train", "valid", "test")})
    assert [texts(part)[0].split()[0] for part in readers.load(spec)] == ["train", "valid", "test"]


TABLES = {
    "csv": 'text,label\n"a, b",pos\n"c\nd",neg\ne,\n',
    "tsv": "label\tsentence\npos\ta, b\nneg\tc d\n\te\n",
    "jsonl": '{"text": "a, b", "label": "pos"}\n{"text": "c d", "label": "neg"}\n{"text": "e", "label": null}\n',
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables(tmp_path, kind):
    file = tmp_path / f"table.{kind}"
    file.write_text(TABLES[kind])
    found = text.load(file).train
    assert [" ".join(t.split()) for t in texts(found)] == ["a, b", "c d", "e"]
    assert found.class_names == ("neg", "pos")
    assert list(found.labels) == [1, 0, -1]
    assert any(
        "1 of 3 documents of train have no label, the first at " in note and ", line " in note for note in found.notes
    )


def test_the_archive_of_imdb_as_it_is_published(tmp_path):
    files = {
        f"{split}/{name}/{i}_7.txt": f"{name} {i}"
        for split in ("train", "test")
        for name in ("pos", "neg")
        for i in range(3)
    }
    files |= {f"train/unsup/{i}_0.txt": f"more {i}" for i in range(4)} | {"train/unsupBow.feat": "0 0:1\n"}
    files |= {f"{split}/urls_{name}.txt": "http://x\n" for split in ("train", "test") for name in ("pos", "neg")}
    write(
        tmp_path,
        files | {"README": "x", "imdb.vocab": "the\n", "imdbEr.txt": "0.1\n", "train/urls_unsup.txt": "http://x\n"},
    )
    found = text.load(tmp_path)
    assert found.val is None
    assert sorted(texts(found.train)) == sorted(
        [f"{n} {i}" for n in ("pos", "neg") for i in range(3)] + [f"more {i}" for i in range(4)]
    )
    assert len(found.test) == 6
    said = "\n".join(found.train.notes)
    assert "passed over 3 files beside folders of classes (urls_neg.txt, urls_pos.txt, urls_unsup.txt)" in said
    assert "imdbEr not used" in said


def test_wikitext_as_it_is_published(tmp_path):
    files = {f"wiki.{name}.tokens": f" = {name} = \n a b \n" for name in ("train", "valid", "test")}
    write(tmp_path, files)
    found = text.load(tmp_path)
    assert [texts(part)[0].split()[1] for part in (found.train, found.val, found.test)] == ["train", "valid", "test"]
    write(tmp_path, {"wiki.train.raw": "a\n"})
    with pytest.raises(ValueError, match=r"has both wiki\.train\.raw and wiki\.train\.tokens"):
        text.load(tmp_path)


def test_a_lone_validation_file_is_the_test_part_and_that_is_said(tmp_path):
    write(tmp_path, {"train.txt": "a\n\nb\n", "validation.txt": "c\n\nd\n"})
    found = text.load(tmp_path)
    assert [each.strip() for each in texts(found.test)] == ["c", "d"]
    assert found.val is None
    assert any("validation is the test part, since there is no other" in note for note in found.train.notes)


def test_quotes_out_of_place(tmp_path):
    """Tables of tabs have none as a rule; in CSV a row that a stray one swallowed is not to be had back."""
    (tmp_path / "t.tsv").write_text('text\tlabel\n"Hello\t0\nsaid "so"\t1\n"it is ""quoted"""\t1\nlast"\t0\n')
    assert texts(text.load(tmp_path / "t.tsv").train) == ['"Hello', 'said "so"', 'it is "quoted"', 'last"']
    (tmp_path / "lines.tsv").write_text('text\tlabel\n"over\ntwo"\t0\nb\t1\n')
    assert texts(text.load(tmp_path / "lines.tsv").train) == ["over\ntwo", "b"]
    for rows in ('"a,0\n"b,1\nc,0\n', 'x,1\n"a,0\nb,1\n'):
        (tmp_path / "t.csv").write_text("text,label\n" + rows)
        line = 2 if rows.startswith('"') else 3
        with pytest.raises(ValueError, match=f"the row that begins in line {line} has a stray quote"):
            text.load(tmp_path / "t.csv")


def test_documents_without_a_word_are_left_out_and_counted(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\na,0\n  ,1\n,0\nb,1\n")
    found = text.load(tmp_path / "t.csv").train
    assert texts(found) == ["a", "b"]
    assert list(found.labels) == [0, 1]
    assert any("2 documents without a word are left out" in note for note in found.notes)
    write(tmp_path / "folder", {"a.txt": "", "b.txt": "b", "c.txt": "c"})
    assert texts(text.load(tmp_path / "folder").train) == ["b", "c"]


@pytest.mark.parametrize(
    ("labels", "stored", "names"),
    [
        (["true", "false"], [1, 0], ("false", "true")),
        (["1.0", "0.0"], [1, 0], None),
        (["1", "NaN"], [0, -1], None),
    ],
)
def test_labels_of_other_kinds_are_the_same_in_csv_and_jsonl(tmp_path, labels, stored, names):
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"t{i},{v}\n" for i, v in enumerate(labels)))
    rows = (f'{{"text": "t{i}", "label": {v}}}\n' for i, v in enumerate(labels))
    (tmp_path / "t.jsonl").write_text("".join(rows))
    for kind in ("csv", "jsonl"):
        found = text.load(tmp_path / f"t.{kind}").train
        assert list(found.labels) == stored
        assert names is None or found.class_names == names


def test_which_columns_are_taken_is_said(tmp_path):
    (tmp_path / "t.csv").write_text("id,review,sentiment\n1,good,pos\n2,bad,neg\n")
    assert text.load(tmp_path / "t.csv").train.notes[0] == (
        "t.csv: the text from 'review', the label from 'sentiment'; not read: id"
    )


def test_number_labels_keep_their_numbers_as_names(tmp_path):
    (tmp_path / "t.csv").write_text("review,stars\n" + "".join(f"r{i},{s}\n" for i, s in enumerate((5, 1, 3, -1))))
    found = text.load(tmp_path / "t.csv", columns=text.Columns(label="stars")).train
    assert found.class_names == ("1", "3", "5")
    assert list(found.labels) == [2, 0, 1, -1]


REFUSED = {
    "nothing.txt": ("\n \n", "holds no text"),
    "latin.txt": (b"caf\xe9\n" * 3, r"latin\.txt, line 1: bytes that are no UTF-8 text, as in 3 of"),
    "wide.txt": ("a\nb".encode("utf-16-le"), "line 1: a NUL byte, which no text holds, as in 2 of"),
    "columns.csv": ("title,stars\na,1\n", r"no column 'text'; name it with data.text_column, of: title, stars"),
    "ragged.csv": ("text,label\na,b,c\n", "line 2: another number of fields than the 2"),
    "broken.jsonl": ('{"text": "a"}\n{"text": \n', "line 2 is no JSON"),
    "list.jsonl": ("[1]\n", "line 1.*no JSON object"),
    "packed.jsonl": (b"\x1f\x8b\x08\x00rest", r"packed\.jsonl is compressed; unpack it"),
    "semicolons.csv": ("text;label\na;1\n", "names one column, 'text;label'; it has ';' between its fields; save it"),
    "tabs.csv": ("text\tlabel\na, b\t1\n", "than the 1 of the first line.*name the file .tsv"),
    "twice.csv": (
        "text,label,text\na,1,b\n",
        "the columns 1 and 3 are both called 'text'; give each a name of its own",
    ),
    "nul.csv": (
        b"text,label\na\0,1\n",
        r"nul\.csv, line 2: a NUL byte, .* in 1 of 3 lines .*save it as UTF-8 without any",
    ),
    "share.jsonl": ('{"text": "a", "label": 0.5}\n', "line 1: the label 0.5 is neither"),
    "empty.jsonl": ('{"text": "a"}\n{"title": "b"}\n', "line 2: there is no text in the column 'text'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, name):
    content, words = REFUSED[name]
    write(tmp_path, {name: content})
    with pytest.raises(ValueError, match=words) as error:
        text.load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_column_that_is_not_there_names_the_nearest(tmp_path):
    (tmp_path / "t.csv").write_text("body,label\na,b\n")
    with pytest.raises(ValueError, match=r"no column 'bodi' .*did you mean 'body'"):
        text.load(tmp_path / "t.csv", columns=text.Columns(text="bodi"))


def test_a_few_undecodable_lines_are_counted_and_left_out(tmp_path):
    write(tmp_path, {"a.txt": b"one\n" * 100 + b"\0\n" + b"one\n" * 100})
    assert len(text.load(tmp_path / "a.txt").train) == 200
    write(tmp_path, {"a.txt": b"one\n" * 200 + b"\xff\n"})
    found = text.load(tmp_path / "a.txt").train
    assert len(found) == 200
    assert any("1 of 202 lines are no UTF-8 text and left out" in note and "line 201" in note for note in found.notes)


# --- tokens


def config(**tokenizer):
    found = base().data
    found.tokenizer.update({"min_frequency": 1} | tokenizer)
    return found


TEXT = ["the cat sat on the mat.", "The dog, the cat <unk>", "mats and cats and dogs"] * 3


@pytest.mark.parametrize("kind", tokens.KINDS)
def test_numbers_are_canonical_and_texts_come_back(kind):
    size = {"wordpiece": 40, "bpe": 280}.get(kind)
    found = tokens.learn(TEXT, config(kind=kind, size=size, lowercase=True))
    vocab = found.get_vocab()
    words = sorted(vocab, key=vocab.__getitem__)
    assert words == [*tokens.SPECIAL, *sorted(words[6:])]
    assert sorted(vocab.values()) == list(range(len(vocab)))
    again = tokens.learn(reversed(TEXT), config(kind=kind, size=size, lowercase=True))
    assert again.get_vocab() == vocab
    assert Tokenizer.from_str(found.to_str()).encode("the cat").ids == found.encode("the cat").ids
    (ids,) = tokens.encode(found, ["The cat sat"])
    assert ids.dtype == np.int32
    assert found.decode(list(ids)).strip() == "the cat sat"
    (line,) = tokens.lines(found, ["the cat\nsat"])
    assert list(line).count(tokens.SPECIAL.index(tokens.EOS)) == 2


def test_rare_words_are_unknown_and_the_most_frequent_are_kept():
    found = tokens.learn(["a a a b b c"], config(kind="spaced", size=8))
    assert list(tokens.encode(found, ["a b c <unk>"])[0]) == [6, 7, 1, 1]
    found = tokens.learn(["a a a b b c"], config(kind="spaced", min_frequency=3))
    assert found.get_vocab_size() == 7


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"kind": "word"}, "kind='word' is unknown; did you mean 'words'"),
        ({"kind": "bpe"}, "needs data.tokenizer.size"),
        ({"kind": "words", "size": 6}, "leaves no room"),
        ({"kind": "words", "size": 1000}, r"size=1000, but the training text gives \d+ tokens"),
        ({"kind": "wordpiece", "size": 5000}, r"size=5000, but the training text gives \d+ tokens"),
        ({"kind": "bpe", "size": 40}, r"size=40, but the characters .* are 2\d\d already; raise it"),
        ({"kind": "words", "min_frequency": 50}, "no word that occurs data.tokenizer.min_frequency=50 times"),
    ],
)
def test_vocabularies_that_cannot_be_are_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        tokens.learn(TEXT, config(**asked))


def test_a_tokenizer_of_others_is_taken_and_a_broken_one_refused(tmp_path):
    found = tokens.learn(TEXT, config(kind="words"))
    file = tmp_path / "tokenizer.json"
    found.save(str(file))
    assert tokens.read(file).to_str() == found.to_str()
    spec = json.loads(found.to_str())
    spec["added_tokens"] = []
    vocab = spec["model"]["vocab"]
    vocab["[PAD]"], vocab["cat"] = vocab["cat"], 0
    file.write_text(json.dumps(spec))
    with pytest.raises(ValueError, match="no padding token"):
        tokens.read(file)
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer"):
        tokens.read(file)
    with pytest.raises(ValueError, match="cannot be read"):
        tokens.read(tmp_path / "none.json")


# --- streams and documents

CORPUS = [np.arange(1, 60, dtype=np.int32), np.arange(60, 101, dtype=np.int32)]


def test_rows_continue_from_batch_to_batch_and_epochs_begin_elsewhere():
    feed = streams.feed(CORPUS, length=5, shuffle=False, seed=3, global_batch_size=4)
    assert feed.steps_per_epoch == (100 - 5) // 20
    steps = feed.steps_per_epoch
    found = list(feed.batches(total_steps=3 * steps))
    starts = set()
    for t, batch in enumerate(found):
        windows = batch["tokens"]
        np.testing.assert_array_equal(np.diff(windows), np.ones((4, 5)))
        np.testing.assert_array_equal(batch["views"][0], windows[:, :-1])
        assert batch["first"].all() == batch["first"].any() == (t % steps == 0)
        if t % steps:
            np.testing.assert_array_equal(windows[:, 0], found[t - 1]["tokens"][:, -1])
        else:
            starts.add(int(windows[0, 0]))
    assert found[0]["tokens"][0, 0] == 1
    assert len(starts) > 1


def test_any_step_and_any_number_of_processes_give_the_same_batches():
    feed = streams.feed(CORPUS, length=5, shuffle=True, seed=3, global_batch_size=4)
    whole = [b["tokens"] for b in feed.batches(total_steps=9)]
    later = [b["tokens"] for b in feed.batches(start_step=6, total_steps=9)]
    np.testing.assert_array_equal(whole[6:], later)
    parts = [[b["tokens"] for b in feed.batches(total_steps=9, process=p, process_count=2)] for p in range(2)]
    np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))
    assert sorted(set(np.concatenate([w.ravel() for w in whole[:4]]))) != list(range(1, 101))[:80]  # another order


def test_windows_cut_on_the_device_are_those_of_the_host():
    form = {"length": 5, "shuffle": False, "seed": 3, "global_batch_size": 4}
    host, device = (streams.feed(CORPUS, **form, table_limit=limit) for limit in (399, 400))
    assert host.table is None
    assert device.table.nbytes == 400  # 100 tokens
    split = {"start_step": 2, "total_steps": 11, "process": 1, "process_count": 2}  # into the third epoch
    for sent, want in zip(device.batches(**split), host.batches(**split), strict=True):
        assert "tokens" not in sent
        found = jax.jit(device.views, static_argnums=2)({**sent, "table": device.table}, jax.random.key(0), None)
        assert found.keys() == want.keys()
        jax.tree.map(np.testing.assert_array_equal, dict(found), want)
        assert found["tokens"].dtype == want["tokens"].dtype
    assert streams.feed(CORPUS, **(form | {"shuffle": True}), table_limit=1 << 30).table is None


def test_a_corpus_too_short_is_refused():
    with pytest.raises(ValueError, match=r"100 tokens of train are too few for data\.global_batch_size=8 rows"):
        streams.feed(CORPUS, length=12, shuffle=False, seed=0, global_batch_size=8)


@pytest.mark.parametrize(("rows", "length"), [(1, 7), (3, 5), (4, 40), (8, 3)])
def test_held_out_text_asks_for_every_token_once(rows, length):
    found = list(streams.held_out(CORPUS, length=length, global_batch_size=rows))
    asked = np.concatenate([b["tokens"][b["index"] >= 0, 1:].ravel() for b in found])
    assert sorted(asked[asked > 0]) == list(range(2, 101))
    for before, after in itertools.pairwise(found):
        going_on = after["tokens"][:, 0] > 0
        np.testing.assert_array_equal(after["tokens"][going_on, 0], before["tokens"][going_on, -1])
    if rows % 2 == 0:
        split = [
            list(streams.held_out(CORPUS, length=length, global_batch_size=rows, process=p, process_count=2))
            for p in (0, 1)
        ]
        for batch, first, second in zip(found, *split, strict=True):
            np.testing.assert_array_equal(batch["tokens"], np.concatenate([first["tokens"], second["tokens"]]))


def test_documents_of_a_source_in_order_and_cut():
    source = text.of_texts(["a b c", "b", "c c c c"], np.array([0, 1, -1], np.int32), ("x", "y"))
    found = [np.array([6, 7, 8], np.int32), np.array([7], np.int32), np.array([8, 8, 8, 8], np.int32)]
    batches = list(documents.inputs(source, found, length=2, global_batch_size=2))
    assert [b["inputs"].tolist() for b in batches] == [[[6, 7], [7, 0]], [[8, 8], [0, 0]]]
    assert [b["label"].tolist() for b in batches] == [[0, 1], [-1, -1]]
    assert [b["mask"].tolist() for b in batches] == [[True, True], [True, False]]


def test_recipes_and_sources_of_two_kinds_are_refused():
    found = base()
    source = text.of_texts(TEXT)
    with pytest.raises(ValueError, match="is for images and digits holds text; use one of stream"):
        make_modality(found, train=source)
    found.data.recipe = "stream"
    with pytest.raises(ValueError, match="this recipe is for text and the examples are images"):
        make_modality(found, train=readers.load("digits").train)
    modality = make_modality(found, train=source)
    assert modality.vocab.size == len(json.loads(modality.files[tokens.FILE])["model"]["vocab"])
    assert modality.prepare("the cat").shape == (1, found.data.document_length)
