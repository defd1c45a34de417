"""dnnlib.util: attribute dictionaries, objects by name, log files."""

import copy
import errno
import io
import os
import pickle
import sys

import pytest

import dnnlib
from dnnlib import downloads, files, log, util


class TestEasyDict:
    def test_items_are_attributes(self):
        d = dnnlib.EasyDict(lr=0.1)
        d.batch = 4
        d['gamma'] = 10
        assert (d.lr, d['batch'], d.gamma) == (0.1, 4, 10)
        del d.lr
        assert d == {'batch': 4, 'gamma': 10}

    def test_missing_attribute_is_named(self):
        d = dnnlib.EasyDict()
        with pytest.raises(AttributeError, match='gamma'):
            _ = d.gamma
        with pytest.raises(AttributeError, match='gamma'):
            del d.gamma
        assert not hasattr(d, 'gamma')

    @pytest.mark.parametrize('duplicate', [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
    def test_copies_keep_type_and_items(self, duplicate):
        d = dnnlib.EasyDict(a=1, inner=dnnlib.EasyDict(b=[2]))
        assert duplicate(d) == d
        assert type(duplicate(d)) is dnnlib.EasyDict
        assert duplicate(d).inner.b == [2]

    def test_pickles_under_the_frozen_name(self):
        assert b'dnnlib.util\nEasyDict' in pickle.dumps(dnnlib.EasyDict(), protocol=0)


class TestObjectsByName:
    def test_class_function_and_nested_attribute(self):
        assert util.get_obj_by_name('dnnlib.util.EasyDict') is dnnlib.EasyDict
        assert util.get_obj_by_name('os.path.join').__name__ == 'join'
        assert util.get_obj_by_name('dnnlib.util.EasyDict.keys') is dnnlib.EasyDict.keys

    def test_construct_and_call(self):
        assert util.construct_class_by_name(class_name='dnnlib.util.EasyDict', a=1) == {'a': 1}
        assert util.call_func_by_name('a', 'b', func_name='os.path.join') == 'a/b'

    @pytest.mark.parametrize('name', ['dnnlib.util.Nothing', 'no_such_module.Thing', 'plainword', 'dnnlib.no.Thing'])
    def test_unknown_name_is_in_the_error(self, name):
        with pytest.raises(ImportError, match=name.rsplit('.', 1)[0]):
            util.get_obj_by_name(name)

    def test_error_inside_a_module_is_not_hidden(self, tmp_path, monkeypatch):
        (tmp_path / 'broken_module_of_a_test.py').write_text('import a_module_that_nobody_has\n')
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModuleNotFoundError, match='a_module_that_nobody_has'):
            util.get_obj_by_name('broken_module_of_a_test.Thing')


@pytest.mark.parametrize(
    'seconds, text',
    [
        (0, '0s'),
        (59.4, '59s'),
        (59.6, '1m 00s'),
        (187, '3m 07s'),
        (3600, '1h 00m 00s'),
        (18187, '5h 03m 07s'),
        (86400 * 2 + 3600 * 5 + 187, '2d 05h 03m'),
    ],
)
def test_format_time(seconds, text):
    assert util.format_time(seconds) == text


class TestLogger:
    def test_copies_both_streams_and_restores_them(self, tmp_path, capsys):
        before = sys.stdout, sys.stderr
        with log.Logger(tmp_path / 'log.txt', 'w') as logger:
            print('to stdout: Grüße')
            print('to stderr', file=sys.stderr)
            print('progress', file=logger.terminal)
            assert (tmp_path / 'log.txt').read_text(encoding='utf-8').endswith('to stderr\n')  # flushed at once
        assert (sys.stdout, sys.stderr) == before
        print('after')
        assert (tmp_path / 'log.txt').read_text(encoding='utf-8') == 'to stdout: Grüße\nto stderr\n'
        screen = capsys.readouterr()
        assert screen.out == 'to stdout: Grüße\nafter\n'
        assert screen.err == 'to stderr\nprogress\n'

    def test_appends_and_survives_an_error(self, tmp_path):
        for text in ('first', 'second'):
            with pytest.raises(RuntimeError), log.Logger(tmp_path / 'log.txt', 'a'):
                print(text)
                raise RuntimeError
        assert (tmp_path / 'log.txt').read_text() == 'first\nsecond\n'

    def test_text_after_close_goes_to_the_screen_only(self, tmp_path, capsys):
        logger = log.Logger(tmp_path / 'log.txt', 'w')
        kept = sys.stdout
        logger.close()
        logger.close()
        kept.write('late')
        assert (tmp_path / 'log.txt').read_text() == ''
        assert capsys.readouterr().out == 'late'


def test_downloads_are_re_exported():
    for name in ('open_url', 'is_url', 'make_cache_dir_path', 'DownloadError'):
        assert getattr(util, name) is getattr(downloads, name)


def test_errors_of_the_system_name_the_file(tmp_path):
    def raise_in_context(error):
        with pytest.raises(OSError) as caught, files.os_errors_named(tmp_path / 'a.png'):
            raise error
        return caught.value

    error = raise_in_context(OSError(errno.ENOSPC, 'No space left on device'))
    assert (error.errno, error.filename) == (errno.ENOSPC, str(tmp_path / 'a.png'))
    assert raise_in_context(OSError(errno.ENOENT, 'No such file', 'other.png')).filename == 'other.png'
    assert str(raise_in_context(util.DownloadError('a sentence'))) == 'a sentence'


class TestRetryingFile:
    @pytest.fixture
    def full_disk(self, monkeypatch):
        """A function that sets whether the disk is full. On a full disk, the first few bytes are still written."""
        real_write, full = os.write, []

        def write(fd, content):
            if not full:
                return real_write(fd, content)
            if len(content) > 5:
                return real_write(fd, content[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, 'write', write)
        return lambda is_full: full.append(1) if is_full else full.clear()

    def test_text_waits_for_space_and_lines_stay_complete(self, tmp_path, full_disk):
        file = files.RetryingFile(tmp_path / 'lines')
        file.write('one\n')
        assert file.error is None
        full_disk(True)
        for line in ('two two\n', 'three three\n'):
            file.write(line)
            assert str(file.error) == f"[Errno 28] No space left on device: '{tmp_path / 'lines'}'"
            assert (tmp_path / 'lines').read_text() == 'one\n'
        full_disk(False)
        file.write('four\n')
        assert file.error is None
        file.close()
        file.close()
        file.write('dropped\n')
        assert (tmp_path / 'lines').read_text() == 'one\ntwo two\nthree three\nfour\n'

    def test_appends_or_truncates(self, tmp_path):
        for truncate, expected in ((False, 'a'), (False, 'aa'), (True, 'a')):
            file = files.RetryingFile(tmp_path / 'file', truncate=truncate)
            file.write('a')
            file.close()
            assert (tmp_path / 'file').read_text() == expected

    def test_logger_warns_once_about_a_full_disk_and_continues(self, tmp_path, full_disk, capsys):
        with log.Logger(tmp_path / 'log.txt'):
            print('before')
            full_disk(True)
            print('a long line in between')
            print('another long line in between')
            full_disk(False)
            print('after')
        out, err = capsys.readouterr()
        expected = 'before\na long line in between\nanother long line in between\nafter\n'
        assert out == (tmp_path / 'log.txt').read_text() == expected
        path = tmp_path / 'log.txt'
        assert (
            err
            == f"Warning: [Errno 28] No space left on device: '{path}'; the log will be written when there is space.\n"
        )

    @pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EBADF])
    def test_lost_output_is_ignored(self, tmp_path, monkeypatch, number):
        class Lost(io.StringIO):
            def write(self, text):
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(sys, 'stdout', Lost())
        with log.Logger(tmp_path / 'log.txt'):
            print('kept')
        assert (tmp_path / 'log.txt').read_text().startswith('kept')
