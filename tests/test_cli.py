"""The command: what is refused, in one line, with exit code 2, before anything is compiled or written."""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
import runs

import ssl_jax
from experiments import evaluate, pretrain
from ssl_jax import configs
from ssl_jax.configs.checks import NEEDED
from ssl_jax.interop import weights
from ssl_jax.run import cli, command, keys, processes
from ssl_jax.run.open import open_run, read_run

CONFIGS = runs.ROOT / "configs"
EXPERIMENTS = runs.ROOT / "experiments"
SCRIPTS = [*sorted(path.stem for path in EXPERIMENTS.glob("*.py")), "benchmarks/knn_memory", "benchmarks/probe_speed"]

REFUSED = {
    "unknown key": (["--config.optim.learning_rat=1"], "did you mean --config.optim.learning_rate?"),
    "unknown group": (["--config.optm.learning_rate=1"], "did you mean --config.optim.learning_rate?"),
    "unknown method argument": (["--config.method.temprature=1"], "did you mean --config.method.temperature?"),
    "no stages": (["--config.model.widths=()"], "model.widths=[] must hold whole numbers"),
    "zero stride": (["--config.model.strides=(0,2)"], "model.strides=[0, 2] must hold whole numbers"),
    "text for a width": (["--config.method.projector_hidden=abc"], "these do not make a network"),
    "text for a mean": (["--config.data.mean=('a',)"], "data.mean=['a'] must hold numbers"),
    "batch of one": (["--config.data.global_batch_size=1"], "use 2 or more"),
    "another method's argument": (["--config.method.queue_size=64"], "--config.method.queue_size is unknown"),
    "unknown model argument": (["--config.model.width=2"], "--config.model.width is unknown"),
    "unknown flag": (["--wordir=x"], "argument '--wordir=x' is unknown"),
    "no value": (["--config.seed"], "config.seed"),
    "null": (["--config.method.temperature=none"], "is not of type float"),
    "seed": (["--config.seed=5e9"], "must be below 2**32"),
    "no width": (["--config.method.projector_dim=0"], "projector_dim=0 must be positive"),
    "widths": (["--config.model.widths=8"], "different numbers of stages"),
    "wrong type": (["--config.seed=one"], "config.seed=one is not of type int"),
    "text for a number": (["--config.optim.learning_rate=fast"], "is not of type float"),
    "unknown method": (["--config.method.name=simclrr"], "did you mean 'simclr'?"),
    "unknown model": (["--config.model.name=resnet19"], "'resnet19' is unknown"),
    "unknown optimizer": (["--config.optim.name=adam"], "did you mean 'adamw'?"),
    "unknown scale": (["--config.optim.scale=cubic"], "known: linear, sqrt, none"),
    "unknown mode": (["--config.parallel.mode=pmapp"], "did you mean 'pmap'?"),
    "unknown augment": (["--config.data.augment=gpu"], "config.data.augment='gpu' is unknown"),
    "unknown recipe": (["--config.data.recipe=simclr_cifr"], "simclr_cifar"),
    "unknown source": (["--config.data.source=digit"], "digits"),
    "dataset not on disk": (["--config.data.source=tfds:cifar10", "--config.data.data_dir=EMPTY"], "download"),
    "unknown dataset": (["--config.data.source=tfds:no_such_set", "--config.data.data_dir=EMPTY"], "no_such_set"),
    "missing folder": (["--config.data.source=folder:EMPTY/none"], "none"),
    "empty folder": (["--config.data.source=folder:EMPTY"], "EMPTY"),
    "missing npz": (["--config.data.source=npz:EMPTY/x.npz"], "is not there"),
    "negative rate": (["--config.optim.learning_rate=-1"], "optim.learning_rate=-1.0 must be positive"),
    "infinite rate": (["--config.optim.learning_rate=1e999"], "must be finite"),
    "negative decay": (["--config.optim.weight_decay=-1"], "must not be negative"),
    "negative decay at the end": (["--config.optim.weight_decay_end=-1"], "weight_decay_end=-1.0 must not be negative"),
    "momentum of one": (["--config.optim.momentum=1"], "must be below 1"),
    "zero batch": (["--config.data.global_batch_size=0"], "global_batch_size=0 must be positive"),
    "batch above the data": (["--config.data.global_batch_size=5000"], "use at most 1294"),
    "zero temperature": (["--config.method.temperature=0"], "temperature=0"),
    "no tokens": (["--config.data.length=0"], "data.length=0 must be positive"),
    "zero steps": (["--config.train.steps=0"], "train.steps=0 must be positive"),
    "zero knn": (["--config.eval.knn_k=0"], "eval.knn_k=0 must be positive"),
    "knn above the bank": (["--config.eval.knn_k=2000"], "eval.knn_k=2000"),
    "devices": (["--config.parallel.devices=5"], "global_batch_size=128 is not divisible by 5 devices; use 125 or 130"),
    "too many devices": (["--config.parallel.devices=64"], "64"),
    "small image": (["--config.data.image_size=2"], "data.image_size=2 is too small"),
    "mean of another image": (["--config.data.mean=(.5,.5,.5)"], "data.mean has 3 numbers"),
    "no such run": (["--config.init_from=EMPTY"], "holds no run"),
    "warmup without cosine": (["--config.optim.schedule=constant"], "has no warmup"),
    "infinite seed": (["--config.seed=1e999"], "config.seed=1e999 is not of type int"),
    "infinite deviation": (["--config.data.std=(1e999,)"], "data.std=[inf] must be finite"),
    "more steps than int32": (["--config.train.steps=2147483648"], "train.steps=2147483648 must be below 2**31"),
    "more epochs than int32": (["--config.train.epochs=1e308"], "must be below 2**31"),
    "more steps of epochs than int32": (
        ["--config.train.epochs=214748365"],
        "of 10 steps are 2147483650 steps, which must be below 2**31; use at most 214748364 epochs",
    ),
    "endless warmup": (["--config.optim.warmup_epochs=1e308"], "must be below 2**31"),
    "half a switch": (
        ["--config", f"{CONFIGS}/moco_cifar10_cpu.py", "--config.method.bn_strided=2"],
        "must be true or false",
    ),
    "half a layer": (
        ["--config", f"{CONFIGS}/dino_cpu.py", "--config.method.layers=2.5"],
        "config.method.layers=2.5 must be a whole number",
    ),
    "nobody's home": (["--config.data.source=folder:~no_such_user/x"], "cannot be looked at"),
    "empty split": (["--config.data.test_split="], "mean nothing to 'digits'"),
    "endless path": ([f"--config.data.source=npz:{'a' * 5000}"], "cannot be looked at (["),
    "endless dataset": ([f"--config.data.source=tfds:{'a' * 5000}"], "cannot be looked for"),
    "one view": (["--config.data.recipe=supervised"], "two views"),
}


