"""The benchmarks of speed run, and their floors are the work that PyTorch really does."""

import json
import re
from statistics import median

import click.testing
import pytest
import torch

from bench import overview
from bench.reference import reference_implementation
from bench.tables import MarkedSection
from training.networks_stylegan2 import Generator

MARKED = 'Text before.\n\n<!-- bench/overview.py begin -->\nold\n<!-- bench/overview.py end -->\n\nText after.\n'


def test_overview_reports_times_and_floors(run_script, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(MARKED)
    result = run_script(
        'bench/overview.py',
        '--quick',
        '--threads=1',
        '--device=cpu',
        '--json=rows.json',
        '--only=generator,training,augment,decoding',
        f'--markdown={page}',
        env={'PYTHONPATH': ''},
    )
    assert result.returncode == 0, result.stderr

    content = json.loads((tmp_path / 'rows.json').read_text())
    assert content['machine']['threads'] == 1
    assert content['machine']['torch'] == torch.__version__
    rows = content['rows']
    sections = ['peaks', 'generator', 'training', 'augment', 'decoding']
    assert list(dict.fromkeys(row['section'] for row in rows)) == sections
    for row in rows:
        assert row['time_sec'] > 0 and row['rate'] > 0 and len(row['times_sec']) > 0, row
        assert min(row['times_sec']) <= row['time_sec'] <= max(row['times_sec']), row
        if row['section'] == 'peaks':
            assert row['floor_sec'] is None, row
        elif not row['what'].endswith(': EMA'):
            assert 0 < row['share'] < 1.5, row  # above 1 only by the noise of the clock and of other programs
            assert row['share'] == pytest.approx(row['floor_sec'] / row['time_sec'])

    training = {row['what'].split(': ')[1]: row for row in rows if row['section'] == 'training'}
    assert list(training)[:5] == ['Gmain', 'Greg', 'Dmain', 'Dreg', 'EMA']
    total = training['Gmain + Greg/4 + Dmain + Dreg/16 + EMA']
    weights = {'Gmain': 1, 'Greg': 1 / 4, 'Dmain': 1, 'Dreg': 1 / 16, 'EMA': 1}
    assert total['time_sec'] == pytest.approx(sum(training[name]['time_sec'] * w for name, w in weights.items()))

    table = result.stdout.split('\n\n')
    assert table[1].split() == ['what', 'time', 'rate', 'floor', 'share', 'runs']
    for row in rows:
        assert len(re.findall(rf'^{re.escape(row["what"])} {{2,}}\d.*/s', result.stdout, re.MULTILINE)) == 1
    text = page.read_text()
    assert text.startswith('Text before.\n\n<!--') and text.endswith('-->\n\nText after.\n') and 'old' not in text
    assert text.count('| training |') == 6


def test_overview_of_conversion(run_script):
    result = run_script('bench/overview.py', '--quick', '--threads=1', '--device=cpu', '--only=conversion')
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r'JPEG, 32 px RGB, --workers=[12] .* images/s', result.stdout)) == 2


def test_invalid_options_are_rejected_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'plain.md').write_text('No marks here.\n')
    for options, status, word in (
        (['--only=generator,nonsense'], 2, "Unknown section 'nonsense'. Choose from generator"),
        (['--json=missing/rows.json'], 2, 'missing/rows.json'),
        (['--json=rows.csv'], 2, 'must end in .json'),
        (['--markdown=page.txt'], 2, 'must end in .md'),
        ([f'--markdown={tmp_path / "plain.md"}'], 1, 'no place for the table'),
    ):
        result = click.testing.CliRunner().invoke(overview.main, ['--quick', *options])
        assert result.exit_code == status and isinstance(result.exception, SystemExit), result.output
        assert word in result.stderr and result.stdout == ''
    assert (tmp_path / 'plain.md').read_text() == 'No marks here.\n'


def test_marked_section_keeps_the_text_around_it(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(MARKED)
    for text in ('first\n', 'second\nlines'):
        MarkedSection(str(page), 'bench/overview.py').replace(text)
    assert page.read_text() == MARKED.replace('old', '\nsecond\nlines\n')


def test_operators_and_generators_beside_the_reference(run_script, tmp_path):
    page = tmp_path / 'page.md'
    for script, what in (
        ('ops.py', ['upfirdn2d', 'bias_act', 'filtered_lrelu', 'modulated', '3×3', 'AugmentPipe']),
        ('generator.py', ['generator']),
    ):
        page.write_text(MARKED.replace('overview.py', script))
        result = run_script(f'bench/{script}', '--quick', '--threads=1', '--json=rows.json', f'--markdown={page}')
        assert result.returncode == 0, result.stderr
        rows = json.loads((tmp_path / 'rows.json').read_text())
        assert list(dict.fromkeys(row['what'].split()[0].strip(',') for row in rows)) == what
        for row in rows:
            assert row['ratio'] == pytest.approx(median(row['textbook_sec']) / median(row['times_sec']))
            assert row['floor_sec'] is None or 0 < row['share'] < 2.5  # 3×3 convolutions skip products.
            assert row['what'] in result.stdout and f'| {row["what"]} |' in page.read_text()


@pytest.mark.parametrize('script', ['ops.py', 'generator.py', 'shares.py'])
def test_a_page_without_markers_is_rejected_in_one_sentence(script, run_script, tmp_path):
    (tmp_path / 'page.md').write_text('no marks\n')
    result = run_script(f'bench/{script}', '--quick', '--markdown=page.md')
    assert result.returncode == 1 and result.stdout == ''
    assert result.stderr.startswith('Error: page.md has no place for the table') and result.stderr.count('\n') == 1
    assert (tmp_path / 'page.md').read_text() == 'no marks\n'


def test_the_shares_of_an_image_add_up(run_script, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(MARKED.replace('overview.py', 'shares.py'))
    result = run_script('bench/shares.py', '--quick', '--threads=1', f'--markdown={page}')
    assert result.returncode == 0, result.stderr
    rows = [line.split('|')[2:-1] for line in result.stdout.splitlines() if line.startswith('|')][2:]
    assert len(rows) == 5
    for column in zip(*rows):
        per_cent = [int(re.search(r'\((\d+)%\)', cell)[1]) for cell in column]
        assert all(share > 0 for share in per_cent) and 97 <= sum(per_cent) <= 103
    assert all(line in page.read_text() for line in result.stdout.splitlines() if line.startswith('|'))


@pytest.mark.parametrize('fused', [True, False])
def test_the_reference_gives_the_same_images(fused):
    torch.manual_seed(0)
    G = Generator(8, 0, 8, 16, 3, synthesis_kwargs=dict(channel_base=128, channel_max=16)).eval()
    z, c = torch.randn(3, 8), torch.zeros(3, 0)
    with torch.no_grad():
        expected = G(z, c, noise_mode='const', fused_modconv=fused)
        with reference_implementation():
            images = G(z, c, noise_mode='const')
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(images, expected)  # It was a different computation.
