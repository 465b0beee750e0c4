"""Lies of a `.pth` file: its archive, the operations of its pickle, the objects that the pickle makes."""

import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import torch

from tests.reliability import model_files
from tests.reliability.byte_mutations import mutate_bytes
from tests.reliability.hostile_values import BOUNDS, EDGES, VALUES


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
