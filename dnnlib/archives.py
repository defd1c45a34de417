"""Reading zip archives from outside: whatever their headers say, memory stays within stated limits.

Sizes in headers are compared with a limit before anything is expanded, and no more is expanded than they say.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile

from dnnlib.files import open_regular
from dnnlib.text import excerpt

MAX_ENTRIES = 4_000_000
MAX_DIRECTORY_BYTES = 2**29

_ENTRY_SIGNATURE = b'PK\x01\x02'
_LOCAL_HEADER_BYTES = 30  # without the name
_SMALL_READ = 4096  # for bzip2 and LZMA, which expand everything they are given, up to 20,000 times


class Archive(zipfile.ZipFile):
    """A zip archive that is open for reading, with a directory of limited size.

    Args:
        path: Regular file.

    Raises:
        OSError: The file does not exist, is not a regular file, or cannot be read.
        zipfile.BadZipFile: It is not a complete zip archive, or has too many entries.
    """

    _file: _DirectoryReader | None = None  # `close` is also called where the file cannot be opened

    def __init__(self, path: str | os.PathLike):
        with open_regular(path) as opened:
            self._file = file = _DirectoryReader(io.FileIO(os.dup(opened.fileno())))
        try:
            super().__init__(file)
        except (zipfile.BadZipFile, OSError):
            file.close()
            raise
        except (struct.error, NotImplementedError, OverflowError, ValueError) as error:
            file.close()
            raise zipfile.BadZipFile(str(error)) from error
        file.is_limited = False

    def close(self) -> None:
        super().close()
        if self._file is not None:
            self._file.close()

    def check_overlaps(self) -> None:
        """Raise BadZipFile if entries share their data, by which a small archive can claim any amount of content."""
        end = 0
        for info in sorted(self.infolist(), key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise zipfile.BadZipFile(f'the data of {excerpt(repr(info.filename))} overlap those of another entry')
            end = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size

    def read_entry(self, name: str, max_bytes: int) -> bytes:
        """Return the content of an entry.

        Raises:
            ValueError: It is larger than `max_bytes`; the text completes 'NAME ...'.
            Exception: Whatever `zipfile` raises for damaged, encrypted and unknown entries.
        """
        info = self.getinfo(name)
        if info.file_size > max_bytes:
            raise EntryTooLarge(f'has {info.file_size:,} bytes, but at most {max_bytes:,} are read')
        with self.open(info) as file:
            if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # Without the argument, a wrong size in the header would not keep 2 GiB from being expanded.
                return file.read(info.file_size + 1)
            content = io.BytesIO()
            while piece := file.read(_SMALL_READ):
                content.write(piece)
            return content.getvalue()


class EntryTooLarge(ValueError):
    """An entry that exceeds the limit of its reader; the text completes 'NAME ...'."""


class _DirectoryReader(io.BufferedReader):
    """A file from which zipfile reads the directory at once; entries are counted before they become objects."""

    is_limited = True

    def read(self, size: int | None = -1, /) -> bytes:
        if self.is_limited and size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f'its directory has {size:,} bytes, but at most {MAX_DIRECTORY_BYTES:,} are read')
        content = super().read(size)
        if self.is_limited and (count := content.count(_ENTRY_SIGNATURE)) > MAX_ENTRIES:
            raise zipfile.BadZipFile(f'it has {count:,} entries, but at most {MAX_ENTRIES:,} are read')
        return content
