"""The adapters that MiniMind's `train_lora.py` writes: a `.pth` file of tensors `….lora.A.weight` and `….lora.B.weight`
beside the names of the matrices that they change, without a scale. What reads the file is `minimind.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.adapter import Adapter, Half, build_adapter
from model.formats.checkpoint import WeightTensor
from model.formats.half_split import half_split
from model.formats.minimind_eras import canonical_name

_NAME = re.compile(r"(?P<module>.+)\.lora\.(?P<side>[AB])\.weight")


def build(
    name: str, path: Path, config: ModelConfig, tensors: Mapping[str, WeightTensor], *, has_meta_names: bool = False
) -> Adapter:
    """`tensors`: all of the file, without the prefixes of training. `has_meta_names`: of the model's own file, whose
    names the adapter's follow. Raises ModelError, naming the tensor."""
    halves = (_half(path, config, stored, tensor, has_meta_names) for stored, tensor in tensors.items())
    return build_adapter(name, path, config, halves)


def _half(path: Path, config: ModelConfig, name: str, tensor: WeightTensor, has_meta_names: bool) -> Half:
    """Where the names are Meta's, the rows of queries and keys are in Meta's order: B's as the weight's."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ModelError(path, f"tensor {name} is left over; an adapter of MiniMind has lora.A and lora.B only.")
    stored = f"{match['module']}.weight"
    weight = canonical_name(stored)
    if (weight != stored) != has_meta_names:
        era = "since" if has_meta_names else "before"
        raise ModelError(
            path, f"tensor {name} is of an adapter for MiniMind {era} April 2025, which this model is not."
        )
    if match["side"] == "A":
        return Half(weight, "A", tensor)
    is_in_pairs = has_meta_names and tensor.shape[:1] == dict(config.tensor_shapes()).get(weight, ())[:1]
    return Half(weight, "B", half_split({weight: tensor}, config)[weight] if is_in_pairs else tensor)
