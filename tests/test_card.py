"""What a model card says, the licence that goes with weights, and the way to the Hub."""

from __future__ import annotations

import json
import os
import types

import pytest
from exported_runs import CONVNET, IMAGENET, NC, head, opened

from ssl_jax.interop import hub, licences, weights
from ssl_jax.run import checkpoint, origins
from ssl_jax.run.export import export
from ssl_jax.run.open import open_weights


@pytest.fixture
def small(tmp_path):
    return opened(tmp_path / "run", CONVNET, size=8)


def evaluated(run, digest):
    result = {
        "metrics": {"test_knn_top1": 0.75, "test_odd": None, "test_linear_l2": 1e-4},
        "intervals": {"test_knn_top1": [0.5, 0.875]},
        "evaluators": {"classify": {"notes": {"classify_top1": "logits 310, 309 stand for the 2 classes"}}},
        "provenance": {"checkpoint": digest, "evaluated_on": "folder:/home/me/pets", "sizes": {"test": 8}, "seed": 0},
    }
    place = run.workdir / "evaluation"
    place.mkdir(parents=True)
    (place / "evaluation.json").write_text(json.dumps(result))


def test_the_card(tmp_path):
    run = opened(tmp_path / "run", CONVNET, size=8, source="folder:/home/me/pets")
    evaluated(run, checkpoint.fingerprint(run.variables))
    export(run, tmp_path / "pets", format="flax", licence="Apache-2.0")
    text = (tmp_path / "pets" / "README.md").read_text()
    said = head(text)
    assert (said["license"], said["library_name"]) == ("apache-2.0", "flax")
    assert said["pipeline_tag"] == "image-feature-extraction"
    assert {"ssl_jax", "imported", "convnet"} <= set(said["tags"])
    (index,) = said["model-index"]
    (result,) = index["results"]
    assert index["name"] == "pets"
    assert result["dataset"] == {"type": "folder:pets", "name": "folder:pets"}
    assert result["metrics"] == [{"type": "accuracy", "name": "test_knn_top1", "value": 0.75}]
    assert "| test_knn_top1 | 0.75 | 0.5 to 0.875 |" in text
    for words in ("c0ffee", "step 12", "- test: 7 examples, fingerprint f00d", '"widths"', "mean 0.485, 0.456, 0.406"):
        assert words in text
    assert "\n- classify_top1: logits 310, 309 stand for the 2 classes\n" in text
    assert "/home" not in text
    assert not text.startswith("\n")


def test_the_hub_reads_the_card(tmp_path):
    hub_of = pytest.importorskip("huggingface_hub")
    run = opened(tmp_path / "run", CONVNET, size=8)
    evaluated(run, checkpoint.fingerprint(run.variables))
    export(run, tmp_path / "out", format="flax")
    data = hub_of.ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.license, data.eval_results[0].metric_value) == ("unknown", 0.75)


def test_numbers_of_another_checkpoint_are_left_out(small, tmp_path):
    evaluated(small, "another")
    export(small, tmp_path / "out", format="flax")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "0.75" not in text
    assert "An evaluation of another checkpoint lies beside the run" in text


@pytest.mark.parametrize(
    ("asked", "published", "given"),
    [
        (None, {}, "not stated"),
        ("mit", {}, "mit"),
        (None, {"x": "MIT (relicensed 2023)"}, "MIT (relicensed 2023)"),
        ("CC-BY-NC-4.0", {"x": "CC BY-NC 4.0"}, "CC-BY-NC-4.0"),
        (None, {"x": "CC BY-NC 4.0"}, "say so, with --license cc-by-nc-4.0"),
        ("apache-2.0", {"x": "CC BY-NC 4.0"}, "cannot be passed on under 'apache-2.0'"),
        ("mit", {"a": "MIT", "b": "DINOv3"}, "b were published under DINOv3"),
        (" ", {}, "names no licence"),
        (
            "gpl-nonsense",
            {},
            r"gpl-nonsense is no licence that is known; did you mean .*--license 'other:gpl-nonsense'",
        ),
        ("other:my terms", {}, "my terms"),
        ("GPL-3.0-or-later", {}, "GPL-3.0-or-later"),
        ("other:mit", {"x": "CC BY-NC 4.0"}, "cannot be passed on under 'mit'"),
    ],
)
def test_licences(asked, published, given):
    if given in ("not stated", "mit", "MIT (relicensed 2023)", "CC-BY-NC-4.0", "my terms", "GPL-3.0-or-later"):
        assert licences.chosen(asked, published) == given
    else:
        with pytest.raises(ValueError, match=given) as error:
            licences.chosen(asked, published)
        assert "\n" not in str(error.value)


