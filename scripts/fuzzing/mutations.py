"""Random changes to files: to the bytes of any file, and to the instructions of a pickle.

Each mutation is a function of a file, a random generator, and other files to take pieces from.
"""

from __future__ import annotations

import pickletools
import random
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random, list[bytes]], bytes]

_ATTACK_SNIPPETS = [
    b'cos\nsystem\n', b'cbuiltins\neval\n', b'cbuiltins\ngetattr\n', b'(S"1+1"\nibuiltins\neval\n',
    b'\x8c\x02os\x8c\x06system\x93', b'ctorch.storage\n_load_from_bytes\n', b'cnumpy\ndtype\n',
    b'ctorch_utils.persistence\n_reconstruct_persistent_obj\n',
    b'R', b'b', b'0', b'2', b'1', b'(', b't', b'}', b']', b')', b'\x81', b'\x92', b'\x90', b'\x91',
    b'u', b'e', b's', b'a',
    b'h\x00', b'h\x05', b'j\xff\xff\xff\x7f', b'q\x00', b'\x94', b'Q', b'P1\n', b'\x82\x01', b'N', b'\x88', b'K\xff',
    b'M\xff\xff', b'J\xff\xff\xff\xff', b'J\xff\xff\xff\x7f', b'\x8a\x09' + b'\xff' * 8 + b'\x7f',
    b'G\x7f\xf8' + b'\0' * 6,
    b'I99999999999999999999999\n', b'.', b'\x95' + b'\xff' * 8, b'B\xff\xff\xff\x7f', b'\x8e' + b'\xff' * 7 + b'\x7f',
]  # fmt: skip
_EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1]


# ---------------------------------------------------------------------------------------------------------------------
# Bytes


def change_bytes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Replace some bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flip_bits(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Flip some bits."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 8])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def write_extremes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Overwrite some bytes, perhaps a size or another number, with 0, -1 or a very large value."""
    value = rng.choice(_EXTREMES)
    width = max((value.bit_length() + 7) // 8, rng.choice([1, 2, 4, 8]))
    raw = value.to_bytes(width, rng.choice(['little', 'big']))
    position = rng.randrange(len(data))
    return data[:position] + raw + data[position + width :]


def cut(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Cut off the end."""
    return data[: rng.randrange(len(data))]


def move_a_piece(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Delete a piece, repeat it, or move it."""
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice([1, 3, 10, 100, 1000])]
    without = data[:start] + data[start + len(piece) :]
    target = rng.randrange(len(data))
    return rng.choice([without, data[:target] + piece + data[target:], without[:target] + piece + without[target:]])


def splice(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Join the start of one file to the end of another."""
    other = rng.choice(others)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def insert_snippet(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Insert instructions that occur in attacks."""
    position = rng.randrange(len(data))
    return data[:position] + rng.choice(_ATTACK_SNIPPETS) + data[position:]


# ---------------------------------------------------------------------------------------------------------------------
# Instructions of pickles


def opcodes_of(data: bytes) -> list[bytes]:
    """Return the instructions of a pickle, each with its argument."""
    starts = [position for _, _, position in pickletools.genops(data)]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)])]


def mutate_opcodes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Delete, repeat, exchange, move or replace whole instructions."""
    opcodes = _cached_opcodes(data)[:]
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        a, b = rng.randrange(len(opcodes)), rng.randrange(len(opcodes))
        kind = rng.randrange(5)
        if kind == 0 and len(opcodes) > 2:
            del opcodes[a]
        elif kind == 1:
            opcodes.insert(b, opcodes[a])
        elif kind == 2:
            opcodes[a], opcodes[b] = opcodes[b], opcodes[a]
        elif kind == 3:
            opcodes[a] = opcodes[b]
        else:
            opcodes.insert(a, rng.choice(_ATTACK_SNIPPETS))
    return b''.join(opcodes)


_opcodes_by_id: dict[int, list[bytes]] = {}


def _cached_opcodes(data: bytes) -> list[bytes]:
    if id(data) not in _opcodes_by_id:
        _opcodes_by_id[id(data)] = opcodes_of(data)
    return _opcodes_by_id[id(data)]


# ---------------------------------------------------------------------------------------------------------------------
# Choice of mutations

BYTE_MUTATIONS: list[Mutation] = [change_bytes, flip_bits, write_extremes, cut, move_a_piece, splice, insert_snippet]
OPCODE_MUTATIONS: list[Mutation] = [mutate_opcodes]


def mutations_for(name: str) -> list[Mutation]:
    """Return the mutations to choose from for a file.

    Half of those of a pickle change instructions, since most of its bytes belong to numbers and strings.
    """
    return BYTE_MUTATIONS + ([] if 'safetensors' in name else OPCODE_MUTATIONS * len(BYTE_MUTATIONS))
