"""What a checkpoint is, as a person reads it, or as JSON. `model/description.py` has the facts."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.banner import in_binary_units
from model.config import ModelConfig, RopeConfig
from model.description import Description, NamedToken, describe
from model.errors import shown
from model.options import LoadOptions

Row = tuple[str, str]


def show(options: LoadOptions, *, as_json: bool) -> None:
    """Raises ModelError."""
    description = describe(options)
    if as_json:
        sys.stdout.write(f"{to_json(description)}\n")
        return
    table = Table.grid(padding=(0, 2))
    for label, text in rows(description):
        table.add_row(Text(label, style="dim"), Text(shown(text), overflow="fold"))
    Console().print(table)


def to_json(description: Description) -> str:
    return json.dumps(dataclasses.asdict(description), default=_plain, ensure_ascii=False, indent=2)


def _plain(value: object) -> str | list[int]:
    assert isinstance(value, Path | frozenset), value
    return str(value) if isinstance(value, Path) else sorted(value)


def rows(description: Description) -> Iterator[Row]:
    config = description.config
    yield "checkpoint", str(description.path)
    yield "format", description.origin or description.format
    yield "architecture", f"{config.architecture}; {_class(description)}"
    yield "parameters", f"{description.num_parameters:,}"
    yield "weights", _weights(description)
    yield "dimensions", _dimensions(config)
    yield from _expert_rows(config)
    yield "rotation", _rotation(config.rope)
    yield "context", f"{config.max_positions:,} positions"
    yield "KV cache", _kv_cache(description)
    yield from _tokenizer_rows(description)
    yield "chat template", _template(description)
    yield from _generation_rows(description)
    yield from (("adapter", text) for text in _adapters(description))


def _class(description: Description) -> str:
    name = description.huggingface_class
    return f"{name} in transformers" if name else "transformers has no such class"


def _weights(description: Description) -> str:
    parts = [
        f"{encoding} {in_binary_units(part.num_bytes)} ({part.num_tensors} tensor{'s' * (part.num_tensors > 1)})"
        for encoding, part in description.encodings.items()
    ]
    return ", ".join(parts)


def _dimensions(config: ModelConfig) -> str:
    extras = {
        "tied embeddings": config.tie_word_embeddings,
        "norms of queries and keys": config.qk_norm,
        "biases": config.qkv_bias or config.output_bias or config.mlp_bias,
    }
    parts = [
        f"hidden {config.hidden_size}",
        f"{config.num_layers} layers",
        f"{config.num_heads} heads, {config.num_kv_heads} for keys and values, of {config.head_dim}",
        f"feed-forward {config.intermediate_size}",
        f"{config.vocab_size:,} rows of vocabulary",
        *(name for name, there in extras.items() if there),
    ]
    return ", ".join(parts)


def _expert_rows(config: ModelConfig) -> Iterator[Row]:
    if moe := config.moe:
        shared = f", and {moe.num_shared_experts} shared" if moe.num_shared_experts else ""
        chosen = (
            f"{moe.num_experts} of feed-forward {moe.intermediate_size}, {moe.num_experts_per_token} for each token"
        )
        yield "experts", f"{chosen}{shared}"


def _rotation(rope: RopeConfig) -> str:
    scaling = "no scaling" if rope.kind == "default" else f"{rope.kind} scaling by {rope.factor:g}"
    if rope.original_max_positions:
        scaling += f" from {rope.original_max_positions:,} positions"
    if rope.frequency_divisors:
        scaling += ", frequencies divided by a table"
    return f"theta {rope.theta:,.10g}, {scaling}"


def _kv_cache(description: Description) -> str:
    cost = description.kv_cache
    sizes = ", ".join(f"{name} {num_bytes:,}" for name, num_bytes in cost.bytes_per_token.items())
    defaults = ", ".join(f"{backend} {name}" for backend, name in cost.default_types.items())
    return f"bytes a token: {sizes}; by default: {defaults}"


def _tokenizer_rows(description: Description) -> Iterator[Row]:
    tokenizer = description.tokenizer
    if tokenizer is None:
        yield "tokenizer", f"none: {description.tokenizer_problem}"
        return
    yield "tokenizer", f"{tokenizer.kind}, {tokenizer.num_tokens:,} tokens, the first {_named(tokenizer.first_tokens)}"
    yield "text begins", _named((tokenizer.beginning,)) if tokenizer.beginning else "without a token of its own"
    yield "text ends", _named(tokenizer.ends) or "nowhere: no token is named"


def _named(tokens: tuple[NamedToken, ...]) -> str:
    return ", ".join(f"{token.text} ({token.token_id})" for token in tokens)


def _template(description: Description) -> str:
    template = description.chat_template
    if template is None:
        return "none"
    tools = "tools" if template.has_tools else "no tools"
    thinking = "a switch for thinking" if template.has_thinking_switch else "no switch for thinking"
    return f"{tools}, {thinking}"


def _generation_rows(description: Description) -> Iterator[Row]:
    values = dataclasses.asdict(description.generation)
    said = ", ".join(f"{name} {value:g}" for name, value in values.items() if value is not None)
    yield "sampling", said or "nothing recommended"


def _adapters(description: Description) -> Iterator[str]:
    for adapter in description.adapters:
        yield f"{adapter.path}: " + (
            f"fits, rank {adapter.rank}" if adapter.rank else f"does not fit: {adapter.problem}"
        )
