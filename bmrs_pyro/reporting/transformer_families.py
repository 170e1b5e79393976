"""Surveys of small, randomly initialised transformers, one per family."""

from __future__ import annotations

__all__ = ["transformer_table"]

import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from bmrs_pyro.network import NoisyNetwork, find_structures, reachable
from bmrs_pyro.reporting.architectures import awake, markdown_table, removal_error

_WORDS = 99
_TEXT = {
    "vocab_size": _WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
    "intermediate_size": 160, "max_position_embeddings": 40,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_IMAGE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "image_size": 32, "patch_size": 8
}  # fmt: skip
_T5 = {"vocab_size": _WORDS, "d_model": 64, "d_kv": 8, "d_ff": 160, "num_layers": 2, "num_heads": 8}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
# class and configuration in the package transformers
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT": ("Bert ForSequenceClassification", _TEXT),
    "RoBERTa": ("Roberta ForSequenceClassification", _TEXT),
    "DistilBERT": (
        "DistilBert ForSequenceClassification",
        {"vocab_size": _WORDS, "dim": 64, "n_layers": 2, "n_heads": 8, "hidden_dim": 160,
         "max_position_embeddings": 40},
    ),
    "Electra": ("Electra ForSequenceClassification", {**_TEXT, "embedding_size": 64}),
    "ModernBERT": ("ModernBert ForSequenceClassification", {**_TEXT, "cls_token_id": 1, "sep_token_id": 2}),
    "GPT-2": (
        "GPT2 LMHeadModel",
        {"vocab_size": _WORDS, "n_embd": 64, "n_layer": 2, "n_head": 8, "n_positions": 40,
         "bos_token_id": 1, "eos_token_id": 2},
    ),
    "Llama": ("Llama ForCausalLM", _TEXT),
    "Llama, 2 key/value heads": ("Llama ForCausalLM", _GROUPED),
    "Mistral": ("Mistral ForCausalLM", _GROUPED),
    "Qwen2": ("Qwen2 ForCausalLM", _GROUPED),
    "Qwen3": ("Qwen3 ForCausalLM", {**_GROUPED, "head_dim": 8}),
    "Gemma2": ("Gemma2 ForCausalLM", {**_GROUPED, "head_dim": 8}),
    "Qwen3-MoE": (
        "Qwen3Moe ForCausalLM",
        {**_GROUPED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40},
    ),
    "OLMoE": ("Olmoe ForCausalLM", {**_TEXT, "num_experts": 4, "num_experts_per_tok": 2}),
    "Mamba": (
        "Mamba ForCausalLM",
        {"vocab_size": _WORDS, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 4, "pad_token_id": 0},
    ),
    "T5": ("T5 ForConditionalGeneration", _T5),
    "T5, gated": ("T5 ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "Whisper": (
        "Whisper ForConditionalGeneration",
        {
            "vocab_size": _WORDS, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 8,
            "decoder_attention_heads": 8, "encoder_ffn_dim": 160, "decoder_ffn_dim": 160, "num_mel_bins": 16,
            "max_source_positions": 20, "max_target_positions": 40, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
        },
    ),
    "ViT": ("ViT ForImageClassification", {**_IMAGE, "intermediate_size": 160}),
    "DINOv2": ("Dinov2 ForImageClassification", _IMAGE),
    "Swin": (
        "Swin ForImageClassification",
        {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [4, 8], "window_size": 4},
    ),
    "SegFormer": (
        "Segformer ForImageClassification",
        {"hidden_sizes": [32, 64, 64, 64], "depths": [1] * 4, "num_attention_heads": [2, 4, 4, 8]},
    ),
}  # fmt: skip


class _Encoder(nn.Module):
    """A classifier with an ``nn.TransformerEncoder``."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 8, 160, batch_first=True)
        self.embedding, self.encoder = nn.Embedding(_WORDS, 64), nn.TransformerEncoder(layer, 2)
        self.last = nn.Linear(64, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.last(self.encoder(self.embedding(input_ids)).mean(1))


class _Recurrent(nn.Module):
    """A classifier with a recurrent layer."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embedding, self.recurrent = nn.Embedding(_WORDS, 32), kind(32, 64, batch_first=True)
        self.last = nn.Linear(64, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.last(self.recurrent(self.embedding(input_ids))[0][:, -1])


def transformer_table() -> str:
    """Return a Markdown table with one row per family of transformers and recurrent networks.

    Needs the package transformers; nothing is downloaded.
    """
    head = ["network", "families", "reachable", "stays", "seconds", "error"]
    return markdown_table([head, *([name, *_row(net)] for name, net in _networks())])


def _networks() -> Iterator[tuple[str, nn.Module]]:
    transformers = import_module("transformers")
    torch.manual_seed(0)
    for name, (classes, config) in _FAMILIES.items():
        family, task = classes.split()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield (
                name,
                getattr(transformers, family + task)(getattr(transformers, f"{family}Config")(**config)),
            )
    yield "nn.TransformerEncoder", _Encoder()
    yield "torchvision ViT", VisionTransformer(32, 8, 2, 8, 64, 160, num_classes=5)
    yield "nn.LSTM", _Recurrent(nn.LSTM)
    yield "nn.GRU", _Recurrent(nn.GRU)


def _row(net: nn.Module) -> list[str]:
    net, draw = awake(net), _inputs(net)
    start = time.perf_counter()
    found = find_structures(net, *draw(2, 9))
    seconds = time.perf_counter() - start
    whole = sum(weight.numel() for weight in _beside_embeddings(net))
    share, error = 0.0, "—"
    if found:
        network = NoisyNetwork(net, *draw(2, 9), structures=found)
        share = reachable(net, found) / whole
        errors = [removal_error(network, *draw(*size), seed=size[0]) for size in ((3, 14), (5, 6))]
        error = f"{max(errors):.0e}"
    return [str(len(found)), f"{min(share, 1):.0%}", f"{1 - min(share, 1):.0%}", f"{seconds:.1f}", error]


def _inputs(net: nn.Module) -> Callable[[int, int], tuple[Any, ...]]:
    """Return a function that draws inputs, given the number of examples and the length."""

    def words(batch: int, length: int) -> Tensor:
        return torch.randint(3, _WORDS, (batch, length))

    match type(net).__name__:
        case "T5ForConditionalGeneration":
            return lambda b, n: ({"input_ids": words(b, n), "decoder_input_ids": words(b, n - 1)},)
        case "WhisperForConditionalGeneration":
            return lambda b, n: (
                {"input_features": torch.randn(b, 16, 40), "decoder_input_ids": words(b, n)},
            )
        case name if "Image" in name or name == "VisionTransformer":
            size = 128 if "Segformer" in name else 32
            return lambda b, n: (torch.randn(b, 3, size, size),)
    return lambda b, n: (words(b, n),)


def _beside_embeddings(net: nn.Module) -> list[nn.Parameter]:
    """Return the parameters except embeddings (of tokens, positions, patches) and the output layer over tokens."""
    output = getattr(net, "get_output_embeddings", lambda: None)()
    skipped = {id(weight) for weight in (output.parameters() if output is not None else ())}
    for module in net.modules():
        if isinstance(module, nn.Embedding) or type(module).__name__.endswith(("Embeddings", "PatchEmbed")):
            skipped |= {id(weight) for weight in module.parameters()}
    skipped |= {
        id(weight) for name, weight in net.named_parameters() if "pos_emb" in name or "conv_proj" in name
    }
    return [weight for weight in net.parameters() if id(weight) not in skipped]