def one_line(capfd):
    errors = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    return errors[0]


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_before_anything_is_written(case, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)  # these tests run on the eight devices there are
    arguments, words = REFUSED[case]
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = [a.replace("EMPTY", str(empty)) for a in arguments]
    assert pretrain.main(["--workdir", str(tmp_path / "run"), *arguments]) == 2
    assert words.replace("EMPTY", str(empty)) in one_line(capfd)
    assert not (tmp_path / "run").exists() or set(p.name for p in (tmp_path / "run").iterdir()) == {".lock"}


def test_moco_queue(tmp_path, capfd):
    arguments = ["--config", str(CONFIGS / "moco_cifar10_cpu.py"), "--config.method.queue_size=1000"]
    assert pretrain.main([*arguments, "--workdir", str(tmp_path / "run")]) == 2
    assert "method.queue_size=1000 is not a multiple of the 128 keys" in one_line(capfd)


def test_missing_config_file(tmp_path, capfd):
    assert pretrain.main(["--config", str(CONFIGS / "simclr_digit.py"), "--workdir", str(tmp_path)]) == 2
    assert "did you mean" in one_line(capfd)
    (tmp_path / "broken.py").write_text("import nothere\n")
    assert pretrain.main(["--config", str(tmp_path / "broken.py")]) == 2
    assert "ModuleNotFoundError" in one_line(capfd)
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert pretrain.main(["--config", str(tmp_path / "empty.py")]) == 2
    assert "has no get_config()" in one_line(capfd)


def test_workdir_that_is_a_file(tmp_path, capfd):
    (tmp_path / "file").write_text("x")
    assert pretrain.main(["--workdir", str(tmp_path / "file")]) == 2
    assert "is a file" in one_line(capfd)


def test_workdir_that_is_no_name_or_cannot_be_made(tmp_path, capfd):
    for words in (["--workdir", ""], ["--workdir= "], ["--config", ""]):
        assert pretrain.main(words) == 2
        assert f"argument {words[0].split('=')[0]}: it is empty; name a path, or leave it out" in one_line(capfd)
    (tmp_path / "file").write_text("x")
    assert pretrain.main(["--workdir", str(tmp_path / "file" / "run")]) == 2
    assert "cannot be made or written to (Not a directory)" in one_line(capfd)


