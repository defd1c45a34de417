"""edit.py drag: its files, that generate.py renders the same image, and its error messages."""

import json
from types import SimpleNamespace

import click.testing
import numpy as np
import PIL.Image
import pytest

import edit
import generation.options
from generation.editing import drag_files
from generation.projected_latents import ProjectedLatents, noise_buffers, write
from generation.video import NoEncoder
from tests.small_generators import (
    NAMES,
    assert_usage_error,
    make_generator,
    make_stylegan3_generator,
    write_networks,
)

FILES = ['after.png', 'before.png', 'drag.json', 'dragged.png', 'dragged_w.npz']
POINTS = {'points': [{'handle': [4, 5], 'target': [9, 6.5]}, {'handle': [12, 3], 'target': [12, 4]}]}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    networks = write_networks(
        folder,
        {
            'plain': make_generator(),
            'named': (make_generator(c_dim=3, img_channels=1), {'class_names': NAMES}),
            'alpha': make_stylegan3_generator(img_channels=4, equivariance='translation'),
            'five': make_generator(img_channels=5),
        },
    )
    paths = vars(networks)
    paths['points'] = folder / 'points.json'
    paths['points'].write_text(json.dumps(POINTS))
    for name, size in (('mask', (16, 16)), ('small', (8, 16))):
        paths[name] = folder / f'{name}.png'
        PIL.Image.new('L', size, 255).save(paths[name])
    paths['latents'] = folder / 'latents.npz'
    random, G = np.random.RandomState(0), make_generator()
    noise = {name: random.randn(2, *buffer.shape) for name, buffer in noise_buffers(G).items()}
    write(paths['latents'], ProjectedLatents(random.randn(2, G.num_ws, G.w_dim), noise))
    return SimpleNamespace(**paths)


@pytest.fixture
def run(tmp_path, files):
    """Function: (network, *arguments) → (result of the command, its output folder)."""

    def invoke(network, *arguments):
        folder = tmp_path / 'out'
        options = [f'--network={network}', f'--outdir={folder}', '--device=cpu', '--num-steps=2', '--save-video=0']
        if not any(str(argument).startswith('--points') for argument in arguments):
            options.append(f'--points={files.points}')
        return click.testing.CliRunner().invoke(edit.main, ['drag', *options, *map(str, arguments)]), folder

    return invoke


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_as_a_process_and_generate_renders_the_same(run_script, files, tmp_path):
    pytest.importorskip('imageio_ffmpeg')
    result = run_script(
        'edit.py', 'drag', f'--network={files.plain}', f'--points={files.points}', f'--mask={files.mask}',
        '--num_steps=5', f'--projected-w={files.latents}', '--index=1', '--outdir=deep/out')  # fmt: skip
    assert result.returncode == 0 and result.stderr == '', result.stderr
    out = tmp_path / 'deep' / 'out'
    assert names_in(out) == sorted([*FILES, 'drag.mp4']) and 'After 5 steps' in result.stdout
    options = [f'--network={files.plain}', f'--projected-w={out / "dragged_w.npz"}', '--outdir=generated']
    result = run_script('generate.py', *options)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'generated' / 'proj00.png').read_bytes() == (out / 'dragged.png').read_bytes()

    report = json.loads((out / 'drag.json').read_text())
    assert (report['steps'], report['has_arrived'], report['feature_layer']) == (5, False, 'b8')
    for entry, pair in zip(report['points'], POINTS['points'], strict=True):
        assert (entry['handle'], entry['target']) == (pair['handle'], pair['target'])
        assert entry['distance'] == pytest.approx(np.hypot(*np.subtract(entry['end'], entry['target'])))
    with np.load(files.latents) as before, np.load(out / 'dragged_w.npz') as after:
        assert before.files == after.files and after['w'].shape == (1, 6, 8)
        assert (after['w'] != before['w'][1:]).any()
        for name in set(after.files) - {'w'}:
            np.testing.assert_array_equal(after[name], before[name][1:])


@pytest.mark.parametrize(
    ('network', 'arguments', 'shape'),
    [
        ('named', ['--class=dog', '--trunc=0.7', '--trunc-to=class', '--space=w'], (16, 16)),
        ('alpha', ['--seed=4'], (32, 32, 4)),
    ],
)
def test_networks(run, files, network, arguments, shape):
    result, out = run(getattr(files, network), *arguments)
    assert (result.exit_code, result.stderr) == (0, ''), result.output
    pictures = read_images_of(out)
    assert pictures['dragged.png'].shape == shape
    assert pictures['before.png'].shape == pictures['after.png'].shape == (256, 256, 3)


def read_images_of(folder):
    return {path.name: np.asarray(PIL.Image.open(path)) for path in folder.glob('*.png')}


def test_class_and_seed(run, files, tmp_path):
    starts = []
    for arguments in (['--class=dog'], ['--class=1'], ['--class=0'], ['--class=dog', '--seed=1']):
        result, out = run(files.named, *arguments)
        assert result.exit_code == 0
        starts.append((out / 'before.png').read_bytes())
    assert starts[0] == starts[1] and len(set(starts)) == 3


def test_it_ends_where_all_points_have_arrived(run, files):
    result, out = run(files.plain, '--num-steps=50', '--tolerance=100')
    assert result.exit_code == 0 and 'After 0 steps all points have arrived' in result.stdout
    with np.load(out / 'dragged_w.npz') as arrays:
        assert arrays.files == ['w']


