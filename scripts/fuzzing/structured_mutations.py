"""Random changes to the content of files while their checksums and sizes stay right, so that readers get past these.

Each mutation is a function of a file, a random generator, and other files to take pieces from, as in
`scripts.fuzzing.mutations`; those of a container change one of its members with another mutation.
"""

from __future__ import annotations

import copy
import functools
import gzip
import io
import json
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from scripts.fuzzing.mutations import BYTE_MUTATIONS, Mutation

# ---------------------------------------------------------------------------------------------------------------------
# JSON

_ODD_VALUES: list[Any] = [
    None, True, False, '', 'x' * 5000, 'os.system', 'builtins.eval', 'subprocess.Popen', 'torch.load',
    'training.dataset.os',
    '../../etc/passwd', '/dev/zero', '\x00', '\x1b[2J', '\ud800', '\\', 'nan', '1', 'http://127.0.0.1:1/x',
    0, -1, 1, 2**31, 2**63 - 1, 2**63, 10**30, -(2**63), 0.5, -0.0, 1e308, 1e39, 1e-320, [], {}, [[]], [0] * 1000,
    [None],
    {'class_name': 'os.system', 'command': 'echo'}, {'class_name': 'training.networks_stylegan2.Generator'}, {'': {}},
]  # fmt: skip
_ODD_TEXTS = [
    'NaN', 'Infinity', '-Infinity', '1e999', '-1e999', '9' * 5000, '[' * 50000, '{"a":' * 50000, '[' * 40 + ']' * 40,
    '"\\ud800"', '"\\u0000"', '{"a": 1, "a": 2}', '', '/* */', "'a'", '01', '+1', '.5', '0x10', 'undefined',
]  # fmt: skip
_PLACEHOLDER = '#placeholder of an odd text#'


