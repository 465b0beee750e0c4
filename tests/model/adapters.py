"""Adapters for tests: random ones for a config, and files as MiniMind and PEFT write them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from model.config import ModelConfig
from model.formats.adapter import Adapter, Half, build_adapter
from tests.model.random_checkpoint import float32_tensor

LAYER_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def matrices_of(config: ModelConfig, names: Sequence[str] = LAYER_MATRICES) -> dict[str, tuple[int, ...]]:
    """Of the layers: those whose names end so, with their shapes, experts left out."""
    ends = tuple(f".{name}.weight" for name in names)
    return {name: shape for name, shape in config.tensor_shapes() if name.endswith(ends) and ".experts." not in name}


def random_adapter(
    config: ModelConfig, seed: int, rank: int = 4, names: Sequence[str] = LAYER_MATRICES, name: str = "tuned"
) -> Adapter:
    """It changes much: B A is of about the size of the matrices of a random checkpoint."""
    generator, path, halves = np.random.default_rng(seed), Path(f"adapter-{seed}"), []
    for weight, (rows, columns) in matrices_of(config, names).items():
        a = generator.standard_normal((rank, columns), dtype=np.float32) / np.float32(columns**0.5)
        b = generator.standard_normal((rows, rank), dtype=np.float32) / np.float32(rank**0.5)
        halves += [Half(weight, "A", float32_tensor(path, "A", a)), Half(weight, "B", float32_tensor(path, "B", b))]
    return build_adapter(name, path, config, halves)


def minimind_state(config: ModelConfig, rank: int = 4, names: Sequence[str] = ("q_proj", "o_proj")) -> dict[str, Any]:
    state = {}
    for weight, (rows, columns) in matrices_of(config, names).items():
        module = weight.removesuffix(".weight")
        state[f"{module}.lora.A.weight"] = torch.randn(rank, columns).half()
        state[f"{module}.lora.B.weight"] = torch.randn(rows, rank).half()
    return state


def save_peft(folder: Path, config: ModelConfig, settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Writes a folder as PEFT does, each module's rank that of the settings; returns the tensors as stored."""
    folder.mkdir(exist_ok=True)
    tensors = {}
    for weight, (rows, columns) in matrices_of(config, names).items():
        module = weight.removesuffix(".weight")
        ranks = {key: rank for key, rank in settings.get("rank_pattern", {}).items() if module.endswith(key)}
        rank = next(iter(ranks.values()), settings.get("r", 8))
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, columns)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, rank)
    save_file(tensors, folder / "adapter_model.safetensors")
    whole = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": list(names), "bias": "none"} | settings
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    return tensors
