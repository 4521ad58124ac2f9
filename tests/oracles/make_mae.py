"""Makes mae.npz: masks, encoder's tokens, paintings and losses of transformers' ViTMAE, given the noise.

    pip install torch transformers && python tests/oracles/make_mae.py

Weights are drawn from their names there and their shapes (``draw``), so only outputs, and names with shapes, are
stored. Positions are the fixed ones, by transformers' own function (5.24); built from a config they are zeros.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

try:
    from make_vits import draw
except ImportError:
    from tests.oracles.make_vits import draw

ENCODER = {"patch_size": 4, "width": 24, "depth": 2, "heads": 3}
DECODER = {"width": 16, "depth": 2, "heads": 2}
IMAGES, RATIO = (3, 16, 16, 3), 0.75  # 4 x 4 patches


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """(images, noise), float64."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(IMAGES), rng.random((IMAGES[0], 16))


def main() -> None:
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining
    from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding as grid

    images, noise = (torch.from_numpy(a) for a in inputs())
    images = images.permute(0, 3, 1, 2)
    found = {}
    for norm_pix in (False, True):
        net = ViTMAEForPreTraining(
            ViTMAEConfig(
                **{"hidden_size": ENCODER["width"], "num_hidden_layers": ENCODER["depth"], "image_size": IMAGES[1]},
                **{"num_attention_heads": ENCODER["heads"], "intermediate_size": 4 * ENCODER["width"]},
                **{"decoder_hidden_size": DECODER["width"], "decoder_num_hidden_layers": DECODER["depth"]},
                **{"decoder_num_attention_heads": DECODER["heads"]},
                **{"decoder_intermediate_size": 4 * DECODER["width"], "patch_size": ENCODER["patch_size"]},
                **{"layer_norm_eps": 1e-6, "mask_ratio": RATIO, "norm_pix_loss": norm_pix},
            )
        )
        net.double().eval()
        shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
        state = {k: torch.from_numpy(draw(k, s).astype(np.float64)) for k, s in shapes.items()}
        for name, width in (("vit.embeddings.position_embeddings", 24), ("decoder.decoder_pos_embed", 16)):
            table = grid(4, 4, width, cls_token=True, dtype=torch.float64)
            state[name] = table.roll(width // 2, dims=1)[None]  # the column first, as its network does
        net.load_state_dict(state)
        pixels = images.clone().requires_grad_()
        out = net(pixel_values=pixels, noise=noise)
        (slope,) = torch.autograd.grad(out.loss, pixels)
        encoded = net.vit(images, noise=noise)
        found[f"{norm_pix}|loss"] = out.loss.detach().numpy()
        found["mask"], found["restore"] = out.mask.numpy().astype(bool), out.ids_restore.numpy()
        found["encoded"], found["painted"] = (a.detach().numpy() for a in (encoded.last_hidden_state, out.logits))
    found["gradient"] = slope.permute(0, 2, 3, 1).numpy()  # of the pixels, of the latter loss
    found["names"] = np.frombuffer(zlib.compress(json.dumps(shapes).encode(), 9), np.uint8)
    np.savez_compressed(Path(__file__).with_suffix("").with_name("mae.npz"), **found)


if __name__ == "__main__":
    main()
