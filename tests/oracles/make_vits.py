"""Makes vits.npz: what the vision transformers of timm, torchvision and transformers give, and tables of positions.

    pip install torch torchvision timm transformers scipy && python tests/oracles/make_vits.py

Weights are drawn from their names there and their shapes (``draw``), so only outputs, and names with shapes, are
stored. DINO's and DINOv2's rule for positions is timm's network with a table resized as their code does it.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np

CLASSES = 5
WIDTH, DEPTH, HEADS, PATCH = 24, 2, 3, 4
SIZES = (16, 24)  # of images; the tables are of 16
# case: (library, arguments there, fields of ours that shapes do not say)
CASES = {
    "timm": ("timm", {}, {"pool": "cls", "positions_rule": "timm"}),
    "timm_mean": ("timm", {"global_pool": "avg"}, {"positions_rule": "timm"}),
    "dino": ("timm", {}, {"pool": "cls", "positions_rule": "dino"}),
    "dinov2": ("timm", {"init_values": 1e-5}, {"pool": "cls", "positions_rule": "dinov2"}),
    "timm_registers": (
        "timm",
        {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
        {"pool": "cls", "positions_rule": "timm"},
    ),
    "timm_giant": ("timm", {"init_values": 1e-5, "swiglu": True}, {"pool": "cls", "positions_rule": "timm"}),
    "torchvision": ("torchvision", {}, {"pool": "cls", "positions_rule": "torchvision"}),
    "hf_vit": ("transformers", {"kind": "ViT"}, {"pool": "cls", "eps": 1e-12, "positions_rule": "transformers"}),
    "hf_dinov2": ("transformers", {"kind": "Dinov2"}, {"positions_rule": "transformers"}),
    "hf_dinov2_giant": (
        "transformers",
        {"kind": "Dinov2", "use_swiglu_ffn": True},
        {"positions_rule": "transformers"},
    ),
    "hf_dinov2_registers": (
        "transformers",
        {"kind": "Dinov2WithRegisters", "num_register_tokens": 3},
        {"positions_rule": "transformers"},
    ),
}
RESIZES = [(4, 6), (6, 4), (5, 3), (14, 6), (7, 7)]  # of the side of a table to another


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array that torch calls ``name``, float32, of sensible size."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if name.endswith(("gamma", "lambda1")) or (name.endswith("weight") and len(shape) == 1):
        return 1 + x / 5
    if name.endswith("weight") and len(shape) > 1:
        return x / np.float32(np.sqrt(np.prod(shape[1:])))
    return x / 5 if name.endswith("bias") else x


def network(library: str, more: dict):
    """A network, float64, filled by the names of its file; those with shapes."""
    import torch

    if library == "transformers":
        return of_transformers(dict(more))
    if library == "torchvision":
        from torchvision.models import VisionTransformer

        net = VisionTransformer(SIZES[0], PATCH, DEPTH, HEADS, WIDTH, 2 * WIDTH, num_classes=CLASSES)
    else:
        from timm.layers import SwiGLUPacked
        from timm.models.vision_transformer import VisionTransformer

        more = dict(more)
        if more.pop("swiglu", False):
            more |= {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
        sizes = {"img_size": SIZES[0], "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
        net = VisionTransformer(**sizes, mlp_ratio=2, num_classes=CLASSES, dynamic_img_size=True, **more)
    net.double().eval()
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    net.load_state_dict({k: torch.from_numpy(draw(k, shape)) for k, shape in shapes.items()})
    return net, shapes


def of_transformers(more: dict):
    """By what it writes to disk, whose names are others than those of its modules."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    kind = more.pop("kind")
    sizes = {"image_size": SIZES[0], "patch_size": PATCH, "hidden_size": WIDTH, "num_hidden_layers": DEPTH}
    sizes |= {"num_attention_heads": HEADS, "num_labels": CLASSES}
    sizes |= {"intermediate_size": 2 * WIDTH} if kind == "ViT" else {"mlp_ratio": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes, **more, attn_implementation="eager")
    classify = getattr(transformers, f"{kind}ForImageClassification")
    with tempfile.TemporaryDirectory() as folder:
        classify(config).save_pretrained(folder)
        file = Path(folder) / "model.safetensors"
        shapes = {k: tuple(v.shape) for k, v in load_file(file).items()}
        save_file({k: torch.from_numpy(draw(k, shape)) for k, shape in shapes.items()}, file, {"format": "pt"})
        net = classify.from_pretrained(folder, attn_implementation="eager").double().eval()
    return net, shapes


