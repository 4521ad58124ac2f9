"""The model card of an exported network: ``README.md``, whose head the Hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ssl_jax.interop import licences

LIBRARIES = {"timm": "timm", "torchvision": "torchvision", "transformers": "transformers", "flax": "flax"}
LIBRARIES |= {"stablehlo": "jax", "onnx": "onnx"}

TORCHVISION = """```python
import torchvision
from safetensors.torch import load_file

model = torchvision.models.{architecture}({arguments})
model.load_state_dict(load_file("FOLDER/model.safetensors"){strict})
```
"""

UNEXPECTED = (
    "transformers.AutoModel leaves the classifier out and reports {classifier}.* as UNEXPECTED, which does no harm; "
    "AutoModelForImageClassification loads it, too."
)

CLASSIFY = """```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

images = AutoImageProcessor.from_pretrained("FOLDER")(pictures, return_tensors="pt")
model = AutoModelForImageClassification.from_pretrained("FOLDER")
logits = model(**images).logits                                         # {labels}
```
"""

# Libraries whose form the weights of many people have.
LAYOUTS = ("torchvision", "timm", "transformers", "lightly", "solo_learn")

# Of the record of an import.
CAME = ("project", "source", "file", "kind", "sha256", "licence", "assumed")

CHOSEN = re.compile(r"_l2(_|$)")  # names under which evaluators report what they chose on validation, no measure

SHARED = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")  # by timm and torchvision

HOW = {
    "timm": """```python
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()   # or "hf-hub:OWNER/NAME"
{calls}
```

```python
from transformers import AutoModel

features = AutoModel.from_pretrained("FOLDER")(images).pooler_output
```
""",
    "torchvision": TORCHVISION,
    "transformers": """```python
from transformers import AutoImageProcessor, AutoModel

images = AutoImageProcessor.from_pretrained("FOLDER")(pictures, return_tensors="pt")
outputs = AutoModel.from_pretrained("FOLDER"{arguments})(**images)      # {architecture}
features = {features}
```
""",
    "flax": """```python
import flax.serialization
import ssl_jax.models

variables = flax.serialization.msgpack_restore(open("FOLDER/flax_model.msgpack", "rb").read())
model = ssl_jax.models.make({make})
outputs = model.apply(variables, {inputs}, train=False)         # outputs["features"]; {inputs} as below
```
""",
    "stablehlo": """Without ssl_jax; any number of images, on a CPU, an NVIDIA GPU or a TPU:

```python
import pathlib

import jax.export
import safetensors.numpy

program = jax.export.deserialize(pathlib.Path("FOLDER/encode_uint8.stablehlo").read_bytes())
weights = safetensors.numpy.load_file("FOLDER/weights.safetensors")
outputs = program.call(weights, images)                                 # uint8 {shape}; normalised inside
{calls}
```
""",
    "onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
{outputs}= session.run({names}, {{"images": images}})  # float32 in [0, 1], {shape}; normalised inside
```
""",
}


# What the code of :data:`HOW` ends with, without a classifier and with one.
CALLS = {
    "timm": (
        "features = model(images)                                                # images [b, c, h, w], normalised",
        "logits = model(images)                                                  # images [b, c, h, w], normalised\n"
        "features = model.forward_head(model.forward_features(images), pre_logits=True)",
    ),
    "stablehlo": (
        'features = outputs["features"]',
        'features, logits = outputs["features"], outputs["logits"]',
    ),
}


class Facts(NamedTuple):
    """What a card says.

    Attributes:
      format: a key of :data:`HOW`.
      name: of the model, as the folder is called.
      config: of the run.
      shape, mean, std, view: of images, as ``peers.Network`` has them; of other data the shape alone.
      licence: as :func:`licences.chosen` gave it.
      commit, version, step: of the run and of the package.
      data: "data" of the run's record: sizes and fingerprints.
      evaluation: the results of ``evaluation.json`` on this checkpoint, one for each data.
      imported: of weights that came from elsewhere, the record of their import.
      notes: lines to be said besides.
      classifier: whether one goes along.
      words: what fills in :data:`HOW`.
    """

    format: str
    name: str
    config: Mapping[str, Any]
    shape: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    view: Any
    licence: str
    commit: str | None
    version: str | None
    step: int
    data: Mapping[str, Any]
    evaluation: Sequence[Mapping[str, Any]] = ()
    imported: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    classifier: bool = False
    words: Mapping[str, str] = {}


