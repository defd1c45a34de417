"""style_mixing.py: its images, their places in the grid, and its error messages."""

import functools

import click.testing
import numpy as np
import pytest
import torch

import generate
import style_mixing
from generation import mixing
from tests import small_generators
from tests.small_generators import NAMES, NUMBERS, assert_same_image, assert_usage_error, read_images, write_networks
from torch_utils import images

NUM_WS = 6

make_generator = functools.partial(small_generators.make_generator, w_avg=0.5)


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    return write_networks(
        tmp_path_factory.mktemp('networks'),
        {
            'plain': make_generator(),
            'gray': make_generator(img_channels=1),
            'named': (make_generator(c_dim=3), {'class_names': NAMES}),
            'numbered': (make_generator(c_dim=3), {'class_names': NUMBERS}),
            'deep': make_generator(img_resolution=64),
        },
    )


@pytest.fixture
def run(tmp_path):
    """Function: (name of the outdir, network, *arguments) → (result of the command, folder of the images)."""

    def invoke(outdir, network, *arguments, command=style_mixing.main):
        folder = tmp_path / outdir
        options = [f'--network={network}', f'--outdir={folder}', '--device=cpu', *arguments]
        return click.testing.CliRunner().invoke(command, options), folder

    return invoke


@pytest.fixture
def make(run):
    """Like `run`, for calls that succeed; returns {file name: pixels}."""

    def invoke(*arguments, **kwargs):
        result, folder = run(*arguments, **kwargs)
        assert result.exit_code == 0, result.output
        return read_images(folder)

    return invoke


def w_of(G, seed, label=None, truncation_psi=1.0):
    """Return w [num_ws, w_dim] by the published formula: the mean of w plus a fraction of the distance from it."""
    z = torch.from_numpy(np.random.RandomState(seed).randn(1, G.z_dim))
    mean = G.mapping.w_avg
    return (mean + (G.mapping(z, label) - mean) * truncation_psi)[0]


def image_of(G, w):
    return images.to_uint8(G.synthesis(w[None], noise_mode='const'))[0].permute(1, 2, 0).numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Images


def test_each_image_is_the_row_with_layers_of_the_column(make, networks):
    files = make('out', networks.plain, '--rows=5,1', '--cols=8-10', '--styles=1,3-4', '--trunc=0.6', '--batch=3')
    pairs = [(row, col) for row in (5, 1) for col in (8, 9, 10)]
    singles = [(seed, seed) for seed in (5, 1, 8, 9, 10)]
    assert set(files) == {'grid.png', *(f'{row}-{col}.png' for row, col in pairs + singles)}
    G = make_generator()
    for row, col in pairs + singles:
        w = w_of(G, row, truncation_psi=0.6)
        w[[1, 3, 4]] = w_of(G, col, truncation_psi=0.6)[[1, 3, 4]]
        assert_same_image(files[f'{row}-{col}.png'], image_of(G, w))
    assert (files['5-8.png'] != files['5-5.png']).any() and (files['5-8.png'] != files['8-8.png']).any()


def test_diagonal_of_the_same_rows_and_columns_equals_the_unmixed_images(make, networks):
    files = make('out', networks.plain, '--rows=3-5', '--cols=3-5', '--styles=0,2,5', '--batch=1')
    plain = make('plain', networks.plain, '--seeds=3-5', '--batch=1', command=generate.main)
    assert len(files) == 9 + 1
    grid = files['grid.png'].reshape(4, 16, 4, 16, 3)
    for index, seed in enumerate((3, 4, 5), start=1):
        expected = plain[f'seed{seed:04d}.png']
        assert (files[f'{seed}-{seed}.png'] == expected).all()
        for row, column in ((index, index), (index, 0), (0, index)):
            assert (grid[row, :, column] == expected).all()
    assert (files['3-4.png'] != files['4-3.png']).any()


def test_mixing_all_layers_gives_the_column(make, networks):
    files = make('out', networks.plain, '--rows=0,1', '--cols=2,3', f'--styles=0-{NUM_WS - 1}', '--batch=1')
    for col in (2, 3):
        assert (files[f'0-{col}.png'] == files[f'{col}-{col}.png']).all()
        assert (files[f'1-{col}.png'] == files[f'{col}-{col}.png']).all()


def test_mixing_no_layers_gives_the_row():
    G = make_generator()
    ws = {seed: w_of(G, seed) for seed in (0, 1)}
    assert (mixing.StyleMix([0], [1], ws, []).latent(0, 1) == ws[0]).all()


