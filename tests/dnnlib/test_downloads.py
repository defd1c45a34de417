"""Downloads from a real local server that behaves and misbehaves as servers and networks do."""

import email.utils
import errno
import gc
import gzip
import hashlib
import http.server
import io
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dnnlib import cache as cache_module
from dnnlib import downloads, http_transfer, log

CONTENT = random.Random(0).randbytes(300_000)
NEW_CONTENT = random.Random(1).randbytes(300_000)
HALF = len(CONTENT) // 2
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ETAG = {'ETag': '"version-1"'}
ROOT = Path(__file__).resolve().parents[2]

# ---------------------------------------------------------------------------------------------------------------------
# The server


class Request(http.server.BaseHTTPRequestHandler):
    """Records each request and calls the function that a test has set for its path."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        self.server.requests.append(self)
        count = sum(request.path == self.path for request in self.server.requests)
        self.server.answers[self.path](self, count)

    def send(self, body=b'', status=200, length=None, ends=True, **headers):
        """Send a response that announces `length` bytes. Underscores in header names become hyphens."""
        self.send_response(status)
        self.send_header('Content-Length', str(len(body) if length is None else length))
        if ends:
            self.send_header('Connection', 'close')
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, content=CONTENT, stop=None, ranges=True, honors_if_range=True, **headers):
        """Send a file as correct servers do; with `stop`, the connection breaks after that many bytes of the body."""
        wanted = self.headers.get('Range')
        unchanged = self.headers.get('If-Range') in {headers.get('ETag'), headers.get('Last_Modified')}
        if not (wanted and ranges and (unchanged or not honors_if_range)):
            return self.send(content[:stop], length=len(content), **headers)
        start = int(re.fullmatch(r'bytes=(\d+)-', wanted)[1])
        if start >= len(content):
            return self.send(status=416, Content_Range=f'bytes */{len(content)}')
        headers.setdefault('Content_Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        body = content[start:]
        return self.send(body[:stop], status=206, length=len(body), **headers)

    def send_chunked(self, content, stop=None, status=200, **headers):
        self.send_response(status)
        self.send_header('Transfer-Encoding', 'chunked')
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        for start in range(0, len(content[:stop]), 10_000):
            piece = content[start : start + 10_000]
            self.wfile.write(b'%x\r\n%b\r\n' % (len(piece), piece))
        if stop is None:
            self.wfile.write(b'0\r\n\r\n')

    def log_message(self, *_args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self):
        super().__init__(('127.0.0.1', 0), Request)
        self.url = f'http://127.0.0.1:{self.server_port}'
        self.answers = {}
        self.requests = []
        self.released = threading.Event()  # what answers wait for that hang

    def handle_error(self, *_args):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client may leave
            super().handle_error(*_args)

    def serve(self, answer, path='/network.pkl'):
        """Return a URL that `answer(request, number of the request)` serves from now on."""
        self.answers[path] = answer
        return self.url + path

    @property
    def ranges(self):
        return [request.headers.get('Range') for request in self.requests]


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty folder for downloads, without proxies and long waits."""
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    for name in ('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(downloads, '_FIRST_RETRY_DELAY_SEC', 0.001)
    monkeypatch.setattr(downloads, '_LONGEST_RETRY_DELAY_SEC', 0.01)
    monkeypatch.setattr(cache_module, '_LOCK_POLL_SEC', 0.01)
    return tmp_path / 'cache' / 'downloads'


@pytest.fixture
def requests_ended():
    """Wait for the threads of requests that were given up; urllib3 leaves some of their sockets to the collector."""
    yield
    for thread in threading.enumerate():
        if thread.name == 'http request':
            thread.join(30)
            assert not thread.is_alive()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ResourceWarning)
        gc.collect()


def download(url, **kwargs):
    with downloads.open_url(url, **{'verbose': False, **kwargs}) as file:
        return file.read()


def failure(url, **kwargs):
    """Return the message with which a download fails."""
    with pytest.raises(downloads.DownloadError) as caught:
        download(url, **kwargs)
    sentence = str(caught.value)
    assert url in sentence
    assert '\n' not in sentence and '0x' not in sentence and 'Connection(' not in sentence
    return sentence


def md5(url):
    return hashlib.md5(url.encode()).hexdigest()


def breaks_once(**kwargs):
    return lambda request, count: request.send_file(stop=HALF if count == 1 else None, **kwargs)


def files_in(folder):
    return sorted(path.name for path in folder.glob('*'))


def only_the_file(url):
    return [f'{md5(url)}_{url.rpartition("/")[2]}']


# ---------------------------------------------------------------------------------------------------------------------
# Addresses and the cache


