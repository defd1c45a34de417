"""Reading tar archives from outside: nothing is unpacked, and memory stays within stated limits."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from dnnlib.files import open_regular
from dnnlib.text import excerpt

_PIECE_BYTES = 2**16


def read_members(
    path: Path, is_wanted: Callable[[str], bool], what: str, max_bytes: int, max_member_bytes: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the regular files in a gzipped tar archive that are wanted.

    Links, devices and folders are passed over, and names are only compared, never used as paths. `tarfile` would also
    read long names and attributes of files, which can take any amount of memory.

    Args:
        path: The archive.
        is_wanted: Whether the file of this name is read.
        what: The archive that is expected, for messages, such as 'the CIFAR-10 archive'.
        max_bytes: Largest size to which the archive may expand.
        max_member_bytes: Largest size of a wanted file, or None for `max_bytes`.

    Raises:
        ValueError: The archive is damaged, or exceeds a limit.
    """
    try:
        with open_regular(path) as file, gzip.GzipFile(fileobj=file) as expanded:
            stream = _LimitedStream(expanded, path, max_bytes, what)
            while header := stream.read(tarfile.BLOCKSIZE):
                if not any(header):  # padding
                    continue
                member = tarfile.TarInfo.frombuf(header, 'utf-8', 'surrogateescape')
                if member.size < 0:
                    raise tarfile.ReadError(f'{member.name} is not complete')
                size_in_blocks = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if not (member.isreg() and is_wanted(member.name)):
                    stream.skip(size_in_blocks, member.name)
                elif max_member_bytes is not None and member.size > max_member_bytes:
                    raise ValueError(
                        f'{excerpt(member.name)} of {path} has {member.size:,} bytes, but at most '
                        f'{max_member_bytes:,} are read; this is not {what}.'
                    )
                else:
                    yield member.name, stream.read_all(size_in_blocks, member.name)[: member.size]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f'{path} is not a complete tar archive ({excerpt(error)}); download it again.') from error


class _LimitedStream:
    """The expanded content of a gzip file, up to a limit: a small file can expand to any size."""

    def __init__(self, stream: gzip.GzipFile, path: Path, max_bytes: int, what: str):
        self._stream, self._path, self._what = stream, path, what
        self._max_bytes = self._num_left = max_bytes

    def read(self, size: int) -> bytes:
        content = self._stream.read(min(size, self._num_left + 1))
        self._num_left -= len(content)
        if self._num_left < 0:
            raise ValueError(f'{self._path} expands to more than {self._max_bytes:,} bytes; this is not {self._what}.')
        return content

    def read_all(self, size: int, name: str) -> bytes:
        """Read exactly this many bytes of the member `name`."""
        content = self.read(size) if size else b''
        if len(content) < size:
            raise tarfile.ReadError(f'{name} is not complete')
        return content

    def skip(self, size: int, name: str) -> None:
        """Pass over this many bytes of the member `name`."""
        while size > 0:
            size -= len(self.read_all(min(size, _PIECE_BYTES), name))
