"""The benchmarks of several processes and of memory run, and the scaling model computes what it states."""

import json
import re

import pytest

from bench.networks import METHODS
from bench.published import EIGHT_GPUS_SEC_PER_KIMG, ONE_GPU_SEC_PER_KIMG, PUBLISHED_BATCH
from bench.scaling import PHASES, Compute, Link, fit_compute, fit_link, gpu_step, ring_sec, step_sec
from training.run.memory_estimate import ACCURACY

SMALL = ['--resolution=8', '--cbase=64', '--rounds=1']
SCALING_PAGE = (
    'a\n<!-- bench/scaling.py begin -->\nmeasured\n<!-- bench/scaling.py end -->\nand\n'
    '<!-- bench/scaling.py --only-gpus begin -->\n<!-- bench/scaling.py --only-gpus end -->\nb\n'
)


def test_both_methods_of_averaging_gradients_run_and_agree(run_script, tmp_path):
    """The script itself compares the gradients, and fails if they differ."""
    result = run_script(
        'bench/allreduce.py',
        *SMALL,
        '--processes=2',
        '--batch-gpu=2',
        '--bucket-mib=1,2',
        '--json=rows.json',
        '--device=cpu',
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / 'rows.json').read_text())['rows']
    assert [row['what'] for row in rows] == [
        f'2 x 2, {phase}, {method}'
        for phase in ('Gmain', 'Dmain')
        for method in ('flat', 'buckets of 1 MiB', 'buckets of 2 MiB')
    ]
    assert all(row['time_sec'] > 0 for row in rows)


@pytest.mark.slow
def test_scaling_measures_predicts_and_looks_ahead(run_script, tmp_path):
    (tmp_path / 'page.md').write_text(SCALING_PAGE)
    result = run_script('bench/scaling.py', *SMALL, '--batch=4', '--markdown=page.md')
    assert result.returncode == 0, result.stderr
    page = (tmp_path / 'page.md').read_text()
    for processes, images in ((1, 4), (2, 2), (4, 1)):
        row = rf'^\| {processes} \| {images} \| [\d.]+ m?s \| [\d.]+ m?s \| [+-]\d+% \|$'
        assert len(re.findall(row, page, re.M)) == 1
    assert len(re.findall(r'^\| 512 \| 512, auto \| 1 \|', page, re.M)) == 2
    assert page.startswith('a\n') and page.endswith('b\n') and 'measured' not in page.splitlines()


def test_scaling_looks_ahead_without_measuring(run_script, tmp_path):
    (tmp_path / 'page.md').write_text(SCALING_PAGE)
    result = run_script('bench/scaling.py', '--only-gpus', '--markdown=page.md')
    assert result.returncode == 0, result.stderr
    page = (tmp_path / 'page.md').read_text()
    assert len(re.findall(r'^\| 8 \| ', page, re.M)) == 3 and 'measured\n' in page and 'predicted' not in page


def test_gpus_are_as_fast_as_published():
    sizes = dict(G=90e6, D=90e6)
    for resolution in EIGHT_GPUS_SEC_PER_KIMG:
        for num_gpus, published in ((1, ONE_GPU_SEC_PER_KIMG), (8, EIGHT_GPUS_SEC_PER_KIMG)):
            sec_per_kimg = gpu_step(resolution, PUBLISHED_BATCH, num_gpus, sizes)[0] / PUBLISHED_BATCH * 1000
            assert sec_per_kimg == pytest.approx(published[resolution]['A100'])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize('method', ['ada', 'relativistic+bcr+insgen+ada'])
def test_memory_estimate_is_as_accurate_as_stated(run_script, method):
    result = run_script('bench/memory.py', '--sizes=16:8,32:4', '--device=cpu', f'--method={method}', timeout=1000)
    assert result.returncode == 0, result.stderr
    ratios = [float(ratio) for ratio in re.findall(r'(\d\.\d\d)  MiB$', result.stdout, re.M)]
    assert len(ratios) == 2 and all(1 - ACCURACY < ratio < 1 + ACCURACY for ratio in ratios), result.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_costs_of_methods(run_script):
    result = run_script('bench/methods.py', '--quick', '--size=16:4', '--device=cpu', timeout=1000)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r'^\| `([a-z+-]+)` \| [\d.]+ m?s \| ([\d.]+) \|$', result.stdout, re.M)
    assert [name for name, _ratio in rows] == list(METHODS) and rows[0][1] == '1.00'


@pytest.mark.parametrize(
    'script, option, word',
    [
        ('bench/allreduce.py', '--processes=0', 'below 1'),
        ('bench/scaling.py', '--batch=6', 'multiple of 4'),
        ('bench/memory.py', '--sizes=64', "'64'"),
    ],
)
def test_invalid_options(run_script, script, option, word):
    result = run_script(script, option)
    assert result.returncode == 2 and word in result.stderr and result.stdout == ''


def test_ring_all_reduce():
    link = Link(latency_sec=1, bytes_per_sec=100)
    assert ring_sec(1000, 1, link) == 0
    assert ring_sec(1000, 2, link) == 2 * (1 + 500 / 100)
    assert ring_sec(1000, 4, link) == 6 * (1 + 250 / 100)


def test_constants_are_recovered():
    compute = {name: Compute(0.2, 0.1) for name in PHASES}
    times = [{name: line.sec(number) for name, line in compute.items()} for number in (2, 6)]
    fitted = fit_compute(times[0], 2, times[1], 6)
    assert all(
        line.start_sec == pytest.approx(0.2) and line.image_sec == pytest.approx(0.1) for line in fitted.values()
    )
    link = Link(1e-3, 1e6)
    sizes = (4, 8_000_000)
    fitted_link = fit_link(sizes, [ring_sec(size, 4, link) for size in sizes], 4)
    assert fitted_link.latency_sec == pytest.approx(1e-3, rel=0.01)
    assert fitted_link.bytes_per_sec == pytest.approx(1e6, rel=0.01)
    expected = (2 + 1 / 4 + 1 / 16) * (0.2 + 0.1 * 3)
    assert step_sec(compute, dict(G=0, D=0), 3, 1, link) == pytest.approx(expected)


def test_more_gpus_are_faster_but_never_ideal():
    gradient_bytes = dict(G=90e6, D=90e6)
    seconds = [gpu_step(256, 4096, number, gradient_bytes)[0] for number in (1, 8, 64, 512)]
    for slow, fast in zip(seconds, seconds[1:]):
        assert slow / 8 < fast < slow