class TestLocalFiles:
    def test_path_home_and_file_url(self, tmp_path, monkeypatch):
        path = tmp_path / 'a b#1.bin'
        path.write_bytes(b'local')
        monkeypatch.setenv('HOME', str(tmp_path))
        local_url = path.as_uri()
        for name in (path, str(path), '~/a b#1.bin', local_url, local_url.replace('//', '//localhost', 1)):
            assert download(name) == b'local'

    def test_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match='nothing.pkl'):
            downloads.open_url(tmp_path / 'nothing.pkl')

    @pytest.mark.parametrize('address', ['s3://bucket/a.pkl', 'ftp://a.b/c.pkl', 'file://server/a.pkl', 'file://a.pkl'])
    def test_unsupported_addresses(self, address):
        assert 'file://' in failure(address)

    def test_checksum(self, tmp_path):
        path = tmp_path / 'a.bin'
        path.write_bytes(CONTENT)
        assert download(path, sha256=SHA256) == CONTENT
        sentence = failure(str(path), sha256='0' * 64)
        assert SHA256 in sentence and '0' * 64 in sentence
        assert path.exists()


class TestCache:
    def test_downloads_once_to_the_published_name(self, server, cache):
        url = server.serve(lambda request, _: request.send_file(), '/models/net-1.pkl?x=1')
        assert [download(url), download(url)] == [CONTENT, CONTENT]
        assert len(server.requests) == 1
        assert files_in(cache) == [md5(url) + '_net-1.pkl']
        assert downloads.cached_file(url) == downloads.cache_path(url) == cache / files_in(cache)[0]

    def test_finds_what_another_program_cached(self, cache):
        url = 'http://127.0.0.1:9/never-asked.pkl'
        assert downloads.cached_file(url) is None
        cache.mkdir(parents=True)
        (cache / f'{md5(url)}_its-own-name.pkl').write_bytes(b'cached')
        assert download(url) == b'cached'

    def test_cache_dir_argument(self, server, cache, tmp_path):
        url = server.serve(lambda request, _: request.send_file())
        download(url, cache_dir=str(tmp_path / 'elsewhere'))
        assert files_in(tmp_path / 'elsewhere') == only_the_file(url)
        assert not cache.exists()

    @pytest.mark.parametrize('unsound', [b'', b'\n<!DOCTYPE html><html>please sign in</html>', NEW_CONTENT])
    def test_unsound_cached_file_is_replaced_when_there_is_a_better_one(self, server, cache, unsound):
        url = server.serve(lambda request, count: request.send_file() if count > 1 else request.send(status=404))
        cache.mkdir(parents=True)
        path = downloads.cache_path(url)
        path.write_bytes(unsound)
        assert 'to replace the present file' in failure(url, sha256=SHA256)
        assert path.read_bytes() == unsound
        assert download(url, sha256=SHA256) == CONTENT
        assert path.read_bytes() == CONTENT

    @pytest.mark.parametrize('path, name', [
        ('/', 'download'), ('/a%20b%2Fc/../n%C3%BCt;v=1.pkl', 'n_t_v_1.pkl'), ('/..%2Fpasswd', 'passwd'),
        ('/a%00b', 'a_b'), ('/' + 'x' * 500 + '.pkl', 'x' * 96 + '.pkl'),
    ])  # fmt: skip
    def test_odd_names(self, server, cache, path, name):
        url = server.url + path
        server.answers = dict.fromkeys([path, '/n%C3%BCt;v=1.pkl', '/'], lambda request, _: request.send_file())
        assert download(url) == CONTENT
        assert files_in(cache) == [f'{md5(url)}_{name}']

    def test_old_partial_files_go_and_others_stay(self, server, cache):
        cache.mkdir(parents=True)
        old, new = 'a' * 32 + '.partial', 'b' * 32 + '.partial'
        others = ['c' * 32 + '_network.partial', 'notes.partial']
        for name in (old, old + '.json', new, new + '.json', *others):
            (cache / name).write_bytes(b'x')
        (cache / ('d' * 32 + '.lock')).write_bytes(b'')
        for name in (old, old + '.json', 'd' * 32 + '.lock', *others):
            os.utime(cache / name, (time.time() - 8 * 86400,) * 2)
        url = server.serve(lambda request, _: request.send_file())
        download(url)
        assert files_in(cache) == sorted([new, new + '.json', *others, *only_the_file(url)])


def test_cache_path(monkeypatch, tmp_path):
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path))
    assert downloads.make_cache_dir_path('a', 'b') == str(tmp_path / 'a' / 'b')
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('DNNLIB_CACHE_DIR', '~/a')
    assert downloads.make_cache_dir_path() == str(tmp_path / 'a')
    monkeypatch.delenv('DNNLIB_CACHE_DIR')
    assert downloads.make_cache_dir_path('downloads') == str(tmp_path / '.cache' / 'dnnlib' / 'downloads')
    assert not (tmp_path / '.cache').exists()


@pytest.mark.parametrize('text, expected', [
    ('http://a.b/c.pkl', True), ('https://a.b', True), ('HTTP://a.b', True), ('ftp://a.b/c', False), ('http://', False),
    ('http://[', False), ('C:/a.pkl', False), ('a.pkl', False), ('', False), (None, False),
])  # fmt: skip
def test_is_url(text, expected):
    assert downloads.is_url(text) is expected


