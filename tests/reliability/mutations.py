"""What is done to the files of a sound model: bits and bytes anywhere, and, where the layout is known, the numbers,
names and objects that it consists of. Everything is drawn from the `Random` that is given: a seed repeats it."""

import io
import json
import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import gguf
import torch

from tests.reliability import model_files
from tests.reliability.model_files import Files

BOUNDS = [0, 1, 2, 7, 31, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1]
EDGES = [*BOUNDS, 2**63, 2**64 - 1]
VALUES: list[Any] = [
    *BOUNDS,
    *(-bound for bound in BOUNDS[1:]),
    *(2**64, 10**30, 0.5, -0.0, 1e-320, 1e308, math.nan, math.inf, -math.inf),
    *(True, False, None, "", "a", "\0", "\ud800", "\u2028", "x" * 5000, "../../x", "/etc/passwd", "Ġ", "<|im_end|>"),
    *([], {}, [[]], [{}], [0] * 50, ["a"] * 3, {"type": "ByteLevel"}, {"a": {"b": {}}}),
]
TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch canary') }}",
    "{{ lipsum.__globals__['os'].popen('touch canary').read() }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set x = 9 ** (9 ** (8 + messages | length)) %}{{ x }}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ messages[0].content * 400000000 }}",
    "{{ 'a' | center(900000000) }}",
    "{{ '%0900000000d' | format(1) }}",
    "{{ '%0900000000d' % 1 }}",
    "{{ '{:900000000}'.format(1) }}",
    "{{ 'a'.ljust(900000000) }}",
    "{{ [messages] * 200000000 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ i * j }}{% endfor %}{% endfor %}",
    "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
    "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "{% set x = 'a' * 100000 %}{{ x.replace('a', x) }}",
    "{% set x = 'a' * 100000 %}{{ x | replace('a', x) }}",
    "{% set x = 'a' * 100000 %}{{ x | list | join(x) }}",
    "{% set x = '\\n' * 100000 %}{{ x | indent(100000, true, true) }}",
    "{{ [1, [2, [3]]] | tojson(indent=900000000) }}",
    "{{ 1.5 | round(900000000, 'ceil') }}",
    "{{ lipsum(n=99999, min=99999, max=999999) }}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ " + "-" * 20000 + "1 }}",
    "{{ " + "not " * 20000 + "1 }}",
    "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "{{ " + " ~ ".join("a" * 20000) + " }}",
    "{{ " + "1" * 100000 + " }}",
    "{{ 1e999 | int }}",
    "{{ raise_exception('x' * 100000) }}",
    "{{ messages[0].content }}\ud800",
    "{% for m in messages %}{{ m.content }}{{ '\\ud800' }}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% generation %}{% generation %}",
    "{{ x.y.z }}",
    "\0" * 100,
    "{#" * 1000,
]


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


def mutate_bytes(content: bytes, random: Random) -> bytes:
    data = bytearray(content or b"\0")
    near_the_head = random.random() < 0.6
    place = random.randrange(min(len(data), 4096) if near_the_head else len(data))
    size = random.choice((1, 2, 4, 8, 100, 5000))
    match random.randrange(8):
        case 0:
            for _ in range(random.choice((1, 1, 2, 8, 64))):
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        case 1:
            data[place] ^= 1 << random.randrange(8)
        case 2:
            del data[place:]
        case 3:
            del data[place : place + size]
        case 4:
            data[place:place] = data[place : place + size] * random.choice((1, 2, 50))
        case 5:
            other = random.randrange(len(data))
            data[place : place + size] = data[other : other + size]
        case 6:
            data[place : place + 8] = struct.pack("<Q", random.choice(EDGES))
        case 7:
            data[place : place + size] = random.choice((b"\0", b"\xff", b"\x7f\xc0")) * size
    return bytes(data)


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


