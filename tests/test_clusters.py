"""The recipes in docs/clusters: job scripts that real trainings run under, files of other programs, an image."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests import small_runs
from tests.small_runs import ROOT, SMALL, Running, finish

yaml = pytest.importorskip('yaml')
pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='for job schedulers on Linux')
RECIPES = ROOT / 'docs' / 'clusters'

# Starts $SLURM_NTASKS tasks as Slurm does, passes signals on to them, and returns the largest status.
SRUN = """
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith('--'):
    words.pop(0)
tasks = [
    subprocess.Popen(words, env={**os.environ, 'SLURM_PROCID': str(rank), 'SLURM_LOCALID': str(rank)})
    for rank in range(int(os.environ['SLURM_NTASKS']))
]
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: [task.send_signal(number) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """
import os, sys
if sys.argv[1:3] == ['show', 'hostnames']:
    print('localhost')
else:
    with open(os.environ['SCONTROL_LOG'], 'a') as log:
        print(*sys.argv[1:], file=log)
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return small_runs.write_images(tmp_path_factory.mktemp('data') / 'grays')


@pytest.fixture
def slurm(tmp_path, data, monkeypatch):
    """Function: name of a job script, options of the training → its command; stand-ins for Slurm are on the PATH."""
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name, source in (('srun', SRUN), ('scontrol', SCONTROL)):
        (programs / name).write_text(f'#!{sys.executable}\n{source}')
        (programs / name).chmod(0o755)
    variables = dict(
        PATH=f'{programs}:{os.environ["PATH"]}',
        SCONTROL_LOG=tmp_path / 'scontrol.log',
        DATA=data,
        OUTDIR=tmp_path / 'runs',
        TRAIN=f'{sys.executable} {ROOT / "train.py"}',
        SLURM_JOB_ID='7001',
        SLURM_JOB_NODELIST='node[1-1]',
        SLURM_ARRAY_JOB_ID='7000',
        SLURM_ARRAY_TASK_ID='1',
        SLURM_NTASKS='1',
        SLURM_NTASKS_PER_NODE='2',
        SLURM_NNODES='1',
    )
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))

    def command(script, *options):
        monkeypatch.setenv('OPTIONS', ' '.join([*SMALL, *options]))
        return ['bash', str(RECIPES / script)]

    return command


def requests(tmp_path):
    log = tmp_path / 'scontrol.log'
    return log.read_text().splitlines() if log.exists() else []


def stop_like_slurm(command, number):
    """Run a job script until its training has shown some images, and send a signal to the job step. Its status."""
    with Running(command) as run:
        run.wait_until('tick 1 ')
        if number == signal.SIGUSR1:  # Saves, and goes on.
            os.kill(run.started_by()[0], number)
            ticks = run.out.count('tick ')
            run.wait_until(lambda: run.out.count('tick ') > ticks + 1)
            assert run.process.poll() is None
        os.kill(run.started_by()[0], signal.SIGTERM)
        status, _seconds = run.wait()
    return status


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_an_array_job_is_requeued_and_resumes(slurm, tmp_path, number):
    assert stop_like_slurm(slurm('slurm-array.sbatch', '--kimg=1000', '--tick=0.08'), number) == 75
    assert requests(tmp_path) == ['requeue 7000_1']
    (run_dir,) = (tmp_path / 'runs' / 'variant-1').iterdir()
    assert json.loads((run_dir / 'training_options.json').read_text())['options']['gamma'] == 4
    kimg = [float(path.stem.split('-')[-1]) for path in run_dir.glob('training-state-*.pt')]
    result = finish(slurm('slurm-array.sbatch', f'--kimg={max(kimg) + 0.1:.3f}', '--tick=0.08'))
    assert result.returncode == 0, result.stderr
    assert f'Resuming from {run_dir}' in result.stdout
    assert 'Training is complete.' in (run_dir / 'log.txt').read_text()
    assert requests(tmp_path) == ['requeue 7000_1']


def test_a_mistake_is_not_requeued(slurm, tmp_path):
    result = finish(slurm('slurm-array.sbatch', '--kimg=-1'))
    assert result.returncode == 2 and '--kimg' in result.stderr
    assert requests(tmp_path) == []


@pytest.mark.slow
def test_two_tasks_are_one_training_and_are_requeued(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv('SLURM_NTASKS', '2')
    assert stop_like_slurm(slurm('slurm-nodes.sbatch', '--kimg=1000', '--tick=0.08'), signal.SIGTERM) == 75
    assert requests(tmp_path) == ['requeue 7001']
    (run_dir,) = (tmp_path / 'runs').iterdir()
    assert json.loads((run_dir / 'training_options.json').read_text())['num_gpus'] == 2


@pytest.mark.parametrize('script', ['slurm-array.sbatch', 'slurm-nodes.sbatch'])
def test_directives_of_slurm(script):
    text = (RECIPES / script).read_text()
    assert subprocess.run(['bash', '-n', RECIPES / script]).returncode == 0
    head, _, rest = text.partition('#SBATCH')
    assert not any(line and not line.startswith('#') for line in head.splitlines())  # Slurm reads none after a command
    found = dict(re.findall(r'^#SBATCH --([a-z-]+)(?:=(\S+))?$', '#SBATCH' + rest, re.MULTILINE))
    assert len(found) == text.count('#SBATCH')
    assert found['signal'] == 'TERM@120' and 'requeue' in found and found['open-mode'] == 'append'


# ---------------------------------------------------------------------------------------------------------------------
# Files of other programs

# Fields of kubeflow.org/v1 and of the pods in it that the recipe may use, by the objects that hold them.
FIELDS = {
    '': {'apiVersion', 'kind', 'metadata', 'spec'},
    'spec': {'elasticPolicy', 'nprocPerNode', 'pytorchReplicaSpecs', 'runPolicy'},
    'runPolicy': {
        'activeDeadlineSeconds',
        'backoffLimit',
        'cleanPodPolicy',
        'managedBy',
        'schedulingPolicy',
        'suspend',
        'ttlSecondsAfterFinished',
    },
    'replica': {'replicas', 'restartPolicy', 'template'},
    'pod': {'containers', 'initContainers', 'securityContext', 'terminationGracePeriodSeconds', 'volumes'},
    'container': {'args', 'command', 'env', 'image', 'name', 'resources', 'volumeMounts', 'workingDir'},
}


def known(content, kind):
    assert set(content) <= FIELDS[kind], kind
    return content


@pytest.fixture(scope='module')
def pytorchjob():
    return yaml.safe_load((RECIPES / 'pytorchjob.yaml').read_text())


def test_fields_of_the_pytorchjob(pytorchjob):
    job = known(pytorchjob, '')
    assert (job['apiVersion'], job['kind']) == ('kubeflow.org/v1', 'PyTorchJob')
    spec = known(job['spec'], 'spec')
    assert known(spec['runPolicy'], 'runPolicy')['cleanPodPolicy'] in ('All', 'Running', 'None')
    replicas = spec['pytorchReplicaSpecs']
    assert set(replicas) == {'Master', 'Worker'} and replicas['Master']['replicas'] == 1
    for replica in replicas.values():
        assert known(replica, 'replica')['restartPolicy'] == 'ExitCode'
        pod = known(replica['template']['spec'], 'pod')
        (container,) = pod['containers']
        assert known(container, 'container')['name'] == 'pytorch'
        assert {mount['name'] for mount in container['volumeMounts']} == {volume['name'] for volume in pod['volumes']}


def test_fields_of_the_skypilot_job():
    """Values are checked by SkyPilot's own parser once; see docs/clusters.md."""
    job = yaml.safe_load((RECIPES / 'skypilot.yaml').read_text())
    assert set(job) == {'name', 'resources', 'workdir', 'envs', 'file_mounts', 'setup', 'run'}
    assert job['resources']['use_spot'] is True
    assert 75 in job['resources']['job_recovery']['recover_on_exit_codes']
    for script in (job['setup'], job['run']):
        assert subprocess.run(['bash', '-n'], input=script, text=True).returncode == 0


@pytest.fixture
def in_place(tmp_path, data):
    """Function: text of a script → its command, with the paths of the recipe and `ada-gan` replaced."""
    ada_gan = tmp_path / 'ada-gan'
    ada_gan.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} {ROOT / "train.py"} {" ".join(SMALL)} $MORE "$@"\n')
    ada_gan.chmod(0o755)

    def command(script, folders):
        for name, folder in folders.items():
            script = script.replace(name, str(folder))
        assert 'ada-gan train' in script
        return ['bash', '-c', re.sub(r'\S*ada-gan train', f'{ada_gan} train', script)]

    return command