def test_mixing_does_not_change_the_latents():
    ws = {0: torch.zeros(NUM_WS, 8), 1: torch.ones(NUM_WS, 8)}
    mixed = mixing.StyleMix([0], [1], ws, [2]).latent(0, 1)
    assert mixed.sum() == 8 and mixed[2].sum() == 8 and not ws[0].any()


@pytest.mark.parametrize('network, same', [('plain', '0-5'), ('deep', '0-6')])
def test_default_layers_are_0_to_6_as_far_as_they_exist(make, networks, network, same):
    path = getattr(networks, network)
    by_default = make('default', path, '--rows=0', '--cols=1')
    assert_same_image(by_default['0-1.png'], make('named', path, '--rows=0', '--cols=1', f'--styles={same}')['0-1.png'])
    assert (by_default['0-1.png'] != make('fewer', path, '--rows=0', '--cols=1', '--styles=0-4')['0-1.png']).any()


@pytest.mark.parametrize('labels', [[], ['--labels=0']], ids=['default', 'no-labels'])
def test_grid_has_unmixed_images_at_its_edges_and_a_black_corner(make, networks, labels):
    files = make('out', networks.plain, '--rows=4,2', '--cols=9,8,7', '--batch=5', *labels)
    assert files['grid.png'].shape == (3 * 16, 4 * 16, 3)
    grid = files['grid.png'].reshape(3, 16, 4, 16, 3)
    assert not grid[0, :, 0].any()
    for i, row in enumerate((4, 2), start=1):
        assert (grid[i, :, 0] == files[f'{row}-{row}.png']).all()
        for j, col in enumerate((9, 8, 7), start=1):
            assert (grid[0, :, j] == files[f'{col}-{col}.png']).all()
            assert (grid[i, :, j] == files[f'{row}-{col}.png']).all()


@pytest.mark.parametrize('network', ['plain', 'gray'])
def test_labeled_grid_has_enlarged_images_beside_seeds(make, networks, network):
    arguments = (getattr(networks, network), '--rows=4,2', '--cols=90210,8')
    bare = make('bare', *arguments, '--labels=0')['grid.png']
    labeled = make('labeled', *arguments, '--labels=1')['grid.png']
    side, pitch = 3 * 68, 68
    for row in range(3):
        for column in range(3):
            corner = (row - 3) * pitch + labeled.shape[0], (column - 3) * pitch + labeled.shape[1]
            cell = labeled[corner[0] : corner[0] + pitch, corner[1] : corner[1] + pitch]
            image = bare[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16].repeat(4, axis=0).repeat(4, axis=1)
            assert (cell[2:-2, 2:-2] == (255 if row == column == 0 else image)).all()
            assert (cell[:2] == 255).all() and (cell[:, -2:] == 255).all()
    for margin in (labeled[:-side, -side:], labeled[-side:, :-side]):
        cells = np.array_split(margin, 3, axis=int(margin.shape[1] > margin.shape[0]))
        assert [(cell < 128).any() for cell in cells] == [False, True, True]  # ink beside all but the corner


def test_repeated_seeds_appear_once(make, networks):
    files = make('out', networks.plain, '--rows=1,1,2,1', '--cols=3-4,3', '--labels=0')
    assert len(files) == 4 + 4 + 1 and files['grid.png'].shape == (48, 48, 3)


@pytest.mark.parametrize('noise_mode', ['const', 'random', 'none'])
def test_images_do_not_depend_on_the_batch_size(make, networks, noise_mode):
    arguments = (networks.plain, '--rows=0,1', '--cols=2', f'--noise-mode={noise_mode}')
    one, five = make('one', *arguments, '--batch=1'), make('five', *arguments, '--batch=5')
    assert list(one) == list(five)
    for name in one:
        assert_same_image(one[name], five[name])


def test_random_noise_is_that_of_the_row(make, networks):
    files = make('out', networks.plain, '--rows=3', '--cols=4', '--noise-mode=random', f'--styles=0-{NUM_WS - 1}')
    plain = make('plain', networks.plain, '--seeds=3,4', '--noise-mode=random', command=generate.main)
    for seed in (3, 4):
        assert_same_image(files[f'{seed}-{seed}.png'], plain[f'seed{seed:04d}.png'])
    assert (files['3-4.png'] != files['4-4.png']).any()


def test_class_by_name_and_by_number(make, networks):
    by_name = make('name', networks.named, '--rows=0', '--cols=1', '--class=red fox')
    by_number = make('number', networks.named, '--rows=0', '--cols=1', '--class=2')
    assert all((by_name[name] == by_number[name]).all() for name in by_name)
    G = make_generator(c_dim=3)
    assert_same_image(by_name['0-0.png'], image_of(G, w_of(G, 0, torch.tensor([[0.0, 0, 1]]))))


