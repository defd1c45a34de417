"""Random changes to files: to the bytes of any file, and to the instructions of a pickle.

Each mutation is a function of a file, a random generator, and other files to take pieces from.
"""

from __future__ import annotations

import functools
import json
import pickletools
import random
import struct
from collections.abc import Callable

from scripts.fuzzing.pickle_parts import array, dtype_of, get, integer, named, scalar, text

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
_CLASS_WORDS = (
    'Generator', 'Discriminator', 'Network', 'Layer', 'Block', 'Epilogue', 'AugmentPipe', 'ImageFolderDataset', 'class',
    '_func', 'Storage', 'OrderedDict',
)  # fmt: skip
_NAMES = [
    'os.system', 'posix.system', 'builtins.eval', 'builtins.__import__', 'subprocess.Popen', 'torch.load', 'numpy.load',
    'torch.nn.Linear', 'torch_utils.persistence._module_from_source', 'dnnlib.util.construct_class_by_name',
    'training.dataset.ImageFolderDataset', 'training.loss.StyleGAN2Loss', 'training.networks.Generator', 'Generator',
    'Discriminator', 'MappingNetwork', 'SynthesisBlock', 'MinibatchStdLayer', 'AugmentPipe', '__builtins__', '', '.',
    'Generator.__init__', 'x' * 300,
]  # fmt: skip
_SIZES = {'b1': 1, 'i1': 1, 'i2': 2, 'f2': 2, 'f4': 4, 'i4': 4, 'c16': 16, 'f16': 16, 'c32': 32}  # others: 8 bytes
_CODES = [*_SIZES, 'i8', 'u8', 'f8', 'c8', '>f8', '<i8', 'O', '|O', 'V8', 'S8', 'U2', 'M8', 'm8', 'g', 'G', 'f4,O']
_FLOATS = [struct.pack('<d', number) for number in (float('nan'), float('inf'), 1e308, -1e-320, 2.0**63, 2.0**1000)] + [
    struct.pack('<QH6x', 1 << 63, 16383 + power) for power in (63, 2000, 16000)
]  # as long doubles
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


@functools.lru_cache(maxsize=64)
def opcodes_of(data: bytes) -> tuple[bytes, ...]:
    """Return the instructions of a pickle, each with its argument."""
    starts = [position for _, _, position in pickletools.genops(data)]
    return tuple(data[start:end] for start, end in zip(starts, [*starts[1:], len(data)]))


def mutate_opcodes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Delete, repeat, exchange, move or replace whole instructions."""
    opcodes = list(opcodes_of(data))
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


def share_values(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Put a value of the memo, perhaps the description of a network, in many other places."""
    opcodes = list(opcodes_of(data))
    stored = sum(opcode[:1] in (b'\x94', b'q', b'r', b'p') for opcode in opcodes)
    for _ in range(rng.choice([1, 2, 5])):
        value = get(rng.randrange(stored + 1))
        if rng.random() < 0.3:
            value = named('torch_utils.persistence', '_reconstruct_persistent_obj') + value + b'\x85R'
        count = rng.choice([1, 2, 10, 100, 1000])
        position = rng.choice([k for k, opcode in enumerate(opcodes) if opcode in (b'u', b'e', b's', b'a')] or [0])
        filled = opcodes[position]
        items = [value if filled in (b'e', b'a') else text(f'n{k}') + value for k in range(count)]
        if filled in (b'u', b'e'):  # all items since the mark
            opcodes[position] = b''.join(items) + filled
        elif filled in (b's', b'a'):  # one item
            opcodes[position] = filled + b''.join(item + filled for item in items)
        else:
            opcodes[position] = value
    return b''.join(opcodes)


def odd_numbers(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Replace some numbers by scalars and arrays of NumPy that few programs write, or by extreme ones."""
    opcodes = list(opcodes_of(data))
    numbers = [k for k, opcode in enumerate(opcodes) if opcode[:1] in b'KMJGIFL\x8a\x88\x89']
    for _ in range(rng.choice([1, 1, 2, 5])):
        code = rng.choice(_CODES)
        size = _SIZES.get(code.lstrip('<>|'), 8)
        raw = rng.choice([bytes(size), b'\xff' * size, b'\x7f' + bytes(size - 1), rng.randbytes(size), *_FLOATS])
        number = rng.choice([
            scalar(code, raw), array(dtype_of(code), rng.choice([0, 1, 2**40]), raw), integer(rng.choice(_EXTREMES)),
            b'G' + rng.randbytes(8), named('builtins', 'complex') + (b'G' + rng.randbytes(8)) * 2 + b'\x86R',
        ])  # fmt: skip
        opcodes[rng.choice(numbers or [0])] = number
    return b''.join(opcodes)


def exchange_names(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Replace the names of some classes by those of other classes, functions and modules."""
    opcodes = list(opcodes_of(data))
    places = [
        k for k, opcode in enumerate(opcodes)
        if opcode[:1] in b'XV\x8cc' and len(opcode) < 200 and any(word.encode() in opcode for word in _CLASS_WORDS)
    ]  # fmt: skip
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.choice(places or [0])
        name = rng.choice(_NAMES)
        if opcodes[place][:1] == b'c':
            module, _, attribute = name.rpartition('.')
            opcodes[place] = named(rng.choice([module, 'training.networks', 'tflib']), attribute)
        else:
            opcodes[place] = text(name)
    return b''.join(opcodes)


# ---------------------------------------------------------------------------------------------------------------------
# Headers of safetensors


def change_header(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Replace the name of a class in the description of the networks, or describe many networks alike."""
    length = int.from_bytes(data[:8], 'little')
    content = json.loads(data[8 : 8 + length])
    networks = json.loads(content['__metadata__']['networks'])
    key = rng.choice(list(networks))
    if rng.random() < 0.5:
        networks[key]['class_name'] = rng.choice([*_NAMES, None, 1, [], {}, ['Generator']])
    else:
        networks |= {f'n{k}': networks[key] for k in range(rng.choice([1, 10, 1000]))}
    content['__metadata__']['networks'] = json.dumps(networks)
    header = json.dumps(content).encode()
    return struct.pack('<Q', len(header)) + header + data[8 + length :]


# ---------------------------------------------------------------------------------------------------------------------
# Choice of mutations

BYTE_MUTATIONS: list[Mutation] = [change_bytes, flip_bits, write_extremes, cut, move_a_piece, splice, insert_snippet]
KINDS: dict[Mutation, str] = {
    **dict.fromkeys(BYTE_MUTATIONS, 'mutated bytes'),
    mutate_opcodes: 'mutated instructions',
    share_values: 'shared descriptions',
    odd_numbers: 'odd numbers',
    exchange_names: 'class names',
    change_header: 'class names',
}
"""What a mutation is called in the results of a campaign."""


def mutations_for(name: str) -> list[Mutation]:
    """Return the mutations to choose from for a file.

    Half of those of a pickle change instructions, since most of its bytes belong to numbers and strings.
    """
    if 'safetensors' in name:
        return [*BYTE_MUTATIONS, change_header]
    return [*BYTE_MUTATIONS, *[mutate_opcodes] * (len(BYTE_MUTATIONS) - 3), share_values, odd_numbers, exchange_names]
