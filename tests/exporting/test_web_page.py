"""The page of `export.py --dest=DIR/` in a real browser, which reaches nothing but the server of the page.

The npm package of onnxruntime-web comes from ONNXRUNTIME_WEB_TGZ, from the cache, or from `npm pack`.
"""

import contextlib
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from exporting import browser_runtime
from tests.small_generators import NAMES, make_generator, write_networks

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
OPTIONS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run']

# Drives the page in a frame as a visitor would, and sends what it shows to the server.
DRIVER = """<!DOCTYPE html><body><iframe id="frame" width="900" height="700"></iframe><script>
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
    frame.contentWindow.HTMLAnchorElement.prototype.click = function () { resolve({ name: this.download, url: this.href }); };
  });
  page.getElementById('save').click();
  const { name, url } = await link;
  const png = [...new Uint8Array(await (await frame.contentWindow.fetch(url).catch(() => fetch(url))).arrayBuffer())];
  const classes = [...page.getElementById('class').options].map((option) => option.text);
  const others = frame.contentWindow.performance.getEntriesByType('resource')
    .map((entry) => entry.name).filter((address) => !address.startsWith(location.origin) && !/^(data|blob):/.test(address));
  const sideways = page.documentElement.scrollWidth > page.documentElement.clientWidth;
  await send({ images, name, png, classes, others, sideways, title: page.title });
}
main().catch((error) => send({ error: String(error) }));
</script>"""


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_POST(self):
        self.server.result = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.send_response(204)
        self.end_headers()
        self.server.has_result.set()

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(folder):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), lambda *args: _Handler(*args, directory=str(folder)))
    server.has_result = threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def visit(browser, folder, steps, timeout=200):
    """Open the page in `folder`/page, change its controls step by step, and return what it shows."""
    (folder / 'driver.html').write_text(DRIVER)
    (folder / 'steps.json').write_text(json.dumps(steps))
    with serving(folder) as server:
        address = f'http://127.0.0.1:{server.server_port}/driver.html'
        only_this_server = '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'
        command = [browser, *OPTIONS, only_this_server, f'--user-data-dir={folder / "profile"}', address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                assert server.has_result.wait(timeout), 'the page has not answered'
            finally:
                process.terminate()
    assert 'error' not in server.result, server.result
    return server.result


@pytest.fixture(scope='module')
def browser():
    names = [os.environ['BROWSER_FOR_TESTS']] if 'BROWSER_FOR_TESTS' in os.environ else BROWSERS
    found = next(filter(None, map(shutil.which, names)), None)
    assert found, 'no browser was found: install Chromium (Debian: apt install chromium), or set BROWSER_FOR_TESTS'
    return found


@pytest.fixture(scope='module')
def runtime(tmp_path_factory):
    """The npm package, as a file."""
    if 'ONNXRUNTIME_WEB_TGZ' in os.environ:
        return Path(os.environ['ONNXRUNTIME_WEB_TGZ'])
    folder = tmp_path_factory.mktemp('npm')
    package = f'onnxruntime-web@{browser_runtime.VERSION}'
    assert shutil.which('npm'), f'set ONNXRUNTIME_WEB_TGZ to the file that `npm pack {package}` writes'
    subprocess.run(['npm', 'pack', '--silent', package], cwd=folder, check=True, timeout=300)
    (path,) = folder.glob('*.tgz')
    return path


@pytest.fixture(scope='module')
def site(tmp_path_factory, runtime):
    """A folder with the network of a small generator with classes and alpha, and its page."""
    from click.testing import CliRunner

    import export

    folder = tmp_path_factory.mktemp('site')
    G = make_generator(c_dim=3, w_avg=1, img_channels=4)
    write_networks(folder, {'animals': (G, {'class_names': NAMES})})
    arguments = [f'--network={folder / "animals.pkl"}', f'--dest={folder / "page"}/', f'--onnxruntime-web={runtime}']
    result = CliRunner().invoke(export.main, arguments)
    assert result.exit_code == 0, result.output
    return folder


def assert_same(shown, expected):
    """Assert that a canvas shows a picture, up to rounding; browsers premultiply colors, so transparent ones are lost."""
    shown = np.array(shown['data'], np.uint8).reshape(shown['height'], shown['width'], 4).astype(int)
    expected = np.asarray(expected.convert('RGBA')).astype(int)
    alpha = expected[:, :, 3:]
    assert np.abs(shown[:, :, 3:] - alpha).max() <= 1
    assert (np.abs(shown - expected)[:, :, :3] * alpha).max() <= 4 * 255


def test_images_of_the_page(browser, site, tmp_path, run_script):
    """Seeds, truncation, classes and mixtures look as the scripts draw them."""
    steps = [
        {'seed': 5},
        {'seed': 77, 'trunc': 0.7, 'class': 2},
        {'seed': 4294967295, 'trunc': 1, 'class': 1},
        {'seed': 3, 'mix': True, 'second': 8, 'first': 3, 'class': 0},
    ]
    result = visit(browser, site, steps)
    network = f'--network={site / "animals.pkl"}'
    for index, (seed, psi, name) in enumerate([(5, 1, 'airplane'), (77, 0.7, 'red fox'), (4294967295, 1, 'dog')]):
        drawn = run_script('generate.py', network, f'--seeds={seed}', f'--trunc={psi}', f'--class={name}', '--outdir=.')
        assert drawn.returncode == 0, drawn.stderr
        assert_same(result['images'][index], PIL.Image.open(tmp_path / f'seed{seed:04d}.png'))
    options = ['--rows=3', '--cols=8', '--styles=3-5', '--class=airplane', '--outdir=.']
    mixed = run_script('style_mixing.py', network, *options)
    assert mixed.returncode == 0, mixed.stderr
    assert_same(result['images'][3], PIL.Image.open(tmp_path / '3-8.png'))

    assert result['classes'] == NAMES and result['title'] == 'animals'
    assert result['others'] == [] and not result['sideways']
    (tmp_path / result['name']).write_bytes(bytes(result['png']))
    assert result['name'] == 'seed0003-8.png'
    assert_same(result['images'][3], PIL.Image.open(tmp_path / result['name']))


def test_missing_file(browser, site, tmp_path):
    """A page that was not copied completely says what is missing."""
    shutil.copytree(site / 'page', tmp_path / 'page')
    (tmp_path / 'page' / 'synthesis.onnx').unlink()
    with pytest.raises(AssertionError, match='The network cannot be loaded'):
        visit(browser, tmp_path, [])


def test_another_package(site, tmp_path):
    from click.testing import CliRunner

    import export

    (tmp_path / 'other.tgz').write_bytes(b'something else')
    arguments = [f'--network={site / "animals.pkl"}', '--dest=page/', f'--onnxruntime-web={tmp_path / "other.tgz"}']
    result = CliRunner().invoke(export.main, arguments)
    assert result.exit_code == 1 and 'other.tgz' in result.stderr and not Path('page').exists()