def text(facts: Facts) -> str:
    """The card; its head is YAML, of which every value is written as JSON."""
    return "\n".join([*_head(facts), *_body(facts)]) + "\n"


def _head(facts: Facts) -> Iterator[str]:
    yield "---"
    yield from _licence(facts.licence)
    yield f"library_name: {LIBRARIES[facts.format]}"
    config = facts.config
    tags = ["ssl_jax", config["method"]["name"], config["model"]["name"], facts.format]
    tags += [] if config["method"]["name"] in ("supcon", "supervised", "imported") else ["self-supervised-learning"]
    yield f"tags: {json.dumps([plain(tag) for tag in dict.fromkeys(tags)])}"
    yield f"pipeline_tag: {_task(facts)}"
    if (source := config["data"]["source"]) and re.fullmatch(r"[a-z0-9_]+", source) and source != "none":
        yield f"datasets: {json.dumps([source])}"
    if facts.evaluation:
        yield "model-index:"
        yield f"  - name: {json.dumps(facts.name)}"
        yield "    results:"
        for result in facts.evaluation:
            on = json.dumps(plain(result["provenance"]["evaluated_on"]))
            yield f'      - task: {{type: "{_task(facts)}"}}'
            yield f"        dataset: {{type: {on}, name: {on}}}"
            yield "        metrics:"
            for name, value in _numbers(result).items():
                if CHOSEN.search(name):
                    continue
                kind = "accuracy" if re.search(r"top\d+$", name) else name
                yield f"          - {{type: {json.dumps(kind)}, name: {json.dumps(name)}, value: {json.dumps(value)}}}"
    yield "---"


def _task(facts: Facts) -> str:
    if len(facts.shape) != 3:
        return "feature-extraction"
    return "image-classification" if facts.classifier else "image-feature-extraction"


def _licence(licence: str) -> Iterator[str]:
    key = licences.key(licence)
    if licence == licences.NOT_STATED:
        yield "license: unknown"
    elif key in licences.KNOWN:
        yield f"license: {key}"
    else:
        yield "license: other"
        yield f"license_name: {json.dumps(licence)}"


