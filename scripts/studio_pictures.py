"""Take the pictures of docs/studio.md and the animation of the README: the studio in Chromium, at several widths.

python scripts/studio_pictures.py --run=out/demo/runs/00000-digits-cond-tiny --outdir=docs/studio
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import PIL.Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SHOTS = [  # name, width, height, color scheme, panel
    ('latents-wide-light', 1280, 860, 'light', 'latents'),
    ('compare-wide-dark', 1280, 860, 'dark', 'compare'),
    ('inside-middle-light', 768, 1100, 'light', 'inside'),
    ('edit-middle-dark', 768, 1100, 'dark', 'edit'),
    ('shelf-phone-light', 360, 1000, 'light', 'shelf'),
    ('latents-phone-dark', 360, 1000, 'dark', 'latents'),
    ('train-wide-light', 1280, 860, 'light', 'train'),
]
_FRAMES = 14


@click.command()
@click.option('--run', required=True, metavar='DIR', help='Directory of a training run with classes and snapshots')
@click.option('--outdir', required=True, metavar='DIR', help='Folder of the pictures')
@click.option('--browser', default='chromium', show_default=True, help='Name of the browser')
def main(run: str, outdir: str, browser: str) -> None:
    """Take the pictures of docs/studio.md and the animation of the README."""
    folder = Path(outdir)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as kept, sync_playwright() as playwright:
        command = [sys.executable, 'studio.py', f'--network={run}', '--port=0', f'--outdir={kept}']
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                match = re.search(r'http://\S+', server.stdout.readline())
                assert match is not None
                chromium = playwright.chromium.launch(executable_path=shutil.which(browser), args=['--no-sandbox'])
                fill_shelf(chromium, match[0])
                for name, width, height, scheme, panel in SHOTS:
                    take(chromium, match[0], folder / f'{name}.png', (width, height), scheme, panel)
                animate(chromium, match[0], folder / 'walk.gif')
            finally:
                server.terminate()


def open_page(chromium: Browser, url: str, size: tuple[int, int], scheme: str) -> Page:
    """Open the page, and wait for its picture."""
    page = chromium.new_page(viewport={'width': size[0], 'height': size[1]}, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(120_000)
    page.goto(url)
    page.wait_for_selector('#picture[data-state=rest]')
    page.select_option('#class', '#3')
    page.wait_for_timeout(800)
    return page


def fill_shelf(chromium: Browser, url: str) -> None:
    """Keep a few pictures, and find directions."""
    page = open_page(chromium, url, (1280, 860), 'light')
    for index in (3, 5, 8):
        page.click('#tab-latents')
        page.select_option('#class', f'#{index}')
        page.wait_for_timeout(800)
        page.click('#tab-shelf')
        page.fill('#keep-name', f'a {index}')
        page.click('#keep')
        page.wait_for_timeout(800)
    page.click('#tab-edit')
    page.click('#find-directions')
    page.wait_for_selector('#directions .field')
    page.close()


def take(chromium: Browser, url: str, path: Path, size: tuple[int, int], scheme: str, panel: str) -> None:
    """Take a picture of one panel."""
    page = open_page(chromium, url, size, scheme)
    page.click(f'#tab-{panel}')
    if panel == 'edit':
        page.select_option('#direction-file', '0001')
        page.wait_for_selector('#directions .field')
        page.fill('.field:has(#direction-pca0) input[type=number]', '1.5')
        page.keyboard.press('Tab')
    if panel == 'compare':
        page.wait_for_selector('#sheet button[data-seed="30"][data-loaded]')
    page.wait_for_timeout(4000)
    if size[0] < 800:
        page.evaluate('document.querySelector("#tabs").scrollIntoView({block: "center"})')
        page.wait_for_timeout(300)
    page.screenshot(path=path)
    page.close()


def animate(chromium: Browser, url: str, path: Path) -> None:
    """Drag the picture in a small window, and write the frames as GIF."""
    page = open_page(chromium, url, (1000, 640), 'light')
    box = page.locator('#picture').bounding_box()
    assert box is not None
    x, y = box['x'] + box['width'] * 0.8, box['y'] + box['height'] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    frames = []
    for index in range(_FRAMES):
        page.mouse.move(x - box['width'] * 0.6 * index / _FRAMES, y - 40 * index / _FRAMES)
        page.wait_for_timeout(250)
        picture = PIL.Image.open(io.BytesIO(page.screenshot()))
        frames.append(picture.convert('RGB').resize((600, 384)).quantize(32))
    page.mouse.up()
    frames += frames[-2:0:-1]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=120, loop=0, optimize=True)
    page.close()


if __name__ == '__main__':
    main()