def mutate_zip(content: bytes, random: Random) -> bytes:
    """An entry of the archive is lost, renamed, cut, filled, packed or there twice."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = random.randrange(len(entries))
    name, data = entries[place]
    packing = zipfile.ZIP_DEFLATED if random.random() < 0.2 else zipfile.ZIP_STORED
    match random.randrange(5):
        case 0:
            del entries[place]
        case 1:
            entries[place] = (random.choice((name + "x", "../../x", "data.pkl", entries[0][0], "x" * 3000)), data)
        case 2:
            entries[place] = (name, data[: random.randrange(len(data) + 1)])
        case 3:
            entries[place] = (name, data + bytes(random.choice((1, 64, 10**6))))
        case 4:
            entries[place] = (name, mutate_bytes(data, random))
    return zip_of(entries, packing)


def zip_of(entries: list[tuple[str, bytes]], packing: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, packing)
    return stream.getvalue()


def mutate_pickle(content: bytes, random: Random) -> bytes:
    """An operation of the pickle is lost, doubled or another, or has another number."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = next(number for number, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
    name, data = entries[place]
    operations = list(pickletools.genops(data))
    number = random.randrange(len(operations) - 1)
    (code, argument, start), end = operations[number], operations[number + 1][2]
    old = data[start:end]
    if isinstance(argument, int) and code.name in _INTEGERS and random.random() < 0.8:
        new = _pickled(random.choice((*EDGES, *(-bound for bound in BOUNDS), argument + 1, argument - 1, argument * 2)))
    else:
        new = random.choice((b"", old * 2, random.choice(_OPERATIONS), old + random.choice(_OPERATIONS)))
    entries[place] = (name, data[:start] + new + data[end:])
    return zip_of(entries)


_INTEGERS = ("BININT", "BININT1", "BININT2", "LONG1")
_OPERATIONS = [
    *(code.code.encode("latin-1") for code in pickletools.opcodes),
    *(
        b"cos\nsystem\n(X\x0c\0\0\0touch canarytR",
        b"cbuiltins\neval\n",
        b"ctorch\nload\n",
        b"ctorch._utils\n_rebuild_qtensor\n",
    ),
    *(
        b"cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x10\x85R",
        b"ccollections\nCounter\n)R",
        b"ctorch.serialization\nload\n",
    ),
    *(b"ctorch\nTensor\n)R", b"ctorch._utils\n_rebuild_sparse_tensor\n", b"ctorch._tensor\n_rebuild_from_type_v2\n"),
]


def _pickled(number: int) -> bytes:
    size = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + number.to_bytes(size, "little", signed=True)


def mutate_state(content: bytes, random: Random) -> bytes:
    """A tensor of the state becomes another object that a pickle may hold."""
    state: dict[Any, Any] = dict(model_files.minimind_state())
    name = random.choice(sorted(state))
    tensor = state[name]
    others: list[Callable[[], Any]] = [
        lambda: tensor.to_sparse(),
        lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda: tensor.to("meta"),
        lambda: tensor.t() if tensor.ndim == 2 else tensor[::2],
        lambda: tensor.flatten()[:1].expand(tensor.shape),
        lambda: tensor.flatten()[:1].expand(2**40),
        lambda: tensor.to(random.choice((torch.float64, torch.int8, torch.bool, torch.complex64))),
        lambda: tensor.half(),
        lambda: tensor * random.choice((math.nan, math.inf, 1e38)),
        lambda: tensor.reshape(-1)[: random.randrange(tensor.numel())],
        lambda: tensor.unsqueeze(0),
        lambda: torch.empty(0, *tensor.shape[1:]),
        lambda: torch.tensor(1.0),
        lambda: torch.nn.Parameter(tensor),
        lambda: state,
        lambda: random.choice([None, 1, "x", b"x", [tensor], {"x": tensor}, math.nan]),
    ]
    state[random.choice((name, name, name, 5, "x", name + ".x", "_orig_mod." + name))] = random.choice(others)()
    if random.random() < 0.1:
        state = {"model": state, "x": random.choice(VALUES)}
    return model_files.pth(state, _use_new_zipfile_serialization=random.random() < 0.9)


_OPTIONS: dict[str, list[Callable[[bytes, Random], bytes]]] = {
    "json": [mutate_json] * 4,
    "safetensors": [*[mutate_safetensors_header] * 4, mutate_weights],
    "gguf": [*[mutate_gguf_numbers] * 3, *[mutate_gguf_keys] * 3, mutate_weights],
    "pth": [*[mutate_zip] * 2, *[mutate_pickle] * 2, *[mutate_state] * 2, mutate_weights],
}