def test_weights_under_a_restricted_licence_keep_it(tmp_path):
    run = opened(tmp_path / "run", CONVNET, size=8, imported=NC)
    with pytest.raises(ValueError, match=r"were published under CC BY-NC .*: say so"):
        export(run, tmp_path / "out", format="flax")
    with pytest.raises(ValueError, match="cannot be passed on under 'mit'"):
        export(run, tmp_path / "out", format="flax", licence="mit")
    assert not (tmp_path / "out").exists()
    export(run, tmp_path / "out", format="flax", licence="cc-by-nc-4.0")
    text = (tmp_path / "out" / "README.md").read_text()
    assert head(text)["license"] == "cc-by-nc-4.0"
    assert "weights of byol" in text
    assert "published under: CC BY-NC 4.0." in text


def test_a_plain_file_does_not_say_who_trained_it(tmp_path):
    came = {"project": "torchvision", "source": "pytorch/vision", "sha256": None, "licence": None}
    export(opened(tmp_path / "run", CONVNET, size=8, imported=came), tmp_path / "out", format="flax")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "weights in the form of torchvision." in text
    assert "(pytorch/vision), published under: not known; who trained them it does not say." in text


def test_an_imported_network_s_card_says_nothing_of_training(tmp_path):
    came = NC | {"file": "/home/me/byol.pkl", "kind": "pickle", "assumed": {"padding": "same"}}
    texts = []
    for name, record in (("came", came), ("ours", None)):
        run = opened(tmp_path / name, CONVNET, size=8, imported=record)
        export(run, tmp_path / f"{name}_out", format="flax", licence=NC["licence"])
        texts.append((tmp_path / f"{name}_out" / "README.md").read_text())
    came, ours = texts
    said = json.loads(came.split("```json")[1].split("```")[0])
    assert said["model"] == {"name": "convnet", "widths": [4, 8]}
    assert (said["data"]["image_size"], said["data"]["mean"], said["data"]["std"]) == (8, *map(list, IMAGENET))
    assert (said["data"]["evaluate"]["kind"], said["data"]["evaluate"]["interpolation"]) == ("resize_crop", "bicubic")
    assert (said["imported"]["file"], said["imported"]["sha256"]) == ("byol.pkl", "ab12")
    assert said["imported"]["source"] == "deepmind/byol"
    assert said["imported"]["assumed"] == {"padding": "same"}
    for word in ("optim", "steps", "seed", "/home"):
        assert word not in came
    assert "optim" in ours


def test_a_file_keeps_the_licence_of_its_weights(tmp_path):
    run, path = opened(tmp_path / "run", CONVNET, size=8, imported=NC), tmp_path / "x.safetensors"
    for licence, said in ((None, "say so, with --license cc-by-nc-4.0"), ("mit", "cannot be passed on under 'mit'")):
        with pytest.raises(ValueError, match=said):
            export(run, path, licence=licence)
    with pytest.raises(ValueError, match=r"weights are written as \.safetensors and"):  # before licences and any work
        export(run, tmp_path / "x.pth")
    assert not path.exists()
    export(run, path, licence="cc-by-nc-4.0")
    about = weights.about(path)
    assert (about["licence"], about["origins"]) == ("cc-by-nc-4.0", [NC])
    begun = opened(tmp_path / "begun", CONVNET, size=8, init_from=str(path))
    kept = {"origins": origins.began_with(str(path))}  # as config.json of a run has it, whatever becomes of the file
    again = open_weights(path)
    for _ in range(2):
        for one in (begun, again):
            with pytest.raises(ValueError, match=r"were published under CC BY-NC 4\.0"):
                export(one, tmp_path / "y.safetensors", licence="mit")
        path.unlink(missing_ok=True)
        begun = begun._replace(resolved=begun.resolved | kept)
    export(begun, tmp_path / "y", format="flax", licence="cc-by-nc-4.0")
    text = (tmp_path / "y" / "README.md").read_text()
    assert "The run began with weights of deepmind/byol; their licence: CC BY-NC 4.0." in text


