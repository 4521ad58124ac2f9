"""Makes keras.npz: logits of keras.applications' networks, and where their files hold which array.

    pip install keras tensorflow
    python tests/oracles/make_keras.py

Weights are drawn from the names of layers and variables in Keras (``draw``), so only logits and names are stored: of a
model's ``.h5`` and of its ``.weights.h5`` every path, its shape, and the layer and variable that Keras wrote there.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np

CLASSES = 10
HIDDEN = 32  # of VGG's wide layers
# case: (network, size of the image, its preprocess_input)
NETS = {
    "vgg16": ("VGG16", 224, "vgg16"),
    "vgg16_notop": ("VGG16", 64, "vgg16"),
    "resnet50": ("ResNet50", 64, "resnet"),
    "densenet121": ("DenseNet121", 64, "densenet"),
    "mobilenet_v2": ("MobileNetV2", 72, "mobilenet_v2"),  # with a map of 9 x 9 before a stride
}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array that Keras calls ``LAYER/VARIABLE``, float32 and of sensible size."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    match name.rpartition("/")[2]:
        case "kernel":
            fan_in = np.prod(shape[:2]) if shape[-1] == 1 else np.prod(shape[:-1])
            return x * np.float32(np.sqrt(2 / fan_in))
        case "gamma":
            return 1 + x / 5
        case "beta" | "moving_mean" | "bias":
            return x / 5
        case "moving_variance":
            return np.exp(x / 4)
        case other:
            raise ValueError(other)


def image(size: int) -> np.ndarray:
    """[1, size, size, 3] of whole numbers from 0 to 255, of another size in every colour."""
    draws = np.random.default_rng(size).integers(0, 256, (1, size, size, 3))
    return (draws // np.array([1, 2, 4])).astype(np.uint8)


def network(case: str, keras):
    name, size, _ = NETS[case]
    make = getattr(keras.applications, name)
    if name != "VGG16":
        return make(weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None)
    net = make(weights=None, input_shape=(size, size, 3), include_top=False, pooling="avg" if "notop" in case else None)
    if "notop" in case:
        return net
    x = keras.layers.Flatten(name="flatten")(net.output)  # Keras's own top, but for its width
    for layer in ("fc1", "fc2"):
        x = keras.layers.Dense(HIDDEN, activation="relu", name=layer)(x)
    return keras.Model(net.input, keras.layers.Dense(CLASSES, name="predictions")(x))


def main() -> None:
    import h5py
    import keras

    keras.backend.set_floatx("float64")
    results, names = {}, {}
    for case, (_, size, module) in NETS.items():
        net = network(case, keras)
        by_value = {}
        for layer in net.layers:
            called = [f"{layer.name}/{variable.name}" for variable in layer.weights]
            arrays = [draw(name, tuple(v.shape)) for name, v in zip(called, layer.weights, strict=True)]
            layer.set_weights(arrays)
            by_value |= {array.astype(np.float64).tobytes(): name for name, array in zip(called, arrays, strict=True)}
        x = getattr(keras.applications, module).preprocess_input(image(size).astype(np.float64))
        results[f"logits|{case}"] = np.asarray(net(x, training=False))
        names[case] = {}
        with tempfile.TemporaryDirectory() as folder:
            net.save(f"{folder}/model.h5")
            net.save_weights(f"{folder}/model.weights.h5")
            for ending in ("h5", "weights.h5"):
                found = names[case][ending] = {"arrays": {}, "layers": {}}

                def visit(path, item, found=found, by_value=by_value):
                    if isinstance(item, h5py.Dataset):
                        found["arrays"][path] = by_value.get(np.asarray(item[()]).tobytes()), item.shape
                    elif "name" in item.attrs:
                        found["layers"][path] = item.attrs["name"]

                with h5py.File(f"{folder}/model.{ending}") as file:
                    file.visititems(visit)
    packed = zlib.compress(json.dumps(names).encode(), 9)
    results["names"] = np.frombuffer(packed, np.uint8)
    np.savez(Path(__file__).with_name("keras.npz"), **results)


if __name__ == "__main__":
    main()
