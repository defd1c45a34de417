"""dnnlib.util: attribute dictionaries, objects by name, log files, and downloads from a real local server."""

import copy
import errno
import hashlib
import http.server
import pickle
import sys
import threading
import types

import pytest

import dnnlib
from dnnlib import util


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


@pytest.mark.parametrize('seconds, text', [
    (0, '0s'), (59.4, '59s'), (59.6, '1m 00s'), (187, '3m 07s'), (3600, '1h 00m 00s'), (18187, '5h 03m 07s'),
    (86400 * 2 + 3600 * 5 + 187, '2d 05h 03m'),
])
def test_format_time(seconds, text):
    assert util.format_time(seconds) == text


class TestLogger:
    def test_copies_both_streams_and_restores_them(self, tmp_path, capsys):
        before = sys.stdout, sys.stderr
        with util.Logger(tmp_path / 'log.txt', 'w') as log:
            print('to stdout: Grüße')
            print('to stderr', file=sys.stderr)
            print('progress', file=log.terminal)
            assert (tmp_path / 'log.txt').read_text(encoding='utf-8').endswith('to stderr\n')  # flushed at once
        assert (sys.stdout, sys.stderr) == before
        print('after')
        assert (tmp_path / 'log.txt').read_text(encoding='utf-8') == 'to stdout: Grüße\nto stderr\n'
        screen = capsys.readouterr()
        assert screen.out == 'to stdout: Grüße\nafter\n'
        assert screen.err == 'to stderr\nprogress\n'

    def test_appends_and_survives_an_error(self, tmp_path):
        for text in ('first', 'second'):
            with pytest.raises(RuntimeError), util.Logger(tmp_path / 'log.txt', 'a'):
                print(text)
                raise RuntimeError
        assert (tmp_path / 'log.txt').read_text() == 'first\nsecond\n'

    def test_text_after_close_goes_to_the_screen_only(self, tmp_path, capsys):
        log = util.Logger(tmp_path / 'log.txt', 'w')
        kept = sys.stdout
        log.close()
        log.close()
        kept.write('late')
        assert (tmp_path / 'log.txt').read_text() == ''
        assert capsys.readouterr().out == 'late'


# ---------------------------------------------------------------------------------------------------------------------
# Downloads

