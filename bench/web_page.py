"""How long the page of `export.py --dest=DIR/` takes for an image in a real browser; tests drive the page with it.

    python bench/web_page.py --page=out/page --page=out/other-page
    python bench/web_page.py --resolution=64,128,256 --onnxruntime-web=onnxruntime-web-1.30.0.tgz

With --resolution, networks with random weights and the channels of `--cfg=auto` are exported first. The browser runs
WebAssembly in one thread, as on hosts that do not isolate their pages.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

from bench.tables import text_table
from dnnlib.cli import PATH, Command, SeedRange
from dnnlib.machine import processor_name
from exporting.models import Choices
from exporting.web_page import write_page
from training.networks_stylegan2 import Generator

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
OPTIONS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--hide-scrollbars',
)
NUM_IMAGES = 20

# Drives the page in a frame as a visitor would, and sends what it shows to the server.
DRIVER = """<!DOCTYPE html><body style="margin: 0">
<iframe id="frame" style="border: 0; width: 100vw; height: 100vh"></iframe><img src="/held.png" hidden><script>
const frame = document.getElementById('frame');
const send = (result) => fetch('/result', { method: 'POST', body: JSON.stringify(result) });
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
async function main() {
  const steps = await (await fetch('/steps.json')).json();
  await new Promise((resolve) => { frame.onload = resolve; frame.src = '/page/index.html'; });
  const page = frame.contentDocument;
  const settled = async () => {
    while (!['done', 'failed'].includes(page.documentElement.dataset.state)) await sleep(20);
    if (page.documentElement.dataset.state === 'failed') throw new Error(page.getElementById('status').textContent);
  };
  await settled();
  const images = [];
  for (const step of steps) {
    for (const [id, value] of Object.entries(step)) {
      const control = page.getElementById(id);
      if (typeof value === 'boolean') control.checked = value; else control.value = value;
      control.dispatchEvent(new Event('input', { bubbles: true }));
    }
    await sleep(0);
    await settled();
    const canvas = page.getElementById('image');
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    images.push({ width: canvas.width, height: canvas.height, data: [...data],
      milliseconds: Number(page.documentElement.dataset.milliseconds) });
  }
  const link = new Promise((resolve) => {
    frame.contentWindow.HTMLAnchorElement.prototype.click = function () {
      resolve({ name: this.download, url: this.href });
    };
  });
  page.getElementById('save').click();
  const { name, url } = await link;
  const png = [...new Uint8Array(await (await frame.contentWindow.fetch(url).catch(() => fetch(url))).arrayBuffer())];
  const classes = [...page.getElementById('class').options].map((option) => option.text);
  const others = frame.contentWindow.performance.getEntriesByType('resource')
    .map((entry) => entry.name)
    .filter((address) => !address.startsWith(location.origin) && !/^(data|blob):/.test(address));
  const sideways = page.documentElement.scrollWidth > page.documentElement.clientWidth;
  await send({ images, name, png, classes, others, sideways, title: page.title });
  document.title = 'done';
}
main().catch((error) => send({ error: String(error) }));
</script>"""


class _Server(http.server.ThreadingHTTPServer):
    """Serves a folder to a browser, and takes the result that the driver sends."""

    daemon_threads = True
    result: Any = None

    def __init__(self, folder: Path):
        self.folder = folder
        self.has_result = threading.Event()
        super().__init__(('127.0.0.1', 0), _Handler)


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: _Server

    def __init__(self, *args: Any):
        super().__init__(*args, directory=str(args[2].folder))

    def do_GET(self) -> None:
        if self.path == '/held.png':  # the page counts as loaded, and is photographed, after the driver has finished
            self.server.has_result.wait()
            self.send_error(404)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.server.result = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.send_response(204)
        self.end_headers()
        self.server.has_result.set()

    def log_message(self, *_args: Any) -> None:
        pass


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[_Server]:
    with _Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.has_result.set()
            server.shutdown()
            thread.join()


def find_browser() -> str:
    """Return the path of a browser.

    Raises:
        ValueError: No browser is installed.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ValueError('No browser was found: install Chromium (Debian: apt install chromium).')
    return found


