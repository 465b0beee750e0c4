"""A Hugging Face folder of `model_type: minimind`, as MiniMind's own classes save it: `config.json` with the settings
of one of its generations, and its tensors in `pytorch_model.bin` or in safetensors. The Python file that such a config
names is not looked at, nor is anything else executed."""

from dataclasses import dataclass, replace
from pathlib import Path

from model.config import ModelConfig, MoeConfig, RopeConfig
from model.errors import ModelError
from model.formats import huggingface, minimind
from model.formats.checkpoint import Checkpoint, WeightTensor
from model.formats.huggingface_config import (
    MOST_EXPERTS,
    MOST_LAYERS,
    read_eos_token_ids,
    read_generation_defaults,
    refuse_other_arithmetic,
)
from model.formats.huggingface_rope import read_rope
from model.formats.json_object import JsonObject
from model.formats.minimind_eras import (
    EARLY_2,
    V1,
    V2,
    V3,
    Era,
    Weights,
    architecture_of,
    canonical_names,
    check_head_dim,
    checkpoint_of,
    detect_era,
    intermediate_size,
)
from model.formats.minimind_yarn import with_yarn

_PICKLE = "pytorch_model.bin"
_ERAS = {"Transformer": (V1,), "MiniMindLM": (EARLY_2,), "MiniMindForCausalLM": (V2, V3)}  # by class


@dataclass(frozen=True, slots=True)
class _Keys:
    """What the settings of a generation are called."""

    hidden_size: str = "hidden_size"
    intermediate_size: str = "intermediate_size"
    num_layers: str = "num_hidden_layers"
    num_heads: str = "num_attention_heads"
    num_kv_heads: str = "num_key_value_heads"
    rms_norm_eps: str = "rms_norm_eps"
    max_positions: str = "max_position_embeddings"


_META_KEYS = _Keys("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "norm_eps", "max_seq_len")


def read(folder: Path) -> Checkpoint:
    """Raises ModelError, naming file and tensor or key, for whatever cannot be served as the files say."""
    settings = JsonObject.read(folder / "config.json")
    stored = _read_tensors(folder)
    era = _era(settings, stored)
    weights = canonical_names(stored)
    refuse_other_arithmetic(settings, {"scoring_func": "softmax"})
    checkpoint = checkpoint_of(folder, era, _config(settings, era, weights), weights)
    return replace(
        checkpoint,
        eos_token_ids=read_eos_token_ids(folder),
        generation=read_generation_defaults(folder),
    )


def _read_tensors(folder: Path) -> dict[str, WeightTensor]:
    """Both forms at once would leave open which counts; transformers takes safetensors."""
    if (folder / _PICKLE).exists() and not huggingface.has_safetensors(folder):
        return minimind.read_state(folder / _PICKLE)
    return huggingface.read_tensors(folder)


def _era(settings: JsonObject, stored: Weights) -> Era:
    """That of the tensors, which must be one of those that have the class that the settings name."""
    era = detect_era(settings.path, stored)
    names = settings.texts("architectures")
    if not names:
        return era
    if names[0] not in _ERAS:
        raise settings.wrong("architectures", f"one of MiniMind's: {', '.join(_ERAS)}")
    if era not in _ERAS[names[0]]:
        raise ModelError(settings.path, f"architectures names {names[0]}, but the tensors are those of {era.name}.")
    return era


def _config(settings: JsonObject, era: Era, weights: Weights) -> ModelConfig:
    """`Checkpoint` compares it with the tensors."""
    keys = _META_KEYS if era.has_meta_names else _Keys()
    hidden_size = settings.integer(keys.hidden_size)
    num_heads = settings.integer(keys.num_heads)
    num_kv_heads = settings.integer(keys.num_kv_heads, num_heads)
    if num_heads % num_kv_heads:
        raise settings.wrong(keys.num_kv_heads, f"a divisor of {keys.num_heads}, which is {num_heads}")
    head_dim = settings.integer("head_dim", max(hidden_size // num_heads, 1))
    check_head_dim(settings.path, head_dim)
    max_positions = settings.integer(keys.max_positions, era.max_positions)
    moe = _moe(settings, era, weights) if settings.flag("use_moe", False) else None
    return ModelConfig(
        architecture=architecture_of(era, moe),
        vocab_size=settings.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_intermediate_size(settings, era, weights),
        num_layers=settings.integer(keys.num_layers, most=MOST_LAYERS),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=settings.number(keys.rms_norm_eps, era.rms_norm_eps, least=0),
        max_positions=max_positions,
        rope=_rope(settings, era, max_positions),
        tie_word_embeddings=settings.flag("tie_word_embeddings", True),
        qk_norm=era is V3,
        moe=moe,
    )


def _intermediate_size(settings: JsonObject, era: Era, weights: Weights) -> int:
    """v1 leaves it out: a multiple of 64 that follows from the hidden size, which its tensors have."""
    keys = _META_KEYS if era.has_meta_names else _Keys()
    return settings.integer(keys.intermediate_size, intermediate_size(settings.path, era, weights))


def _moe(settings: JsonObject, era: Era, weights: Weights) -> MoeConfig:
    num_experts = settings.integer("num_experts" if era is V3 else "n_routed_experts", most=MOST_EXPERTS)
    num_chosen = settings.integer("num_experts_per_tok", era.num_experts_per_token, most=num_experts)
    size = _intermediate_size(settings, era, weights)
    return MoeConfig(
        num_experts=num_experts,
        num_experts_per_token=num_chosen,
        intermediate_size=settings.integer("moe_intermediate_size", size) if era is V3 else size,
        # The earlier ones leave the weight of a single expert as it is.
        norm_topk_prob=settings.flag("norm_topk_prob", True) and (era is V3 or num_chosen > 1),
        num_shared_experts=0 if era is V3 else _num_shared_experts(settings),
    )


def _num_shared_experts(settings: JsonObject) -> int:
    """At first a switch, for one."""
    value = settings.values.get("n_shared_experts")
    if value is None or isinstance(value, bool):
        return int(value or False)
    return settings.integer("n_shared_experts", least=0, most=MOST_EXPERTS)


def _rope(settings: JsonObject, era: Era, max_positions: int) -> RopeConfig:
    """The switch alone means the scaling of today's code. One that is written out is taken at its word; without
    attention_factor it is that of late 2025, whose formula is no YaRN, and is refused."""
    values = {"rope_theta": era.rope_theta} | {
        key: value for key, value in settings.values.items() if value is not None
    }
    rope = read_rope(replace(settings, values=values), max_positions)
    if rope.kind == "yarn" and rope.attention_factor is None:
        raise settings.child("rope_scaling").wrong("attention_factor", "there: without it MiniMind meant no YaRN")
    if rope.kind == "default" and settings.flag("inference_rope_scaling", False):
        return with_yarn(rope)
    return rope