# ---------------------------------------------------------------------------------------------------------------------
# Failures


class TestFailures:
    @pytest.mark.parametrize('answer, reason, requests', [
        (dict(status=404), 'returned 404 Not Found', 1),
        (dict(status=403), 'returned 403 Forbidden', 1),
        (dict(status=500), 'returned 500 Internal Server Error, 3 attempts', 3),
        (dict(status=204), 'returned 204 No Content', 1),
        (dict(status=206, body=CONTENT), 'returned 206', 1),
        (dict(status=302), 'returned 302', 1),
        (dict(body=b'\n<!DOCTYPE html><html>sign in</html>'), 'a web page instead of a file', 1),
        (dict(body=b'please sign in', Content_Type='text/html; charset=utf-8'), 'a web page instead of a file', 1),
        (dict(body=b''), 'the file is empty', 1),
        (dict(body=CONTENT, length=len(CONTENT) + 9), 'was lost after 300,000 of 300,009 bytes, 3 attempts', 3),
        (dict(body=CONTENT, length=1000), 'more than the announced 1,000 bytes', 3),
        (dict(body=CONTENT, length=len(CONTENT) - 1, **ETAG), 'more than the announced 299,999 bytes', 3),
        (dict(body=CONTENT, Content_Encoding='gzip'), 'cannot be decompressed', 3),
    ])  # fmt: skip
    def test_fails_with_a_sentence_and_leaves_nothing(self, server, cache, answer, reason, requests):
        url = server.serve(lambda request, _: request.send(**answer))
        sentence = failure(url, num_attempts=3)
        assert reason in sentence
        assert f'save it as {downloads.cache_path(url)}' in sentence
        assert len(server.requests) == requests
        assert files_in(cache) == []

    @pytest.mark.parametrize('bad_answer', [
        lambda request: request.send(status=503),
        lambda request: request.send(status=500),
        lambda request: request.send(status=429),
        lambda request: request.send(CONTENT[:1000], length=len(CONTENT)),
        lambda request: request.wfile.write(b'nonsense\r\n\r\n'),
        lambda request: request.connection.shutdown(socket.SHUT_RDWR),
        lambda request: request.send_chunked(CONTENT, stop=50_000),
    ])  # fmt: skip
    def test_retries_after_a_temporary_failure(self, server, cache, bad_answer):
        url = server.serve(lambda request, count: bad_answer(request) if count < 3 else request.send_file())
        assert download(url) == CONTENT
        assert len(server.requests) == 3
        assert files_in(cache) == only_the_file(url)

    def test_connection_refused(self, cache):
        with socket.create_server(('127.0.0.1', 0)) as unused:
            url = f'http://127.0.0.1:{unused.getsockname()[1]}/x.pkl'
        try:
            raise FileNotFoundError(errno.ENOENT, 'an error that the caller is dealing with')
        except FileNotFoundError:
            assert '(no connection: Connection refused, 2 attempts)' in failure(url, num_attempts=2)
        assert files_in(cache) == []

    def test_unknown_host(self, monkeypatch):
        def getaddrinfo(*_args, **_kwargs):
            raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')

        monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
        assert '(no connection: Name or service not known)' in failure('http://host.invalid/x.pkl', num_attempts=1)

    def test_unreachable_proxy(self, monkeypatch):
        with socket.create_server(('127.0.0.1', 0)) as unused:
            monkeypatch.setenv('http_proxy', f'http://127.0.0.1:{unused.getsockname()[1]}')
        assert '(proxy error: Connection refused)' in failure('http://host.invalid/x.pkl', num_attempts=1)

    def test_https_request_to_an_http_server(self, server):
        sentence = failure(server.url.replace('http', 'https') + '/x.pkl', num_attempts=1)
        assert 'no secure connection' in sentence

    def test_missing_certificates(self, monkeypatch, tmp_path):
        monkeypatch.setenv('REQUESTS_CA_BUNDLE', str(tmp_path / 'certificates.pem'))
        assert f'{tmp_path / "certificates.pem"}): check' in failure('https://127.0.0.1:9/x.pkl')

    def test_waits_for_retry_after(self, server):
        def answer(request, count):
            request.send_file() if count > 1 else request.send(status=503, Retry_After='1')

        url = server.serve(answer)
        start = time.monotonic()
        assert download(url) == CONTENT
        assert time.monotonic() - start >= 1

    @pytest.mark.parametrize(
        'seconds_or_date', [str, lambda sec: email.utils.formatdate(time.time() + sec, usegmt=True)]
    )
    def test_retry_after_that_is_too_long(self, server, seconds_or_date):
        url = server.serve(lambda request, _: request.send(status=429, Retry_After=seconds_or_date(86400)))
        assert re.search(r'429 Too Many Requests and asks to wait 8\d,\d\d\d s\)', failure(url))
        assert len(server.requests) == 1

    def test_messages_go_to_stderr(self, server, capsys):
        url = server.serve(lambda request, count: request.send_file() if count > 1 else request.send(status=503))
        download(url, verbose=True)
        screen = capsys.readouterr()
        assert screen.out == ''
        assert f'Downloading {url}\n' in screen.err
        assert 'returned 503 Service Unavailable; retrying (2 of 10) in 0.001 s' in screen.err


