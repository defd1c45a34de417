"""The comparison of the metrics with straightforward implementations runs, and both agree."""

import json
import statistics

import pytest

MARKED = 'Text before.\n\n<!-- bench/metrics.py begin -->\nold\n<!-- bench/metrics.py end -->\n\nText after.\n'


def test_comparison_reports_time_memory_and_difference(run_script, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(MARKED)
    result = run_script(
        'bench/metrics.py',
        '--quick',
        '--threads=1',
        '--rounds=3',
        '--only=pr',
        '--json=rows.json',
        f'--markdown={page}',
        env={'PYTHONPATH': ''},
    )
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / 'rows.json').read_text())
    assert content['machine']['threads'] == 1
    (row,) = content['rows']
    assert row['section'] == 'pr' and len(row['here_sec']) == len(row['straightforward_sec']) == 3
    medians = [statistics.median(row[f'{name}_sec']) for name in ('straightforward', 'here')]
    assert row['ratio'] == pytest.approx(medians[0] / medians[1])
    assert row['straightforward_bytes'] > 0 and row['here_bytes'] > 0
    assert row['difference'] < 1e-7  # the same counts
    assert 'speedup' in result.stdout and row['what'] in result.stdout
    text = page.read_text()
    assert text.startswith('Text before.\n\n<!--') and text.endswith('-->\n\nText after.\n') and 'old' not in text
    assert text.count(f'| {row["what"]} |') == 1


def test_unknown_sections_are_rejected(run_script):
    result = run_script('bench/metrics.py', '--quick', '--only=fid,nonsense')
    assert result.returncode == 2
    assert "Unknown section 'nonsense'. Choose from fid, kid, pr." in result.stderr and result.stdout == ''
