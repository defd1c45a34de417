"""Strangers: other pages, other names of this machine, broken and huge requests, and clients that behave badly."""

import contextlib
import json
import re
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.small_generators import make_generator, write_networks
from tests.small_studio import act, ask, picture, running_studio, unpacked

SPEC = {'network': 0, 'seed': 1}


@pytest.fixture(scope='module')
def studio(tmp_path_factory):
    """(port, process, folder of a running server)."""
    folder = tmp_path_factory.mktemp('studio')
    networks = write_networks(folder, {'plain': make_generator()})
    (folder / 'secret.txt').write_text('secret')
    with running_studio(f'--network={networks.plain}', f'--outdir={folder / "out"}', '--max-pixels=10000') as (
        port,
        process,
    ):
        yield port, process, folder


def memory_mib(process):
    status = Path(f'/proc/{process.process.pid}/status').read_text()
    return int(re.search(r'VmRSS:\s+(\d+)', status)[1]) / 1024


def test_the_page_loads_nothing_from_elsewhere(studio):
    port, _process, _folder = studio
    status, headers, body = ask(port, '/')
    assert status == 200 and b'Studio' in body
    assert "default-src 'none'" in headers['content-security-policy']
    assert "frame-ancestors 'none'" in headers['content-security-policy']
    sources = re.findall(rb'(?:src|href)="([^"]*)"', body)
    assert sources and not [source for source in sources if b':' in source or source.startswith(b'//')]


@pytest.mark.parametrize(
    'host', ['evil.example', 'evil.example:80', 'localhost.evil.example', '192.168.0.7', '', 'a' * 99]
)
def test_other_names_of_this_machine(studio, host):
    port, _process, _folder = studio
    for path in ('/', '/state', '/page/main.js'):
        status, _headers, body = ask(port, path, host=host)
        assert status in (400, 403) and b'digits' not in body and b'networks' not in body
    with pytest.raises(InvalidStatus):
        connect(f'ws://127.0.0.1:{port}/pictures', additional_headers={'Host': host or 'x'}, proxy=None)


@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost:9999', '[::1]:9999', '127.0.0.1:1'])
def test_tunnels_have_other_ports(studio, host):
    port, _process, _folder = studio
    assert ask(port, '/state', host=host)[0] == 200


@pytest.mark.parametrize(
    'origin', ['http://evil.example', 'http://localhost:1', 'null', 'http://[', 'https://evil.example:{port}']
)
def test_pages_of_other_sites(studio, origin):
    port, _process, folder = studio
    headers = {'Origin': origin.format(port=port)}
    assert ask(port, '/do/keep', 'POST', {'spec': SPEC, 'name': 'theirs'}, headers)[0] == 403
    assert ask(port, '/state', headers=headers)[0] == 403
    with pytest.raises(InvalidStatus):
        connect(f'ws://localhost:{port}/pictures', origin=headers['Origin'], proxy=None)
    assert not (folder / 'out' / 'kept').exists()


def test_images_in_pages_of_other_sites(studio):
    port, _process, _folder = studio
    headers = {'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors'}
    assert ask(port, '/state', headers=headers)[0] == 403
    assert ask(port, '/', headers={**headers, 'Sec-Fetch-Mode': 'navigate'})[0] == 200  # a link to the page


@pytest.mark.parametrize(
    'path',
    [
        '/files/../secret.txt',
        '/files/kept/../../secret.txt',
        '/files/%2e%2e/secret.txt',
        '/files/kept/%2e%2e%2f%2e%2e%2fsecret.txt',
        '/files//etc/passwd',
        '/files/kept/0001.txt',
        '/files/kept/0001.png%00.txt',
        '/page/../studio.py',
        '/page/..%2f..%2fstudio.py',
        '/page/%2e%2e/%2e%2e/studio.py',
        '/runs/0/../../etc/passwd.webp',
        '/runs/0/..%2f..%2freals.webp',
    ],
)
def test_paths_stay_inside(studio, path):
    port, _process, _folder = studio
    status, _headers, body = ask(port, path)
    assert status in (400, 404) and b'secret' not in body and b'root:' not in body and b'import' not in body


def test_links_out_of_the_folder_are_not_followed(studio):
    port, _process, folder = studio
    kept = act(port, 'keep', {'spec': SPEC, 'name': 'x'})['id']
    (folder / 'out' / 'kept' / '9999.png').symlink_to(folder / 'secret.txt')
    assert ask(port, f'/files/kept/{kept}.png')[0] == 200
    assert ask(port, '/files/kept/9999.png')[0] == 404