class TestRedirects:
    @pytest.mark.parametrize('location', ['/elsewhere.pkl', 'elsewhere.pkl', '{url}/elsewhere.pkl'])
    def test_is_followed_and_cached_under_the_first_address(self, server, cache, location):
        location = location.format(url=server.url)
        url = server.serve(lambda request, _: request.send(status=302, Location=location))
        server.serve(lambda request, _: request.send_file(), '/elsewhere.pkl')
        assert download(url) == CONTENT
        assert files_in(cache) == only_the_file(url)

    def test_resumes_through_a_redirect(self, server):
        url = server.serve(lambda request, _: request.send(status=307, Location='/elsewhere.pkl'))
        server.serve(breaks_once(**ETAG), '/elsewhere.pkl')
        assert download(url) == CONTENT
        assert server.ranges == [None, None, f'bytes={HALF}-', f'bytes={HALF}-']

    def test_loop(self, server):
        url = server.serve(lambda request, _: request.send(status=302, Location='/network.pkl'))
        assert 'redirected more than 10 times' in failure(url)
        assert len(server.requests) == 11

    @pytest.mark.parametrize('location', ['file:///etc/passwd', 'ftp://127.0.0.1/a.pkl', 'http://['])
    def test_to_an_unsupported_address(self, server, cache, location):
        url = server.serve(lambda request, _: request.send(status=302, Location=location))
        assert 'is not a valid http or https URL' in failure(url)
        assert len(server.requests) == 1
        assert files_in(cache) == []


