"""The studio in a real browser: its pictures are those of the scripts, and everything that is kept is a file.

scripts/test.sh installs Chromium if there is no browser and it can. BROWSER_FOR_TESTS names another one.
"""

import base64
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch
from playwright.sync_api import Page, expect, sync_playwright

import gen_video
import generate
import style_mixing
from metrics.features.detectors import ignore_torchscript_deprecation
from tests.small_generators import NAMES, make_generator, make_stylegan3_generator, write_networks
from tests.small_runs import ROOT
from tests.small_studio import free_port, running_studio

NAMES_OF_BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')
TIMEOUT = 60_000  # milliseconds; machines may be busy
expect.set_options(timeout=TIMEOUT)


class FeatureNetwork(torch.nn.Module):
    """Means of 2x2 pixels, with the interface of vgg16.pt."""

    def forward(
        self,
        images: torch.Tensor,
        resize_images: bool = True,
        return_features: bool = False,
        return_lpips: bool = False,
    ) -> torch.Tensor:
        x = torch.nn.functional.avg_pool2d(images.to(torch.float32) / 127.5 - 1, 2)
        return x.flatten(1) / 10


def make_moving_generator():
    """A generator of StyleGAN3 whose images move with the first two numbers of w, so that points can be dragged."""
    G = make_stylegan3_generator(equivariance='translation')
    for index in range(2):
        G.synthesis.input.affine.weight[2 + index, index] = 8**0.5
    return G


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Networks, a run with three snapshots, a folder with a feature network, a photograph."""
    folder = tmp_path_factory.mktemp('files')
    networks = write_networks(
        folder,
        {
            'named': (make_generator(c_dim=3, w_avg=1), {'class_names': NAMES}),
            'turning': make_moving_generator(),
        },
    )
    run = folder / '00000-cats-auto1'
    run.mkdir()
    for kimg in (0, 4, 8):
        snapshot = write_networks(run, {f'network-snapshot-{kimg:06d}': make_generator(noise_strength=kimg / 8)})
        assert snapshot
    lines = [
        {'Progress/kimg': {'mean': k}, 'Loss/D/loss': {'mean': 1 / k}, 'Timing/total_hours': {'mean': k / 10}}
        for k in range(1, 9)
    ]
    (run / 'stats.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    PIL.Image.fromarray(np.full([64, 64, 3], 90, np.uint8)).save(run / 'fakes000008.png')
    detectors = folder / 'detectors'
    detectors.mkdir()
    with ignore_torchscript_deprecation():
        torch.jit.script(FeatureNetwork()).save(detectors / 'vgg16.pt')
    photo = np.random.RandomState(0).randint(0, 256, [5, 7, 3], dtype=np.uint8)
    PIL.Image.fromarray(photo).resize((70, 50), PIL.Image.Resampling.BICUBIC).save(folder / 'photo.png')
    return SimpleNamespace(
        folder=folder, run=run, detectors=detectors, photo=folder / 'photo.png', out=folder / 'out', **vars(networks)
    )


@pytest.fixture(scope='module')
def arguments(files):
    networks = [f'--network={path}' for path in (files.named, files.turning, files.run)]
    return [*networks, f'--outdir={files.out}', f'--detectors={files.detectors}']


@pytest.fixture(scope='module')
def studio(arguments):
    with running_studio(*arguments) as (port, _process):
        yield f'http://localhost:{port}/'


@pytest.fixture(scope='module')
def browser():
    names = [os.environ['BROWSER_FOR_TESTS']] if 'BROWSER_FOR_TESTS' in os.environ else NAMES_OF_BROWSERS
    found = next(filter(None, map(shutil.which, names)), None)
    assert found, 'no browser was found: install Chromium (Debian: apt install chromium), or set BROWSER_FOR_TESTS'
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=['--no-sandbox', '--disable-dev-shm-usage'])
        yield browser
        browser.close()


def open_page(browser, url, **options) -> Page:
    page = browser.new_page(viewport={'width': 1200, 'height': 900}, **options)
    page.set_default_timeout(TIMEOUT)
    page.problems = []
    page.on('pageerror', lambda error: page.problems.append(str(error)))
    page.on('console', lambda message: message.type == 'error' and page.problems.append(message.text))
    page.goto(url)
    at_rest(page)
    return page


@pytest.fixture
def page(browser, studio):
    page = open_page(browser, studio)
    yield page
    assert page.problems == []
    page.close()


def at_rest(page):
    page.wait_for_selector('#picture[data-state=rest]')


def pixels_of(page, selector='#picture'):
    """The pixels of a canvas, uint8 [H, W, 3]."""
    url = page.evaluate('selector => document.querySelector(selector).toDataURL("image/png")', selector)
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))).convert('RGB'))


def pixels_in(path):
    return np.asarray(PIL.Image.open(path).convert('RGB'))


def run(command, *options):
    result = click.testing.CliRunner().invoke(command, [*map(str, options), '--device=cpu'])
    assert result.exit_code == 0, result.output


def set_number(page, control, value):
    """Type a number beside a slider."""
    field = page.locator(f'.field:has(#{control}) input[type=number], input[type=number]#{control}').first
    field.fill(str(value))
    field.press('Tab')
    at_rest(page)


def run_command_line(command, folder):
    """Run what the page shows, as a user does who pastes it; return the folder of its results."""
    words = shlex.split(command.replace('--outdir=out', f'--outdir={folder}'))
    words = [sys.executable, str(ROOT / words[1]), *words[2:], '--device=cpu']
    subprocess.run(words, check=True, cwd=ROOT, capture_output=True, timeout=120)
    return folder


def test_pictures_are_those_of_the_scripts(page, files, tmp_path):
    set_number(page, 'seed', 5)
    page.select_option('#class', '#2')
    at_rest(page)
    set_number(page, 'psi', 0.6)
    set_number(page, 'cutoff', 3)
    options = [f'--network={files.named}', '--class=red fox', '--trunc=0.6', '--trunc-cutoff=3']
    run(generate.main, *options, '--seeds=5', f'--outdir={tmp_path}')
    np.testing.assert_array_equal(pixels_of(page), pixels_in(tmp_path / 'seed0005.png'))

    page.select_option('#noise-mode', 'random')
    at_rest(page)
    run(generate.main, *options, '--noise-mode=random', '--seeds=5', f'--outdir={tmp_path / "random"}')
    np.testing.assert_array_equal(pixels_of(page), pixels_in(tmp_path / 'random' / 'seed0005.png'))

    page.select_option('#noise-mode', 'none')
    page.click('#add-mix')
    set_number(page, 'mix-seed-0', 9)
    for layer in (1, 4):
        page.click(f'#mix button[aria-label="Layer {layer}"]')
        at_rest(page)
    mixing = ['--rows=5', '--cols=9', '--styles=1,4', '--noise-mode=none', '--batch=1']
    run(style_mixing.main, *options, *mixing, f'--outdir={tmp_path / "mix"}')
    np.testing.assert_array_equal(pixels_of(page), pixels_in(tmp_path / 'mix' / '5-9.png'))


def test_dragging_walks_between_seeds_and_can_be_undone(page):
    start = pixels_of(page)
    box = page.locator('#picture').bounding_box()
    x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - box['width'] * 0.15, y, steps=5)
    page.mouse.up()
    at_rest(page)
    assert page.evaluate('studioModel.spec.x') == pytest.approx(0.3, abs=0.02)
    assert (pixels_of(page) != start).any()
    page.click('#snap')
    at_rest(page)
    assert (pixels_of(page) == start).all()
    page.click('#undo')
    at_rest(page)
    assert (pixels_of(page) != start).any()
    page.locator('#picture').press('Shift+ArrowRight')
    page.wait_for_function('() => studioModel.spec.x > 1')
    page.click('#walk')
    page.wait_for_function('() => studioModel.spec.y !== 0')
    page.click('#walk')
    at_rest(page)


def test_what_is_kept_is_rendered_by_the_scripts(page, files, tmp_path):
    page.select_option('#center', 'class')
    set_number(page, 'psi', 0.5)
    set_number(page, 'plane-x', 0.4)
    set_number(page, 'noise-strength', 1.7)
    shown = pixels_of(page)
    page.click('#tab-shelf')
    page.fill('#keep-name', 'between')
    page.click('#keep')
    card = page.locator('#shelf article', has=page.locator('input[value="between"]'))
    expect(page.locator('#shelf article').first).to_be_visible()
    kept = page.evaluate('studioModel.state.shelf.at(-1)')
    assert kept['name'] == 'between' and (files.out / 'kept' / f'{kept["id"]}.npz').is_file()
    np.testing.assert_array_equal(pixels_in(files.out / 'kept' / f'{kept["id"]}.png'), shown)
    results = run_command_line(kept['command'], tmp_path)
    np.testing.assert_array_equal(pixels_in(results / 'proj00.png'), shown)

    count = len(page.evaluate('studioModel.state.shelf'))
    page.click('#undo')
    page.wait_for_function('count => studioModel.state.shelf.length === count - 1', arg=count)
    assert not (files.out / 'kept' / f'{kept["id"]}.npz').exists()
    page.click('#redo')
    page.wait_for_function('count => studioModel.state.shelf.length === count', arg=count)
    card = page.locator(f'#shelf article[data-kept="{kept["id"]}"]')
    card.get_by_label('Note').fill('a note')
    card.get_by_label('Note').press('Tab')
    page.wait_for_function('() => studioModel.state.shelf.at(-1).note === "a note"')
    assert json.loads((files.out / 'kept' / f'{kept["id"]}.json').read_text())['note'] == 'a note'
    page.click('#tab-latents')
    page.click('#next-seed')
    at_rest(page)
    page.click('#tab-shelf')
    card.get_by_role('button', name='Show').click()
    at_rest(page)
    np.testing.assert_array_equal(pixels_of(page), shown)


def test_images_are_shifted_and_rotated_by_dragging(page, files, tmp_path):
    page.select_option('#network', '1')
    page.wait_for_function('() => studioModel.info && studioModel.info.has_transform')
    at_rest(page)
    page.select_option('#drag-mode', 'shift')
    box = page.locator('#picture').bounding_box()
    page.mouse.move(box['x'] + 50, box['y'] + 50)
    page.mouse.down()
    page.mouse.move(box['x'] + 50 + box['width'] * 0.25, box['y'] + 50, steps=3)
    page.mouse.up()
    at_rest(page)
    set_number(page, 'rotation', 30)
    shift = page.evaluate('studioModel.spec.shift')
    assert shift == pytest.approx([0.25, 0], abs=0.01)
    transform = [f'--translate={shift[0]},{shift[1]}', '--rotate=30']
    run(generate.main, f'--network={files.turning}', '--seeds=0', *transform, f'--outdir={tmp_path}')
    np.testing.assert_array_equal(pixels_of(page), pixels_in(tmp_path / 'seed0000.png'))


def test_snapshots_pairs_and_a_contact_sheet(page, files, tmp_path):
    page.select_option('#network', '2')
    page.click('#tab-compare')
    expect(page.locator('#snapshots button')).to_have_count(3)
    page.locator('#snapshots button').nth(1).click()
    at_rest(page)
    snapshot = files.run / 'network-snapshot-000004.pkl'
    run(generate.main, f'--network={snapshot}', '--seeds=0', f'--outdir={tmp_path}')
    np.testing.assert_array_equal(pixels_of(page), pixels_in(tmp_path / 'seed0000.png'))

    page.select_option('#other-network', '2')
    page.wait_for_function('() => document.querySelector("#other-picture").width === 16')
    page.select_option('#other-snapshot', '8')
    run(generate.main, f'--network={files.run}', '--seeds=0', f'--outdir={tmp_path / "newest"}')
    newest = pixels_in(tmp_path / 'newest' / 'seed0000.png')
    for _ in range(100):
        if (pixels_of(page, '#other-picture') == newest).all():
            break
        time.sleep(0.1)
    np.testing.assert_array_equal(pixels_of(page, '#other-picture'), newest)

    sheet = page.locator('#sheet')
    expect(sheet.locator('button[data-seed="0"]')).to_have_attribute('data-loaded', 'yes')
    assert sheet.locator('button[data-seed="96"]').count() == 0
    sheet.evaluate('element => element.scrollTo(0, element.scrollHeight)')
    expect(sheet.locator('button[data-seed="60"]')).to_have_attribute('data-loaded', 'yes')
    sheet.locator('button[data-seed="60"]').click()
    at_rest(page)
    assert page.evaluate('studioModel.spec.seed') == 60


def test_looking_inside(page):
    page.click('#tab-inside')
    page.select_option('#layer', 'b8.conv1')
    for show, size in (('channels', None), ('colors', 512), ('spectrum', 512)):
        page.select_option('#inside-show', show)
        page.wait_for_selector(f'#inside-picture[data-show={show}][data-layer="b8.conv1"]')
        pixels = pixels_of(page, '#inside-picture')
        assert pixels.std() > 5 and (size is None or pixels.shape[1] == size)
    expect(page.locator('#inside-facts')).to_contain_text('8 channels of 8×8')


def test_the_run_in_progress(page):
    page.select_option('#network', '2')
    page.click('#tab-train')
    expect(page.locator('#run-facts')).to_contain_text('8.0 of')
    assert page.evaluate('document.querySelector("#charts").shadowRoot.querySelectorAll(".chart").length') >= 1
    page.wait_for_function('() => document.querySelector("#fakes").naturalWidth > 0')


def test_a_photograph_is_found_and_kept(page, files):
    page.click('#tab-project')
    page.set_input_files('#photograph', files.folder / 'named.pkl')
    expect(page.locator('.problem').first).to_contain_text('not an image')
    page.problems.clear()  # the browser mentions the refused request
    page.set_input_files('#photograph', files.photo)
    page.fill('#steps', '40')
    page.press('#steps', 'Tab')
    page.click('#project')
    card = page.locator('#jobs article').first
    expect(card).to_have_attribute('data-state', 'done', timeout=TIMEOUT)
    job = page.evaluate('fetch("state").then(response => response.json()).then(state => state.jobs.at(-1))')
    assert len(job['values']) == 41 and job['details']['best'] < 0.8 * job['values'][0]
    card.get_by_role('button', name='Keep as a latent').click()
    page.wait_for_function('() => studioModel.spec.kept !== null')
    at_rest(page)
    kept = page.evaluate('studioModel.spec.kept')
    np.testing.assert_array_equal(pixels_of(page), pixels_in(files.out / 'kept' / f'{kept}.png'))

    card.get_by_role('button', name='Tune the network to it').click()
    tuned = page.locator('#jobs article').first
    expect(tuned.locator('strong')).to_contain_text('Tuned network')
    tuned.get_by_role('button', name='Stop').click()
    expect(tuned).to_have_attribute('data-state', 'stopped')

    page.fill('#steps', '100000')
    page.press('#steps', 'Tab')
    page.click('#project')
    card = page.locator('#jobs article').first
    expect(card.locator('strong')).to_have_text('Projection (running)')
    page.click('#tab-latents')
    page.click('#next-seed')  # pictures are rendered between the steps
    at_rest(page)
    card.get_by_role('button', name='Pause').click()
    expect(card).to_have_attribute('data-state', 'paused')
    card.get_by_role('button', name='Go on').click()
    expect(card).to_have_attribute('data-state', 'running')
    card.get_by_role('button', name='Stop').click()
    expect(card).to_have_attribute('data-state', 'stopped')
    expect(card.get_by_role('button', name='Keep as a latent')).to_be_visible()


@pytest.mark.slow
def test_a_video_through_the_shelf(page, files, tmp_path, read_video):
    page.click('#tab-shelf')
    for name in ('first', 'second'):
        page.fill('#keep-name', name)
        page.click('#keep')
        page.wait_for_function('name => studioModel.state.shelf.at(-1)?.name === name', arg=name)
        page.evaluate('document.querySelector("#next-seed").click()')
        at_rest(page)
        page.locator('#shelf article').first.get_by_role('button', name='Keyframe').click()
    page.fill('#video-frames', '4')
    page.press('#video-frames', 'Tab')
    page.select_option('#video-easing', 'smooth')
    page.click('#make-video')
    card = page.locator('#jobs article').first
    expect(card.locator('strong')).to_have_text('Video of 2 keyframes (done)')
    job = page.evaluate('fetch("state").then(response => response.json()).then(state => state.jobs.at(-1))')
    video = files.out / 'videos' / f'{job["details"]["made"]["number"]}.mp4'
    words = shlex.split(job['details']['command'])[2:-1]
    run(gen_video.main, *words, f'--output={tmp_path / "same.mp4"}')
    np.testing.assert_array_equal(read_video(video), read_video(tmp_path / 'same.mp4'))
    assert len(read_video(video)) == 8


@pytest.mark.parametrize('width', [360, 768, 1400])
def test_narrow_and_wide_windows(page, width):
    page.set_viewport_size({'width': width, 'height': 800})
    for tab in page.locator('[role=tab]').all():
        tab.click()
        assert page.evaluate('document.documentElement.scrollWidth') <= width, tab.inner_text()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, canvas')].filter(element =>
            !(element.labels?.length || element.getAttribute('aria-label') || element.textContent.trim()
              || element.placeholder || element.hidden)).map(element => element.outerHTML)"""
    )
    assert [html for html in unnamed if '<canvas' not in html] == []


