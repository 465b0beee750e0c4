"""A LoRA adapter as Hugging Face's PEFT saves it: a folder of `adapter_config.json` and `adapter_model.safetensors`.

What the config says and is not known here to be harmless is refused by name. The scale is lora_alpha / r, with
use_rslora lora_alpha / sqrt(r) (arXiv 2312.03732); a module's own r and alpha are those of the first pattern that fits.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.adapter import Adapter, Half, build_adapter
from model.formats.checkpoint import WeightTensor
from model.formats.json_object import JsonObject
from model.formats.safetensors_file import read_safetensors

CONFIG_FILE, TENSORS_FILE, PICKLE_FILE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_PLAIN = re.compile(r"\^?[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_READ = frozenset({"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"})
# What these may be beside nothing. With other starts, training has changed the model's weights, too.
_ALLOWED = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "eva", "orthogonal")}
# About training, or about who made it, or where the tensors say what it is.
_HARMLESS = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
        *("lora_dropout", "exclude_modules", "layers_to_transform", "layers_pattern", "runtime_config"),
        *("loftq_config", "eva_config", "corda_config", "megatron_config", "megatron_core", "qalora_group_size"),
    }
)


def read(name: str, folder: Path, config: ModelConfig) -> Adapter:
    """Raises ModelError, naming file and tensor or key."""
    file = folder / TENSORS_FILE
    if not file.exists() and (folder / PICKLE_FILE).exists():
        raise ModelError(folder, f"its weights are a pickle ({PICKLE_FILE}), which is not read; save safetensors.")
    settings = JsonObject.read(folder / CONFIG_FILE)
    _check(settings)
    tensors = read_safetensors(file)
    _check_targets(settings, [match["module"] for stored in tensors if (match := _NAME.fullmatch(stored))])
    return build_adapter(name, folder, config, _halves(settings, file, tensors))


def _check(settings: JsonObject) -> None:
    if settings.text("peft_type", "LORA") != "LORA":
        raise settings.wrong("peft_type", "LORA")
    for key in sorted(settings.values.keys() - _READ - _HARMLESS):
        value, allowed = settings.values[key], _ALLOWED.get(key, ())
        if value and value not in allowed:
            raise settings.wrong(key, f"one of {json.dumps(allowed)}" if allowed else "absent: nothing here knows it")


def _check_targets(settings: JsonObject, modules: Sequence[str]) -> None:
    """Where they are a list of names: each has tensors, and no other has. An expression is left to the tensors."""
    if not isinstance(settings.values.get("target_modules"), list):
        return
    targets = settings.texts("target_modules")
    for target in targets:
        if not any(_ends_with(module, target) for module in modules):
            raise ModelError(settings.path, f"target_modules has {target}, but no tensor is of such a module.")
    for module in modules:
        if not any(_ends_with(module, target) for target in targets):
            raise ModelError(settings.path, f"there are tensors of {module}, which is not among target_modules.")


def _halves(settings: JsonObject, file: Path, tensors: Mapping[str, WeightTensor]) -> Iterator[Half]:
    scales = _Scales.of(settings)
    for stored_name, tensor in tensors.items():
        match = _NAME.fullmatch(stored_name)
        if match is None:
            raise ModelError(file, f"tensor {stored_name} is left over; only lora_A and lora_B of a layer can be read.")
        module = match["module"]
        if match["side"] == "B":
            yield Half(f"{module}.weight", "B", tensor, scales.scale(module))
        else:
            _check_rank(tensor, scales.rank(module))
            yield Half(f"{module}.weight", "A", tensor)


def _check_rank(tensor: WeightTensor, rank: int) -> None:
    if tensor.shape[:1] != (rank,):
        problem = f"tensor {tensor.file_name} has shape {tensor.shape}; by {CONFIG_FILE} its rank is {rank}."
        raise ModelError(tensor.path, problem)


@dataclass(frozen=True, slots=True)
class _Scales:
    r: int
    alpha: float
    is_rank_stabilised: bool
    ranks: Mapping[str, int]  # by pattern
    alphas: Mapping[str, float]

    @classmethod
    def of(cls, settings: JsonObject) -> "_Scales":
        ranks, alphas = settings.child("rank_pattern"), settings.child("alpha_pattern")
        for patterns in (ranks, alphas):
            for pattern in patterns.values:
                if not _PLAIN.fullmatch(pattern):
                    raise patterns.wrong(pattern, "under the name of a module, not a regular expression")
        return cls(
            settings.integer("r", 8),
            settings.number("lora_alpha", 8),
            settings.flag("use_rslora", False),
            {pattern: ranks.integer(pattern) for pattern in ranks.values},
            {pattern: alphas.number(pattern) for pattern in alphas.values},
        )

    def rank(self, module: str) -> int:
        return next((rank for pattern, rank in self.ranks.items() if _ends_with(module, pattern)), self.r)

    def scale(self, module: str) -> float:
        rank = self.rank(module)
        alpha = next((alpha for pattern, alpha in self.alphas.items() if _ends_with(module, pattern)), self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def _ends_with(module: str, name: str) -> bool:
    """Whole parts of the module's path; behind a ^ all of them."""
    return module == name.removeprefix("^") or module.endswith(f".{name}")
