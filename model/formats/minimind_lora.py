"""The adapters that MiniMind's `train_lora.py` writes: a `.pth` file of tensors `….lora.A.weight` and `….lora.B.weight`
beside the names of the matrices that they change, without a scale. What reads the file is `minimind.py`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from model.config import ModelConfig
from model.errors import ModelError
from model.formats.adapter import Adapter, Half, build_adapter
from model.formats.checkpoint import WeightTensor
from model.formats.half_split import half_split
from model.formats.minimind_eras import canonical_name

_NAME = re.compile(r"(?P<module>.+)\.lora\.(?P<side>[AB])\.weight")


def build(name: str, path: Path, config: ModelConfig, tensors: Mapping[str, WeightTensor]) -> Adapter:
    """`tensors`: all of the file, without the prefixes of training. Raises ModelError, naming the tensor."""
    return build_adapter(name, path, config, _halves(path, config, tensors))


def _halves(path: Path, config: ModelConfig, tensors: Mapping[str, WeightTensor]) -> Iterator[Half]:
    """Where the names are Meta's, the rows of queries and keys are in Meta's order: B's as the weight's."""
    shapes = dict(config.tensor_shapes())
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise ModelError(path, f"tensor {name} is left over; an adapter of MiniMind has lora.A and lora.B only.")
        stored = f"{match['module']}.weight"
        weight = canonical_name(stored)
        if match["side"] == "A":
            yield Half(weight, "A", tensor)
        else:
            is_in_pairs = weight != stored and tensor.shape[:1] == shapes.get(weight, ())[:1]
            yield Half(weight, "B", half_split({weight: tensor}, config)[weight] if is_in_pairs else tensor)
