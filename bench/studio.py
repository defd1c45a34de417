"""How long it takes from a moved slider to the picture in the browser, and how many pictures a second there are.

A generator of random weights in the sizes of --cfg=auto is served by studio.py, and Chromium moves a slider.

    python -m bench.studio --resolution=256 --seconds=10
"""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from playwright.sync_api import sync_playwright

from dnnlib.cli import Command
from dnnlib.machine import processor_name
from training.networks_stylegan2 import Generator

ROOT = Path(__file__).resolve().parent.parent

# Moves the slider as fast as pictures arrive, as a hand does that is faster than the network.
_MOVE = """async ([seconds, isPreview]) => {
  const slider = document.querySelector('#plane-x');
  studioLatencies.length = 0;
  const start = performance.now();
  let x = 0;
  while (performance.now() - start < 1000 * seconds) {
    const before = studioLatencies.length;
    slider.value = x = (x + 0.013) % 3;
    slider.dispatchEvent(new Event(isPreview ? 'input' : 'change'));
    while (studioLatencies.length === before) await new Promise(resolve => setTimeout(resolve, 0));
  }
  return { latencies: [...studioLatencies], seconds: (performance.now() - start) / 1000 };
}"""


@click.command(cls=Command)
@click.option('--resolution', type=click.Choice(['64', '128', '256', '512']), default='256', show_default=True)
@click.option('--seconds', type=click.IntRange(1, 100), default=10, show_default=True, help='Duration of each row')
@click.option('--browser', default='chromium', show_default=True, help='Name of the browser')
def main(resolution: str, seconds: int, browser: str) -> None:
    """Measure studio.py in a browser, on the CPU."""
    executable = shutil.which(browser)
    if executable is None:
        raise click.ClickException(f'{browser} was not found: install it, or name another one with --browser.')
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder, 'network.pkl')
        network.write_bytes(pickle.dumps({'G_ema': make_generator(int(resolution))}))
        command = [
            sys.executable,
            str(ROOT / 'studio.py'),
            f'--network={network}',
            '--port=0',
            f'--outdir={folder}/out',
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                match = re.search(r'http://\S+', server.stdout.readline())
                assert match is not None
                rows = measure(match[0], executable, seconds)
            finally:
                server.terminate()
    print(f'{processor_name()}, {torch.get_num_threads()} threads, {resolution} px')
    print('| slider | pictures/s | slider to picture, median (95%) | of which network | the rest |')
    print('|---|---|---|---|---|')
    for row in rows:
        print(row)


def make_generator(resolution: int) -> Generator:
    """Return a generator of the size of --cfg=auto."""
    torch.manual_seed(0)
    channel_base = 32768 if resolution >= 512 else 16384
    G = Generator(
        512,
        0,
        512,
        resolution,
        3,
        {'num_layers': 2},
        {'channel_base': channel_base, 'channel_max': 512, 'conv_clamp': 256},
    )
    return G.eval().requires_grad_(False)


def measure(url: str, executable: str, seconds: int) -> list[str]:
    """Return the rows of the table: while the slider moves (preview), and at rest (full size)."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=['--no-sandbox'])
        page = chromium.new_page()
        page.goto(url)
        page.wait_for_selector('#picture[data-state=rest]', timeout=120_000)
        rows = []
        for name, is_preview in (('moving (preview)', True), ('at rest (PNG, full size)', False)):
            page.evaluate(_MOVE, [2, is_preview])  # warm-up
            rows.append(_row(name, page.evaluate(_MOVE, [seconds, is_preview])))
        chromium.close()
    return rows


def _row(name: str, result: dict[str, Any]) -> str:
    total = np.array([entry['ms'] for entry in result['latencies']])
    network = np.array([entry['render'] for entry in result['latencies']])
    rate = len(total) / result['seconds']
    return (
        f'| {name} | {rate:.1f} | {np.median(total):.1f} ms ({np.percentile(total, 95):.1f} ms) '
        f'| {np.median(network):.1f} ms | {np.median(total - network):.1f} ms |'
    )


if __name__ == '__main__':
    main()
