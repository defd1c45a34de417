"""The npm package of onnxruntime-web from a real local server that is honest, broken or hostile."""

import hashlib
import http.server
import io
import tarfile
import threading
import zlib

import pytest

from exporting import browser_runtime

CONTENTS = {name: f'content of {name}'.encode() for name in browser_runtime.FILES}


def package(members=None):
    """A gzipped tar archive; by default of the files that pages need, and others."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        for name, content in (members or {**CONTENTS, 'package/README.md': b'x' * 5000}).items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, '/etc/passwd'
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content or b''))
    return file.getvalue()


class Request(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.num_requests += 1
        self.send_response(200)
        pieces = self.server.answer(self)
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(piece)
        except ConnectionError:  # the client has had enough
            self.server.was_cut_off = True

    def log_message(self, *_args):
        pass


def plain(content):
    def answer(request):
        request.send_header('Content-Length', str(len(content)))
        return [content]

    return answer


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """A registry in place of npm's: its `answer` is served, and `expect(content)` makes that the right package."""
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Request) as server:
        server.num_requests, server.was_cut_off = 0, False
        server.expect = lambda content: monkeypatch.setattr(
            browser_runtime, 'SHA256', hashlib.sha256(content).hexdigest()
        )
        monkeypatch.setattr(browser_runtime, 'URL', f'http://127.0.0.1:{server.server_port}/package.tgz')
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def stored(tmp_path):
    """Everything in the cache that is not empty."""
    return [path for path in (tmp_path / 'cache').rglob('*') if path.is_file() and path.stat().st_size > 0]


def test_download_once(registry, tmp_path):
    content = package()
    registry.answer = plain(content)
    registry.expect(content)
    files = browser_runtime.files_of_runtime()
    assert files == {browser_runtime.FILES[name]: content for name, content in CONTENTS.items()}
    assert browser_runtime.files_of_runtime() == files and registry.num_requests == 1
    assert len(stored(tmp_path)) == 1


def test_another_digest(registry, tmp_path):
    registry.answer = plain(package())
    with pytest.raises(
        OSError, match=r'could not download http://127.*SHA-256 of the file is [0-9a-f]{64}, expected d22'
    ):
        browser_runtime.files_of_runtime()
    assert stored(tmp_path) == []


def test_announced_size_is_too_large(registry, tmp_path):
    def answer(request):
        request.send_header('Content-Length', str(10**15))
        return (bytes(2**16) for _ in range(10))

    registry.answer = answer
    with pytest.raises(OSError, match='larger than expected, which is 67,108,864 bytes at most'):
        browser_runtime.files_of_runtime()
    assert stored(tmp_path) == [] and registry.num_requests == 1


@pytest.mark.parametrize('encoding', [None, 'gzip'])
def test_endless_stream(registry, tmp_path, monkeypatch, encoding):
    """Without a length, and of bytes that expand a thousandfold."""
    monkeypatch.setattr(browser_runtime, '_MAX_PACKAGE_BYTES', 2**20)

    def answer(request):
        if encoding is not None:
            request.send_header('Content-Encoding', encoding)
            compressor = zlib.compressobj(wbits=31)
            return (compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_SYNC_FLUSH) for _ in range(10**6))
        return (bytes(2**14) for _ in range(10**9))

    registry.answer = answer
    with pytest.raises(OSError, match='larger than expected, which is 1,048,576 bytes at most'):
        browser_runtime.files_of_runtime()
    assert stored(tmp_path) == [] and registry.num_requests == 1


@pytest.mark.parametrize(
    'change, message',
    {
        'another-place': ({'package/dist/ort.wasm.min.mjs': None, '../../escaped.js': b'x'}, 'ort.wasm.min.mjs'),
        'absolute': ({'package/package.json': None, '/tmp/package/package.json': b'x'}, 'has no package/package.json'),
        'bomb': ({'package/other': bytes(2**22)}, 'expands to more than 2,097,152 bytes'),
    }.values(),
)
def test_archive_with_other_content(registry, tmp_path, monkeypatch, change, message):
    """Paths lead nowhere, links count as missing, and small archives stay small."""
    monkeypatch.setattr(browser_runtime, '_MAX_BYTES', 2**21)
    content = package({**CONTENTS, **change})
    registry.answer = plain(content)
    registry.expect(content)
    with pytest.raises(ValueError, match=message):
        browser_runtime.files_of_runtime()
    assert not list(tmp_path.rglob('escaped.js')) and len(stored(tmp_path)) == 1


def test_damaged_archive(registry):
    content = package()[:-200]
    registry.answer = plain(content)
    registry.expect(content)
    with pytest.raises(ValueError, match='not a complete tar archive'):
        browser_runtime.files_of_runtime()


def test_page_instead_of_a_package(registry):
    """As networks with a login answer."""
    registry.answer = plain(b'<!doctype html><p>Please log in.')
    with pytest.raises(OSError, match='could not download http://127.*save it as'):
        browser_runtime.files_of_runtime()