class TestSlowServers:
    @pytest.mark.parametrize('sent', [0, HALF])
    def test_retries_when_the_server_hangs(self, server, monkeypatch, sent):
        monkeypatch.setattr(http_transfer, '_READ_TIMEOUT_SEC', 0.3)

        def answer(request, count):
            if count == 1:
                if sent:
                    request.send(CONTENT[:sent], length=len(CONTENT), **ETAG)
                server.released.wait(30)
            else:
                server.released.set()
                request.send_file(**ETAG)

        assert download(server.serve(answer), num_attempts=50) == CONTENT
        assert server.ranges[:2] == [None, f'bytes={sent}-' if sent else None]

    @pytest.mark.parametrize(
        'sent, reason', [(0, 'no response within 0.1 s'), (HALF, 'no data for 0.1 s after 150,000 ')]
    )
    def test_server_that_always_hangs(self, server, cache, monkeypatch, sent, reason):
        monkeypatch.setattr(http_transfer, '_READ_TIMEOUT_SEC', 0.1)

        def answer(request, _count):
            if sent:
                request.send(CONTENT[:sent], length=len(CONTENT))
            server.released.wait(30)

        # The last attempt decides on the sentence; on a busy machine it may not even reach the body.
        sentence = failure(server.serve(answer), num_attempts=2)
        assert reason in sentence or 'no response within 0.1 s' in sentence
        assert files_in(cache) == []

    def test_trickle(self, server, monkeypatch):
        monkeypatch.setattr(http_transfer, '_SLOW_WINDOW_SEC', 0.1)

        def answer(request, _count):
            request.send(CONTENT[:100], length=len(CONTENT))
            while not server.released.wait(0.01):
                request.wfile.write(b'x')

        assert re.search(r'\(only \d+ bytes in 0\.\d+ s', failure(server.serve(answer), num_attempts=1))

    @pytest.mark.usefixtures('requests_ended')
    @pytest.mark.parametrize('kind', ['header', 'continue', 'early hints', 'redirect', 'redirect body', 'proxy', 'tls'])
    def test_header_that_never_ends(self, server, cache, monkeypatch, kind):
        """Each of them sends something all the time, so that no operation of a socket times out."""
        monkeypatch.setattr(http_transfer, '_HEADER_SEC', 0.5)
        drip = {
            'header': b'HTTP/1.1 200 OK\r\nX-Long: ',
            'continue': b'HTTP/1.1 100 Continue\r\n\r\n' * 1000,
            'early hints': b'HTTP/1.1 100 Continue\r\nX-Long: ',
            'redirect': b'HTTP/1.1 302 Found\r\nLocation: /network.pkl\r\nX-Long: ',
            'proxy': b'HTTP/1.1 200 OK\r\n' + b'X-Long: 1\r\n' * 1000,
            'tls': b'\x16\x03\x03\x40\x00',
        }
        ended = threading.Event()

        def drip_forever(connection):
            try:
                connection.sendall(drip.get(kind, b''))
                while not server.released.wait(0.01):
                    connection.sendall(drip[kind] if kind == 'continue' else b'x')
            except OSError:
                ended.set()

        def answer(request, _count):
            if kind != 'redirect body':
                return drip_forever(request.connection)
            request.wfile.write(b'HTTP/1.1 302 Found\r\nLocation: /other.pkl\r\n\r\n')
            try:
                while not server.released.is_set():
                    request.wfile.write(bytes(1 << 20))
            except OSError:
                ended.set()

        server.serve(lambda request, _: request.send_file(), '/other.pkl')
        url = server.serve(answer)
        with socket.create_server(('127.0.0.1', 0)) as listener:
            if kind in ('proxy', 'tls'):

                def accept():
                    with listener.accept()[0] as connection:
                        drip_forever(connection)

                thread = threading.Thread(target=accept)
                thread.start()
                address = f'127.0.0.1:{listener.getsockname()[1]}'
                url = f'https://{address}/x.pkl' if kind == 'tls' else 'https://example.invalid/x.pkl'
                if kind == 'proxy':
                    monkeypatch.setenv('https_proxy', f'http://{address}')
            start = time.monotonic()
            if kind == 'redirect body':
                assert download(url) == CONTENT
            else:
                sentence = failure(url, num_attempts=1)
                assert re.search(r'no complete response within 0\.5 s|connection|proxy error: ', sentence)
                assert files_in(cache) == []
            assert time.monotonic() - start < 10
            assert ended.wait(10)  # the connection is closed, too

    @pytest.mark.parametrize('kind', ['trailer', 'chunk', 'gzip'])
    def test_body_that_sends_something_but_no_content(self, server, cache, monkeypatch, kind):
        monkeypatch.setattr(http_transfer, '_SLOW_WINDOW_SEC', 0.3)
        start_of_body = {'trailer': b'0\r\n', 'chunk': b'5;x=', 'gzip': gzip.compress(b'')[:-8]}[kind]

        def answer(request, _count):
            coding = b'Content-Encoding: gzip' if kind == 'gzip' else b'Transfer-Encoding: chunked'
            request.wfile.write(b'HTTP/1.1 200 OK\r\n' + coding + b'\r\n\r\n' + start_of_body)
            while not server.released.wait(0.01):
                request.wfile.write({'trailer': b'X: 1\r\n', 'chunk': b'x', 'gzip': b'\0'}[kind])

        start = time.monotonic()
        sentence = failure(server.serve(answer), num_attempts=1)
        assert 'only 0 bytes in 0.3 s' in sentence
        assert time.monotonic() - start < 10
        assert files_in(cache) == []

    def test_size_that_is_not_announced_is_limited(self, server, cache, monkeypatch):
        monkeypatch.setattr(http_transfer, '_MAX_UNANNOUNCED_BYTES', 10 << 20)

        def send_forever(request):
            while not server.released.is_set():
                request.wfile.write(b'%x\r\n%b\r\n' % (1 << 20, bytes(1 << 20)))

        def answer(request, _count):
            request.wfile.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
            send_forever(request)

        assert 'does not announce the size of the file, and has sent 10,485,760 bytes' in failure(server.serve(answer))
        bomb = gzip.compress(bytes(20 << 20))
        url = server.serve(lambda request, _: request.send(bomb, Content_Encoding='gzip'), '/bomb.pkl')
        assert 'has sent 10,485,760 bytes' in failure(url)
        assert files_in(cache) == []

        def announces_little(request, _count):
            request.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n')
            send_forever(request)

        sentence = failure(server.serve(announces_little, '/little.pkl'), num_attempts=2)
        assert 'the server sent more than the announced 1,000 bytes' in sentence
        assert files_in(cache) == []

    def test_more_than_the_disk_can_hold(self, server):
        url = server.serve(lambda request, _: request.send(b'x', length=10**17))
        assert re.search(r'\(it has 100,000,\S+ bytes, but \S+ has space for [\d,]+\)', failure(url))

    @pytest.mark.parametrize('encoding', ['br', 'zstd', 'gzip, gzip'])
    def test_other_compressions_are_refused(self, server, encoding):
        url = server.serve(lambda request, _: request.send(b'x', Content_Encoding=encoding))
        assert f'the server compresses the file ({encoding}) without being asked' in failure(url)

    def test_connection_that_stays_open_after_the_file(self, server, monkeypatch):
        """The client does not wait for the end of a connection that stays open, and accepts the file in any case."""
        for ends in (False, True):
            monkeypatch.setattr(http_transfer, '_READ_TIMEOUT_SEC', 0.5 if ends else 30)

            def answer(request, _count, ends=ends):
                request.send(CONTENT, ends=ends)
                server.released.wait(30)

            start = time.monotonic()
            assert download(server.serve(answer, f'/{ends}.pkl'), num_attempts=50) == CONTENT
            assert time.monotonic() - start < 20


# ---------------------------------------------------------------------------------------------------------------------
# Parts of files


