"""Makes classic.npz: logits of torchvision's classic networks and of other projects' ResNets, and all their names.

    pip install torch torchvision transformers tensorflow
    python tests/oracles/make_classic.py ../shared/data/weights/cifar_resnet

Weights are drawn from their names there and their shapes (``draw``), so only logits, a product of the features, and
names with shapes are stored. ResNets that pad or stride in another way are computed by TensorFlow's operations, the
real networks for CIFAR-10 by torch's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

CLASSES = 10
# case: (torchvision's name, size of the images, width of the two wide layers)
NETS = {
    "resnet18": ("resnet18", 64, None),
    "resnet34": ("resnet34", 64, None),
    "resnet50": ("resnet50", 64, None),
    "alexnet": ("alexnet", 96, 32),
    "alexnet_224": ("alexnet", 224, None),
    "vgg11": ("vgg11", 64, 32),
    "vgg11_bn": ("vgg11_bn", 80, 32),
    "vgg16": ("vgg16", 64, 32),
    "vgg16_bn": ("vgg16_bn", 64, 32),
    "vgg16_224": ("vgg16", 224, None),
    "squeezenet1_0": ("squeezenet1_0", 64, None),
    "squeezenet1_1": ("squeezenet1_1", 65, None),
    "densenet121": ("densenet121", 64, None),
    "mobilenet_v2": ("mobilenet_v2", 64, None),
}
# case: fields of a ResNet of two blocks of a quarter of the width; size of the images
VARIANTS = {
    "byol": ({"bottleneck": True, "padding": "same", "pool_padding": "same"}, 32),
    "byol_odd": ({"padding": "same", "pool_padding": "same", "project_first": True}, 34),
    "simclr": ({"pool_padding": "same", "project_first": True}, 32),
    "caffe": ({"bottleneck": True, "stride_first": True}, 32),
    "solo": ({"stem": "cifar", "stem_padding": 2}, 12),
    "pad": ({"stem": "cifar", "shortcut": "pad"}, 13),
}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array that torch calls ``name``, float32: weights of sensible size by their last word, else N(0, 1)."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    match name.rpartition(".")[2]:
        case "weight" if len(shape) > 1:
            return x * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        case "weight":
            return 1 + x / 5
        case "bias" | "running_mean":
            return x / 5
        case "running_var":
            return np.exp(x / 4)
        case _:
            return x


def photos() -> np.ndarray:
    """Eight images [8, 32, 32, 3] in [0, 1] by a formula."""
    i, y, x, c = np.ogrid[:8, :32, :32, :3]
    return (0.5 + 0.5 * np.sin(0.3 * (i + 1) * y / (c + 1) + 0.2 * x * (1 + i % 3) + c)).astype(np.float32)


def network(name: str, wide: int | None, torch, torchvision):
    net = getattr(torchvision.models, name)(num_classes=CLASSES)
    if wide:
        first, second, last = (1, 4, 6) if name == "alexnet" else (0, 3, 6)
        net.classifier[first] = torch.nn.Linear(net.classifier[first].in_features, wide)
        net.classifier[second] = torch.nn.Linear(wide, wide)
        net.classifier[last] = torch.nn.Linear(wide, CLASSES)
    return net


def last_layer(net):
    """What the features go into."""
    found = net.fc if hasattr(net, "fc") else net.classifier
    return found if not hasattr(found, "__getitem__") else [m for m in found if hasattr(m, "weight")][-1]


def fill(net, torch) -> dict[str, tuple[int, ...]]:
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    net.double().eval()
    net.load_state_dict({k: torch.from_numpy(draw(k, tuple(v.shape))) for k, v in state.items()}, strict=False)
    return {k: tuple(v.shape) for k, v in state.items()}


def of_torchvision(results: dict, names: dict) -> None:
    import torch
    import torchvision

    for case, (name, size, wide) in NETS.items():
        net = network(name, wide, torch, torchvision)
        names[case] = fill(net, torch)
        seen = []
        last_layer(net).register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        x = torch.from_numpy(draw("input", (2, size, size, 3))).double().permute(0, 3, 1, 2)
        with torch.no_grad():
            results[f"logits|{case}"] = net(x).numpy()
        features = seen[0] if seen[0].ndim == 2 else seen[0].mean((2, 3))
        results[f"features|{case}"] = features.numpy() @ draw("probe", (features.shape[1], 4))


def of_transformers(results: dict, names: dict) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import ResNetConfig, ResNetForImageClassification

    for case, kind, depths, widths in (
        ("hf_resnet18", "basic", [2, 2, 2, 2], [64, 128, 256, 512]),
        ("hf_resnet50", "bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048]),
    ):
        config = ResNetConfig(layer_type=kind, depths=depths, hidden_sizes=widths, num_labels=CLASSES)
        net = ResNetForImageClassification(config)
        with tempfile.TemporaryDirectory() as folder:
            net.save_pretrained(folder)
            file = Path(folder) / "model.safetensors"
            from safetensors.torch import save_file

            state = {
                k: torch.from_numpy(draw(k, tuple(v.shape))) if v.is_floating_point() else v
                for k, v in load_file(file).items()
            }
            save_file(state, file, {"format": "pt"})
            net = ResNetForImageClassification.from_pretrained(folder).double().eval()
        names[case] = {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}
        x = torch.from_numpy(draw("input", (2, 64, 64, 3))).double().permute(0, 3, 1, 2)
        with torch.no_grad():
            results[f"logits|{case}"] = net(x).logits.numpy()


def variant_shapes(fields: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes [h, w, in, out] of the kernels: a stem of 16 channels, stages of 16 and 32 with a block each."""
    kernel = 3 if fields.get("stem") == "cifar" else 7
    found = {"stem": (kernel, kernel, 3, 16)}
    width = 16
    for k, inner in enumerate((16, 32)):
        sizes = [(1, inner), (3, inner), (1, 4 * inner)] if fields.get("bottleneck") else [(3, inner), (3, inner)]
        below = width
        for n, (kernel, out) in enumerate(sizes):
            found[f"{k}.{n}"] = (kernel, kernel, below, out)
            below = out
        changes = below != width or k > 0 or fields.get("project_first")
        if changes and fields.get("shortcut") != "pad":
            found[f"{k}.shortcut"] = (1, 1, width, below)
        width = below
    return found