@pytest.mark.parametrize(
    'action, content, hint',
    [
        ('keep', {}, 'missing'),
        ('keep', {'spec': {'network': 7}, 'name': 'x'}, 'no network 7'),
        ('keep', {'spec': {'network': 0, 'psi': 1e400}, 'name': 'x'}, 'not valid JSON'),
        ('keep', {'spec': {'network': 0, 'seed': -1}, 'name': 'x'}, 'seed'),
        ('keep', {'spec': {'network': 0, 'shift': [1, 0]}, 'name': 'x'}, 'cannot shift'),
        ('keep', {'spec': {'network': 0, 'cutoff': 99}, 'name': 'x'}, 'too large'),
        ('keep', {'spec': {'network': '/etc/passwd'}, 'name': 'x'}, 'integer'),
        ('keep', {'spec': {'network': 0, 'kept': '../../0001'}, 'name': 'x'}, 'number of something kept'),
        ('rename', {'kept': '0400', 'name': 'x'}, "no '0400'"),
        ('remove', {'folder': 'kept', 'number': '../x'}, 'number of something kept'),
        ('remove', {'folder': '..', 'number': '0001'}, 'folder'),
        ('remove', {'folder': 'networks', 'number': '0400'}, "no '0400'"),
        ('restore', {'folder': 'videos', 'number': '0400'}, 'not removed'),
        ('restore', {'folder': 'kept', 'number': '\u0660\u0660\u0660\u0661'}, 'not removed'),
        ('job', {'job': 99, 'act': 'stop'}, 'no job'),
        ('project', {'upload': 99, 'spec': SPEC}, 'drop it again'),
        ('explode', {}, 'no such action'),
        ('keep', b'[' * 1000, 'nested'),
        ('keep', b'\xff\xfe', 'not valid JSON'),
    ],
)
def test_requests_that_make_no_sense(studio, action, content, hint):
    port, _process, _folder = studio
    status, _headers, body = ask(port, f'/do/{action}', 'POST', content)
    assert status == 400 and hint in json.loads(body)['error'] and len(body) < 700


def test_uploads(studio, golden_path):
    port, process, _folder = studio
    before = memory_mib(process)
    bomb = b'\x89PNG\r\n\x1a\n' + bytes.fromhex('0000000d494844520000ffff0000ffff0802000000') + b'\0' * 100
    for content in (b'', b'no picture', b'GIF89a' + b'\xff' * 5000, bomb, golden_path('ops.npz').read_bytes()):
        status, _headers, body = ask(port, '/upload', 'POST', content)
        assert status == 400 and json.loads(body)['error'].startswith('The picture'), body
    status, _headers, body = ask(port, '/upload', 'POST', b'\0' * (2**26 + 1))
    assert status == 413
    assert ask(port, '/do/keep', 'POST', b' ' * (2**20 + 1))[0] == 413
    assert memory_mib(process) < before + 300


def test_a_hundred_clients(studio):
    port, process, _folder = studio
    before, start = memory_mib(process), time.monotonic()
    with contextlib.ExitStack() as stack:
        sockets, refused = [], 0
        for _ in range(100):
            try:
                sockets.append(stack.enter_context(connect(f'ws://localhost:{port}/pictures', proxy=None)))
            except InvalidStatus:
                refused += 1
        assert len(sockets) == 64 and refused == 36
        for socket in sockets:
            for number in range(20):
                socket.send(json.dumps({'view': 'main', 'id': number, 'spec': SPEC}))
        for socket in sockets:
            while unpacked(socket.recv(timeout=60))[0]['id'] < 19:
                pass
    assert memory_mib(process) < before + 200 and time.monotonic() - start < 60
    with connect(f'ws://localhost:{port}/pictures', proxy=None) as socket:
        assert picture(socket, spec=SPEC)[1]


def test_a_client_that_never_reads(studio):
    port, process, _folder = studio
    before = memory_mib(process)
    with connect(f'ws://localhost:{port}/pictures', proxy=None, max_queue=1, close_timeout=1) as silent:
        for number in range(1000):
            view = f'view-{number % 200}'
            silent.send(json.dumps({'view': view, 'id': number, 'spec': {'network': 0, 'seed': number}}))
        with connect(f'ws://localhost:{port}/pictures', proxy=None) as other:
            start = time.monotonic()
            for number in range(10):
                assert picture(other, number=number, spec=SPEC)[1]
            assert time.monotonic() - start < 20
    assert memory_mib(process) < before + 100


def test_messages_that_make_no_sense(studio):
    port, _process, _folder = studio
    with connect(f'ws://localhost:{port}/pictures', proxy=None) as socket:
        for text in ('', '[]', '{', '{"view": "../x", "id": 1, "spec": {"network": 0}}', '{"x": 1e999}'):
            socket.send(text)
            header, content = unpacked(socket.recv(timeout=60))
            assert header['error'] and not content
        header, content = picture(socket, spec={'network': 3})
        assert 'no network 3' in header['error'] and not content
        assert picture(socket, spec=SPEC)[1]
    with connect(f'ws://localhost:{port}/pictures', proxy=None) as socket, pytest.raises(ConnectionClosed):
        socket.send('x' * (2**20 + 1))
        socket.recv(timeout=60)


def test_token_for_other_machines(tmp_path):
    networks = write_networks(tmp_path, {'plain': make_generator()})
    with running_studio(f'--network={networks.plain}', f'--outdir={tmp_path}', '--host=0.0.0.0') as (port, process):
        token = re.search(r'token=(\S+)', process.out)[1]
        assert len(token) >= 32
        assert ask(port, '/')[0] == 403 and ask(port, '/?token=x')[0] == 403
        with pytest.raises(InvalidStatus):
            connect(f'ws://localhost:{port}/pictures', proxy=None)
        status, headers, _body = ask(port, f'/?token={token}')
        assert status == 200 and 'HttpOnly' in headers['set-cookie'] and 'SameSite=Strict' in headers['set-cookie']
        cookie = {'Cookie': headers['set-cookie'].split(';')[0]}
        assert ask(port, '/state', headers=cookie)[0] == 200
        assert ask(port, '/state', headers=cookie, host='evil.example')[0] == 403
        assert ask(port, '/state', headers={**cookie, 'Origin': 'http://evil.example'})[0] == 403