class TestResume:
    @pytest.mark.parametrize('headers, if_range', [
        (ETAG, ETAG['ETag']),
        ({'Last_Modified': 'Wed, 01 Jan 2020 00:00:00 GMT'}, 'Wed, 01 Jan 2020 00:00:00 GMT'),
        ({'ETag': 'W/"weak"', 'Last_Modified': 'Wed, 01 Jan 2020 00:00:00 GMT'}, 'Wed, 01 Jan 2020 00:00:00 GMT'),
    ])  # fmt: skip
    def test_resumes_where_the_connection_broke(self, server, cache, headers, if_range):
        stops = {1: 1000, 2: HALF - 1000}
        url = server.serve(lambda request, count: request.send_file(stop=stops.get(count), **headers))
        assert download(url) == CONTENT
        assert server.ranges == [None, 'bytes=1000-', f'bytes={HALF}-']
        assert [request.headers.get('If-Range') for request in server.requests] == [None, if_range, if_range]
        assert files_in(cache) == only_the_file(url)

    @pytest.mark.parametrize('headers', [{}, {'ETag': 'W/"weak"'}])
    def test_starts_over_without_a_strong_validator(self, server, headers):
        url = server.serve(breaks_once(**headers))
        assert download(url) == CONTENT
        assert server.ranges == [None, None]

    def test_server_without_ranges(self, server):
        url = server.serve(
            lambda request, count: request.send_file(stop=HALF if count < 3 else None, ranges=False, **ETAG)
        )
        assert download(url) == CONTENT
        assert server.ranges == [None, f'bytes={HALF}-', f'bytes={HALF}-']

    def test_chunked(self, server):
        def answer(request, count):
            request.send_chunked(CONTENT, stop=100_000, **ETAG) if count == 1 else request.send_file(**ETAG)

        assert download(server.serve(answer)) == CONTENT
        assert server.ranges == [None, 'bytes=100000-']

    @pytest.mark.parametrize('later', [
        dict(ETag='"version-2"'),  # an honest server sends the new file
        dict(ETag='"version-2"', honors_if_range=False),
        dict(content=NEW_CONTENT + b'longer', honors_if_range=False),
        dict(content=NEW_CONTENT[:-1], honors_if_range=False),
    ])  # fmt: skip
    def test_two_versions_are_never_mixed(self, server, later):
        later = {'content': NEW_CONTENT, **later}

        def answer(request, count):
            request.send_file(stop=HALF, **ETAG) if count == 1 else request.send_file(**later)

        assert download(server.serve(answer)) == later['content']

    @pytest.mark.parametrize('content_range', [
        'bytes 0-299999/300000', f'bytes {HALF + 1}-299999/300000', f'bytes {HALF}-299998/300000',
        f'bytes {HALF}-299999/*x', f'bytes {HALF}-299999/300001', f'bytes {HALF}-300000/300001', '', 'nonsense',
    ])  # fmt: skip
    def test_starts_over_if_the_range_does_not_match(self, server, content_range):
        def answer(request, count):
            wrong = {'Content_Range': content_range} if count == 2 else {}
            request.send_file(stop=HALF if count == 1 else None, **ETAG, **wrong)

        assert download(server.serve(answer)) == CONTENT
        assert server.ranges == [None, f'bytes={HALF}-', None]

    @pytest.mark.parametrize('send', [Request.send, Request.send_chunked])
    @pytest.mark.parametrize('start, stop, content_range', [
        (HALF - 1, None, f'bytes {HALF - 1}-299999/300000'),
        (HALF, HALF + 1000, f'bytes {HALF}-299999/300000'),
        (HALF, HALF + 1000, f'bytes {HALF}-{HALF + 999}/300000'),
        (HALF - 1000, None, f'bytes {HALF}-299999/300000'),
    ])  # fmt: skip
    def test_a_wrong_part_is_never_used(self, server, send, start, stop, content_range):
        def answer(request, count):
            if count == 2:
                send(request, CONTENT[start:stop], status=206, Content_Range=content_range, **ETAG)
            else:
                request.send_file(stop=HALF if count == 1 else None, **ETAG)

        assert download(server.serve(answer)) == CONTENT

    def test_unknown_size_in_the_range(self, server):
        def answer(request, count):
            headers = {'Content_Range': f'bytes {HALF}-299999/*'} if count == 2 else {}
            request.send_file(stop=HALF if count == 1 else None, **ETAG, **headers)

        assert download(server.serve(answer)) == CONTENT
        assert len(server.requests) == 2

    def test_announced_more_than_there_is(self, server):
        """The rest that is requested does not exist (status 416), so the download starts over."""

        def answer(request, count):
            if count == 1:
                request.send(CONTENT, length=len(CONTENT) + 1, **ETAG)
            else:
                request.send_file(**ETAG)

        assert download(server.serve(answer)) == CONTENT
        assert server.ranges == [None, f'bytes={len(CONTENT)}-', None]

    def test_next_call_resumes(self, server, cache, capsys):
        url = server.serve(breaks_once(**ETAG))
        assert 'the next call resumes after 150,000 bytes' in failure(url, num_attempts=1)
        assert files_in(cache) == [f'{md5(url)}.partial', f'{md5(url)}.partial.json']
        assert download(url, verbose=True) == CONTENT
        assert server.ranges == [None, f'bytes={HALF}-']
        assert f'Downloading {url} (resuming after 150,000 bytes)' in capsys.readouterr().err
        assert files_in(cache) == only_the_file(url)

    @pytest.mark.parametrize(
        'note',
        [
            '',
            '{',
            '[]',
            '{"another": 1}',
            '{"etag": ""}',
            '{"etag": "x", "size": 7}',
            '[' * 100_000,
            '{"etag": ["x"]}',
            '{"etag": "\\"x\\"\\r\\nX-More: 1"}',
            '{"etag": "x", "size": "many"}',
            '{"last_modified": 3}',
        ],
    )
    def test_part_with_a_useless_note(self, server, cache, note):
        url = server.serve(lambda request, _: request.send_file(**ETAG))
        cache.mkdir(parents=True)
        (cache / f'{md5(url)}.partial').write_bytes(b'from a bad day')
        (cache / f'{md5(url)}.partial.json').write_text(note)
        assert download(url) == CONTENT
        assert server.ranges == [None]

    def test_attempts_with_progress_do_not_count(self, server, monkeypatch):
        monkeypatch.setattr(downloads, '_PROGRESS_BYTES', 10_000)
        url = server.serve(lambda request, _: request.send_file(stop=60_000, **ETAG))
        assert download(url, num_attempts=2) == CONTENT
        assert len(server.requests) == 5

    def test_attempts_that_start_over_count(self, server, monkeypatch):
        monkeypatch.setattr(downloads, '_PROGRESS_BYTES', 10_000)
        url = server.serve(lambda request, _: request.send_file(stop=60_000))
        failure(url, num_attempts=3)
        assert len(server.requests) <= 4


