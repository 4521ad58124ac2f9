"""LeJEPA on ImageNet with ViT-S/14: two views of 224 pixels and six of 98, 100 epochs at batch 256.

    make pretrain CONFIG=configs/lejepa_imagenet.py ARGS="--config.data.data_dir=PATH/tfds"

Cost: not measured. Not run here.
Expected: 64.0 % linear, 47.1 kNN for ViT-S after 100 epochs in lightly, whose invariance left the global views out
then. Published, not ours; the authors' 79 % are a ViT-H/14's. Rate, decay of all parameters and the end of the rate are
those of rbalestr-lab/lejepa's README, the projector lightly's, one epoch of warmup that of the authors' minimal script.
Their linear classifier reads the class tokens of the last two blocks, --eval.linear_probe.layers=cls_last2.
"""

from __future__ import annotations

from configs.common import base, imagenet


def get_config():
    config = imagenet(base())
    config.method.update({"name": "lejepa", "sigreg_weight": 0.05, "slices": 1024, "projector_dim": 64})
    config.model.update({"name": "vit_s", "patch_size": 14, "drop_path": 0.1, "cls_token": True, "pool": "cls"})
    config.model.update({"dtype": "bfloat16", "remat": "blocks", "last_blocks": 2})
    config.data.update({"global_batch_size": 256, "recipe": "lejepa"})
    config.optim.update({"name": "adamw", "learning_rate": 5e-4, "scale": "none", "weight_decay": 0.05})
    config.optim.update({"decay_bias_and_norm": True, "warmup_epochs": 1.0, "end": 1e-3})
    config.train.epochs = 100
    return config