@pytest.mark.parametrize("script", SCRIPTS)
def test_interrupted_while_it_imports(script, tmp_path):
    """No traceback, and the exit code of an interrupted command."""
    code = f"""
        import os, runpy, signal, sys
        class Interrupts:
            def find_spec(self, name, *_):
                if name in ("jax", "numpy", "ssl_jax"):
                    os.kill(os.getpid(), signal.SIGINT)
        for name in ("argparse", "numpy"):
            sys.modules.pop(name, None)
        sys.meta_path.insert(0, Interrupts())
        sys.argv = [{script!r}]
        runpy.run_path({str(EXPERIMENTS / script)!r} + ".py", run_name="__main__")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_words_that_argparse_does_not_understand_are_one_line(script, tmp_path, capfd, monkeypatch):
    main = importlib.import_module(f"experiments.{script.replace('/', '.')}").main
    monkeypatch.chdir(tmp_path)
    for words in (["--out"], ["--out", ""], ["--workdir", "  "], ["--nonsense", "3"]):
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(SystemExit) as ended:
            command.run(main)
        assert ended.value.code == 2
        one_line(capfd)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_command_says_so(capfd, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as ended:
        command.run(interrupted)
    assert ended.value.code == 130
    assert capfd.readouterr().err == "stopped\n"


def test_empty_words_of_an_evaluation_are_refused(capfd):
    for argument in ("--workdir", "--outdir", "--source", "--data_dir"):
        assert evaluate.main([argument, ""]) == 2
        assert re.search(rf"argument {argument}(/--out)?: it is empty", one_line(capfd))
    assert pretrain.main(["--config.data.data_dir="]) == 2
    assert "data.data_dir= is empty" in one_line(capfd)


def test_home_in_every_path(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (["--workdir", "~/run"], ["--workdir", "run", "--config", "~/run.py"]):
        options, _ = pretrain_words(words)
        assert str(tmp_path) in "".join((options.workdir, options.config))
    monkeypatch.chdir(tmp_path)
    assert configs.path("./~x") == str(tmp_path / "~x")
    for words in (["--workdir", "~nobody_of_that_name/x"], ["--config", "~nobody_of_that_name/x.py"]):
        assert pretrain.main(words) == 2
        assert "is below a home that is not known; write ./~nobody" in one_line(capfd)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    for opened in (lambda: read_run("~/run"), lambda: open_run("~/run"), lambda: ssl_jax.load("~/run")):
        with pytest.raises(ValueError, match="cannot be read"):
            opened()
    params = {"encoder": {"w": np.ones(3, np.float32)}}
    weights.write("~/w.safetensors", params, {}, {})
    assert weights.is_weights("~/w.safetensors")
    np.testing.assert_array_equal(weights.read("~/w.safetensors")[0]["encoder"]["w"], 1)
    (tmp_path / "c.py").write_text((CONFIGS / "simclr_digits.py").read_text())
    monkeypatch.syspath_prepend(str(runs.ROOT))
    assert configs.load("~/c.py").method.name == "simclr"
    assert not (tmp_path / "~").exists()


def pretrain_words(words):
    parser = command.Parser("")
    parser.add_path("--workdir", default="")
    parser.add_path("--config", default="x")
    return parser.parse_known_args(words)


def test_no_home_leaves_a_cache_and_a_word(monkeypatch):
    from ssl_jax.data import cache

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.warns(UserWarning, match="there is no home folder"):
        place = cache.default_cache_dir()
    assert place == Path(tempfile.gettempdir()) / f"ssl_jax_{os.getuid()}"
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache.default_cache_dir() == Path("/c/ssl_jax")


def test_the_third_signal_ends_a_run_and_the_first_is_answered(capfd):
    from ssl_jax.run import signals

    def sent(times):
        with signals.caught() as asked:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
            return asked()

    assert sent(2) == signal.SIGINT  # two come quickly while a step compiles: it is saved
    assert capfd.readouterr().err.count("stopping: the step under way is finished and saved") == 1
    with pytest.raises(KeyboardInterrupt):
        sent(3)


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """A run of a config of ours by its name, two steps long and without its test."""
    workdir = tmp_path_factory.mktemp("tried") / "run"
    words = ["--config", "simclr_digits", "--config.model.widths=(4,)", "--config.model.strides=(2,)"]
    words += ["--config.train.steps=2", "--config.train.eval_every=0", "--config.eval.label_efficiency=false"]
    words += ["--config.data.recipe=runs:VIEWS", "--config.data.image_size=8", "--config.data.num_examples=160"]
    words += ["--config.data.global_batch_size=32", "--config.eval.knn_k=5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "configure", lambda *a, **k: None)
        assert pretrain.main([*words, "--no-test", "--workdir", str(workdir)]) == 0
    return workdir


def test_a_try_reads_no_test_data_and_draws_nothing(tried):
    summary = json.loads((tried / "summary.json").read_text())
    assert summary["steps"] == 2
    assert not [key for key in summary if key.startswith("test_")]
    assert summary["not_measured"] == {"test": "it was left out"}
    assert not (tried / "figures").exists()


def test_a_workdir_alone_goes_on_with_what_the_run_was_asked(tried, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(processes, "configure", lambda *a, **k: None)
    again = tmp_path / "again"
    shutil.copytree(tried, again)
    with runs.no_pictures():
        assert pretrain.main(["--workdir", str(again), "--no-test"]) == 0
        assert "same command without --no-test" in capfd.readouterr().out
        assert pretrain.main(["--workdir", str(again), "--config.train.log_every=7"]) == 0
    said = capfd.readouterr()
    assert "continuing after step 2" in said.err
    assert "config.train.log_every was 20, is now 7" in said.err
    assert "damaged" not in said.err
    then, now = (json.loads((folder / "summary.json").read_text()) for folder in (tried, again))
    assert 0 <= now["test_knn_top1"] <= 1
    assert now["params_fingerprint"] == then["params_fingerprint"]
    assert pretrain.main(["--workdir", str(again), "--config.seed=1"]) == 2
    assert "seed (0 there, 1 here)" in one_line(capfd)
    assert pretrain.main(["--workdir", str(again), "--config", "byol_cifar10"]) == 2  # which says another


def test_keys_are_shown_with_meaning_type_and_value(capsys):
    from configs.common import KEYS

    assert pretrain.main(["--config", "byol_cifar10", "--help-config", "--config.optim.momentum=0.5"]) == 0
    shown = capsys.readouterr().out
    for said in (
        "--config.optim.momentum=0.5  (float)\n    of adamw: b1\n",
        "--config.method.tau=0.99  (float)\n    target decay tau_0; the paper",
        "--config.model.stem=cifar  (str)\n",
        "--config.data.data_dir=null  (str or null)\n",
        "--config.data.views.jitter.saturation=0.2  (float)\n    factor from U(",
    ):
        assert said in shown
    for name in configs.files():
        config = configs.load(name)
        found = {key.name: key for key in keys.described(config, KEYS)}
        assert [key.name for key in found.values() if not key.meaning] == []
        assert set(found) - {"data.views"} == set(configs.known_keys(config)), name


def test_the_command_runs_the_scripts(capsys, monkeypatch):
    def ends(*words, run=cli.main):
        monkeypatch.setattr(sys, "argv", ["ssl-jax", *words])
        before = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(SystemExit) as ended:
                run()
        finally:
            signal.signal(signal.SIGINT, before)
        return ended.value.code, *capsys.readouterr()

    code, out, _ = ends()
    assert code == 0
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    for place in re.findall(r"/\S+", out):
        assert os.path.exists(place.rstrip(",")), place
    assert ends("pretrian") == (2, "", f"error: ssl-jax 'pretrian' is no command; did you mean pretrain? known: "
                                f"{', '.join(cli.COMMANDS)}\n")  # fmt: skip
    assert ends("--version") == (0, f"ssl_jax {ssl_jax.__version__}\n", "")
    assert ends("--version", run=lambda: runpy.run_module("ssl_jax", run_name="__main__", alter_sys=True))[0] == 0
    code, out, _ = ends("import", "--help")
    assert code == 0
    for flag in ("--prefix", "--no-classifier", "--model.KEY=VALUE", "stem for small images, 224 for others"):
        assert flag in " ".join(out.split())
    code, out, _ = ends("pretrain", "--help")
    assert all(
        word in "".join(out.split()) for word in ("--help-config", "ssl_jax/methods", "ssl_jax/models", "recipes.py")
    )
    code, out, _ = ends("pretrain", "--list")
    assert code == 0
    assert "simclr_digits" in out
    code, _, err = ends("pretrain", "--config", "simclr_digit")
    assert code == 2
    assert err == "error: config 'simclr_digit' is neither a file nor one of ours; did you mean 'simclr_digits'? " + (
        "see: ssl-jax pretrain --list\n"
    )
    for name in cli.COMMANDS:
        code, out, _ = ends(name, "--help")
        assert out.startswith(f"usage: ssl-jax {name} ["), name
    monkeypatch.setattr(sys, "argv", ["ssl-jax pretrain"])
    assert command.again(["--workdir", "a b"]) == "ssl-jax pretrain --workdir 'a b'"


def test_list_shows_every_config_with_its_first_line(capsys):
    assert pretrain.main(["--list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    files = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "common")
    assert [line.split()[0] for line in shown] == files
    assert all(len(line.split()) > 3 for line in shown)


@pytest.mark.parametrize("key", NEEDED)
def test_a_config_file_cannot_leave_a_number_out(key):
    config = configs.load("simclr_digits")
    *parents, last = key.split(".")
    node = config[parents[0]] if parents else config
    with node.ignore_type():
        node[last] = None
    with pytest.raises(ValueError, match=f"config.{key}=None must (be|not be) "):
        configs.check(config)


@pytest.mark.parametrize("path", sorted(p for p in CONFIGS.glob("*.py") if p.stem != "common"), ids=lambda p: p.stem)
def test_every_config_is_valid_and_says_what_it_costs(path):
    config = configs.load(path)
    configs.check(config)
    text = path.read_text()
    assert "make pretrain" in text
    assert "Cost" in text or "minutes" in text
    assert "Expected" in text


def test_another_method_or_model_leaves_the_arguments_of_the_old_one_out(capsys):
    from ssl_jax.experiment import build

    path = CONFIGS / "simclr_digits.py"
    loaded = configs.load(path, ["method.hidden=64", "method.name=byol", "model.name=resnet18", "model.stem=cifar"])
    assert (loaded.method.name, loaded.method.hidden, loaded.model.name) == ("byol", 64, "resnet18")
    assert "temperature" not in loaded.method
    assert "widths" not in loaded.model
    assert "temperature" in capsys.readouterr().err
    build(loaded)


def test_overrides_are_typed():
    path = CONFIGS / "simclr_digits.py"
    loaded = configs.load(
        path,
        [
            "train.steps=7",
            "optim.learning_rate=1",
            "data.mean=(.1,)",
            "data.data_dir=/x",
            "method.projector_hidden=32",
            "train.tensorboard=true",
            "optim.clip_norm=none",
            "data.num_examples=1e3",
        ],
    )
    assert (loaded.train.steps, loaded.optim.learning_rate, loaded.data.mean) == (7, 1.0, (0.1,))
    assert isinstance(loaded.optim.learning_rate, float)
    assert (loaded.data.data_dir, loaded.method.projector_hidden, loaded.train.loggers) == ("/x", 32, ("tensorboard",))
    assert loaded.optim.clip_norm is None
    assert loaded.data.num_examples == 1000


def test_what_may_differ_on_resume():
    path = CONFIGS / "simclr_digits.py"
    old = configs.load(path)
    new = configs.load(
        path, ["seed=1", "train.log_every=3", "parallel.mode=pmap", "data.data_dir=/y", "optim.momentum=0.5"]
    )
    refused, free = configs.differences(old, new)
    assert set(refused) == {"seed", "optim.momentum"}
    assert set(free) == {"train.log_every", "parallel.mode", "data.data_dir"}
    assert refused["seed"] == (0, 1)
    assert configs.differences(old, configs.load(path)) == ({}, {})


def test_a_run_from_before_an_argument_goes_on_where_it_is_named_with_what_it_was():
    path = CONFIGS / "moco_cifar10.py"
    old = configs.load(path).to_dict()
    del old["model"]["stem_init"], old["optim"]["step_at"]
    refused, _ = configs.differences(old, configs.load(path))
    assert refused == {"model.stem_init": (None, "torch")}
    assert configs.differences(old, configs.load(path, ["model.stem_init=None"])) == ({}, {})
    del old["method"]["bn_strided"]  # False where nothing is said
    refused, _ = configs.differences(old, configs.load(path, ["model.stem_init=None", "method.bn_strided=False"]))
    assert refused == {}


def test_steps_without_warmup_trouble():
    from ssl_jax.experiment import build

    for steps in (1, 2, 30):
        experiment = build(runs.config(train__steps=steps, optim__warmup_epochs=100.0))
        rates = [float(experiment.schedule(t)) for t in range(steps)]
        assert np.isfinite(rates).all()
        assert any("warmup" in note for note in experiment.notes)
        assert experiment.warmup_steps == steps // 10
