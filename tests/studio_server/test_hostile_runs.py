"""Directories of runs that were written by an enemy, and networks that compute no numbers."""

import asyncio
import contextlib
import json
import os
import struct
import time
import zlib

import numpy as np
import PIL.Image
import pytest
import torch
from websockets.sync.client import connect

from reporting import run_record
from studio_server import run_pages
from tests.small_generators import make_generator, write_networks
from tests.small_studio import ask, picture, running_studio


def bomb():
    """A PNG of 10^9 pixels in a few bytes."""
    chunks = [(b'IHDR', struct.pack('>IIBBBBB', 2**15, 2**15, 8, 2, 0, 0, 0)), (b'IDAT', zlib.compress(bytes(10**6)))]
    packed = (
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in [*chunks, (b'IEND', b'')]
    )
    return b'\x89PNG\r\n\x1a\n' + b''.join(packed)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run with a network of NaN, statistics that are no numbers, links, a pipe and a picture of 10^9 pixels."""
    folder = tmp_path_factory.mktemp('runs')
    outside = folder / 'private.png'
    PIL.Image.fromarray(np.full([8, 8, 3], 200, np.uint8)).save(outside)
    run = folder / '00000-evil-<b>auto1'
    run.mkdir()
    broken = make_generator()
    with torch.no_grad():
        for parameter in broken.synthesis.parameters():
            parameter.fill_(torch.nan)
    write_networks(run, {'network-snapshot-000001': broken})
    (run / 'network-snapshot-000002.pkl').symlink_to('/etc/passwd')
    lines = [
        '{"Progress/kimg": {"mean": 1}, "Progress/augment": {"mean": 0.5}, "Timing/total_hours": {"mean": 1}}',
        '{"Progress/kimg": {"mean": NaN}, "Progress/augment": {"mean": Infinity}}',
        '{"Progress/kimg": {"mean": 1e999}}',
        '{"Progress/kimg": {"mean": 2}, "Loss/<script>alert(1)</script>": {"mean": -1e308}, "Timing/total_hours": 3}',
        '[' * 100_000,
        'x' * 2**21,
        json.dumps({'Progress/kimg': {'mean': 3}, **{f'a{index}': {'mean': 1} for index in range(3000)}}),
    ]
    (run / 'stats.jsonl').write_text('\n'.join(lines))
    (run / 'fakes000001.png').write_bytes(bomb())
    (run / 'fakes000002.png').symlink_to(outside)
    (run / 'fakes000003.png').symlink_to('/dev/zero')
    os.mkfifo(run / 'fakes000004.png')
    (run / 'reals.png').symlink_to(outside)
    (run / 'metric-fid50k.jsonl').symlink_to('/etc/passwd')
    return run


def test_the_page_of_a_hostile_run(run):
    start = time.monotonic()
    state = asyncio.run(run_pages.RunReader().describe(str(run)))
    content = json.dumps(state, allow_nan=False)
    assert '<script>' not in content and 'root:' not in content and len(content) < 2**20
    assert state['kimg'] == 3 and state['augment'] == 0.5 and state['problems']
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    'name, hint', [('1', 'pixels'), ('2', 'link'), ('3', 'link'), ('4', 'not a'), ('reals', 'link')]
)
def test_pictures_of_a_hostile_run(run, name, hint):
    with pytest.raises((ValueError, OSError), match=hint):
        run_pages.run_picture(str(run), name)


@pytest.mark.parametrize('line', [b'\n', b'{}\n', b'x'])
def test_a_huge_file_of_statistics(tmp_path, line, monkeypatch):
    monkeypatch.setattr(run_record, '_MAX_LINES', 2**12)
    monkeypatch.setattr(run_record, '_MAX_FILE_BYTES', 2**22)
    (tmp_path / 'stats.jsonl').write_bytes(line * (2**23 // len(line)))
    state = run_pages.describe_run(str(tmp_path))
    assert any('stats.jsonl is longer than' in problem for problem in state['problems'])


def test_several_pages_read_a_run_once(run, monkeypatch):
    calls = []

    def describe_slowly(path):
        calls.append(path)
        time.sleep(0.1)
        return {'name': path}

    monkeypatch.setattr(run_pages, 'describe_run', describe_slowly)

    async def ask_often():
        reader = run_pages.RunReader()
        return await asyncio.gather(*(reader.describe(str(run)) for _ in range(50)))

    assert len(asyncio.run(ask_often())) == 50 and len(calls) == 1


@pytest.mark.slow
def test_a_server_of_a_hostile_run(run, tmp_path):
    with contextlib.ExitStack() as stack:
        port, _process = stack.enter_context(running_studio(f'--network={run}', f'--outdir={tmp_path}'))
        socket = stack.enter_context(connect(f'ws://localhost:{port}/pictures', proxy=None))
        broken = {'network': 0, 'snapshot': 1}
        assert picture(socket, spec=broken)[1]
        for layer in ('b8.conv1', 'image'):
            for show in ('channels', 'colors', 'spectrum'):
                header, content = picture(socket, spec=broken, look={'layer': layer, 'show': show})
                assert content and header['histogram']['high'] is not None, header
        header, content = picture(socket, spec={'network': 0, 'snapshot': 2})
        assert 'error' in header and 'root:' not in header['error'] and not content
        assert ask(port, '/runs/0')[0] == 200 and ask(port, '/runs/0/2.webp')[0] == 400
        assert ask(port, '/state')[0] == 200
