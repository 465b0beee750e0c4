"""Lies of a GGUF file: the numbers by which it is laid out, and the values of its metadata."""

import math
from pathlib import Path
from random import Random

import gguf

from tests.reliability import model_files
from tests.reliability.hostile_values import EDGES, TEMPLATES


def mutate_gguf_numbers(content: bytes, random: Random) -> bytes:
    """One of the counts, lengths, types, dimensions and offsets of the head."""
    data = bytearray(content)
    place, size = random.choice(list(gguf_numbers(content)))
    old = int.from_bytes(data[place : place + size], "little")
    new = random.choice((*EDGES, *range(30), old + 1, old - 1, old * 2, old // 2, old + 32, -old))
    data[place : place + size] = (new % 256**size).to_bytes(size, "little")
    return bytes(data)


def gguf_numbers(content: bytes) -> list[tuple[int, int]]:
    """Place and size of every number that says how the file is laid out."""
    found: list[tuple[int, int]] = [(4, 4), (8, 8), (16, 8)]
    position = 24

    def number(size: int) -> int:
        nonlocal position
        if position + size > len(content):
            raise IndexError("an earlier change has made the numbers lead past the end")
        found.append((position, size))
        position += size
        return int.from_bytes(content[position - size : position], "little")

    def text() -> None:
        nonlocal position
        position += number(8)

    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    for _ in range(int.from_bytes(content[16:24], "little")):
        text()
        kind = number(4)
        kind, count = (number(4), number(8)) if kind == 9 else (kind, 1)
        if kind != 8:
            position += sizes[kind] * count
            continue
        for _ in range(count):
            text()
    for _ in range(int.from_bytes(content[8:16], "little")):
        text()
        for _ in range(number(4)):
            number(8)
        number(4), number(8)
    return found


def mutate_gguf_keys(content: bytes, random: Random) -> bytes:
    """A file like the seed's, but for a key of its metadata, which says something else or is not there."""
    writer = model_files.writer(random.choice(("llama", "qwen2", "qwen3")))
    keys = writer.kv_data[0]
    name = random.choice(list(keys))
    if random.random() < 0.2:
        del keys[name]
    else:
        keys[name] = _other_key(keys[name], random)
    path = Path(random.choice(("/dev/shm", "/tmp"))) / f"fuzz-{random.getrandbits(64):x}.gguf"
    try:
        return model_files.saved(writer, path)
    finally:
        path.unlink(missing_ok=True)


def _other_key(old: gguf.gguf_writer.GGUFValue, random: Random) -> gguf.gguf_writer.GGUFValue:
    kinds = gguf.GGUFValueType
    if old.type is kinds.STRING and "{%" in old.value:
        return type(old)(random.choice(TEMPLATES).encode("utf-8", "surrogatepass"), kinds.STRING)
    if isinstance(old.value, list) and random.random() < 0.7:
        value = list(old.value)
        place = random.randrange(len(value))
        value[place : place + random.choice((0, 1, 5, 500))] = [random.choice(value)] * random.choice((0, 1, 2, 300))
        return type(old)(value, old.type, old.sub_type)
    if old.type in (kinds.UINT32, kinds.UINT64):
        return type(old)(random.choice(EDGES) % 256 ** (4 if old.type is kinds.UINT32 else 8), old.type)
    if old.type is kinds.FLOAT32:
        return type(old)(random.choice((0.0, -1.0, 1.0, 1e-45, 3e38, math.nan, math.inf, -math.inf)), old.type)
    others = [
        (True, kinds.BOOL),
        (-1, kinds.INT64),
        (2**64 - 1, kinds.UINT64),
        ("", kinds.STRING),
        (1e308, kinds.FLOAT64),
    ]
    return type(old)(*random.choice(others))
