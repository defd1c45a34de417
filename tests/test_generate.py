"""generate.py: its images, that they depend on the seed alone, and its error messages."""

import zipfile

import click.testing
import numpy as np
import pytest
import torch

import generate
from generation import latents, projected_latents, rendering
from tests.small_generators import (
    NAMES,
    NUMBERS,
    assert_same_image,
    assert_usage_error,
    make_generator,
    read_images,
    write_networks,
)
from torch_utils import images


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    return write_networks(
        tmp_path_factory.mktemp('networks'),
        {
            'plain': make_generator(),
            'gray': make_generator(img_channels=1),
            'classes': make_generator(c_dim=3),
            'named': (make_generator(c_dim=3), {'class_names': NAMES}),
            'numbered': (make_generator(c_dim=3), {'class_names': NUMBERS}),
            'twins': (make_generator(c_dim=3), {'class_names': ['a', 'b', 'a']}),
        },
    )


@pytest.fixture
def run(tmp_path):
    """Function: (name of the outdir, network, *arguments) → (result of the command, folder of the images)."""

    def invoke(outdir, network, *arguments):
        folder = tmp_path / outdir
        options = [f'--network={network}', f'--outdir={folder}', '--device=cpu', *arguments]
        return click.testing.CliRunner().invoke(generate.main, options), folder

    return invoke


@pytest.fixture
def make(run):
    """Like `run`, for calls that succeed; returns {file name: pixels}."""

    def invoke(outdir, network, *arguments):
        result, folder = run(outdir, network, *arguments)
        assert result.exit_code == 0, result.output
        return read_images(folder)

    return invoke


def assert_same_images(first, second):
    assert list(first) == list(second)
    for name in first:
        assert_same_image(first[name], second[name])


# ---------------------------------------------------------------------------------------------------------------------
# Images


def test_each_seed_gives_its_published_latent(make, networks):
    files = make('out', networks.plain, '--seeds=0,1,4-6', '--trunc=0.7')
    assert list(files) == [f'seed{seed:04d}.png' for seed in (0, 1, 4, 5, 6)]
    G = make_generator()
    for seed in (0, 5):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, 8))
        expected = images.to_uint8(G(z, None, truncation_psi=0.7, noise_mode='const'))[0]
        assert_same_images({'': files[f'seed{seed:04d}.png']}, {'': expected.permute(1, 2, 0).numpy()})


@pytest.mark.parametrize('noise_mode', ['const', 'random', 'none'])
def test_images_depend_neither_on_the_batch_size_nor_on_other_seeds(make, networks, noise_mode):
    arguments = ('--seeds=3,8,11', f'--noise-mode={noise_mode}')
    together = make('together', networks.plain, *arguments, '--batch=3')
    torch.manual_seed(123)
    assert_same_images(together, make('single', networks.plain, *arguments, '--batch=1'))
    alone = make('alone', networks.plain, '--seeds=11', f'--noise-mode={noise_mode}')
    assert_same_images({'seed0011.png': together['seed0011.png']}, alone)
    assert (together['seed0003.png'] != together['seed0008.png']).mean() > 0.5


def test_options_change_the_image(make, networks):
    variants = [make(f'v{index}', networks.plain, '--seeds=2', *arguments)['seed0002.png'] for index, arguments in
                enumerate([(), ('--trunc=0.3',), ('--noise-mode=random',), ('--noise_mode=none',)])]  # fmt: skip
    for index, variant in enumerate(variants):
        assert all((variant != other).any() for other in variants[:index])


def test_rendering_does_not_change_the_random_state():
    G = make_generator()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    pictures = list(rendering.render_seeds(G, [1, 2], torch.zeros(1, 0), noise_mode='random'))
    assert len(pictures) == 2 and torch.equal(before, torch.get_rng_state())


def test_gray_network_writes_gray_images(make, networks):
    assert make('out', networks.gray, '--seeds=0')['seed0000.png'].shape == (16, 16)


def test_class_by_number_and_by_name(make, networks):
    by_number = make('number', networks.named, '--seeds=0', '--class=2')
    assert_same_images(by_number, make('name', networks.named, '--seeds=0', '--class=red fox'))
    other = make('other', networks.named, '--seeds=0', '--class=0')
    assert (other['seed0000.png'] != by_number['seed0000.png']).any()
    G = make_generator(c_dim=3)
    z = torch.from_numpy(np.random.RandomState(0).randn(1, 8))
    expected = images.to_uint8(G(z, torch.tensor([[0.0, 0, 1]]), noise_mode='const'))[0].permute(1, 2, 0).numpy()
    assert_same_images(by_number, {'seed0000.png': expected})


