"""What a checkpoint is, as facts for a person or a program: read off its names, shapes and settings. Its tensors
stay mapped; no backend is asked, and a tokenizer need not be there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.adapters_beside import AdapterBeside, find_adapters
from model.chat_template import ChatTemplate
from model.config import ModelConfig
from model.errors import ModelError
from model.formats.checkpoint import Checkpoint, GenerationDefaults
from model.formats.huggingface_writer import huggingface_class
from model.load import Parts, detect_format, locate, read_checkpoint, read_parts
from model.native.options import KV_NAMES, KV_TYPES
from model.options import LoadOptions
from model.tokenizer import Tokenizer
from model.tokenizer_match import ends_of_text

FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
THINKING = frozenset({"enable_thinking", "open_thinking", "thinking", "reasoning_effort"})  # variables of templates


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tensors of one encoding."""

    num_tensors: int
    num_parameters: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class KVCacheCost:
    bytes_per_token: Mapping[str, int]  # by type
    default_types: Mapping[str, str]  # by backend


@dataclass(frozen=True, slots=True)
class NamedToken:
    token_id: int
    text: str


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    kind: str  # of the library: BPE, Unigram, …
    num_tokens: int
    first_tokens: tuple[NamedToken, ...]  # MiniMind's vocabularies differ in them
    beginning: NamedToken | None
    ends: tuple[NamedToken, ...]


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    num_characters: int
    has_tools: bool
    has_thinking_switch: bool
    variables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Description:
    path: Path
    format: str
    origin: str  # what it was before it was read: "MiniMind-3", "GGUF llama"
    huggingface_class: str | None  # that computes the same
    config: ModelConfig
    num_parameters: int
    encodings: Mapping[str, Encoded]
    kv_cache: KVCacheCost
    generation: GenerationDefaults
    tokenizer: TokenizerFacts | None
    tokenizer_problem: str  # why there is none
    chat_template: TemplateFacts | None
    adapters: tuple[AdapterBeside, ...]


def describe(options: LoadOptions) -> Description:
    """Of the model that the options name. Raises ModelError for one that cannot be served even with a tokenizer."""
    path = locate(options)
    checkpoint, parts, problem = _read(path, options)
    return Description(
        path=path,
        format=detect_format(path).value,
        origin=checkpoint.origin,
        huggingface_class=huggingface_class(checkpoint.config),
        config=checkpoint.config,
        num_parameters=checkpoint.num_parameters,
        encodings=_encodings(checkpoint),
        kv_cache=_kv_cache(checkpoint),
        generation=checkpoint.generation,
        tokenizer=_tokenizer_facts(parts.tokenizer, checkpoint) if parts else None,
        tokenizer_problem=problem,
        chat_template=_template_facts(parts.chat_template) if parts and parts.chat_template else None,
        adapters=find_adapters(checkpoint),
    )


def _read(path: Path, options: LoadOptions) -> tuple[Checkpoint, Parts | None, str]:
    """With the tokenizer, or what is wrong with it."""
    try:
        parts = read_parts(path, options)
    except ModelError as error:
        return read_checkpoint(path), None, str(error)
    return parts.checkpoint, parts, ""


def _encodings(checkpoint: Checkpoint) -> dict[str, Encoded]:
    found: dict[str, list[tuple[int, int]]] = {}
    for tensor in checkpoint.weights.values():
        found.setdefault(tensor.encoding, []).append((math.prod(tensor.shape), tensor.data.nbytes))
    return {
        encoding: Encoded(len(sizes), *(sum(column) for column in zip(*sizes, strict=True)))
        for encoding, sizes in sorted(found.items())
    }


def _kv_cache(checkpoint: Checkpoint) -> KVCacheCost:
    """A key and a value of each head in each layer."""
    config = checkpoint.config
    num_values = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return KVCacheCost(
        bytes_per_token={name: num_values * size for name, size in FLOAT_BYTES.items()},
        default_types={
            "native": KV_NAMES[KV_TYPES["auto"]],
            "torch on a CPU": "float32",
            "torch on a GPU": "float16" if checkpoint.has_float16_matrices else "bfloat16",
        },
    )


def _tokenizer_facts(tokenizer: Tokenizer, checkpoint: Checkpoint) -> TokenizerFacts:
    beginning = tokenizer.backend.token_to_id(tokenizer.special_tokens.get("bos_token", ""))
    ends = sorted(ends_of_text(checkpoint, tokenizer))
    return TokenizerFacts(
        kind=type(tokenizer.backend.model).__name__,
        num_tokens=tokenizer.backend.get_vocab_size(),
        first_tokens=tuple(_named(tokenizer, token_id) for token_id in range(3)),
        beginning=None if beginning is None else _named(tokenizer, beginning),
        ends=tuple(_named(tokenizer, token_id) for token_id in ends),
    )


def _named(tokenizer: Tokenizer, token_id: int) -> NamedToken:
    return NamedToken(token_id, tokenizer.name(token_id))


def _template_facts(template: ChatTemplate) -> TemplateFacts:
    return TemplateFacts(
        num_characters=len(template.source),
        has_tools="tools" in template.variables or template.tool_use_source is not None,
        has_thinking_switch=not template.variables.isdisjoint(THINKING),
        variables=tuple(sorted(template.variables)),
    )