def test_the_keyboard_alone(page):
    start = pixels_of(page)
    page.locator('#tab-latents').focus()
    page.keyboard.press('ArrowRight')
    assert page.evaluate('document.activeElement.id') == 'tab-shelf'
    page.keyboard.press('Tab')
    page.keyboard.type('typed')
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    page.wait_for_function('() => studioModel.state.shelf.at(-1)?.name === "typed"')
    page.locator('#picture').focus()
    page.keyboard.press('Shift+ArrowRight')
    page.wait_for_function('() => studioModel.spec.x === 1')
    at_rest(page)
    assert (pixels_of(page) != start).any()
    page.keyboard.press('Control+z')
    page.wait_for_function('() => studioModel.spec.x === 0')
    page.keyboard.press('Control+y')
    page.wait_for_function('() => studioModel.spec.x === 1')
    page.keyboard.press('Control+z')
    page.keyboard.press('Control+z')  # the latent
    page.wait_for_function('() => !studioModel.state.shelf.some(entry => entry.name === "typed")')


@pytest.mark.slow
def test_dark_and_light(browser, studio):
    for scheme, is_dark in (('light', False), ('dark', True)):
        page = open_page(browser, studio, color_scheme=scheme)
        image = PIL.Image.open(io.BytesIO(page.screenshot())).convert('L')
        assert (np.median(np.asarray(image)[:60]) < 60) == is_dark
        page.close()