def pod_command(pytorchjob, in_place, data, tmp_path):
    (container,) = pytorchjob['spec']['pytorchReplicaSpecs']['Master']['template']['spec']['containers']
    assert container['command'] == ['bash', '-c']
    (script,) = container['args']
    return in_place(script, {'/data/photos.zip': data, '/data/runs': tmp_path / 'runs'})


# What the operator sets: https://www.kubeflow.org/docs/components/trainer/legacy-v1/user-guides/pytorch
OPERATOR = dict(MASTER_ADDR='localhost', MASTER_PORT='23456', WORLD_SIZE='1', RANK='0')


@pytest.fixture
def in_a_pod(monkeypatch):
    for name, value in OPERATOR.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_the_command_of_a_pod(pytorchjob, in_place, data, tmp_path, in_a_pod, monkeypatch):
    monkeypatch.setenv('MORE', '--dry-run')
    result = finish(pod_command(pytorchjob, in_place, data, tmp_path))
    assert result.returncode == 0, result.stderr
    monkeypatch.setenv('MORE', '--kimg=-1')
    assert finish(pod_command(pytorchjob, in_place, data, tmp_path)).returncode == 2  # final


@pytest.mark.slow
def test_a_pod_that_is_moved_asks_to_be_started_again(pytorchjob, in_place, data, tmp_path, in_a_pod, monkeypatch):
    monkeypatch.setenv('MORE', '--kimg=1000 --tick=0.08')
    with Running(pod_command(pytorchjob, in_place, data, tmp_path)) as run:
        run.wait_until('tick 1 ')
        run.process.send_signal(signal.SIGTERM)
        status, _seconds = run.wait()
    assert status == 138, run.err
    assert 'Stopped by a signal' in run.out


