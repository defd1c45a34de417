"""The grid with a row for each class: what is in its cells, its labels, and networks without classes."""

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch

from scripts import class_grid
from tests.small_generators import NAMES, assert_usage_error, make_generator, write_networks
from torch_utils.images import on_white


@pytest.fixture
def run(tmp_path):
    """Function: (network, *arguments) → (result of the command, path of the grid)."""

    def invoke(G, *arguments, **content):
        network = write_networks(tmp_path, {'network': (G, content)}).network
        options = [f'--network={network}', f'--outdir={tmp_path / "out"}', *arguments]
        return click.testing.CliRunner().invoke(class_grid.main, options), tmp_path / 'out' / 'class-grid.png'

    return invoke


@pytest.mark.parametrize('num_channels', [1, 4])
def test_rows_are_classes_and_columns_latents(run, num_channels):
    G = make_generator(c_dim=3, img_channels=num_channels)
    cells = class_grid.images_of_classes(G, [0, 1], 3)
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).randn(8) for seed in (0, 1)])).float()
    for label, row in enumerate(cells.reshape(3, 2, *cells.shape[1:])):
        expected = G(z, torch.eye(3)[[label, label]], noise_mode='const')
        expected = on_white((expected * 127.5 + 128).clamp(0, 255).to(torch.uint8)).numpy()
        assert np.abs(row.astype(int) - expected).max() <= 1
    assert not np.array_equal(cells[0], cells[2])  # the label matters

    result, grid = run(G, '--columns=2', class_names=NAMES)
    assert result.exit_code == 0, result.output
    with PIL.Image.open(grid) as picture:
        assert picture.height == 3 * (64 + 4) and picture.width > 2 * (64 + 4)  # the names are left of the images
        last = np.asarray(picture.convert('RGB'))[-66:-2:4, -66:-2:4]
    assert np.array_equal(last, np.broadcast_to(cells[-1].transpose(1, 2, 0), last.shape))


def test_rows_have_the_names_of_the_file_or_numbers(run):
    G = make_generator(c_dim=3)
    widths = []
    for content in ({}, {'class_names': ['a', 'b', 'a long name']}):
        _result, grid = run(G, '--columns=1', **content)
        with PIL.Image.open(grid) as picture:
            widths.append(picture.width)
    assert widths[1] > widths[0] + 30


def test_a_network_without_classes(run):
    result, grid = run(make_generator())
    assert_usage_error(result, 'has no classes; generate.py --grid')
    assert not grid.exists()