@pytest.mark.slow
def test_a_killed_server_and_its_successor(browser, arguments):
    port = free_port()
    with running_studio(*arguments, port=port) as (_port, process):
        page = open_page(browser, f'http://localhost:{port}/')
        set_number(page, 'seed', 3)
        page.click('#tab-shelf')
        page.fill('#keep-name', 'survivor')
        page.click('#keep')
        page.wait_for_function('() => studioModel.state.shelf.some(entry => entry.name === "survivor")')
        shown = pixels_of(page)
        process.process.kill()
        expect(page.locator('#banner')).to_contain_text('does not answer')
    with running_studio(*arguments, port=port):
        expect(page.locator('#banner')).to_be_hidden(timeout=TIMEOUT)
        expect(page.locator('#connection')).to_have_text('connected')
        at_rest(page)
        assert page.evaluate('studioModel.spec.seed') == 3
        assert (pixels_of(page) == shown).all()
        assert page.evaluate('studioModel.state.shelf.some(entry => entry.name === "survivor")')
        page.close()


@pytest.mark.slow
def test_directions_found_on_the_spot(page, files, tmp_path):
    page.click('#tab-edit')
    page.fill('#direction-count', '3')
    page.press('#direction-count', 'Tab')
    page.click('#find-directions')
    expect(page.locator('#directions .field')).to_have_count(3)
    before = pixels_of(page)
    set_number(page, 'direction-pca1', 2.5)
    shown = pixels_of(page)
    assert (shown != before).any()
    file = next((files.out / 'directions').glob('*.safetensors'))
    options = [f'--network={files.named}', '--class=#0', '--seeds=0', f'--direction={file}:pca1:2.5']
    run(generate.main, *options, f'--outdir={tmp_path}')
    np.testing.assert_array_equal(shown, pixels_in(tmp_path / 'seed0000.png'))
    results = run_command_line(page.locator('#command').text_content(), tmp_path / 'command')
    np.testing.assert_array_equal(shown, pixels_in(results / 'seed0000.png'))