def outputs(case: str, net, size: int, torch) -> dict[str, np.ndarray]:
    library = CASES[case][0]
    if library == "torchvision" and size != SIZES[0]:  # takes images of one size
        from torchvision.models.vision_transformer import interpolate_embeddings

        table = interpolate_embeddings(size, PATCH, net.state_dict())["encoder.pos_embedding"]
        net.encoder.pos_embedding = torch.nn.Parameter(table)
        net.image_size = size
    x = torch.from_numpy(draw("input", (2, size, size, 3))).double().permute(0, 3, 1, 2)
    if library == "timm":
        if case in ("dino", "dinov2") and size != SIZES[0]:
            resize_as_dino(net, size // PATCH, torch)
        tokens = net.forward_features(x)
        cls, patches, logits = tokens[:, 0], tokens[:, net.num_prefix_tokens :], net.forward_head(tokens)
    elif library == "torchvision":
        seen = []
        net.encoder.register_forward_hook(lambda _, inputs, out: seen.append(out))
        logits = net(x)
        cls, patches = seen[0][:, 0], seen[0][:, 1:]
    else:
        # torch's bicubic is asked for in float32 there: put the table as this size has it
        interpolated = {"interpolate_pos_encoding": True} if case == "hf_vit" else {}
        trunk = net.vit if case == "hf_vit" else next(m for n, m in net.named_children() if n.startswith("dinov2"))
        tokens = trunk(x, **interpolated).last_hidden_state
        logits = net(x, **interpolated).logits
        registers = getattr(net.config, "num_register_tokens", 0)
        cls, patches = tokens[:, 0], tokens[:, 1 + registers :]
    found = {"cls": cls, "mean": patches.mean(1), "patch": patches[:, 1], "logits": logits}
    return {k: v.numpy().astype(np.float32) for k, v in found.items()}


def resize_as_dino(net, side: int, torch) -> None:
    """What both do in their forward pass: bicubic by a factor of (side + .1) / source."""
    table = net.pos_embed.data
    source = round((table.shape[1] - 1) ** 0.5)
    grid = table[:, 1:].reshape(1, source, source, -1).permute(0, 3, 1, 2)
    factor = (side + 0.1) / source
    grid = torch.nn.functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    assert grid.shape[-1] == side
    net.pos_embed.data = torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
    net.patch_embed.img_size, net.patch_embed.grid_size = (side * PATCH,) * 2, (side, side)


def weights(rule: str, source: int, target: int, torch) -> np.ndarray:
    """[target, source] of one axis, by resizing the unit vectors."""
    if rule == "big_vision":
        from scipy import ndimage

        return np.stack([ndimage.zoom(row, target / source, order=1) for row in np.eye(source)], 1)
    line = torch.eye(source, dtype=torch.float64)[None, :, :, None].expand(1, -1, -1, source).contiguous()
    if rule == "dino":
        more = {"scale_factor": ((target + 0.1) / source, 1.0)}
    else:
        more = {"size": (target, source), "antialias": rule == "timm", "align_corners": rule == "torchvision"}
    return torch.nn.functional.interpolate(line, mode="bicubic", **more)[0, :, :, 0].T.numpy()


def main() -> None:
    import torch

    results, names = {}, {}
    with torch.no_grad():
        for case, (library, more, _) in CASES.items():
            net, names[case] = network(library, more)
            for size in SIZES:
                for name, array in outputs(case, net, size, torch).items():
                    results[f"{case}|{size}|{name}"] = array
        for rule in ("dino", "timm", "transformers", "torchvision", "big_vision"):
            for source, target in RESIZES:
                results[f"resize|{rule}|{source}|{target}"] = weights(rule, source, target, torch)
    results["names"] = np.frombuffer(zlib.compress(json.dumps(names).encode(), 9), np.uint8)
    path = Path(__file__).with_name("vits.npz")
    np.savez_compressed(path, **results)
    print(f"{path}: {len(results)} arrays, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
