"""studio.py as a real process, with tiny networks, and requests to it as other programs send them."""

import contextlib
import http.client
import json
import re
import socket
import struct
import sys

from tests.small_runs import ROOT, Running, words


@contextlib.contextmanager
def running_studio(*args, port=0):
    """Start studio.py; yield (its port, the process)."""
    command = words(sys.executable, ROOT / 'studio.py', f'--port={port}', '--device=cpu', *args)
    with Running(command) as running:
        running.wait_until('The page is at')
        yield int(re.search(r':(\d+)/', running.out)[1]), running


def free_port():
    """A port that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def ask(port, path, method='GET', body=None, headers=(), host=None):
    """Send one request; return (status, headers, body)."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader('Host', f'localhost:{port}' if host is None else host)
        content = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        if content is not None:
            connection.putheader('Content-Length', str(len(content)))
        for name, value in dict(headers).items():
            connection.putheader(name, value)
        connection.endheaders()
        if content is not None:
            with contextlib.suppress(OSError):  # the server may have answered and gone before it has all
                connection.send(content)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def act(port, action, content):
    """Do what a button of the page does; return what it gets, or fail with the sentence."""
    status, _headers, body = ask(port, f'/do/{action}', 'POST', content)
    assert status == 200, body
    return json.loads(body)


def unpacked(message):
    """Header and picture of a message of the WebSocket."""
    (size,) = struct.unpack('>I', message[:4])
    return json.loads(message[4 : 4 + size]), message[4 + size :]


def picture(socket, view='main', number=0, **request):
    """Ask for a picture over a WebSocket, and wait for it."""
    socket.send(json.dumps({'view': view, 'id': number, **request}))
    return unpacked(socket.recv(timeout=60))