def blend(page):
    """Blend a network with itself; return the card of the job, and the number of the result."""
    page.select_option('#network', '2')
    at_rest(page)
    page.click('#tab-edit')
    page.select_option('#blend-with', '2')
    page.fill('#blend-from', '8')
    page.press('#blend-from', 'Tab')
    page.click('#blend')
    card = page.locator('#jobs article').first
    expect(card.locator('strong')).to_have_text('Blended network (done)')
    return card, state_of(page)['jobs'][-1]['details']['made']['number']


@pytest.mark.slow
def test_a_blend_is_a_network(page, files, tmp_path):
    card, number = blend(page)
    name = f'{number}.pkl'
    card.get_by_role('button', name='Show this network').click()
    run(generate.main, f'--network={files.out / "networks" / name}', '--seeds=0', f'--outdir={tmp_path}')
    page.wait_for_function('name => studioModel.info.path.endsWith(name)', arg=name)
    at_rest(page)
    np.testing.assert_array_equal(pixels_of(page), pixels_in(tmp_path / 'seed0000.png'))


def test_points_are_dragged(page, files):
    page.select_option('#network', '1')
    page.wait_for_function('() => studioModel.info && studioModel.info.has_transform')
    at_rest(page)
    page.click('#tab-edit')
    box = page.locator('#picture').bounding_box()

    def click(x, y):
        page.mouse.click(box['x'] + (x + 0.5) / 32 * box['width'], box['y'] + (y + 0.5) / 32 * box['height'])

    def put_points_and_drag(steps):
        page.click('#tool-points')
        click(12, 14)
        click(17, 16)
        expect(page.locator('#drag-points')).to_have_text('12,14 → 17,16')
        page.fill('#drag-steps', str(steps))
        page.press('#drag-steps', 'Tab')
        count = page.locator('#jobs article').count()
        page.click('#drag')
        expect(page.locator('#jobs article')).to_have_count(count + 1)
        expect(page.locator('#jobs article').first.locator('strong')).to_have_text('Dragged picture (done)')
        return page.evaluate('fetch("state").then(response => response.json()).then(state => state.jobs.at(-1))')

    job = put_points_and_drag(60)
    assert job['values'][-1] < 1 and len(job['values']) < 60  # it has arrived, from 5.4 pixels away
    (point,) = job['details']['points']
    assert np.hypot(point[0] - 17, point[1] - 16) < 1
    page.locator('#jobs article').first.get_by_role('button', name='Keep as a latent').click()
    page.wait_for_function('() => studioModel.spec.kept !== null')
    at_rest(page)
    kept = page.evaluate('studioModel.spec.kept')
    np.testing.assert_array_equal(pixels_of(page), pixels_in(files.out / 'kept' / f'{kept}.png'))

    page.get_by_role('button', name='Clear').click()
    page.fill('#typed-points', '1,2 > 3')
    page.press('#typed-points', 'Tab')
    expect(page.locator('.problem').first).to_contain_text('Write points as')
    page.fill('#typed-points', '12,14 > 17,16; 3,4 > 5,6')
    page.press('#typed-points', 'Tab')
    expect(page.locator('#drag-points')).to_have_text('12,14 → 17,16; 3,4 → 5,6')
    page.get_by_role('button', name='Clear').click()
    page.click('#undo')  # the start again
    at_rest(page)
    page.click('#tool-mask')
    click(14, 15)
    masked = put_points_and_drag(5)
    assert masked['number'] > job['number'] and masked['values'] != job['values'][:5]