def test_names_win_over_indices(make, networks):
    by_name = make('name', networks.numbered, '--rows=0', '--cols=1', '--class=1', '--col-class=10')
    by_index = make('index', networks.named, '--rows=0', '--cols=1', '--class=0', '--col-class=#2')
    assert all((by_name[name] == by_index[name]).all() for name in by_name)


def test_columns_of_another_class(make, networks):
    files = make('out', networks.named, '--rows=0', '--cols=1', '--class=dog', '--col-class=0', '--styles=3')
    G = make_generator(c_dim=3)
    w = w_of(G, 0, torch.tensor([[0.0, 1, 0]]))
    col = w_of(G, 1, torch.tensor([[1.0, 0, 0]]))
    assert_same_image(files['1-1.png'], image_of(G, col))
    w[3] = col[3]
    assert_same_image(files['0-1.png'], image_of(G, w))


def test_warning_about_the_class_of_an_unconditional_network(run, networks):
    result, folder = run('out', networks.plain, '--rows=0', '--cols=1', '--class=1', '--col-class=2')
    assert result.exit_code == 0 and len(list(folder.iterdir())) == 4
    assert '--class=1 is ignored' in result.stderr and '--col-class=2 is ignored' in result.stderr


def test_as_a_process(run_script, networks, tmp_path):
    result = run_script('style_mixing.py', f'--network={networks.named}', '--rows=0,1', '--cols=2,3', '--class=dog',
                        '--noise_mode=none', '--outdir=deep/out')  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert '8 images and grid.png' in result.stdout and len(list((tmp_path / 'deep/out').iterdir())) == 9


# ---------------------------------------------------------------------------------------------------------------------
# Error messages

USAGE_ERRORS = {
    'no rows': ('plain', ['--cols=0'], '--rows'),
    'no columns': ('plain', ['--rows=0'], '--cols'),
    'rows are text': ('plain', ['--rows=a', '--cols=0'], "'a'"),
    'columns descending': ('plain', ['--rows=0', '--cols=5-4'], 'write 4-5'),
    'seeds too large': ('plain', ['--rows=0', '--cols=4294967296'], '4294967295'),
    'unknown layer': ('plain', ['--rows=0', '--cols=1', '--styles=0-6'], '6 layers, 0 to 5'),
    'layers are text': ('plain', ['--rows=0', '--cols=1', '--styles=coarse'], 'coarse'),
    'trunc is not finite': ('plain', ['--rows=0', '--cols=1', '--trunc=inf'], 'inf'),
    'noise mode': ('plain', ['--rows=0', '--cols=1', '--noise-mode=loud'], 'const'),
    'labels': ('plain', ['--rows=0', '--cols=1', '--labels=2'], "'2'"),
    'batch of zero': ('plain', ['--rows=0', '--cols=1', '--batch=0'], '--batch'),
    'device': ('plain', ['--rows=0', '--cols=1', '--device=tpu'], 'tpu'),
    'class missing': ('named', ['--rows=0', '--cols=1'], 'red fox'),
    'class unknown': ('named', ['--rows=0', '--cols=1', '--class=cat'], 'airplane, dog, red fox'),
    'class of the columns unknown': ('named', ['--rows=0', '--cols=1', '--class=0', '--col-class=3'], "'--col-class'"),
    'class and index': ('numbered', ['--rows=0', '--cols=1', '--class=1', '--col-class=0'], "'--col-class': 0 is not"),
    'one seed, two classes': ('named', ['--rows=0,7', '--cols=7', '--class=0', '--col-class=1'], 'seed 7'),
    'grid beyond memory': ('plain', ['--rows=0-9999', '--cols=0-9999'], '1,073,741,824 pixels'),
    'network missing': ('missing.pkl', ['--rows=0', '--cols=1'], 'No such file'),
    'network is text': ('text.txt', ['--rows=0', '--cols=1'], 'not a network pickle'),
    'outdir is a file': ('plain', ['--rows=0', '--cols=1', '--outdir=text.txt'], 'is a file'),
}


@pytest.mark.parametrize('case', USAGE_ERRORS)
def test_usage_errors(run, networks, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.txt').write_text('not a pickle')
    network, arguments, hint = USAGE_ERRORS[case]
    result, _ = run('out', getattr(networks, network, tmp_path / network), *arguments)
    assert_usage_error(result, hint)
    assert [path.name for path in tmp_path.iterdir()] == ['text.txt']