@pytest.mark.parametrize(
    'network, text, index',
    [
        ('numbered', '1', 0),
        ('numbered', ' 10', 2),
        ('numbered', '#1', 1),
        ('numbered', '#0', 0),
        ('named', '1', 1),
        ('named', '#1', 1),
        ('classes', '2', 2),
        ('classes', '#2', 2),
        ('twins', '#2', 2),
        ('twins', '2', 2),
    ],
)
def test_names_win_over_indices(make, networks, network, text, index):
    files = make('out', getattr(networks, network), '--seeds=0', f'--class={text}')
    expected = make('expected', networks.classes, '--seeds=0', f'--class={index}')
    assert_same_images(files, expected)
    other = make('other', networks.classes, '--seeds=0', f'--class={(index + 1) % 3}')
    assert (files['seed0000.png'] != other['seed0000.png']).any()


def test_a_run_directory_is_its_newest_complete_network(run, make, networks, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    for kimg, network in {'000100': 'gray', '000200': 'plain', '1000000': 'plain'}.items():
        (folder / f'network-snapshot-{kimg}.pkl').write_bytes(getattr(networks, network).read_bytes())
    newest = folder / 'network-snapshot-1000000.pkl'
    newest.write_bytes(newest.read_bytes()[:-1000])
    (folder / 'network-snapshot-2000000.pkl').touch()
    (folder / 'network-snapshot-3000000.pkl').mkdir()
    result, outdir = run('out', folder, '--seeds=0')
    assert result.exit_code == 0, result.output
    assert f'{folder}/network-snapshot-000200.pkl' in result.stderr
    assert f'{newest.name}, network-snapshot-2000000.pkl' in result.stderr and 'cut off' in result.stderr
    assert_same_images(read_images(outdir), make('plain', networks.plain, '--seeds=0'))


def test_seeds_with_blanks(make, networks):
    assert list(make('out', networks.plain, '--seeds= 3, 1 - 2')) == ['seed0001.png', 'seed0002.png', 'seed0003.png']


def test_grid_replaces_single_files(make, networks):
    single = make('single', networks.plain, '--seeds=0-4')
    grid = make('grid', networks.plain, '--seeds=0-4', '--grid=3x2', '--batch=2')
    assert list(grid) == ['grid.png'] and grid['grid.png'].shape == (32, 48, 3)
    for index, picture in enumerate(single.values()):
        row, column = divmod(index, 3)
        cell = grid['grid.png'][row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        assert_same_images({'': picture}, {'': cell})
    assert not grid['grid.png'][16:, 32:].any()


def test_projected_latents_give_the_image_they_come_from(make, networks, tmp_path):
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).randn(8) for seed in (3, 4)]))
    ws = make_generator().mapping(z.float(), None)
    np.savez(tmp_path / 'w.npz', w=ws.numpy())
    projected = make('projected', networks.plain, f'--projected-w={tmp_path / "w.npz"}')
    from_seeds = make('seeds', networks.plain, '--seeds=3,4')
    assert list(projected) == ['proj00.png', 'proj01.png']
    assert_same_images(dict(zip('ab', projected.values())), dict(zip('ab', from_seeds.values())))


NOISE_LAYERS = ['b4.conv1', 'b8.conv0', 'b8.conv1', 'b16.conv0', 'b16.conv1']


def random_projections(count, layers=()):
    """Return the latents of seeds 0, 1, ..., with random noise for the layers."""
    ws = latents.ws_of_seeds(make_generator(), range(count), torch.zeros(1, 0)).numpy()
    random = np.random.RandomState(9)
    sizes = {layer: int(layer[1:].split('.')[0]) for layer in layers}
    noise = {f'{layer}.noise_const': random.randn(count, size, size).astype(np.float32)
             for layer, size in sizes.items()}  # fmt: skip
    return projected_latents.ProjectedLatents(ws, noise)