@pytest.mark.slow
def test_a_network_is_tuned_to_a_photograph(page, files):
    count = page.evaluate('studioModel.state.networks.length')
    page.click('#tab-project')
    page.set_input_files('#photograph', files.photo)
    for control, value in (('steps', 10),):
        page.fill(f'#{control}', str(value))
        page.press(f'#{control}', 'Tab')
    page.click('#project')
    projection = page.locator('#jobs article').first
    expect(projection.locator('strong')).to_have_text('Projection (done)')
    projection.get_by_role('button', name='Tune the network to it').click()
    card = page.locator('#jobs article').first
    expect(card.locator('strong')).to_have_text('Tuned network (done)', timeout=4 * TIMEOUT)
    job = page.evaluate('fetch("state").then(response => response.json()).then(state => state.jobs.at(-1))')
    assert len(job['values']) == 350 and min(job['values'][-20:]) < job['values'][0]
    page.wait_for_function('count => studioModel.state.networks.length === count + 1', arg=count)
    card.get_by_role('button', name='Show this network').click()
    page.wait_for_function(
        '() => studioModel.info && studioModel.info.path.endsWith(".pkl") && studioModel.info.path.includes("networks")'
    )
    at_rest(page)


def state_of(page):
    return page.evaluate('fetch("state").then(response => response.json())')