def test_points_are_drawn():
    image = np.zeros([1, 32, 32], np.uint8)
    drawn = drag_files.draw_points(image, [(4, 5)], [(20, 10)])
    assert drawn.shape == (256, 256, 3) and drawn.dtype == np.uint8
    reddish, bluish = (drawn[..., 0] > 200) & (drawn[..., 2] < 100), (drawn[..., 2] > 200) & (drawn[..., 0] < 100)
    for found, (x, y) in ((reddish, (4, 5)), (bluish, (20, 10))):
        rows, columns = np.nonzero(found)
        assert columns.mean() == pytest.approx(x * 8 + 3.5, abs=0.6)
        assert rows.mean() == pytest.approx(y * 8 + 3.5, abs=0.6)
    transparent = np.zeros([4, 600, 300], np.uint8)
    assert drag_files.draw_points(transparent, [(4, 5)], [(4, 5)]).shape == (600, 300, 3)
    assert (drag_files.draw_points(transparent, [], []) == 255).all()


def test_masks(tmp_path):
    pixels = np.zeros([4, 6, 4], np.uint8)
    pixels[1, 2], pixels[2, 3] = (255, 255, 255, 255), (100, 100, 100, 255)
    PIL.Image.fromarray(pixels).save(tmp_path / 'mask.png')
    mask = drag_files.read_mask(str(tmp_path / 'mask.png'))
    assert mask.shape == (4, 6) and np.argwhere(mask).tolist() == [[1, 2]]


# ---------------------------------------------------------------------------------------------------------------------
# Errors and warnings


def test_warnings(run, files):
    result, _ = run(files.plain, f'--projected-w={files.latents}', '--seed=3', '--class=1')
    assert result.exit_code == 0
    ignored = [f'Warning: {option} is ignored, since --projected-w is given.' for option in ('--seed', '--class')]
    assert result.stderr.splitlines() == ignored


def test_without_an_encoder_no_video_is_written(run, files, monkeypatch):
    def refuse():
        raise NoEncoder('videos need a package: pip install imageio-ffmpeg')

    monkeypatch.setattr(generation.options, 'require_encoder', refuse)
    result, out = run(files.plain, '--save-video=1')
    assert_usage_error(result, 'pip install imageio-ffmpeg')
    assert not out.exists()


def point(handle, target):
    return json.dumps({'points': [{'handle': handle, 'target': target}]})


USAGE_ERRORS = {
    'points missing': ('plain', ['--points=nowhere.json'], 'nowhere.json: No such file'),
    'points are text': ('plain', 'hello', 'not valid JSON'),
    'points are a list': ('plain', '[]', 'must be an object'),
    'points are empty': ('plain', '{"points": []}', 'must be a list of 1 to 100 values'),
    'too many points': ('plain', json.dumps({'points': [{'handle': [1, 1], 'target': [2, 2]}] * 101}), '1 to 100'),
    'no target': ('plain', '{"points": [{"handle": [1, 2]}]}', "'target' is missing"),
    'one number': ('plain', point([1], [2, 3]), 'points[0].handle'),
    'number is text': ('plain', point([1, 'x'], [2, 3]), "handle[1] is 'x'"),
    'number is not finite': ('plain', '{"points": [{"handle": [1, NaN], "target": [2, 3]}]}', 'NaN'),
    'unknown key': ('plain', '{"points": [], "color": 1}', "'color' is unknown"),
    'handle outside': ('plain', point([16, 3], [2, 3]), 'x must be from 0 to 15'),
    'target outside': ('plain', point([1, 3], [2, -1]), 'target 2,-1 of point 0 is outside the image'),
    'mask missing': ('plain', ['--mask=nowhere.png'], 'nowhere.png: No such file'),
    'mask of another size': ('plain', ['--mask={files.small}'], 'it has 8x16 pixels'),
    'mask is text': ('plain', ['--mask={files.points}'], 'not an image'),
    'layer': ('plain', ['--feature-layer=b64'], 'b4, b8, b16'),
    'layers of StyleGAN3': ('alpha', ['--feature-layer=b4'], 'L0_'),
    'too many layers': ('plain', ['--layers=7'], '7 is too large'),
    'index': ('plain', ['--projected-w={files.latents}', '--index=2'], 'has 2 latents'),
    'latents of another network': ('alpha', ['--projected-w={files.latents}'], 'project with the same network'),
    'latents missing': ('plain', ['--projected-w=nowhere.npz'], 'nowhere.npz'),
    'class missing': ('named', [], 'red fox'),
    'channels': ('five', [], '5 channels'),
    'rate': ('plain', ['--lr=0'], '--lr'),
    'steps': ('plain', ['--num-steps=0'], '--num-steps'),
    'space': ('plain', ['--space=z'], '--space'),
    'network missing': ('nowhere.pkl', [], 'nowhere.pkl'),
    'outdir is a file': ('plain', ['--outdir={files.points}/x'], 'is a file'),
}


@pytest.mark.parametrize('case', USAGE_ERRORS)
def test_usage_errors(run, files, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    network, arguments, hint = USAGE_ERRORS[case]
    if isinstance(arguments, str):
        (tmp_path / 'bad.json').write_text(arguments)
        arguments = ['--points=bad.json']
    result, out = run(getattr(files, network, network), *(argument.format(files=files) for argument in arguments))
    assert_usage_error(result, hint)
    assert not out.exists()


def test_interrupted_runs_leave_nothing_behind(run, files, monkeypatch):
    def interrupt(_session):
        raise KeyboardInterrupt

    monkeypatch.setattr(drag_files.DragSession, 'step', interrupt)
    result, out = run(files.plain)
    assert result.exit_code == 1 and 'Traceback' not in result.output and not out.exists()


def test_without_a_command():
    result = click.testing.CliRunner().invoke(edit.main, ['--help'])
    assert result.exit_code == 0 and 'drag' in result.output and 'tune' in result.output
    result = click.testing.CliRunner().invoke(edit.main, ['pull'])
    assert result.exit_code == 2 and "No such command 'pull'" in result.output