def visit(
    browser: str,
    page: Path,
    steps: Sequence[dict[str, Any]],
    timeout_sec: float = 250,
    screenshot: Path | None = None,
    window: str = '900,640',
) -> dict[str, Any]:
    """Open a page, change its controls step by step, and return what it shows.

    Args:
        browser: Path of Chromium or Chrome.
        page: Folder of the page.
        steps: Values of controls by their ids.
        timeout_sec: How long to wait for the last image.
        screenshot: Picture to take at the end.
        window: Width and height of the window.

    Raises:
        ValueError: The page shows an error, or does not answer in time.
    """
    with tempfile.TemporaryDirectory() as name, _serving(Path(name)) as server:
        folder = Path(name)
        shutil.copytree(page, folder / 'page')
        (folder / 'driver.html').write_text(DRIVER)
        (folder / 'steps.json').write_text(json.dumps(steps))
        address = f'http://127.0.0.1:{server.server_port}/driver.html'
        only_this_server = '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'
        command = [
            browser,
            *OPTIONS,
            only_this_server,
            f'--user-data-dir={folder / "profile"}',
            f'--window-size={window}',
        ]
        command += [] if screenshot is None else [f'--screenshot={screenshot}']
        with subprocess.Popen([*command, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                answered = server.has_result.wait(timeout_sec)
                if screenshot is not None:
                    process.wait(60)
            finally:
                process.terminate()
    if not answered or 'error' in server.result:
        raise ValueError(server.result['error'] if answered else f'The page did not answer within {timeout_sec:g} s.')
    return server.result


def export_random_network(resolution: int, folder: Path, package: str | None) -> Path:
    """Write the page of a network with random weights, and return its folder."""
    fmaps = 1 if resolution >= 512 else 0.5
    options = dict(channel_base=int(32768 * fmaps), channel_max=512)
    G: Any = Generator(512, 0, 512, resolution, 3, mapping_kwargs={'num_layers': 2}, synthesis_kwargs=options)
    page = folder / f'random-{resolution}'
    write_page(G.eval().requires_grad_(False), page, Choices(), name=page.name, class_names=[], package=package)
    return page


def measure(browser: str, page: Path, num_images: int) -> list[str]:
    """Return a row of the table: page, size of the images, megabytes of the network, and times."""
    result = visit(browser, page, [{'seed': seed} for seed in range(num_images + 1)], timeout_sec=500)
    times = [image['milliseconds'] for image in result['images'][1:]]  # the first one allocates memory
    megabytes = sum(path.stat().st_size for path in page.glob('*.onnx')) / 1e6
    size = f'{result["images"][0]["width"]}x{result["images"][0]["height"]}'
    return [result['title'], size, f'{megabytes:.1f}', f'{statistics.median(times):.0f}', f'{min(times):.0f}']


@click.command(cls=Command)
@click.option('--page', 'pages', type=PATH, multiple=True, metavar='DIR', help='Folder that export.py has written')
@click.option('--resolution', 'sides', type=SeedRange(), metavar='N,N,…', help='Also random networks of these sizes')
@click.option('--onnxruntime-web', 'package', type=PATH, metavar='TGZ', help='As for export.py')
@click.option('--images', type=click.IntRange(min=1), default=NUM_IMAGES, show_default=True, help='Images per page')
@click.option('--screenshot', type=PATH, metavar='PNG', help='Take a picture of the first page instead')
def main(
    pages: tuple[str, ...], sides: list[int] | None, package: str | None, images: int, screenshot: str | None
) -> None:
    """Measure pages in a browser."""
    browser = find_browser()
    if screenshot is not None:
        steps: list[dict[str, Any]] = [{'seed': 4}, {'mix': True, 'second': 9}]
        visit(browser, Path(pages[0]), steps, screenshot=Path(screenshot).resolve())
        return
    with tempfile.TemporaryDirectory() as folder:
        random_pages = [export_random_network(side, Path(folder), package) for side in sides or []]
        rows = [measure(browser, page, images) for page in [*map(Path, pages), *random_pages]]
    print(f'{processor_name()}, WebAssembly, one thread')
    print(text_table(['page', 'images', 'network, MB', 'median, ms', 'fastest, ms'], rows))


if __name__ == '__main__':
    main()
