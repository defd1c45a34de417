"""The report in a real browser: it fits narrow and wide windows, follows the theme, shows its images, loads nothing.

scripts/test.sh installs Chromium if there is no browser and it can. BROWSER_FOR_TESTS names another one.
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from reporting.writing import write_report

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
OPTIONS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars']

# The report has no scripts of its own; this page puts it into frames of several widths and measures them.
MEASURE = """<!DOCTYPE html><body><script>
const page = {page}, results = [];
let left = {widths}.length;
for (const width of {widths}) {{
  const frame = document.createElement('iframe');
  frame.width = width; frame.height = 900; frame.srcdoc = page;
  frame.onload = () => {{
    const content = frame.contentDocument, root = content.documentElement;
    const images = [...content.images];
    const texts = [...content.querySelectorAll('.chart > svg text')];
    results.push({{
      width, needed: root.scrollWidth, images: images.length,
      loaded: images.filter(image => image.naturalWidth > 0).length,
      columns: getComputedStyle(content.querySelector('.charts')).gridTemplateColumns.split(' ').length,
      smallest: Math.min(...texts.map(text => text.getBoundingClientRect().height)),
      requests: frame.contentWindow.performance.getEntriesByType('resource')
        .filter(entry => !entry.name.startsWith('data:')).length,
    }});
    if (!--left) document.body.textContent = JSON.stringify(results);
  }};
  document.body.append(frame);
}}
</script>"""


@pytest.fixture(scope='module')
def browser() -> str:
    names = [os.environ['BROWSER_FOR_TESTS']] if 'BROWSER_FOR_TESTS' in os.environ else NAMES
    found = next(filter(None, map(shutil.which, names)), None)
    assert found, 'no browser was found: install Chromium (Debian: apt install chromium), or set BROWSER_FOR_TESTS'
    return found


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs with long names, many statistics and images."""
    folder = tmp_path_factory.mktemp('runs')
    run_dirs = []
    for number in range(2):
        run = folder / f'0000{number}-{"photographs" * 12}'
        run.mkdir()
        rng = np.random.RandomState(number)
        lines = []
        for kimg in range(1, 60):
            means = {
                name: {'mean': float(rng.rand() * scale)}
                for name, scale in [('Loss/G/loss', 3), ('Loss/D/loss', 1e-5), ('Loss/scores/real', 1e7)]
            }
            means |= {'Timing/sec_per_kimg': {'mean': 20.0}, 'Progress/kimg': {'mean': kimg * 400}}
            lines.append(json.dumps(means))
        (run / 'stats.jsonl').write_text('\n'.join(lines))
        for name in ('reals.png', 'fakes_init.png', 'fakes000100.png'):
            PIL.Image.fromarray(rng.randint(0, 256, [600, 900, 3], dtype=np.uint8)).save(run / name)
        run_dirs.append(str(run))
    write_report(folder / 'report.html', run_dirs, {})
    return folder / 'report.html'


def run_browser(browser: str, folder: Path, *args: str) -> str:
    command = [browser, *OPTIONS, f'--user-data-dir={folder / "profile"}', *args]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_narrow_and_wide(browser: str, page: Path, tmp_path: Path):
    widths = [320, 360, 768, 1400]
    text = json.dumps(page.read_text()).replace('<', '\\u003c')
    (tmp_path / 'measure.html').write_text(MEASURE.format(page=text, widths=widths))
    dom = run_browser(browser, tmp_path, '--dump-dom', '--virtual-time-budget=20000', f'file://{tmp_path}/measure.html')
    results = json.loads(html.unescape(re.search(r'<body>(\[.*\])</body>', dom, re.DOTALL)[1]))
    assert sorted(result['width'] for result in results) == widths
    for result in results:
        assert result['needed'] <= result['width'], 'the page scrolls sideways'
        assert result['loaded'] == result['images'] == 6
        assert result['smallest'] >= 10, 'text in charts is too small to read'
        assert result['requests'] == 0
        assert (result['columns'] == 1) == (result['width'] <= 360)


@pytest.mark.parametrize('theme, is_dark', [(1, False), (0, True)])
def test_light_and_dark(browser: str, page: Path, tmp_path: Path, theme: int, is_dark: bool):
    picture = tmp_path / 'page.png'
    theme_option = f'--blink-settings=preferredColorScheme={theme}'
    run_browser(browser, tmp_path, theme_option, '--window-size=800,700', f'--screenshot={picture}', f'file://{page}')
    pixels = np.asarray(PIL.Image.open(picture).convert('L'))
    background, darkest, brightest = np.median(pixels), pixels.min(), pixels.max()
    assert (background < 40 and brightest > 200) if is_dark else (background > 240 and darkest < 60)
