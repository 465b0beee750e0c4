"""Small sound models of every format, each as the contents of its files by name: what is cut, lied about and forged by
the tests of this folder. Any of them loads and answers."""

import io
import json
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.numpy import save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from model.config import ModelConfig
from tests.model.gguf_files import gguf_writer, random_weights, small_config
from tests.model.gguf_files import save as save_gguf

Files = dict[str, bytes]  # by name; "model.gguf" and "model.pth" are named to `load`, else the folder is

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = [*ALPHABET, "he", "ll", SPECIAL[0], SPECIAL[1]]
MERGES = ["h e", "l l"]
VOCAB_SIZE = len(TOKENS)
HF_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def config_of(architecture: str, **changes: Any) -> ModelConfig:
    return small_config(architecture, vocab_size=VOCAB_SIZE, **changes)


def tokenizer_files() -> Files:
    vocabulary = {token: token_id for token_id, token in enumerate(TOKENS[:-2])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split()) for merge in MERGES]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    config = {"chat_template": TEMPLATE, "bos_token": SPECIAL[0], "eos_token": SPECIAL[1]}
    return {"tokenizer.json": backend.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}


def hf_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": [HF_CLASSES[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": config.max_positions,
        "rope_theta": 10000.0,
        "eos_token_id": VOCAB_SIZE - 1,
    }


@cache
def _folder(architecture: str, dtype: str, is_sharded: bool) -> Mapping[str, bytes]:
    config = config_of(architecture)
    weights = {name: values.astype(dtype) for name, values in random_weights(config).items()}
    generation = json.dumps({"temperature": 0.7, "top_p": 0.9, "top_k": 20}).encode()
    files = tokenizer_files() | {
        "config.json": json.dumps(hf_config(config)).encode(),
        "generation_config.json": generation,
    }
    if not is_sharded:
        return files | {"model.safetensors": save(weights)}
    names = sorted(weights)
    halves = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    files |= {file: save({name: weights[name] for name in part}) for file, part in halves.items()}
    return files | {"model.safetensors.index.json": json.dumps(index).encode()}


def folder(architecture: str = "llama", dtype: str = "float32", is_sharded: bool = False) -> Files:
    return dict(_folder(architecture, dtype, is_sharded))


def safetensors_file(header: Mapping[str, Any] | bytes, values: bytes, length: int | None = None) -> bytes:
    """`length`: what is said of the header's."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", (len(text) if length is None else length) & 2**64 - 1) + text + values


def split_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def writer(architecture: str = "llama", encoding: str = "F32", **changes: Any) -> gguf.GGUFWriter:
    """Of a GGUF file, to be changed and saved."""
    made = gguf_writer(config_of(architecture, **changes), encoding=encoding)
    made.add_tokenizer_model("gpt2")
    made.add_tokenizer_pre("gpt-2")
    made.add_token_list(TOKENS)
    made.add_token_types([gguf.TokenType.NORMAL] * len(TOKENS[:-2]) + [gguf.TokenType.CONTROL] * 2)
    made.add_token_merges(MERGES)
    made.add_bos_token_id(VOCAB_SIZE - 2)
    made.add_eos_token_id(VOCAB_SIZE - 1)
    made.add_chat_template(TEMPLATE)
    return made


def saved(made: gguf.GGUFWriter, path: Path) -> bytes:
    save_gguf(made, path)
    return path.read_bytes()


def minimind_state(config: ModelConfig | None = None) -> dict[str, torch.Tensor]:
    config = config or config_of("qwen3", tie_word_embeddings=True)
    state = {name: torch.from_numpy(np.array(values)) for name, values in random_weights(config).items()}
    return state | {"lm_head.weight": state["model.embed_tokens.weight"]}


def pth(state: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


@cache
def _minimind() -> bytes:
    return pth(minimind_state())


def minimind() -> Files:
    return tokenizer_files() | {"model.pth": _minimind()}


def write(files: Mapping[str, bytes], place: Path) -> Path:
    """Into that folder. Returns what is to be named to `load`."""
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (place / name).write_bytes(content)
    return next((place / name for name in ("model.gguf", "model.pth") if name in files), place)