def test_a_licence_that_was_given_to_a_file_is_kept(small, tmp_path):
    export(small, tmp_path / "x.safetensors", licence="cc-by-nc-4.0")
    began = origins.published(origins.began_with({"encoder": str(tmp_path / "x.safetensors")}))
    assert list(began.values()) == ["cc-by-nc-4.0"]
    export(small, tmp_path / "x.safetensors")
    assert weights.about(tmp_path / "x.safetensors")["licence"] == "not stated"
    assert origins.began_with(str(tmp_path / "x.safetensors")) == []
    assert origins.began_with(str(tmp_path / "none.safetensors")) == []


def test_what_began_with_restricted_weights_keeps_their_licence(tmp_path):
    source = tmp_path / "byol"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"config": {"init_from": None}, "resolved": {"imported": NC}}))
    run = opened(tmp_path / "run", CONVNET, size=8, init_from=str(source))
    with pytest.raises(ValueError, match="which this began with, were published under CC BY-NC"):
        export(run, tmp_path / "out", format="flax")


class Api:
    def __init__(self, fails=False):
        self.calls, self.fails = [], fails

    def create_repo(self, repo_id, **how):
        self.calls.append(("create_repo", repo_id, how))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if self.fails:
            raise RuntimeError("403 Forbidden\nmore")
        self.calls.append(("upload_folder", repo_id, sorted(os.listdir(folder_path)), commit_message))


def test_a_folder_is_sent_to_the_hub(small, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_a")
    api = Api()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    said = export(small, tmp_path / "out", format="flax", push_to="me/pets", private=True)
    files = ["README.md", "flax_model.msgpack", "flax_model.safetensors", "module.json"]
    assert api.calls == [
        ("create_repo", "me/pets", {"private": True, "exist_ok": True}),
        ("upload_folder", "me/pets", files, "imported, step 12"),
    ]
    assert said["url"] == "https://huggingface.co/me/pets"
    with pytest.raises(OSError, match=r"was not sent to me/pets: 403 Forbidden; the folder is whole, and the same com"):
        hub.push(tmp_path / "out", "me/pets", api=Api(fails=True))
    # The same command sends what is there, and no other one.
    before = (tmp_path / "out" / "module.json").stat().st_mtime_ns
    said = export(small, tmp_path / "out", format="flax", push_to="me/pets")
    assert api.calls[2:] == [
        ("create_repo", "me/pets", {"private": False, "exist_ok": True}),
        ("upload_folder", "me/pets", files, "imported, step 12"),
    ]
    assert said["notes"] == [f"{tmp_path / 'out'} was there already, with the same bytes."]
    assert (tmp_path / "out" / "module.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="is there already and holds another export"):
        export(small, tmp_path / "out", format="flax", push_to="me/pets", licence="mit")
    (tmp_path / "out" / "flax_model.msgpack").write_bytes(b"cut")
    with pytest.raises(ValueError, match="is there already and holds another export"):
        export(small, tmp_path / "out", format="flax", push_to="me/pets")
    assert len(api.calls) == 4
    assert os.listdir(tmp_path) == ["out"]


class Refused(Exception):
    response = types.SimpleNamespace(status_code=401)


def refused(**how):
    raise Refused("401 Client Error")


def test_without_a_token_it_is_said_how_to_log_in(small, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ValueError, match=r"needs a token .* `hf auth login`, or set HF_TOKEN") as error:
        export(small, tmp_path / "out", format="flax", push_to="me/pets")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="--private is of a repository that --push-to OWNER/NAME makes"):
        export(small, tmp_path / "out", format="flax", private=True)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_wrong")
    api = Api(fails=True)
    api.upload_folder = refused
    with pytest.raises(OSError, match=r"401 Client Error; log in with `hf auth login`"):
        hub.push(tmp_path, "me/pets", api=api)


def test_nothing_is_sent_offline(small, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE=1 forbids it"):
        export(small, tmp_path / "out", format="flax", push_to="me/pets")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(ValueError, match="is no repository of the Hub; write OWNER/NAME"):
        export(small, tmp_path / "out", format="flax", push_to="pets")
    with pytest.raises(ValueError, match="--push-to sends a folder"):
        export(small, tmp_path / "out.safetensors", push_to="me/pets")
    assert not list(tmp_path.glob("out*"))
