"""Damage of any file: bits, bytes, cuts, splices."""

import struct
from random import Random

from tests.reliability.hostile_values import EDGES


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