class TestEncodings:
    def test_gzip_is_undone(self, server):
        packed = gzip.compress(CONTENT)
        url = server.serve(lambda request, _: request.send(packed, Content_Encoding='gzip', **ETAG))
        assert download(url, sha256=SHA256) == CONTENT
        assert server.requests[0].headers['Accept-Encoding'] == 'identity'

    def test_part_of_a_gzip_is_not_continued(self, server):
        packed = gzip.compress(CONTENT)

        def answer(request, count):
            request.send(packed[: HALF if count == 1 else None], length=len(packed), Content_Encoding='gzip', **ETAG)

        assert download(server.serve(answer)) == CONTENT
        assert server.ranges == [None, None]

    @pytest.mark.parametrize('headers', [{}, {'Content_Encoding': 'gzip'}])
    def test_chunked(self, server, headers):
        body = gzip.compress(CONTENT) if headers else CONTENT
        assert download(server.serve(lambda request, _: request.send_chunked(body, **headers))) == CONTENT

    def test_neither_length_nor_chunks(self, server):
        def answer(request, _count):
            request.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n' + CONTENT)
            request.close_connection = True

        assert download(server.serve(answer)) == CONTENT


class TestChecksum:
    def test_correct_checksum(self, server):
        url = server.serve(lambda request, _: request.send_file())
        assert download(url, sha256=SHA256.upper()) == CONTENT
        assert download(url, sha256=SHA256) == CONTENT
        assert len(server.requests) == 1

    def test_wrong_file_is_not_kept(self, server, cache):
        url = server.serve(lambda request, _: request.send_file(NEW_CONTENT, **ETAG))
        sentence = failure(url, sha256=SHA256)
        assert SHA256 in sentence and hashlib.sha256(NEW_CONTENT).hexdigest() in sentence
        assert len(server.requests) == 1
        assert files_in(cache) == []

    def test_damaged_part_costs_another_attempt(self, server, cache):
        url = server.serve(breaks_once(**ETAG))
        failure(url, num_attempts=1)
        (cache / f'{md5(url)}.partial').write_bytes(NEW_CONTENT[:HALF])
        assert download(url, sha256=SHA256) == CONTENT
        assert server.ranges == [None, f'bytes={HALF}-', None]

    def test_invalid_checksum(self):
        with pytest.raises(ValueError, match='64 hexadecimal digits'):
            downloads.open_url('http://127.0.0.1:9/x.pkl', sha256='1234')


class TestDisk:
    def test_cache_that_cannot_be_written(self, server, tmp_path):
        (tmp_path / 'file').write_bytes(b'')
        url = server.serve(lambda request, _: request.send_file())
        sentence = failure(url, cache_dir=str(tmp_path / 'file' / 'downloads'))
        assert f'to {tmp_path / "file" / "downloads"} (Not a directory)' in sentence
        assert 'DNNLIB_CACHE_DIR' in sentence
        assert server.requests == []

    def test_full_disk(self, server, cache, monkeypatch):
        def fsync(_file):
            raise OSError(errno.ENOSPC, 'No space left on device')

        url = server.serve(lambda request, _: request.send_file(**ETAG))
        with monkeypatch.context() as full:
            full.setattr(os, 'fsync', fsync)
            assert f'to {cache} (No space left on device): check free space' in failure(url)
        assert downloads.cached_file(url) is None
        assert download(url) == CONTENT
        assert len(server.requests) == 1  # all of it was there, waiting for its name


