"""What a user may ask of loading. Light to import: the command line needs these words before it needs a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BackendName = Literal["auto", "native", "torch"]
DeviceName = Literal["auto", "cpu", "cuda"]
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]
KVDTypeName = Literal["auto", "float32", "bfloat16", "float16", "int8"]
RopeScalingName = Literal["auto", "minimind-yarn"]
WeightsName = Literal["auto", "int8", "int4"]
IsolationChecksName = Literal["off", "canary", "debug"]

DEFAULT_MODEL_NAME = "default"  # stands for the model that slotwise fetches by itself


@dataclass(frozen=True, slots=True)
class AdapterOption:
    """A LoRA adapter that is to be served under a name of its own."""

    name: str
    path: str  # MiniMind's .pth, or PEFT's folder


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """`load` does what these say or refuses; None is "decide for me"."""

    model: str = DEFAULT_MODEL_NAME  # or a path: a GGUF file, a Hugging Face folder, a MiniMind .pth
    tokenizer: str | None = None  # folder of tokenizer.json, for a model that comes without one
    merge_lora: str | None = None  # of one adapter: it becomes part of the model
    lora: tuple[AdapterOption, ...] = ()  # served beside the model, each for the requests that name it
    backend: BackendName = "auto"
    device: DeviceName = "auto"
    dtype: DTypeName = "auto"
    weights: WeightsName = "auto"  # quantised while they are read
    kv_dtype: KVDTypeName = "auto"
    rope_scaling: RopeScalingName = "auto"  # auto: what the model's files say
    num_threads: int | None = None
    max_model_len: int | None = None  # tokens
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 256
    kv_cache_memory: int | None = None  # bytes
    debug_poison: bool = False
    isolation_checks: IsolationChecksName = "off"
    cache_dir: Path | None = None  # where the default model is kept; None: the user's cache folder
    allow_tokenizer_mismatch: bool = False  # MiniMind weights with the tokenizer of another era
