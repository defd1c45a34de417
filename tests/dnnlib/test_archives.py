"""Archives and arrays from outside: nothing expands beyond a limit, whatever the headers say."""

import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from dnnlib import archives
from dnnlib.archives import Archive, EntryTooLarge
from dnnlib.npz_input import DamagedNpz, Npz

MIB = 2**20


def write_zip(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, 'w', method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def set_size(path, index, size):
    """Change the size in the directory entry with this index."""
    content = bytearray(path.read_bytes())
    start = -1
    for _ in range(index + 1):
        start = content.index(b'PK\x01\x02', start + 1)
    content[start + 24 : start + 28] = struct.pack('<I', size)
    path.write_bytes(content)


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_entries_are_read_up_to_a_size(tmp_path, method):
    path = write_zip(tmp_path / 'a.zip', {'a': b'a' * 10_000, 'b': b''}, method)
    with Archive(path) as archive:
        archive.check_overlaps()
        assert archive.read_entry('a', 10_000) == b'a' * 10_000 and archive.read_entry('b', 0) == b''
        with pytest.raises(EntryTooLarge, match='has 10,000 bytes, but at most 9,999 are read'):
            archive.read_entry('a', 9999)


@pytest.mark.parametrize('method', [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_header_with_a_smaller_size_does_not_help(tmp_path, method):
    path = write_zip(tmp_path / 'a.zip', {'a': bytes(192 * MIB)}, method)
    set_size(path, 0, 100)
    with Archive(path) as archive:
        tracemalloc.start()
        try:
            with pytest.raises(zipfile.BadZipFile):
                archive.read_entry('a', 1000)
            assert tracemalloc.get_traced_memory()[1] < 100 * MIB
        finally:
            tracemalloc.stop()


def test_number_of_entries_is_limited(tmp_path, monkeypatch):
    path = write_zip(tmp_path / 'a.zip', {str(i): b'' for i in range(20)})
    monkeypatch.setattr(archives, 'MAX_ENTRIES', 19)
    with pytest.raises(zipfile.BadZipFile, match='20 entries, but at most 19'):
        Archive(path)
    monkeypatch.setattr(archives, 'MAX_DIRECTORY_BYTES', 100)
    with pytest.raises(zipfile.BadZipFile, match='directory has .* bytes'):
        Archive(path)


def test_entries_that_share_data_are_refused(tmp_path):
    path = write_zip(tmp_path / 'a.zip', {'a': b'1', 'b': b'2'})
    content = bytearray(path.read_bytes())
    second = content.rindex(b'PK\x01\x02')
    content[second + 42 : second + 46] = bytes(4)  # the offset of the data
    path.write_bytes(content)
    with Archive(path) as archive, pytest.raises(zipfile.BadZipFile, match="'b' overlap"):
        archive.check_overlaps()


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / 'pipe.zip')
    for name in ('pipe.zip', 'missing.zip'):
        with pytest.raises(OSError):
            Archive(tmp_path / name)
    (tmp_path / 'text.zip').write_text('text')
    with pytest.raises(zipfile.BadZipFile):
        Archive(tmp_path / 'text.zip')


# ---------------------------------------------------------------------------------------------------------------------
# npz


ARRAYS = {
    'float': np.arange(12, dtype=np.float32).reshape(3, 4),
    'fortran': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    'scalar': np.array(3),
    'text': np.array('key'),
    'empty': np.zeros([0, 5]),
}


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_arrays_are_those_of_numpy(tmp_path, save):
    save(tmp_path / 'a.npz', **ARRAYS)
    with Npz(tmp_path / 'a.npz') as npz:
        assert npz.names == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert npz.header(name) == (array.shape, array.dtype)
            read = npz.read(name, 1000)
            assert read.dtype == array.dtype and read.flags.writeable
            np.testing.assert_array_equal(read, array)
        with pytest.raises(DamagedNpz, match='48 bytes, but at most 47'):
            npz.read('float', 47)


def npy(shape, dtype='<f4', content=b''):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {'descr': dtype, 'fortran_order': False, 'shape': shape})
    return file.getvalue() + content


@pytest.mark.parametrize(
    'content',
    [npy((2,), content=b'1234'), npy((1,), content=b'12345'), npy((1,), '|O', b'.'), npy((-1,)), b'', b'\x93NUMPY'],
    ids=['short', 'long', 'objects', 'negative', 'empty', 'start'],
)
def test_damaged_arrays(tmp_path, content):
    path = write_zip(tmp_path / 'a.npz', {'w.npy': content})
    with Npz(path) as npz, pytest.raises(DamagedNpz):
        npz.read('w', 1000)


def test_the_header_of_an_endless_array_is_read_at_once(tmp_path):
    path = write_zip(tmp_path / 'a.npz', {'w.npy': npy((10**12, 18, 512))})
    with Npz(path) as npz:
        assert npz.header('w')[0] == (10**12, 18, 512)
        with pytest.raises(DamagedNpz, match='at most'):
            npz.read('w', 2**29)


def test_pickles_and_other_files_are_not_npz(tmp_path):
    (tmp_path / 'a.npz').write_bytes(b'cos\nsystem\n.')
    with pytest.raises(DamagedNpz):
        Npz(tmp_path / 'a.npz')