# ---------------------------------------------------------------------------------------------------------------------
# Several at once, and those that are killed

PROGRAM = """
import hashlib, sys
from dnnlib import cache, downloads
cache._WAIT_NOTICE_SEC = 0
with downloads.open_url(sys.argv[1]) as file:
    print(hashlib.sha256(file.read()).hexdigest())
"""


@pytest.fixture
def start():
    """A function that starts a download in another process."""
    processes = []

    def start(url):
        command = [sys.executable, '-c', PROGRAM, url]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def hold_back_half(server):
    """Return an answer that sends the second half when the server is released."""

    def answer(request, count):
        if count > 1:
            return request.send_file(**ETAG)
        request.send(CONTENT[:HALF], length=len(CONTENT), **ETAG)
        request.wfile.flush()
        server.released.wait(60)
        return request.wfile.write(CONTENT[HALF:])

    return answer


class TestSeveralAtOnce:
    def test_second_process_waits_and_says_so(self, server, cache, start):
        url = server.serve(hold_back_half(server))
        first = start(url)
        wait_for(lambda: server.requests or first.poll() is not None)
        second = start(url)
        assert second.stderr.readline() == f'Waiting for another process that is downloading {url}\n'
        assert downloads.cached_file(url) is None
        server.released.set()
        assert [process.communicate(timeout=60)[0].strip() for process in (first, second)] == [SHA256, SHA256]
        assert len(server.requests) == 1
        assert files_in(cache) == only_the_file(url)

    def test_threads(self, server, cache):
        url = server.serve(lambda request, _: request.send_file())
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(download, [url] * 8)) == [CONTENT] * 8
        assert len(server.requests) == 1
        assert files_in(cache) == only_the_file(url)

    def test_lock_file_that_is_deleted_while_waiting(self, server, cache, monkeypatch):
        fcntl = pytest.importorskip('fcntl')
        flock, calls = fcntl.flock, []

        def remove_and_lock(file, operation):
            calls.append(operation)
            if len(calls) == 1:
                os.unlink(file.name)
            flock(file, operation)

        def answer(request, _count):
            with open(cache / f'{md5(url)}.lock', 'ab') as lock, pytest.raises(BlockingIOError):
                flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked.append(True)
            request.send_file()

        locked = []
        monkeypatch.setattr(fcntl, 'flock', remove_and_lock)
        url = server.serve(answer)
        assert download(url) == CONTENT
        assert locked == [True]

    def test_without_locks(self, server, cache, monkeypatch):
        monkeypatch.setattr(cache_module, 'fcntl', None)
        together = threading.Barrier(4)

        def answer(request, count):
            together.wait(60) if count <= 4 else None
            request.send_file(stop=HALF if count <= 4 else None, **ETAG)

        url = server.serve(answer)
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(download, [url] * 4)) == [CONTENT] * 4
        assert len(server.requests) == 8
        assert files_in(cache) == only_the_file(url)

    def test_holder_of_the_lock_that_makes_no_progress(self, server, cache, monkeypatch):
        fcntl = pytest.importorskip('fcntl')
        monkeypatch.setattr(cache_module, '_SILENT_HOLDER_SEC', 0.05)
        url = server.serve(lambda request, _: request.send_file())
        cache.mkdir(parents=True)
        with open(cache / f'{md5(url)}.lock', 'wb') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert download(url) == CONTENT
        assert files_in(cache) == [f'{md5(url)}.lock', *only_the_file(url)]

    @pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='a signal of POSIX')
    @pytest.mark.parametrize('name', ['SIGKILL', 'SIGINT'])
    def test_killed_process(self, server, cache, start, name):
        url = server.serve(hold_back_half(server))
        process = start(url)
        partial = cache / f'{md5(url)}.partial'
        wait_for(lambda: process.poll() is not None or partial.exists() and partial.stat().st_size == HALF)
        process.send_signal(getattr(signal, name))
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert downloads.cached_file(url) is None
        assert download(url) == CONTENT
        assert server.ranges == [None, f'bytes={HALF}-']
        assert files_in(cache) == only_the_file(url)


class TestProgressBar:
    def test_on_a_terminal_includes_the_resumed_part(self, server, monkeypatch, tmp_path):
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, 'stderr', terminal)
        url = server.serve(breaks_once(**ETAG))
        failure(url, num_attempts=1)
        with log.Logger(tmp_path / 'log.txt'):
            download(url, verbose=True)
        assert re.search(r'50%\|.*150k/300k', terminal.getvalue())
        assert '%|' not in (tmp_path / 'log.txt').read_text(encoding='utf-8')

    def test_no_bar_elsewhere(self, server, capsys):
        download(server.serve(lambda request, _: request.send_file()), verbose=True)
        assert '%|' not in capsys.readouterr().err


def test_import_is_light():
    program = 'import sys, dnnlib; print({"torch", "requests", "tqdm"} & sys.modules.keys() or "none")'
    command = [sys.executable, '-c', program]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == 'none\n'