CONTENT = bytes(range(256)) * 5000


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT in the ways that servers have, good and bad; counts requests by path."""

    def do_GET(self):
        server = self.server
        count = server.requests[self.path] = server.requests.get(self.path, 0) + 1
        if self.path == '/missing.pkl':
            self.send_error(404)
        elif self.path == '/busy.pkl' and count < 3:
            self.send_error(503)
        elif self.path == '/down.pkl':
            self.send_error(500)
        elif self.path == '/page.pkl':
            self.answer(b'\n<!DOCTYPE html><html>sign in first</html>', 'application/octet-stream')
        elif self.path == '/html.pkl':
            self.answer(b'please sign in', 'text/html; charset=utf-8')
        elif self.path == '/empty.pkl':
            self.answer(b'')
        elif self.path == '/cut-once.pkl' and count == 1 or self.path == '/cut.pkl':
            self.answer(CONTENT[:1000], length=len(CONTENT))
        else:
            self.answer(CONTENT)

    def answer(self, body, content_type='application/octet-stream', length=None):
        self.send_response(200)
        self.send_header('Content-Type', content_type)
        self.send_header('Content-Length', str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        pass


@pytest.fixture
def server():
    httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    httpd.requests = {}
    thread = threading.Thread(target=httpd.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield types.SimpleNamespace(url=f'http://127.0.0.1:{httpd.server_port}', requests=httpd.requests)
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(util, '_FIRST_RETRY_DELAY_SEC', 0.01)
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / 'cache' / 'downloads'


def files_in(folder):
    return sorted(path.name for path in folder.glob('*'))


class TestOpenUrl:
    def test_local_file_home_and_file_url(self, tmp_path, monkeypatch):
        (tmp_path / 'a b.bin').write_bytes(b'local')
        monkeypatch.setenv('HOME', str(tmp_path))
        for name in (tmp_path / 'a b.bin', str(tmp_path / 'a b.bin'), '~/a b.bin', (tmp_path / 'a b.bin').as_uri()):
            with util.open_url(name) as file:
                assert file.read() == b'local'

    def test_missing_local_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match='nothing.pkl'):
            util.open_url(tmp_path / 'nothing.pkl')

    def test_downloads_once_to_the_published_name(self, server, cache):
        url = server.url + '/models/net-1.pkl?x=1'
        for _ in range(2):
            with util.open_url(url, verbose=False) as file:
                assert file.read() == CONTENT
        assert server.requests == {'/models/net-1.pkl?x=1': 1}
        assert files_in(cache) == [hashlib.md5(url.encode()).hexdigest() + '_net-1.pkl']

    def test_finds_what_another_program_cached(self, cache):
        url = 'http://127.0.0.1:9/never-asked.pkl'
        cache.mkdir(parents=True)
        (cache / (hashlib.md5(url.encode()).hexdigest() + '_its-own-name.pkl')).write_bytes(b'cached')
        with util.open_url(url) as file:
            assert file.read() == b'cached'

    def test_cache_dir_argument(self, server, cache, tmp_path):
        util.open_url(server.url + '/a.pkl', cache_dir=str(tmp_path / 'elsewhere'), verbose=False).close()
        assert len(files_in(tmp_path / 'elsewhere')) == 1
        assert not cache.exists()

    @pytest.mark.parametrize('path, requests', [('/busy.pkl', 3), ('/cut-once.pkl', 2)])
    def test_tries_again_after_a_passing_failure(self, server, cache, path, requests):
        with util.open_url(server.url + path, verbose=False) as file:
            assert file.read() == CONTENT
        assert server.requests[path] == requests
        assert len(files_in(cache)) == 1

    @pytest.mark.parametrize('path, reason, requests', [
        ('/missing.pkl', 'answered 404', 1),
        ('/down.pkl', 'answered 500', 3),
        ('/page.pkl', 'web page instead of a file', 1),
        ('/html.pkl', 'web page instead of a file', 1),
        ('/empty.pkl', 'empty', 3),
        ('/cut.pkl', '1000', 3),
    ])
    def test_failure_is_a_sentence_and_leaves_nothing(self, server, cache, path, reason, requests):
        with pytest.raises(OSError, match=reason) as caught:
            util.open_url(server.url + path, verbose=False, num_attempts=3)
        assert server.url + path in str(caught.value)
        assert 'path' in str(caught.value)  # the way out: download it yourself
        assert server.requests[path] == requests
        assert files_in(cache) == []

    def test_no_server(self, cache):
        with pytest.raises(OSError, match=r'could not download http://127\.0\.0\.1:9/x\.pkl'):
            util.open_url('http://127.0.0.1:9/x.pkl', verbose=False, num_attempts=2)
        assert files_in(cache) == []

    def test_message_goes_to_stderr(self, server, capsys):
        util.open_url(server.url + '/a.pkl').close()
        screen = capsys.readouterr()
        assert screen.out == ''
        assert f'Downloading {server.url}/a.pkl' in screen.err


def test_cache_path(monkeypatch, tmp_path):
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path))
    assert util.make_cache_dir_path('a', 'b') == str(tmp_path / 'a' / 'b')
    monkeypatch.delenv('DNNLIB_CACHE_DIR')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert util.make_cache_dir_path('downloads') == str(tmp_path / '.cache' / 'dnnlib' / 'downloads')
    assert not (tmp_path / '.cache').exists()


@pytest.mark.parametrize('text, expected', [
    ('http://a.b/c.pkl', True), ('https://a.b', True), ('ftp://a.b/c', False), ('http://', False), ('C:/a.pkl', False),
    ('a.pkl', False), ('', False), (None, False),
])
def test_is_url(text, expected):
    assert util.is_url(text) is expected


def test_errors_of_the_system_name_the_file(tmp_path):
    def raise_in_context(error):
        with pytest.raises(OSError) as caught, util.os_errors_named(tmp_path / 'a.png'):
            raise error
        return caught.value

    error = raise_in_context(OSError(errno.ENOSPC, 'No space left on device'))
    assert (error.errno, error.filename) == (errno.ENOSPC, str(tmp_path / 'a.png'))
    assert raise_in_context(OSError(errno.ENOENT, 'No such file', 'other.png')).filename == 'other.png'
    assert str(raise_in_context(util.DownloadError('a sentence'))) == 'a sentence'