def by_tensorflow(case: str) -> np.ndarray:
    import tensorflow as tf

    fields, size = VARIANTS[case]
    shapes = variant_shapes(fields)

    def conv(x, name, stride):
        kernel = draw_kernel(name, shapes[name])
        if fields.get("padding") == "same":
            x = tf.nn.conv2d(x, kernel, stride, "SAME")
        else:
            pad = (fields.get("stem_padding") if name == "stem" else None) or (len(kernel) - 1) // 2
            x = tf.nn.conv2d(x, kernel, stride, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        scale, bias, mean, var = (draw(f"{name}.{w}", shapes[name][-1:]).astype(float) for w in NORM)
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    x = tf.constant(draw("input", (2, size, size, 3)).astype(float))
    cifar = fields.get("stem") == "cifar"
    x = tf.nn.relu(conv(x, "stem", 1 if cifar else 2))
    if not cifar:
        pads = "SAME" if fields.get("pool_padding") == "same" else [[0, 0], [1, 1], [1, 1], [0, 0]]
        x = tf.nn.max_pool2d(x, 3, 2, pads)
    for k in (0, 1):
        count = 3 if fields.get("bottleneck") else 2
        strides = [1] * count
        if k == 1:
            strides[0 if fields.get("stride_first") or count == 2 else 1] = 2
        y = x
        for n, stride in enumerate(strides):
            y = conv(y, f"{k}.{n}", stride)
            y = tf.nn.relu(y) if n < count - 1 else y
        if f"{k}.shortcut" in shapes:
            x = conv(x, f"{k}.shortcut", 1 + k)
        elif k == 1:
            x = tf.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [8, 8]])
        x = tf.nn.relu(x + y)
    return x.numpy().mean((1, 2))


NORM = ("weight", "bias", "running_mean", "running_var")


def draw_kernel(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """[h, w, in, out], float64."""
    return draw(f"{name}.kernel.weight", (shape[3], *shape[:3])).astype(float).transpose(1, 2, 3, 0)


def of_cifar(results: dict, folder: Path) -> None:
    import torch
    from torch.nn import functional as F

    for depth in (20, 32):
        (file,) = folder.glob(f"resnet{depth}-*.th")
        state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
        w = {k.removeprefix("module."): v.double() for k, v in state.items()}

        def conv(x, name, norm, stride=1, w=w):
            x = F.conv2d(x, w[f"{name}.weight"], stride=stride, padding=1)
            return F.batch_norm(x, *(w[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))

        x = (photos() - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        x = F.relu(conv(torch.from_numpy(x).permute(0, 3, 1, 2), "conv1", "bn1"))
        for s in (1, 2, 3):
            for b in range((depth - 2) // 6):
                stride, block = 2 if s > 1 and b == 0 else 1, f"layer{s}.{b}"
                y = F.relu(conv(x, f"{block}.conv1", f"{block}.bn1", stride))
                y = conv(y, f"{block}.conv2", f"{block}.bn2")
                more = (y.shape[1] - x.shape[1]) // 2
                x = F.relu(y + F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more, more)))
        results[f"logits|cifar_resnet{depth}"] = F.linear(x.mean((2, 3)), w["linear.weight"], w["linear.bias"]).numpy()


def main(folder: Path) -> None:
    results: dict[str, np.ndarray] = {}
    names: dict[str, dict[str, tuple[int, ...]]] = {}
    of_torchvision(results, names)
    of_transformers(results, names)
    of_cifar(results, folder)
    for case in VARIANTS:
        results[f"features|{case}"] = by_tensorflow(case)
    results["names"] = np.frombuffer(zlib.compress(json.dumps(names).encode(), 9), np.uint8)
    path = Path(__file__).with_name("classic.npz")
    np.savez_compressed(path, **results)
    print(f"{path}: {len(results)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
