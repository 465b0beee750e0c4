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

_NAME = re.compile(r"(?P<module>model\.layers\.\d+\..+)\.lora\.(?P<side>[AB])\.weight")
_OLD_NAME = re.compile(r"layers\.\d+\.attention\.w[qkvo]\.lora\.[AB]\.weight")


def build(name: str, path: Path, config: ModelConfig, tensors: Mapping[str, WeightTensor]) -> Adapter:
    """`tensors`: all of the file, without the prefixes of training. Raises ModelError, naming the tensor."""
    return build_adapter(name, path, config, _halves(path, tensors))


def _halves(path: Path, tensors: Mapping[str, WeightTensor]) -> Iterator[Half]:
    """The rows of an early generation's wq would have to be permuted in B as in the weight itself."""
    for name, tensor in tensors.items():
        if _OLD_NAME.fullmatch(name):
            problem = f"tensor {name} is of an adapter for MiniMind before 2025-04-26, which cannot be served, so far."
            raise ModelError(path, problem)
        match = _NAME.fullmatch(name)
        if match is None:
            raise ModelError(path, f"tensor {name} is left over; an adapter of MiniMind has lora.A and lora.B only.")
        yield Half(f"{match['module']}.weight", "A" if match["side"] == "A" else "B", tensor)