def find_photograph(page, files, steps):
    """Project the photograph, and return the card of the job."""
    page.click('#tab-project')
    page.set_input_files('#photograph', files.photo)
    page.fill('#steps', str(steps))
    page.press('#steps', 'Tab')
    count = page.locator('#jobs article').count()
    page.click('#project')
    expect(page.locator('#jobs article')).to_have_count(count + 1)
    return page.locator('#jobs article').first


@pytest.mark.slow
def test_undo_covers_what_jobs_have_made(page, files):
    start, shelf = pixels_of(page), len(state_of(page)['shelf'])
    card = find_photograph(page, files, 5)
    expect(card).to_have_attribute('data-state', 'done')
    card.get_by_role('button', name='Keep as a latent').click()
    page.wait_for_function('() => studioModel.spec.kept !== null')
    at_rest(page)
    kept, found = page.evaluate('studioModel.spec.kept'), pixels_of(page)

    page.click('#undo')  # one step: the picture goes back, and the latent is removed
    page.wait_for_function('count => studioModel.state.shelf.length === count', arg=shelf)
    at_rest(page)
    assert (pixels_of(page) == start).all() and (files.out / 'kept' / 'removed' / f'{kept}.npz').is_file()
    page.click('#tab-shelf')
    page.locator('#removed summary').click()
    expect(page.get_by_role('button', name=f'Bring back latent {kept}')).to_be_visible()
    page.click('#redo')
    page.wait_for_function('kept => studioModel.spec.kept === kept', arg=kept)
    at_rest(page)
    assert (pixels_of(page) == found).all() and (files.out / 'kept' / f'{kept}.npz').is_file()

    # A network that was tuned for a few steps
    page.click('#undo')
    page.wait_for_function('() => studioModel.spec.kept === null && studioModel.future.length === 1')
    card.get_by_role('button', name='Tune the network to it').click()
    tuned = page.locator('#jobs article').first
    expect(tuned.locator('strong')).to_have_text('Tuned network (running)')
    expect(tuned.locator('.plot')).to_be_visible()  # after two steps
    tuned.get_by_role('button', name='Stop').click()
    expect(tuned).to_have_attribute('data-state', 'stopped')
    expect(tuned).to_contain_text('Stopped after')
    made = state_of(page)['jobs'][-1]['details']
    file = files.out / 'networks' / f'{made["made"]["number"]}.pkl'
    assert file.is_file()
    assert page.evaluate('studioModel.future.length') == 1  # what can be redone is still there
    option = page.locator(f'#network option[value="{made["network"]}"]')
    expect(option).to_have_count(1)
    tuned.get_by_role('button', name='Show this network').click()
    page.wait_for_function('name => studioModel.info?.path?.endsWith(name)', arg=file.name)
    at_rest(page)
    shown = pixels_of(page)
    page.click('#undo')
    page.wait_for_function('() => studioModel.spec.network === 0')
    page.click('#undo')
    expect(option).to_have_count(0)
    expect(tuned).to_contain_text('networks/removed')
    assert not file.exists() and (file.parent / 'removed' / file.name).is_file()
    page.click('#redo')
    expect(option).to_have_count(1)
    page.click('#redo')
    page.wait_for_function('name => studioModel.info?.path?.endsWith(name)', arg=file.name)
    at_rest(page)
    assert file.is_file() and (pixels_of(page) == shown).all()

    # A page that shows a network which was removed elsewhere says so, until it is back
    page.evaluate("""made => fetch('do/remove', {method: 'POST', body: JSON.stringify(made)})""", made['made'])
    expect(page.locator('.problem').first).to_contain_text('was removed')
    tuned.get_by_role('button', name='Bring it back').click()
    at_rest(page)
    expect(page.locator('.problem').first).to_be_hidden()
    page.problems.clear()  # the browser mentions the refused request


