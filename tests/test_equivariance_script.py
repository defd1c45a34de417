"""`scripts/equivariance.py`: the experiment of docs/equivariance.md."""

import json

import PIL.Image
import pytest

from tests.small_runs import write_images


def test_small_images_are_refused_before_anything_is_trained(run_script, tmp_path):
    data = write_images(tmp_path / 'data')
    result = run_script('scripts/equivariance.py', f'--data={data}', '--outdir=out')
    assert result.returncode == 2, result.stderr
    assert "'--data'" in result.stderr and '8x8' in result.stderr and '--resolution=32x32' in result.stderr
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_figures_and_picture_of_a_short_run(run_script, tmp_path):
    dataset = ['--source=digits', '--dest=data.zip', '--resolution=32x32', '--max-images=100']
    assert run_script('dataset_tool.py', *dataset).returncode == 0
    arguments = ['--data=data.zip', '--outdir=out', '--kimg=0.032']
    result = run_script('scripts/equivariance.py', *arguments, timeout=1100)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / 'out' / 'equivariance.json').read_text())
    assert list(figures) == ['T', 'R', 'T-no-margin']
    for metric in ('eqt1k_int', 'eqt1k_frac'):
        assert min(figures['T'][metric], figures['R'][metric]) > figures['T-no-margin'][metric] + 6
    assert figures['R']['eqr1k'] > figures['T']['eqr1k'] + 6
    with PIL.Image.open(tmp_path / 'out' / 'equivariance.png') as picture:
        assert picture.width > 6 * 96 and picture.height > 3 * 96
