"""Makes models.npz: torchvision's residual blocks, narrow, in float64, evaluated and differentiated by torch.

    pip install torch torchvision && python tests/oracles/make_models.py

Weights and inputs are drawn from their names (``draw``), so only results are stored: the features and pooled stage
maps in both modes, and, for every parameter and every running statistic, the product of its gradient or new value
with a random array of its shape (any wrong entry changes it).
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

NETS = {
    # name: (bottleneck, blocks, stem, image size, width of the stem)
    "basic_cifar": (False, (2, 2, 2, 2), "cifar", 16, 8),
    "bottleneck_imagenet": (True, (2, 1), "imagenet", 32, 8),
}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array called ``name``, float64: weights of sensible size by their last word, anything else N(0, 1)."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    match name.rsplit("/", 1)[-1]:
        case "kernel":
            return x * np.sqrt(2 / np.prod(shape[:-1]))
        case "scale":
            return 1 + 0.2 * x
        case "bias" | "mean":
            return 0.2 * x
        case "var":
            return np.exp(0.3 * x)
        case _:
            return x


def our_name(torch_name: str) -> str:
    """``layer2.0.bn1.weight -> stage2_block0/norm1/scale``, with the convolution's weight called kernel."""
    name = re.sub(r"^layer(\d)\.(\d)\.", r"stage\1_block\2/", torch_name)
    name = re.sub(r"^conv1\.", "stem_conv.", re.sub(r"^bn1\.", "stem_norm.", name))
    name = name.replace("downsample.0.", "shortcut_conv.").replace("downsample.1.", "shortcut_norm.")
    name = re.sub(r"/bn(\d)\.", r"/norm\1.", name)
    name = name.replace("running_mean", "mean").replace("running_var", "var")
    if re.search(r"conv\d?\.weight$", name):
        return name.replace(".weight", "/kernel")
    return name.replace(".weight", "/scale").replace(".", "/")


def main() -> None:
    import torch
    from torchvision.models import resnet

    class Narrow(resnet.ResNet):
        def __init__(self, bottleneck, blocks, stem, width):
            torch.nn.Module.__init__(self)
            self._norm_layer, self.groups, self.base_width, self.dilation = torch.nn.BatchNorm2d, 1, 64, 1
            self.inplanes = width
            kernel, stride, pad = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
            self.conv1 = torch.nn.Conv2d(3, width, kernel, stride, pad, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(width)
            self.pool = torch.nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else torch.nn.Identity()
            block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
            for k, count in enumerate(blocks):
                layer = self._make_layer(block, width * 2**k, count, stride=1 if k == 0 else 2)
                setattr(self, f"layer{k + 1}", layer)

        def forward(self, x):
            out = {"stem": torch.relu(self.bn1(self.conv1(x)))}
            x = self.pool(out["stem"])
            for k in range(1, len(blocks) + 1):
                x = out[f"stage{k}"] = getattr(self, f"layer{k}")(x)
            return {name: a.mean((2, 3)) for name, a in out.items()} | {"features": x.mean((2, 3))}

    def ours(a):  # OIHW -> HWIO
        return a.permute(2, 3, 1, 0) if a.ndim == 4 else a

    results = {}
    for net, (bottleneck, blocks, stem, size, width) in NETS.items():
        model = Narrow(bottleneck, blocks, stem, width).double()
        with torch.no_grad():
            for name, a in (*model.named_parameters(), *model.named_buffers()):
                if "num_batches" not in name:
                    value = torch.from_numpy(draw(our_name(name), tuple(ours(a).shape)))
                    a.copy_(value.permute(3, 2, 0, 1) if a.ndim == 4 else value)
        x = torch.from_numpy(draw("input", (4, size, size, 3))).permute(0, 3, 1, 2)
        rows = {}  # values per channel that each BatchNorm averages
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                hook = lambda _, args, out, name=name, rows=rows: rows.update({name: out.numel() // out.shape[1]})  # noqa: E731
                module.register_forward_hook(hook)
        for mode in ("eval", "train"):
            out = model.train(mode == "train")(x)
            for name, a in out.items():
                results[f"{net}|{mode}|{name}"] = a.detach().numpy()
        (out["features"] * torch.from_numpy(draw("cotangent", tuple(out["features"].shape)))).sum().backward()
        for name, a in model.named_parameters():
            name, grad = our_name(name), ours(a.grad).numpy()
            results[f"{net}|grad|{name}"] = np.sum(grad * draw(name + "/probe", grad.shape))
        for name, a in model.named_buffers():
            if "num_batches" not in name:
                n, name, new = rows[name.rpartition(".")[0]], our_name(name), a.numpy()
                if name.endswith("/var"):  # torch records the unbiased variance; undo its n / (n - 1)
                    kept = 0.9 * draw(name, new.shape)
                    new = kept + (new - kept) * (n - 1) / n
                results[f"{net}|running|{name}"] = np.sum(new * draw(name + "/probe", new.shape))
    path = Path(__file__).with_name("models.npz")
    np.savez_compressed(path, **results)
    print(f"{path}: {len(results)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
