"""What is done to the files of a sound model: bits and bytes anywhere, and, where the layout is known, the numbers,
names and objects that it consists of. Everything is drawn from the `Random` that is given: a seed repeats it."""

import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from tests.reliability import model_files
from tests.reliability.byte_mutations import mutate_bytes
from tests.reliability.gguf_mutations import mutate_gguf_keys, mutate_gguf_numbers
from tests.reliability.hostile_values import EDGES, TEMPLATES, VALUES
from tests.reliability.model_files import Files
from tests.reliability.pth_mutations import mutate_pickle, mutate_state, mutate_zip


def mutate(files: Files, random: Random) -> tuple[Files, str]:
    """`files`, changed in one to three ways, and what was done."""
    changed, steps = dict(files), []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        name = _choose(changed, random)
        options = _OPTIONS.get(name.rsplit(".", 1)[-1], []) + [mutate_bytes]
        change = random.choice(options)
        try:
            changed[name] = change(changed[name], random)
        except _DOES_NOT_PARSE:  # what an earlier change has made of it
            change = mutate_bytes
            changed[name] = change(changed[name], random)
        steps.append(f"{change.__name__} {name}")
    return changed, ", ".join(steps)


_DOES_NOT_PARSE = (
    *(ValueError, LookupError, TypeError, OverflowError, RuntimeError, AttributeError, EOFError, StopIteration),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


def _choose(files: Mapping[str, bytes], random: Random) -> str:
    """The weights more often than the rest."""
    weights = [name for name in sorted(files) if name.endswith((".gguf", ".pth", ".safetensors"))]
    return random.choice(weights * 2 + sorted(files))


def mutate_json(content: bytes, random: Random) -> bytes:
    """A value somewhere becomes another, or a key is lost, moved or doubled."""
    value = json.loads(content)
    holder, key = _place_in(value, random)
    match random.randrange(6):
        case 0 | 1 | 2:
            holder[key] = _other_value(holder[key], random)
        case 3:
            del holder[key]
        case 4 if isinstance(holder, dict):
            holder[random.choice(("x", "", f"{key}x", "\0", "__class__", "version"))] = holder[key]
        case _:
            other, its_key = _place_in(value, random)
            holder[key] = json.loads(json.dumps(other[its_key]))
    text = json.dumps(value)
    if random.random() < 0.1:
        text = text.replace("{", '{"' + str(key).replace("\\", "").replace('"', "") + '": 1, ', 1)
    return text.encode()


def _place_in(value: Any, random: Random) -> tuple[Any, Any]:
    """A container and a key of it, at any depth."""
    holder, key = value, random.choice(list(value) if isinstance(value, dict) else range(len(value)))
    while isinstance(holder[key], dict | list) and holder[key] and random.random() < 0.7:
        holder = holder[key]
        key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    return holder, key


def _other_value(value: Any, random: Random) -> Any:
    if isinstance(value, str) and "{%" in value:
        return random.choice(TEMPLATES)
    if isinstance(value, int | float) and random.random() < 0.5:
        return value + random.choice((-1, 1)) if random.random() < 0.5 else value * random.choice((-1, 2, 1000, 10**9))
    if isinstance(value, list) and random.random() < 0.5:
        return value * random.choice((2, 100)) if random.random() < 0.5 else value[: random.randrange(len(value) + 1)]
    return random.choice(VALUES)


def mutate_safetensors_header(content: bytes, random: Random) -> bytes:
    header, values = model_files.split_safetensors(content)
    if random.random() < 0.15:
        return model_files.safetensors_file(header, values, random.choice(EDGES))
    return model_files.safetensors_file(mutate_json(json.dumps(header).encode(), random), values)


def mutate_weights(content: bytes, random: Random) -> bytes:
    """Some numbers become enormous, infinite, or none at all."""
    data = bytearray(content)
    for _ in range(random.choice((1, 3, 100))):
        place = random.randrange(len(data) // 2, len(data) - 4) & ~3
        data[place : place + 4] = struct.pack("<f", random.choice((math.nan, math.inf, -3e38, 1e20, 1e-42, 0.0)))
    return bytes(data)


_OPTIONS: dict[str, list[Callable[[bytes, Random], bytes]]] = {
    "json": [mutate_json] * 4,
    "safetensors": [*[mutate_safetensors_header] * 4, mutate_weights],
    "gguf": [*[mutate_gguf_numbers] * 3, *[mutate_gguf_keys] * 3, mutate_weights],
    "pth": [*[mutate_zip] * 2, *[mutate_pickle] * 2, *[mutate_state] * 2, mutate_weights],
}