@pytest.mark.slow
def test_undo_covers_videos_and_blends(page, files):
    page.click('#tab-shelf')
    for name in ('one', 'two'):
        page.fill('#keep-name', name)
        page.click('#keep')
        page.wait_for_function('name => studioModel.state.shelf.at(-1)?.name === name', arg=name)
        page.locator('#shelf article').first.get_by_role('button', name='Keyframe').click()
    page.fill('#video-frames', '5000')
    page.press('#video-frames', 'Tab')
    page.click('#make-video')
    card = page.locator('#jobs article').first
    expect(card.locator('strong')).to_have_text('Video of 2 keyframes (running)')
    expect(card).to_contain_text('frame ')
    card.get_by_role('button', name='Stop').click()
    expect(card).to_have_attribute('data-state', 'stopped')
    expect(card).to_contain_text('so there is none')
    videos = files.out / 'videos'
    before = set(videos.glob('*')) if videos.is_dir() else set()
    assert not [path for path in before if path.suffix != '.mp4' and path.name != 'removed']

    page.fill('#video-frames', '3')
    page.press('#video-frames', 'Tab')
    page.click('#make-video')
    card = page.locator('#jobs article').first
    expect(card.locator('strong')).to_have_text('Video of 2 keyframes (done)')
    (video,) = set(videos.glob('*.mp4')) - before
    page.click('#undo')
    expect(card).to_contain_text('videos/removed')
    assert (videos / 'removed' / video.name).is_file() and not video.exists()
    page.click('#redo')
    expect(card.locator('video')).to_have_count(1)
    assert video.is_file()

    card, number = blend(page)
    page.click('#undo')
    expect(card).to_contain_text('networks/removed')
    assert (files.out / 'networks' / 'removed' / f'{number}.pkl').is_file()
    page.click('#redo')
    expect(card.get_by_role('button', name='Show this network')).to_be_visible()


@pytest.mark.slow
def test_a_server_that_ends_keeps_what_jobs_have_reached(browser, arguments, files):
    with running_studio(*arguments) as (port, process):
        page = open_page(browser, f'http://localhost:{port}/')
        before = {path.name for path in (files.out / 'kept').glob('*.npz')}
        card = find_photograph(page, files, 100_000)
        expect(card.locator('.plot')).to_be_visible()
        process.process.terminate()
        assert process.process.wait(timeout=60) is not None
        page.close()
    (kept,) = {path.name for path in (files.out / 'kept').glob('*.npz')} - before
    entry = json.loads((files.out / 'kept' / kept).with_suffix('.json').read_text())
    assert entry['name'] == 'Projection, when the studio ended'
