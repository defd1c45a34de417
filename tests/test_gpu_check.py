"""scripts/gpu_check.sh without a GPU: its parts, its results and its page; all of it on the rehearsal device (slow)."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from bench.gpu_report import to_markdown
from scripts import gpu_check
from scripts.gpu_check import Part, earlier_results, run_part
from tests.rehearsal.processes import REHEARSAL_IS_POSSIBLE, successful
from tests.small_runs import ROOT

MACHINE = dict(
    gpu='Card 1', num_gpus=2, capability='9.0', memory_bytes=80 * 2**30, driver='570.1', driver_cuda='12.8',
    torch='2.9', torch_cuda='12.6', cudnn=91000, nvrtc='12.6', target='sm_90', cpu='CPU 1', system='Linux', python='3',
)  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a GPU')
def test_without_a_gpu_it_ends_with_one_sentence(tmp_path):
    command = ['bash', ROOT / 'scripts' / 'gpu_check.sh', f'--outdir={tmp_path / "out"}']
    environment = dict(os.environ, PYTHON=sys.executable)
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1 and result.stdout == '' and result.stderr.count('\n') == 1
    assert 'finds no CUDA device' in result.stderr and not (tmp_path / 'out').exists()


def test_without_python_it_says_so(tmp_path):
    environment = dict(os.environ, PYTHON=str(tmp_path / 'python'))
    command = ['bash', ROOT / 'scripts' / 'gpu_check.sh']
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count('\n') == 1 and str(tmp_path / 'python') in result.stderr


def part_of(*codes, limit_sec=60, min_gpus=1):
    """A part that runs these programs, which find the file for what they measure as `file`."""
    return Part(
        'a part', limit_sec, lambda quick, file: [['-c', f'file = {file!r}\n{code}'] for code in codes], min_gpus
    )


@pytest.fixture
def result_of(monkeypatch, tmp_path):
    """Function: a part → its result on a machine with one GPU."""

    def run(part):
        monkeypatch.setitem(gpu_check.PARTS, 'kernels', part)
        return run_part('kernels', False, tmp_path, num_gpus=1)

    return run


def test_parts_pass_fail_and_are_skipped(result_of):
    passed = result_of(part_of('print("first")', 'open(file, "w").write("[1, 2]"); print("second")'))
    assert passed['result'] == 'passed' and passed['measured'] == [1, 2]
    assert [line for line in passed['last_lines'] if not line.startswith(('$', 'file ='))][-1] == 'second'
    failed = result_of(part_of('open(file, "w").write("{}"); raise SystemExit("no memory")', 'print("never")'))
    assert (failed['result'], failed['reason'], failed['measured']) == ('failed', 'exit status 1', {})
    assert failed['last_lines'][-1] == 'no memory'
    skipped = result_of(part_of('print("never")', min_gpus=2))
    assert (skipped['result'], skipped['reason']) == ('skipped', 'needs 2 GPUs')


def test_a_part_that_takes_too_long_is_killed_with_its_processes(result_of, tmp_path):
    child = 'import time; time.sleep(3); open({!r}, "w").close()'.format(str(tmp_path / 'alive'))
    code = (
        'import subprocess, sys, time; open(file, "w").write("[7]")\n'
        f'subprocess.Popen([sys.executable, "-c", {child!r}]); time.sleep(60)'
    )
    result = result_of(part_of(code, limit_sec=2))
    assert result['result'] == 'timed out' and result['measured'] in ([7], None) and result['sec'] < 20
    time.sleep(3.5)
    assert not (tmp_path / 'alive').exists()


def test_results_of_other_parts_are_kept_on_the_same_machine(tmp_path, capsys):
    path = tmp_path / 'results.json'
    assert earlier_results(path, MACHINE, False) == {}
    path.write_text(json.dumps(dict(machine=MACHINE, quick=False, parts=dict(tests=1, gone=2))))
    assert earlier_results(path, MACHINE, False) == dict(tests=1)
    assert capsys.readouterr().out == ''
    assert earlier_results(path, dict(MACHINE, gpu='Card 2'), False) == earlier_results(path, MACHINE, True) == {}
    assert capsys.readouterr().out.count('replaced') == 2


def test_the_limits_add_up_to_25_minutes():
    assert sum(part.limit_sec for part in gpu_check.PARTS.values()) <= 25 * 60


def result(title, result='passed', measured=None, **more):
    return dict(title=title, result=result, sec=1.4, last_lines=['one', 'two'], measured=measured, **more)


def test_the_page():
    kernel = dict(section='up 2', rate=1, time_sec=1)
    copy = dict(section='copy', what='copy', share=None, rate=2000.0)
    kernels = [
        copy,
        *(dict(kernel, what=f'x {d}', share=s) for d, s in (('forward', 0.9), ('forward', 0.7), ('plain', 1))),
    ]
    network = dict(mode='fp16', batch=16, reference_image_sec=0.02, graph_image_sec=None, peak_bytes=3 * 2**30)
    rows = [
        dict(network, section='training', resolution=256, image_sec=0.005) | dict(graph_image_sec=0.004),
        dict(network, section='training', resolution=256, image_sec=None, mode='fp32'),
    ]
    generators = [dict(rows[0], section='generator', graph_image_sec=0.002)]
    parts = dict(
        kernels=result('Kernels', measured=dict(rows=kernels)),
        generator=result('Generators', measured=dict(rows=generators)),
        training=result('Training', 'timed out', dict(rows=rows), reason='after 3 s'),
        memory=result('Memory', measured=[dict(resolution=64, images=4, estimated_bytes=2**31, peak_bytes=2**30)]),
        run=result('A run', 'failed', reason='exit status 1'),
        ranks=result('Two GPUs', 'skipped', reason='needs 2 GPUs'),
    )
    text = to_markdown(dict(machine=MACHINE, quick=False, parts=parts))
    assert text.startswith('2 x **Card 1** (compute capability 9.0, 80 GiB), driver 570.1 for CUDA 12.8; PyTorch 2.9')
    for line in (
        '| training | Training | timed out: after 3 s | 1 s |',
        '| ranks | Two GPUs | skipped: needs 2 GPUs | 1 s |',
        '| up 2 | forward | 70% | 80% | 1 of 2 |',
        '| 256 | fp16 | 16 | 200 | 50 | 500 | 4.00 |',
        '| 256 | fp16 | 16 | 5 | 20 | 4 | 4.00 | 12.53 | 3.00 GiB |',
        '| 256 | fp32 | 16 | out of memory | 20 | out of memory |  |  | 3.00 GiB |',
        '| 64 | 4 | 2.00 GiB | 1.00 GiB | 2.00 |',
        '### The end of run, which failed',
    ):
        assert line in text.splitlines(), text
    assert text.count('```\none\ntwo\n```') == 2
    assert '--quick' not in text and '--quick' in to_markdown(dict(machine=MACHINE, quick=True, parts={}))


@pytest.mark.slow
@REHEARSAL_IS_POSSIBLE
@pytest.mark.timeout(4500)
def test_the_check_for_gpus_runs_through(tmp_path):
    page = (ROOT / 'docs' / 'benchmarks-gpu.md').read_text()
    command = ['bash', ROOT / 'scripts' / 'gpu_check.sh', '--quick', f'--outdir={tmp_path}']
    successful(command, devices=2, timeout=4400, memory_mib=4096)
    parts = json.loads((tmp_path / 'results.json').read_text())['parts']
    assert {part['result'] for part in parts.values()} == {'passed'} and 'ranks' in parts
    assert all(name in (tmp_path / 'results.md').read_text() for name in ('Rehearsal device', 'fp16, NHWC', 'up 2, 12'))
    assert (ROOT / 'docs' / 'benchmarks-gpu.md').read_text() == page  # whose figures are those of real GPUs
