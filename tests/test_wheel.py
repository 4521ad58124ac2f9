"""The wheel in an environment of its own: trained, measured, embedded from an empty folder, without the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata

import numpy as np
import pytest
import runs
from PIL import Image

SHIPPED = (
    "pyproject.toml",
    "setup.py",
    "requirements.txt",
    "README.md",
    "LICENSE",
    "ssl_jax",
    "configs",
    "experiments",
)


@pytest.fixture(scope="module")
def bin_of_wheel(tmp_path_factory):
    """The ``bin`` of an environment with the wheel in it, and the libraries of this one, but not this one's ssl_jax."""
    try:
        setuptools = metadata.version("setuptools")
        metadata.version("pip")
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"{error} is not installed, by which wheels are built")
    if int(setuptools.split(".")[0]) < 77:
        pytest.skip(f"setuptools {setuptools} does not read this pyproject.toml; pip install 'setuptools>=77'")
    place = tmp_path_factory.mktemp("wheel")
    for name in SHIPPED:  # setuptools leaves folders beside what it builds
        source = runs.ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / "source" / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            (place / "source").mkdir(exist_ok=True)
            shutil.copy(source, place / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", str(place / "source"), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(place)]
    ran(*pip, *build)
    (wheel,) = place.glob("*.whl")
    env = place / "env"
    ran(sys.executable, "-m", "venv", "--without-pip", str(env))
    ran(*pip, "--python", str(env / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
    ours = next((env / "lib").glob("python*")) / "site-packages"
    (ours / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files are not read
    return env / "bin"


def ran(*command: str, code: int = 0, **where) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500, check=False, **where)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_folder(bin_of_wheel, tmp_path):
    def command(*words, code=0):
        return ran(str(bin_of_wheel / "ssl-jax"), *words, cwd=tmp_path, code=code)

    where = ran(str(bin_of_wheel / "python"), "-c", "import ssl_jax; print(ssl_jax.__file__)", cwd=tmp_path).stdout
    assert where.startswith(str(bin_of_wheel.parent))
    assert command("--version").stdout.split() == ["ssl_jax", "0.2.0"]
    assert "simclr_digits" in command("pretrain", "--list").stdout
    assert "--config.optim.momentum=0.9  (float)" in command("pretrain", "--help-config").stdout
    assert str(runs.ROOT) not in command("--help").stdout
    words = ("--config.train.steps=20", "--config.eval.label_efficiency=false", "--workdir", "run")
    command("pretrain", "--config", "simclr_digits", *words)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    command("evaluate", "--workdir", "run", "--evals", "knn")
    found = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    assert found["metrics"]["test_knn_top1"] == pytest.approx(summary["test_knn_top1"], abs=1e-6)
    (tmp_path / "photos").mkdir()
    for i, shape in enumerate([(9, 14), (16, 16)]):
        Image.fromarray(np.full(shape, 80 * i, np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    command("embed", "run", "photos", "--out", "f.npy")
    assert np.load(tmp_path / "f.npy").shape == (2, 64)
    assert json.loads((tmp_path / "f.json").read_text()) == ["0.png", "1.png"]
    command("export", "--workdir", "run", "--out", "run.safetensors")
    assert "test_knn_top1" in command("pretrain", "--workdir", "run").stdout  # it is finished
    (tmp_path / "mine.py").write_text(
        "from configs.common import base\n\n\ndef get_config():\n    config = base()\n    config.seed = 7\n"
        "    return config\n"
    )
    assert "--config.seed=7" in command("pretrain", "--config", "mine.py", "--help-config").stdout
    assert command("pretrain", "--config", "mine", code=2).stderr.startswith("error: config 'mine' is neither a file")
