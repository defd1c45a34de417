"""Tests for reading JSON from outside."""

import os

import pytest

from dnnlib.files import read_file
from dnnlib.json_input import MAX_DEPTH, parse_json, read_json


def test_valid_json_is_parsed():
    assert parse_json('{"a": [1, 2.5, null, "ü"]}'.encode(), 'f') == {'a': [1, 2.5, None, 'ü']}
    assert parse_json(b'\xef\xbb\xbf[1]', 'f') == [1]  # with a byte order mark, as some editors write it
    assert parse_json('[' * MAX_DEPTH + ']' * MAX_DEPTH, 'f') is not None


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'Expecting value'),
        (b'{"a": 1', 'delimiter'),
        (b'\xff\xfe', 'not UTF-8'),
        (b'[NaN]', 'NaN is not a JSON number'),
        (b'[-Infinity]', '-Infinity is not'),
        (b'[1e999]', 'beyond the range of float64'),
        (b'[-1.0E+0309]', 'beyond the range of float64'),
        (b'[1' + b'0' * 250 + b'.0e99]', 'beyond the range of float64'),
        (b'[1' + b'0' * 400 + b'.0]', 'beyond the range of float64'),
        (b'[' + b'9' * 10_000 + b']', 'digits'),
        (b'[' * (MAX_DEPTH + 1) + b']' * (MAX_DEPTH + 1), 'nested more than'),
        (b'[' * 100_000 + b']' * 100_000, 'nested more than'),
        (b'{"a":' * 100_000 + b'1' + b'}' * 100_000, 'nested more than'),
        (b'[' * 100_000, 'nested more than'),
    ],
)
def test_invalid_json_is_one_sentence_with_the_name(content, reason):
    with pytest.raises(ValueError, match=reason) as error:
        parse_json(content, 'the file')
    assert str(error.value).startswith('the file is not valid JSON: ')
    assert str(error.value).endswith('.')
    assert '\n' not in str(error.value)


def test_files_are_read_up_to_a_size(tmp_path):
    path = tmp_path / 'a.json'
    path.write_bytes(b'"' + b'a' * 998 + b'"')
    assert len(read_json(path, max_bytes=1000)) == 998
    with pytest.raises(ValueError, match='a.json has more than 999 bytes'):
        read_json(path, max_bytes=999)
    with pytest.raises(ValueError, match='f has 1000 bytes'):
        parse_json(path.read_bytes(), 'f', max_bytes=999)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for name, reason in [('pipe', 'not a regular file'), ('.', 'directory|not a regular file'), ('missing', 'No such')]:
        with pytest.raises(OSError, match=reason) as error:
            read_file(tmp_path / name, 10)
        assert name in str(error.value.filename) or name == '.'
    with pytest.raises(OSError, match='not a regular file'):
        read_file('/dev/zero', 10)
