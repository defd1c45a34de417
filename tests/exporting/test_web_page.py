"""The page of `export.py --dest=DIR/` in a real browser, which reaches nothing but the server of the page.

The npm package of onnxruntime-web comes from ONNXRUNTIME_WEB_TGZ, from the cache, or from `npm pack`.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import export
from bench.web_page import find_browser, visit
from exporting import browser_runtime, onnx_files, web_page
from exporting.models import Choices
from tests.small_generators import NAMES, make_generator, write_networks

pytestmark = pytest.mark.timeout(900)  # conversion to ONNX takes its time on a busy machine


@pytest.fixture(scope='module')
def browser():
    return os.environ.get('BROWSER_FOR_TESTS') or find_browser()


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
    folder = tmp_path_factory.mktemp('site')
    G = make_generator(c_dim=3, w_avg=1, img_channels=4)
    write_networks(folder, {'animals': (G, {'class_names': NAMES})})
    arguments = [f'--network={folder / "animals.pkl"}', f'--dest={folder / "page"}/', f'--onnxruntime-web={runtime}']
    result = CliRunner().invoke(export.main, arguments)
    assert result.exit_code == 0, result.output
    return folder


def assert_same(shown, expected):
    """Assert that a canvas shows a picture, up to rounding; a canvas forgets the colors of transparent pixels."""
    shown = np.array(shown['data'], np.uint8).reshape(shown['height'], shown['width'], 4).astype(int)
    expected = np.asarray(expected.convert('RGBA')).astype(int)
    alpha = expected[:, :, 3:]
    assert np.abs(shown[:, :, 3:] - alpha).max() <= 1
    assert (np.abs(shown - expected)[:, :, :3] * alpha).max() <= 4 * 255


@pytest.mark.slow
def test_images_of_the_page(browser, site, tmp_path, run_script):
    """Seeds, truncation, classes and mixtures look as the scripts draw them."""
    steps = [
        {'seed': 5},
        {'seed': 77, 'trunc': 0.7, 'class': 2},
        {'seed': 4294967295, 'trunc': 1, 'class': 1},
        {'seed': 3, 'mix': True, 'second': 8, 'first': 3, 'class': 0},
    ]
    result = visit(browser, site / 'page', steps)
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


@pytest.mark.slow
def test_missing_file(browser, site, tmp_path):
    """A page that was not copied completely says what is missing."""
    shutil.copytree(site / 'page', tmp_path / 'page')
    (tmp_path / 'page' / 'synthesis.onnx').unlink()
    with pytest.raises(ValueError, match='The network cannot be loaded'):
        visit(browser, tmp_path / 'page', [])


def test_another_package(tmp_path):
    network = write_networks(tmp_path, {'small': make_generator()}).small
    (tmp_path / 'other.tgz').write_bytes(b'something else')
    page = tmp_path / 'page'
    arguments = [f'--network={network}', f'--dest={page}/', f'--onnxruntime-web={tmp_path / "other.tgz"}']
    result = CliRunner().invoke(export.main, arguments)
    assert result.exit_code == 1 and 'other.tgz' in result.stderr and not page.exists()


def test_page_that_is_half_replaced(tmp_path, monkeypatch):
    """An older page in the folder does not open any more: its network would be half of one and half of the other."""
    monkeypatch.setattr(browser_runtime, 'files_of_runtime', lambda package: {})
    monkeypatch.setattr(web_page, 'export_program', lambda model: None)
    monkeypatch.setattr(onnx_files, 'convert', lambda *args: b'network')
    monkeypatch.setattr(onnx_files, 'check', lambda *args: 0)
    G = make_generator(w_avg=1)
    web_page.write_page(G, tmp_path, Choices(), name='older', class_names=[])
    assert (tmp_path / 'index.html').is_file() and (tmp_path / 'mapping.onnx').read_bytes() == b'network'
    (tmp_path / 'synthesis.onnx').unlink()
    (tmp_path / 'synthesis.onnx').mkdir()
    with pytest.raises(OSError, match='synthesis.onnx'):
        web_page.write_page(G, tmp_path, Choices(), name='newer', class_names=[])
    assert not (tmp_path / 'index.html').exists()