def mutate_json(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Replace, delete, repeat or exchange values in JSON, or insert text that is not JSON where a value belongs."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return rng.choice(BYTE_MUTATIONS)(data, rng, others)
    odd_text = ''
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        slots = _slots(value)
        if not slots or rng.random() < 0.02:
            value = copy.deepcopy(rng.choice(_ODD_VALUES))
            break
        container, key = rng.choice(slots)
        kind = rng.randrange(6)
        if kind <= 2:
            container[key] = copy.deepcopy(rng.choice(_ODD_VALUES))
        elif kind == 3:
            other_container, other_key = rng.choice(slots)
            container[key] = json.loads(json.dumps(other_container[other_key]))
        elif kind == 4:
            if isinstance(container, dict):
                container[rng.choice(['class_name', 'path', '', 'x' * 300])] = container.pop(key)
            else:
                container.extend(container[:100])
        else:
            odd_text = rng.choice(_ODD_TEXTS)
            container[key] = _PLACEHOLDER
    return json.dumps(value).replace(f'"{_PLACEHOLDER}"', odd_text).encode()


def mutate_json_lines(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Change one line of a file that has JSON on each."""
    lines = data.splitlines(keepends=True)
    position = rng.randrange(len(lines))
    lines[position] = mutate_json(lines[position], rng, others) + rng.choice([b'\n', b'\r\n', b''])
    return b''.join(lines)


def _slots(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value inside a JSON value."""
    slots: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        container = waiting.pop()
        keys = (
            container if isinstance(container, dict) else range(len(container)) if isinstance(container, list) else []
        )
        for key in keys:
            slots.append((container, key))
            waiting.append(container[key])
    return slots


# ---------------------------------------------------------------------------------------------------------------------
# Archives


def zip_mutation(mutate_member: Callable[[str], Mutation]) -> Mutation:
    """Return a mutation that changes a member of a zip archive and writes the archive again.

    Args:
        mutate_member: Returns the mutation for a member's name.
    """

    def mutate_zip(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        position = rng.randrange(len(members))
        name, content = members[position]
        kind = rng.randrange(10)
        if kind == 0:
            name = rng.choice(
                [
                    'a\\b.png',
                    '../x.png',
                    '/x.png',
                    '__MACOSX/x.png',
                    'e\u0301.png',
                    'x' * 300,
                    'dataset.json',
                    '\x1b.png',
                ]
            )
        elif kind == 1:
            members.append((name, content))
        elif kind == 2:
            content = b'\0' * rng.choice([0, 10**4, 3 * 10**7])
        else:
            content = mutate_member(name)(content, rng, others) if content else b'x'
        members[position] = (name, content)
        if rng.randrange(20) == 0:
            del members[rng.randrange(len(members))]
        return zip_of(members, rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))

    return mutate_zip


def zip_of(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive with these names and contents."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            if name in archive.NameToInfo:  # zipfile warns of repeated names, which are intended here
                del archive.NameToInfo[name]
            archive.writestr(info, content)
    return file.getvalue()


_CENTRAL_FIELDS = {8: 2, 10: 2, 16: 4, 20: 4, 24: 4, 28: 2, 30: 2, 42: 4}  # offset and size within an entry


def mutate_zip_directory(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Change a number in the central directory of a zip archive: a flag, a method, a size, a checksum or an offset."""
    starts = [match.start() for match in re.finditer(rb'PK\x01\x02', data)]
    if not starts:
        return rng.choice(BYTE_MUTATIONS)(data, rng, others)
    offset, size = rng.choice(list(_CENTRAL_FIELDS.items()))
    position = rng.choice(starts) + offset
    number = rng.choice([0, 1, 8, 12, 14, 93, 99, 2**16 - 1, 2**31, 2**32 - 1, rng.randrange(2**16)])
    return data[:position] + number.to_bytes(8, 'little')[:size] + data[position + size :]


def gzip_mutation(mutate: Mutation) -> Mutation:
    """Return a mutation that changes the content of a gzip file."""

    def mutate_gzip(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
        return gzip.compress(mutate(gzip.decompress(data), rng, others), compresslevel=1)

    return mutate_gzip


def tar_gz_mutation(mutate: Mutation) -> Mutation:
    """Return a mutation that changes a member of a compressed tar archive."""

    def mutate_tar_gz(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(data), mode='r:gz') as archive:
            members = [(member.name, _content(archive, member)) for member in archive]
        position = rng.randrange(len(members))
        members[position] = (members[position][0], mutate(members[position][1], rng, others))
        return tar_gz_of(members)

    return mutate_tar_gz


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b'' if file is None else file.read()


def tar_gz_of(members: list[tuple[str, bytes]]) -> bytes:
    """Return a compressed tar archive with these names and contents."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz', compresslevel=1) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


# ---------------------------------------------------------------------------------------------------------------------
# PNG and npy

_PNG_SIGNATURE_BYTES = 8
_ODD_SIZES = [0, 1, 7, 2**14, 30_000, 2**16, 2**31 - 1, 2**31, 2**32 - 1]


def mutate_png(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Change the sizes, the kind or the pixels of a PNG, or insert, repeat or drop a chunk; checksums are right."""
    chunks = _png_chunks(data)
    if not chunks:
        return rng.choice(BYTE_MUTATIONS)(data, rng, others)
    position = rng.randrange(len(chunks))
    kind, content = chunks[position]
    change = rng.randrange(6)
    if change == 0 and chunks[0][0] == b'IHDR' and len(chunks[0][1]) == 13:
        width, height, *rest = struct.unpack('>IIBBBBB', chunks[0][1])
        width, height = rng.choice(
            [(rng.choice(_ODD_SIZES), height), (width, rng.choice(_ODD_SIZES)), (30_000, 30_000)]
        )
        chunks[0] = (b'IHDR', struct.pack('>IIBBBBB', width, height, *rest))
    elif change == 1 and chunks[0][0] == b'IHDR':
        header = bytearray(chunks[0][1])
        header[rng.randrange(len(header))] = rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255])
        chunks[0] = (b'IHDR', bytes(header))
    elif change == 2:
        chunks.insert(
            position,
            (rng.choice([b'tEXt', b'zTXt', b'iCCP', b'eXIf', b'tRNS', b'acTL', b'PLTE']), _odd_text_chunk(rng)),
        )
    elif change == 3:
        chunks.insert(rng.randrange(len(chunks)), chunks[position])
    elif change == 4:
        del chunks[position]
    elif content:
        chunks[position] = (kind, rng.choice(BYTE_MUTATIONS)(content, rng, others))
    return data[:_PNG_SIGNATURE_BYTES] + b''.join(_png_chunk(kind, content) for kind, content in chunks)


@functools.cache
def _bomb() -> bytes:
    return zlib.compress(b'\0' * 10**7, 9)


def _odd_text_chunk(rng: random.Random) -> bytes:
    return rng.choice([b'', b'a\0', b'a\0\0' + _bomb(), b'a\0\0' + b'x' * 100, b'MM\0*' + b'\xff' * 30, bytes(3 * 256)])


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks = []
    position = _PNG_SIGNATURE_BYTES
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], 'big')
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    return chunks


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(content, zlib.crc32(kind)))


_NPY_HEADER = re.compile(rb"\{'descr': '([^']*)', 'fortran_order': (\w+), 'shape': \(([^)]*)\), \}")
_NPY_KINDS = [
    b'<f4',
    b'<f8',
    b'|u1',
    b'<i8',
    b'|O',
    b'<c16',
    b'|S1000',
    b'<U9',
    b'|V8',
    b'<M8[s]',
    b'x',
    b'|b1',
    b'>f2',
]
_NPY_SHAPES = [
    b'',
    b'0,',
    b'1,',
    b'-1,',
    b'99999999999,',
    b'1, ' * 40,
    b'100000, 100000',
    b'9223372036854775807, 2',
    b'"a",',
]


def mutate_npy(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Change the type or the shape in the header of a npy file."""
    match = _NPY_HEADER.search(data[:300])
    if match is None or rng.randrange(4) == 0:
        return rng.choice(BYTE_MUTATIONS)(data, rng, others)
    kind, order, shape = match.groups()
    kind, shape = rng.choice([(rng.choice(_NPY_KINDS), shape), (kind, rng.choice(_NPY_SHAPES))])
    header = b"{'descr': '%s', 'fortran_order': %s, 'shape': (%s), }" % (kind, order, shape)
    old_length = int.from_bytes(data[8:10], 'little')
    padded = header.ljust(max(old_length, len(header) + 1))
    return data[:8] + len(padded).to_bytes(2, 'little') + padded + data[10 + old_length :]


# ---------------------------------------------------------------------------------------------------------------------
# safetensors


def mutate_safetensors(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Change a value in the header of a safetensors file, or in the JSON that its metadata contain as text."""
    length = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8 : 8 + length])
    metadata = header.get('__metadata__', {})
    texts = [key for key, text in metadata.items() if text.startswith('{')]
    if texts and rng.randrange(2):
        key = rng.choice(texts)
        metadata[key] = mutate_json(metadata[key].encode(), rng, others).decode('latin1')
        changed = json.dumps(header).encode()
    else:
        changed = mutate_json(data[8 : 8 + length], rng, others)
    return len(changed).to_bytes(8, 'little') + changed + data[8 + length :]