@pytest.mark.slow
def test_the_command_of_skypilot(in_place, data, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    (tmp_path / 'home').mkdir()
    bucket = tmp_path / 'bucket'
    bucket.mkdir()
    shutil.make_archive(str(bucket / 'photos'), 'zip', data)
    for name, value in (('DATA', 'photos.zip'), ('OPTIONS', '--dry-run'), ('SKYPILOT_NUM_GPUS_PER_NODE', '1')):
        monkeypatch.setenv(name, value)
    script = yaml.safe_load((RECIPES / 'skypilot.yaml').read_text())['run']
    result = finish(in_place(script, {'/bucket': bucket}))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)['options']['data'] == str(tmp_path / 'home' / 'data' / 'photos.zip')


# ---------------------------------------------------------------------------------------------------------------------
# The image


@pytest.fixture
def image(run_script, tmp_path):
    pip = [argument for name in os.environ if name.startswith('PIP_') for argument in ('--env', name)]
    return lambda *args, **kwargs: run_script(
        'scripts/image_without_docker.py', f'--dest={tmp_path / "image"}', *pip, *args, **kwargs
    )


def test_what_the_image_needs(image, tmp_path):
    result = image(env={'PATH': str(tmp_path)})
    assert result.returncode == 3 and '`debootstrap` was not found' in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_steps_of_the_image(image, tmp_path):
    """ADA_GAN_MOUNTS names what pip needs here, separated by colons, such as a folder of wheels."""
    mounts = [f'--mount={path}' for path in os.environ.get('ADA_GAN_MOUNTS', '').split(':') if path]
    result = image(*mounts, timeout=2900)
    if result.returncode == 3:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    assert (
        'is in the image: cc, ' in result.stdout and 'plain PyTorch instead: no working C++ compiler' in result.stdout
    )
    assert not (tmp_path / 'image').exists()