def image_with(w, noise, noise_mode='const'):
    """Return the image of w [num_ws, w_dim] by a new network with this noise [H, W] in its buffers."""
    G = make_generator()
    for name, values in noise.items():
        G.synthesis.get_buffer(name).copy_(torch.from_numpy(values))
    image = images.to_uint8(G.synthesis(torch.from_numpy(w)[None], noise_mode=noise_mode))
    return image[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize('layers', [NOISE_LAYERS, NOISE_LAYERS[2:3]], ids=['all layers', 'one layer'])
def test_projected_noise_is_used_exactly(make, networks, tmp_path, layers):
    projected = random_projections(3, layers)
    projected_latents.write(tmp_path / 'w.npz', projected)
    files = make('out', networks.plain, f'--projected-w={tmp_path / "w.npz"}')
    assert list(files) == ['proj00.png', 'proj01.png', 'proj02.png']
    for index, picture in enumerate(files.values()):
        noise = {name: array[index] for name, array in projected.noise.items()}
        assert (picture == image_with(projected.ws[index], noise)).all()
        assert (picture != image_with(projected.ws[index], {})).any()


@pytest.mark.parametrize('noise_mode', ['none', 'random'])
def test_other_noise_modes_ignore_projected_noise(make, networks, tmp_path, noise_mode):
    for name, layers in (('with', NOISE_LAYERS), ('without', ())):
        projected_latents.write(tmp_path / f'{name}.npz', random_projections(2, layers))
    made = [make(name, networks.plain, f'--projected-w={tmp_path / f"{name}.npz"}', f'--noise-mode={noise_mode}')
            for name in ('with', 'without')]  # fmt: skip
    assert_same_images(*made)


def test_grid_of_projected_latents(make, networks, tmp_path):
    projected_latents.write(tmp_path / 'w.npz', random_projections(3, NOISE_LAYERS))
    single = make('single', networks.plain, f'--projected-w={tmp_path / "w.npz"}')
    grid = make('grid', networks.plain, f'--projected-w={tmp_path / "w.npz"}', '--grid=2x2')['grid.png']
    assert (grid[16:, :16] == single['proj02.png']).all() and not grid[16:, 16:].any()


def test_projected_latents_do_not_need_a_class(make, networks, tmp_path):
    np.savez(tmp_path / 'w.npz', w=np.zeros([1, 6, 8], np.float32))
    assert list(make('out', networks.classes, f'--projected_w={tmp_path / "w.npz"}')) == ['proj00.png']


def test_class_names_of_another_number_are_not_used():
    assert latents.class_names_of({'class_names': ['a']}, 3) == []
    assert latents.class_names_of({'class_names': None}, 3) == latents.class_names_of({}, 3) == []


@pytest.mark.parametrize('network, arguments, warning', [
    ('plain', ['--seeds=0', '--class=1'], '--class=1 is ignored'),
    ('plain', ['--seeds=0', '--cuda-graphs=1'], '--cuda-graphs=1 is ignored, since the device is cpu'),
    ('plain', ['--seeds=0', '--projected-w={w}'], '--seeds is ignored'),
    ('classes', ['--class=9', '--projected-w={w}'], '--class is ignored'),
    ('plain', ['--trunc=0.5', '--projected-w={w}'], '--trunc is ignored'),
])  # fmt: skip
def test_warning_about_options_without_effect(run, networks, tmp_path, network, arguments, warning):
    np.savez(tmp_path / 'w.npz', w=np.zeros([1, 6, 8], np.float32))
    arguments = [argument.format(w=tmp_path / 'w.npz') for argument in arguments]
    result, folder = run('out', getattr(networks, network), *arguments)
    assert result.exit_code == 0 and warning in result.stderr and len(list(folder.iterdir())) == 1


def test_as_a_process(run_script, networks, tmp_path):
    result = run_script('generate.py', f'--network={networks.named}', '--seeds=7', '--class=dog', '--outdir=deep/out')
    assert result.returncode == 0, result.stderr
    assert 'seed0007.png' in result.stdout and (tmp_path / 'deep' / 'out' / 'seed0007.png').is_file()


# ---------------------------------------------------------------------------------------------------------------------
# Error messages

USAGE_ERRORS = {
    'nothing to generate': ('plain', [], '--seeds'),
    'seeds are text': ('plain', ['--seeds=a-b'], 'a-b'),
    'seeds descending': ('plain', ['--seeds=6-4'], 'write 4-6'),
    'seeds too large': ('plain', ['--seeds=4294967296'], '4294967295'),
    'grid is not a size': ('plain', ['--seeds=0', '--grid=3by2'], '3by2'),
    'grid of zero': ('plain', ['--seeds=0', '--grid=0x2'], '0x2'),
    'grid beyond memory': ('plain', ['--seeds=0', '--grid=9999x9999'], '1,073,741,824 pixels'),
    'grid too small': ('plain', ['--seeds=0-4', '--grid=2x2'], '5 seeds'),
    'batch of zero': ('plain', ['--seeds=0', '--batch=0'], '--batch'),
    'trunc is not a number': ('plain', ['--seeds=0', '--trunc=much'], 'much'),
    'trunc is not finite': ('plain', ['--seeds=0', '--trunc=nan'], 'nan'),
    'noise mode': ('plain', ['--seeds=0', '--noise-mode=loud'], 'const'),
    'device': ('plain', ['--seeds=0', '--device=cuda:77'], 'cuda:77'),
    'class missing': ('classes', ['--seeds=0'], 'a number from 0 to 2'),
    'class missing, names known': ('named', ['--seeds=0'], 'red fox'),
    'class too large': ('classes', ['--seeds=0', '--class=3'], '0 to 2'),
    'class negative': ('classes', ['--seeds=0', '--class=-1'], '0 to 2'),
    'name unknown': ('named', ['--seeds=0', '--class=cat'], 'airplane, dog, red fox'),
    'number that is not a name': (
        'numbered',
        ['--seeds=0', '--class=0'],
        'write #0 for that class, or choose one of 1,',
    ),
    'number that is not a name, both named': ('numbered', ['--seeds=0', '--class=02'], "index 2 is named '10'"),
    'number beyond all': ('numbered', ['--seeds=0', '--class=3'], 'one of 1, 2, 10, or an index from #0 to #2'),
    'index too large': ('numbered', ['--seeds=0', '--class=#3'], '#0 to #2'),
    'index negative': ('named', ['--seeds=0', '--class=#-1'], '0 to 2'),
    'index of thousands of digits': ('named', ['--seeds=0', f'--class=#{"9" * 5000}'], '0 to 2'),
    'index is text': ('named', ['--seeds=0', '--class=#dog'], "'#dog'"),
    'name of two classes': ('twins', ['--seeds=0', '--class=a'], 'choose #0, #2'),
    'seed of thousands of digits': ('plain', [f'--seeds={"9" * 5000}'], 'comma-separated'),
    'seeds after an open blank': ('plain', ['--seeds=1,'], 'without blanks, or in quotes'),
    'name without names': ('classes', ['--seeds=0', '--class=dog'], 'have no names'),
    'network missing': ('missing.pkl', ['--seeds=0'], 'No such file'),
    'network is a folder': ('', ['--seeds=0'], 'directory'),
    'network is an empty run': ('run', ['--seeds=0'], 'no complete network pickle: network-snapshot-000100.pkl'),
    'network is text': ('text.txt', ['--seeds=0'], 'not a network pickle'),
    'npz missing': ('plain', ['--projected-w=missing.npz'], 'No such file'),
    'npz is text': ('plain', ['--projected-w=text.txt'], 'not an npz'),
    'npy of another network': ('plain', ['--projected-w=array.npy'], '[n, 6, 8] or [n, 8]'),
    'npz of objects': ('plain', ['--projected-w=objects.npz'], 'plain arrays'),
    'npz without w': ('plain', ['--projected-w=other.npz'], 'it contains x, y'),
    'npz of another network': ('plain', ['--projected-w=shape.npz'], '[n, 6, 8]'),
    'npz with infinite values': ('plain', ['--projected-w=infinite.npz'], 'not finite'),
    'npz with numbers beyond float32': ('plain', ['--projected-w=huge.npz'], 'not finite'),
    'npz with text': ('plain', ['--projected-w=words.npz'], '<U'),
    'npz with a file that is not an array': ('plain', ['--projected-w=member.npz'], "no array 'w'"),
    'npz truncated': ('plain', ['--projected-w=cut.npz'], 'plain arrays'),
    'npz damaged': ('plain', ['--projected-w=damaged.npz'], 'plain arrays'),
    'npz is a folder': ('plain', ['--projected-w=.'], 'directory'),
    'noise of another size': ('plain', ['--projected-w=noise-size.npz'], '[1, 4, 4]'),
    'noise for other latents': ('plain', ['--projected-w=noise-count.npz'], '[1, 8, 8]'),
    'noise of an unknown layer': ('plain', ['--projected-w=noise-name.npz'], 'noise/b32.conv0.noise_const'),
    'array that is not noise': ('plain', ['--projected-w=noise-other.npz'], 'noise/b4.const'),
    'noise with NaN': ('plain', ['--projected-w=noise-nan.npz'], 'not finite'),
    'npz too large for the grid': ('plain', ['--projected-w=many.npz', '--grid=1x2'], '3 latents'),
    'outdir is a file': ('plain', ['--seeds=0', '--outdir=text.txt'], 'text.txt'),
    'outdir in a file': ('plain', ['--seeds=0', '--outdir=text.txt/new'], 'is a file'),
}


@pytest.fixture
def odd_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.txt').write_text('neither a pickle nor an npz')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'network-snapshot-000100.pkl').write_bytes(b'half')
    np.save('array.npy', np.zeros([1, 5, 8]))
    np.savez('objects.npz', w=np.array([{}], dtype=object))
    np.savez('other.npz', x=np.zeros([1, 6, 8]), y=np.zeros(3))
    np.savez('shape.npz', w=np.zeros([1, 5, 8]))
    np.savez('many.npz', w=np.zeros([3, 6, 8]))
    w = np.zeros([1, 6, 8])
    np.savez('infinite.npz', w=w + np.inf)
    np.savez('huge.npz', w=w + 1e300)
    np.savez('words.npz', w=w.astype(str))
    with zipfile.ZipFile('member.npz', 'w') as archive:
        archive.writestr('w', b'no array')
    for name, shape in (('size', [1, 8, 8]), ('count', [2, 8, 8])):
        layer = 'b4.conv1' if name == 'size' else 'b8.conv0'
        np.savez(f'noise-{name}.npz', w=w, **{f'noise/{layer}.noise_const': np.zeros(shape)})
    np.savez('noise-name.npz', w=w, **{'noise/b32.conv0.noise_const': np.zeros([1, 32, 32])})
    np.savez('noise-other.npz', w=w, **{'noise/b4.const': np.zeros([1, 8, 4, 4])})
    np.savez('noise-nan.npz', w=w, **{'noise/b4.conv1.noise_const': np.full([1, 4, 4], np.nan)})
    content = (tmp_path / 'many.npz').read_bytes()
    (tmp_path / 'cut.npz').write_bytes(content[:-40])
    (tmp_path / 'damaged.npz').write_bytes(content[:300] + b'damage' + content[306:])


@pytest.mark.parametrize('case', USAGE_ERRORS)
def test_usage_errors(run, networks, tmp_path, odd_files, case):
    network, arguments, hint = USAGE_ERRORS[case]
    before = sorted(path.name for path in tmp_path.iterdir())
    result, _ = run('out', getattr(networks, network, tmp_path / network), *arguments)
    assert_usage_error(result, hint)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_pickle_with_unknown_classes_is_refused_unless_trusted(run, make, networks, tmp_path):
    content = networks.plain.read_bytes()
    forked = tmp_path / 'forked.pkl'
    forked.write_bytes(content.replace(b'ToRGBLayer', b'ToRGXLayer'))
    result, folder = run('out', forked, '--seeds=0')
    assert result.exit_code == 2 and 'ToRGXLayer' in result.stderr and not folder.exists()
    assert list(make('out', forked, '--seeds=0', '--trust-pickle')) == ['seed0000.png']


def test_text_of_a_file_does_not_control_the_terminal(run, run_script, tmp_path):
    """Class names that would change the colors and the title of a terminal, and one without end."""
    names = ['\x1b[31mred\x1b[0m', '\x1b]0;title\x07\x9b2J\r\n\u202egod', 'x' * 1_000_000]
    paths = write_networks(tmp_path, {'hostile': (make_generator(c_dim=3), {'class_names': names})})
    result, _ = run('out', paths.hostile, '--seeds=0', '--class=cat')
    assert_usage_error(result, 'choose a number from 0 to 2 or one of ?[31mred?[0m, ')
    assert not set('\x1b\x07\x9b\r\u202e') & set(result.output) and len(result.output) < 1000
    odd = tmp_path / 'a\x1b[31m\nb.pkl'
    odd.write_bytes(b'no pickle')
    result = run_script('generate.py', f'--network={odd}', '--seeds=0', '--outdir=out')
    assert result.returncode == 2 and '\x1b' not in result.stderr and 'a?[31m b.pkl' in result.stderr
