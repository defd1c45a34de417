"""How long it takes from a moved slider to the picture in the browser, and how many pictures a second there are.

A generator of random weights in the sizes of --cfg=auto is served by studio.py, and Chromium moves a slider. Between
the measurements, while the server has nothing to do, the same pictures are computed without it: that is the part of the
network, which no server can avoid. Do not run it with a real-time priority: browsers wait for processes of their own,
which then never get their turn.

    python -m bench.studio --resolution=256 --seconds=10
"""

from __future__ import annotations

from dnnlib.cli import Command

# The rest imports PyTorch, whose threads then wait as `dnnlib.cli` has set.
# isort: split
import contextlib
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright

from dnnlib.machine import processor_name
from generation import latents
from generation.projected_latents import ProjectedLatents
from studio_server import picture_specs, pictures
from studio_server.networks import NetworkStore
from training.networks_stylegan2 import Generator

ROOT = Path(__file__).resolve().parent.parent
_WARM_UP_SEC = 5  # the size of the pictures is found in this time
STAGES = ('waiting', 'latent', 'network', 'encoding', 'transport', 'drawing')

# Moves the slider: as fast as pictures arrive, which is how long one takes; or 60 times a second, as a hand does.
_MOVE = """async ([seconds, event, isHand]) => {
  const slider = document.querySelector('#plane-x');
  const latencies = [];
  let arrived = () => {};
  studioLatencies.push = (entry) => { latencies.push(entry); arrived(); };
  const start = performance.now();
  let x = 0;
  while (performance.now() - start < 1000 * seconds) {
    const picture = new Promise((resolve) => { arrived = resolve; });
    slider.value = x = (x + 0.013) % 3;
    slider.dispatchEvent(new Event(event));
    await (isHand ? new Promise(resolve => setTimeout(resolve, 16)) : picture);
  }
  delete studioLatencies.push;
  return { latencies, seconds: (performance.now() - start) / 1000 };
}"""


class Row:
    """What was measured of one way to move the slider.

    Args:
        name: What the table says.
        event: The event of the slider: 'input' while it moves, 'change' at the end.
        is_hand: Move it 60 times a second, and do not wait for pictures.
        resolution: Of the network.
    """

    def __init__(self, name: str, event: str, is_hand: bool, resolution: int):
        self.name, self._resolution = name, resolution
        self._arguments = event, is_hand
        self._latencies: list[dict[str, float]] = []
        self._seconds = 0.0
        self._alone: list[float] = []

    def warm_up(self, page: Page, alone: NetworkStore) -> None:
        """Do the same for some seconds, and forget what it took."""
        page.evaluate(_MOVE, [_WARM_UP_SEC, *self._arguments])
        network_times(alone, 0, 1)

    def measure(self, page: Page, alone: NetworkStore, seconds: float) -> None:
        """Move the slider for some seconds, and compute the pictures without the server for as many."""
        result = page.evaluate(_MOVE, [seconds, *self._arguments])
        self._latencies += result['latencies']
        self._seconds += result['seconds']
        page.wait_for_selector('#picture[data-state=rest]', timeout=120_000)
        left_out = round(np.median([entry['leftOut'] for entry in result['latencies']]))
        self._alone += network_times(alone, left_out, seconds)

    def summary(self) -> str:
        """Return a row of the table of all."""
        total = np.array([entry['ms'] for entry in self._latencies])
        alone = float(np.median(self._alone))
        side = self._resolution >> round(np.median([entry['leftOut'] for entry in self._latencies]))
        return (
            f'| {self.name} | {side} px | {len(total) / self._seconds:.1f} | {np.median(total):.1f} ms '
            f'({np.percentile(total, 95):.1f} ms) | {alone:.1f} ms | {np.median(total) - alone:.1f} ms |'
        )

    def stages(self) -> str:
        """Return a row of the table of stages."""
        medians = (np.median([entry[stage] for entry in self._latencies]) for stage in STAGES)
        return f'| {self.name} | ' + ' | '.join(f'{median:.1f}' for median in medians) + ' |'


@click.command(cls=Command)
@click.option('--resolution', type=click.Choice(['64', '128', '256', '512']), default='256', show_default=True)
@click.option('--seconds', type=click.IntRange(1, 100), default=10, show_default=True, help='Duration of each row')
@click.option('--rounds', type=click.IntRange(1, 100), default=5, show_default=True, help='Parts of this duration')
@click.option('--browser', default='chromium', show_default=True, help='Name of the browser')
def main(resolution: str, seconds: int, rounds: int, browser: str) -> None:
    """Measure studio.py in a browser, on the CPU."""
    executable = shutil.which(browser)
    if executable is None:
        raise click.ClickException(f'{browser} was not found: install it, or name another one with --browser.')
    rows = [
        Row('moving (preview)', 'input', is_hand=False, resolution=int(resolution)),
        Row('moving by hand, 60 times a second', 'input', is_hand=True, resolution=int(resolution)),
        Row('at rest (PNG, full size)', 'change', is_hand=False, resolution=int(resolution)),
    ]
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder, 'network.pkl')
        network.write_bytes(pickle.dumps({'G_ema': make_generator(int(resolution))}))
        alone = NetworkStore([str(network)], torch.device('cpu'), 2**30)
        with running_page(network, executable) as page:
            for row in rows:  # warm-up
                row.warm_up(page, alone)
            for _ in range(rounds):
                for row in rows:
                    row.measure(page, alone, seconds / rounds)
    loads.append(os.getloadavg()[0])
    print(
        f'{processor_name()}, {torch.get_num_threads()} threads, {resolution} px, '
        f'load {loads[0]:.1f} at the start and {loads[1]:.1f} at the end'
    )
    print('| slider | pictures | pictures/s | slider to picture, median (95%) | network alone, median | the rest |')
    print('|---|---|---|---|---|---|')
    print(*(row.summary() for row in rows), sep='\n')
    print('\nMedian milliseconds of each stage:')
    print(f'| slider | {" | ".join(STAGES)} |')
    print('|---' * (len(STAGES) + 1) + '|')
    print(*(row.stages() for row in rows), sep='\n')


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


def network_times(store: NetworkStore, left_out: int, seconds: float) -> list[float]:
    """Return the milliseconds of each picture from w that the network computes in this process."""
    network = store.get(0)
    ws = latents.ws_of_seeds(network.G, [0], torch.zeros([1, 0])).cpu().numpy()
    latent = picture_specs.Latent(ProjectedLatents(ws), 'const', 0, None, is_kept=False)
    end, times = time.perf_counter() + seconds, []
    while (start := time.perf_counter()) < end:
        pictures.render(network, latent, left_out)
        times.append(1000 * (time.perf_counter() - start))
    return times


@contextlib.contextmanager
def running_page(network: Path, executable: str) -> Iterator[Page]:
    """Serve a network, and open the page in a browser."""
    outdir = network.parent / 'out'
    command = [sys.executable, str(ROOT / 'studio.py'), f'--network={network}', '--port=0', f'--outdir={outdir}']
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        try:
            assert server.stdout is not None
            match = re.search(r'http://\S+', server.stdout.readline())
            assert match is not None
            chromium = playwright.chromium.launch(executable_path=executable, args=['--no-sandbox'])
            page = chromium.new_page()
            page.goto(match[0])
            page.wait_for_selector('#picture[data-state=rest]', timeout=120_000)
            yield page
            chromium.close()
        finally:
            server.terminate()


if __name__ == '__main__':
    main()