def _body(facts: Facts) -> Iterator[str]:
    config = facts.config
    yield f"\n# {facts.name}\n"
    method, model = plain(config["method"]["name"]), plain(config["model"]["name"])
    if facts.imported is None:
        yield f"The encoder ({model}) of a run of {method} on {plain(config['data']['source'])}, step {facts.step}."
    else:
        form = "in the form of" if facts.imported.get("project") in LAYOUTS else "of"
        yield f"An encoder ({model}) that was not trained here: weights {form} {facts.imported.get('project')}."
    yield from (f"\n{note}" for note in facts.notes)
    yield "\n## Use\n"
    if facts.format == "transformers" and facts.classifier:
        yield CLASSIFY.format(**facts.words)
        yield "Its features alone:\n"
    calls = CALLS.get(facts.format, ("", ""))[facts.classifier]
    yield HOW[facts.format].format(**facts.words, calls=calls).rstrip("\n")
    if facts.format == "timm" and facts.words["architecture"] in SHARED and facts.shape[2] == 3:
        yield f"\n{TORCHVISION.format(**facts.words)}".rstrip("\n")
    yield f"\n{_inputs(facts)}"
    yield "\n## Licence\n"
    yield f"Of the weights: {facts.licence}."
    if facts.imported is not None:
        yield _origin(facts.imported)
    yield "\n## Data\n"
    sizes = {split: size for split, size in facts.data.get("sizes", {}).items() if size}
    yield from [] if sizes else ["Not known."]
    for split, size in sizes.items():
        digest = facts.data.get("fingerprints", {}).get(split)
        yield f"- {split}: {size} examples" + (f", fingerprint {digest}" if digest else "")
    yield "\n## Evaluation\n"
    if not facts.evaluation:
        yield "None of this checkpoint was found beside the run."
    for result in facts.evaluation:
        about = result["provenance"]
        yield f"On {plain(about['evaluated_on'])}: {json.dumps(about.get('sizes', {}))}, seed {about.get('seed')}.\n"
        yield "| measure | value | 95 % interval |\n|---|---|---|"
        for name, value in _numbers(result).items():
            low_high = result.get("intervals", {}).get(name)
            yield f"| {name} | {value:.4g} | {'' if low_high is None else ' to '.join(f'{x:.4g}' for x in low_high)} |"
        yield ""
        yield from (f"- {name}: {note}" for name, note in _notes(result).items())
    if facts.imported is None:
        yield f"\n## Run\n\nCommit {facts.commit or 'not known'}, ssl_jax {facts.version}, seed {config['seed']}.\n"
        said = plain(config)
    else:
        yield f"\n## Import\n\nCommit {facts.commit or 'not known'}, ssl_jax {facts.version}.\n"
        said = _came(facts, facts.imported)
    yield f"```json\n{json.dumps(said, indent=1)}\n```"


def _came(facts: Facts, imported: Mapping[str, Any]) -> dict[str, Any]:
    """What there is to say of a network that was imported: the rest of its config was never used."""
    images = {"image_size": facts.shape[0], "mean": facts.mean, "std": facts.std}
    images = {} if facts.view is None else {"data": images | {"evaluate": facts.view._asdict()}}
    record = {key: imported.get(key) for key in CAME} | {"file": plain(imported.get("file"))}
    return {"model": facts.config["model"], **images, "imported": record}


def _origin(imported: Mapping[str, Any]) -> str:
    """Where the weights came from, as far as it is known: of a library's plain file not who trained them."""
    project, source, digest = (imported.get(key) for key in ("project", "source", "sha256"))
    said = f"They came from a file in the form of {project} ({source or 'no source known'}"
    said += (f", sha256 {digest}" if digest else "") + ")"
    who = "; who trained them it does not say" if project in LAYOUTS else ""
    return f"{said}, published under: {imported.get('licence') or 'not known'}{who}."


def _inputs(facts: Facts) -> str:
    """What the encoder takes."""
    if (view := facts.view) is None:
        shape = ", ".join(map(str, facts.shape))
        return f"It takes arrays [b, {shape}]; of text the numbers of tokens in tokenizer.json, with 0 for none."
    height, width, channels = facts.shape
    return (
        f"Images are {height} x {width} pixels of {channels} channel(s) (evaluation: {view.kind}, {view.fraction:g}, "
        f"{view.interpolation}), in [0, 1], with mean {_list(facts.mean)} and standard deviation {_list(facts.std)}."
    )


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result["metrics"].items() if isinstance(value, int | float)}


def _notes(result: Mapping[str, Any]) -> dict[str, str]:
    """What evaluators say that must be known to read their numbers."""
    entries = result.get("evaluators", {}).values()
    return {name: plain(note) for entry in entries for name, note in (entry.get("notes") or {}).items()}


def _list(numbers: Sequence[float]) -> str:
    return ", ".join(f"{x:g}" for x in numbers)


def plain(value: Any) -> Any:
    """A value of a config without folders of the machine that it lay in: "folder:/home/me/cats" -> "folder:cats"."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if not isinstance(value, str) or not re.search(r"[/\\]", value):
        return value
    kind, colon, rest = value.partition(":") if re.match(r"\w+:", value) else ("", "", value)
    return kind + colon + re.split(r"[/\\]", rest.rstrip("/\\"))[-1]
