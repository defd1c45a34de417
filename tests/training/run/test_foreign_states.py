"""Training states with sound checksums and wrong content: nothing is executed, and each is one sentence."""

import copy
import io
import os
import pickle
import tracemalloc
import zipfile

import pytest
import torch

from network_files import tensor_archives
from tests.training.test_training_loop import (  # noqa: F401  (data is a fixture)
    data,
    small_config,
)
from training.run import checkpoint
from training.run.checkpoint import DamagedState
from training.run.run_dir import RunDir
from training.training_loop import launch

LONG = 0.016  # kimg: one batch more than the state has


@pytest.fixture(scope='module')
def state(data, tmp_path_factory):  # noqa: F811
    """The content of the state of a run after one batch."""
    run_dir = tmp_path_factory.mktemp('run')
    launch(small_config(data, run_dir, total_kimg=0.008))
    (path,) = RunDir(str(run_dir)).training_states()
    return torch.load(path, weights_only=True)


@pytest.fixture
def content(state):
    return copy.deepcopy(state)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_an_intact_state_is_read_as_by_torch_load(content, tmp_path):
    torch.save(content, tmp_path / 'state.pt')
    assert same(checkpoint.read(tmp_path / 'state.pt').content, content)
    torch.save([torch.zeros(3, 2).t(), torch.zeros(0), torch.zeros(4)[1:3], torch.zeros(1).bfloat16()], tmp_path / 'a')
    assert same(tensor_archives.load(tmp_path / 'a'), torch.load(tmp_path / 'a', weights_only=True))


WRONG = {
    'counter below zero': ('progress', 'cur_nimg', -8),
    'counter without end': ('progress', 'batch_idx', 10**400),
    'counter that is text': ('progress', 'tick', '1'),
    'unknown counter': ('progress', 'more', 1),
    'tick in the future': ('progress', 'tick_start_nimg', 10**6),
    'no networks': ('networks', None),
    'a network less': ('networks', 'D', None),
    'numbers for tensors': ('networks', 'G', {'x': 1}),
    'optimizer by name': ('optimizers', 'G', 'state', {'x': {}}),
    'optimizer': ('optimizers', 'G', []),
    'strength': ('augment_p', float('nan')),
    'negative strength': ('augment_p', -1),
    'controller': ('ada', {'seen': {}}),
    'time': ('statistics', 'elapsed_sec', float('inf')),
    'statistics': ('statistics', 'collector', 'seen', {'x': torch.zeros(2)}),
    'totals': ('totals', {'x': torch.zeros(3)}),
    'no ranks': ('ranks', []),
    'ranks': ('ranks', {'0': 1}),
    'short random state': ('ranks', 0, 'random', 'torch', torch.zeros(3, dtype=torch.uint8)),
    'another generator': ('ranks', 0, 'random', 'numpy', 0, 'PCG64'),
    'a position beyond the generator': ('ranks', 0, 'random', 'numpy', 2, 10**6),
    'keys of a generator': ('ranks', 0, 'random', 'numpy', 1, torch.full([624], -1)),
    'pending': ('ranks', 0, 'pending', {'x': {'cpu': torch.zeros(4)}}),
    'pending on a strange device': ('ranks', 0, 'pending', {'x': {'/dev/null': torch.zeros(3)}}),
    'processes': ('environment', 'processes', 'many'),
    'lengths': ('files', {'log.txt': -1}),
    'lengths of another type': ('files', [1]),
    'format': ('format', [1]),
}


def changed(content, *keys_and_value):
    *keys, last, value = keys_and_value
    place = content
    for key in keys:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize('change', WRONG.values(), ids=WRONG.keys())
def test_wrong_content_is_a_damaged_state(content, tmp_path, change):
    torch.save(changed(content, *change), tmp_path / 'state.pt')
    with pytest.raises(DamagedState) as caught:
        checkpoint.read(tmp_path / 'state.pt')
    assert len(str(caught.value)) < 400 and '\n' not in str(caught.value)


@pytest.mark.parametrize('key', 'progress networks optimizers ada statistics totals ranks environment files'.split())
def test_missing_parts(content, tmp_path, key):
    del content[key]
    torch.save(content, tmp_path / 'state.pt')
    with pytest.raises(DamagedState, match=f"'{key}' is missing"):
        checkpoint.read(tmp_path / 'state.pt')


MISFITS = {
    'shape': ('networks', 'G', 'synthesis.b4.const', torch.zeros(3)),
    'huge by repetition': ('networks', 'G', 'synthesis.b4.const', torch.zeros(1).expand(10**6, 10**6)),
    'type': ('networks', 'D', 'b4.out.bias', torch.zeros(1, dtype=torch.int64)),
    'missing tensor': ('networks', 'G_ema', 'synthesis.b4.const', None),
    'another tensor': ('networks', 'G', 'more', torch.zeros(1)),
    'moments': ('optimizers', 'D', 'state', 0, 'exp_avg', torch.zeros(1).expand(10**6, 10**6)),
    'moments of no parameter': ('optimizers', 'D', 'state', 9999, {'step': torch.zeros([])}),
    'steps below zero': ('optimizers', 'G', 'state', 0, 'step', torch.tensor(-1.0)),
    'no moments': ('optimizers', 'G', 'state', 0, {}),
    'means': ('ranks', 0, 'means', {}),
    'loss': ('ranks', 0, 'loss', 'pl_mean', torch.zeros(2, 2)),
    'random numbers': ('ranks', 0, 'random', 'torch', torch.full([5056], 255, dtype=torch.uint8)),
    'batches': ('progress', 'batch_idx', 10**9),
}


@pytest.mark.parametrize('change', MISFITS.values(), ids=MISFITS.keys())
def test_a_state_that_does_not_fit_its_run(content, data, tmp_path, change):  # noqa: F811
    torch.save(changed(content, *change), RunDir(str(tmp_path)).training_state(8))
    with pytest.raises(ValueError, match=r'--resume=PKL') as caught:
        launch(small_config(data, tmp_path, total_kimg=LONG), resume=True)
    assert len(str(caught.value)) < 500 and '\n' not in str(caught.value)


def test_a_state_under_the_name_of_another(content, data, tmp_path, capfd):  # noqa: F811
    torch.save(content, RunDir(str(tmp_path)).training_state(8))
    torch.save(content, RunDir(str(tmp_path)).training_state(4096))
    launch(small_config(data, tmp_path, total_kimg=LONG), resume=True)
    assert 'training-state-000004.096.pt is damaged (its content belongs into training-state-000000.008.pt' in (
        capfd.readouterr().out
    )


def test_settings_of_adam_in_a_state_change_nothing(content, data, tmp_path, state):  # noqa: F811
    for name, hostile in (('plain', False), ('hostile', True)):
        if hostile:
            for optimizer in content['optimizers'].values():
                optimizer['param_groups'][0].update(lr='x', betas=None, foreach=[1], params='none')
        (tmp_path / name).mkdir()
        torch.save(content, RunDir(str(tmp_path / name)).training_state(8))
        launch(small_config(data, tmp_path / name, total_kimg=LONG), resume=True)
    ends = [torch.load(RunDir(str(tmp_path / name)).training_state(16)) for name in ('plain', 'hostile')]
    assert same(ends[0]['networks'], ends[1]['networks']) and same(ends[0]['optimizers'], ends[1]['optimizers'])


# ---------------------------------------------------------------------------------------------------------------------
# Archives


class Executed:
    """Leaves a trace when a pickle of it is read the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


class Allocated:
    def __reduce__(self):
        return bytearray, (8 * 2**30,)


def archive_of(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, entry in content.items():
            archive.writestr(name, entry)


@pytest.mark.parametrize('kind', [Executed, Allocated])
def test_names_that_are_not_on_the_list(tmp_path, kind):
    value = kind() if kind is Allocated else kind(tmp_path / 'executed')
    archive_of(tmp_path / 'state.pt', {'a/data.pkl': pickle.dumps({'format': 1, 'x': value}, protocol=2)})
    with pytest.raises(DamagedState, match='not on the list'):
        checkpoint.read(tmp_path / 'state.pt')
    assert not (tmp_path / 'executed').exists()


def test_archives_that_expand(tmp_path):
    saved = io.BytesIO()
    torch.save({'x': torch.zeros(2**24)}, saved)
    with zipfile.ZipFile(saved) as archive:
        archive_of(
            tmp_path / 'state.pt', {name: archive.read(name) for name in archive.namelist()}, zipfile.ZIP_DEFLATED
        )
    saved.close()
    tracemalloc.start()
    with pytest.raises(DamagedState, match='compressed'):
        checkpoint.read(tmp_path / 'state.pt')
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize(
    'content',
    [{}, {'a/data.pkl': b''}, {'a/data.pkl': b'\x80\x02' + b']' * 10**5 + b'.'}, {'a/data.pkl': bytes(2**24 + 1)}],
    ids=['empty', 'no pickle', 'many lists', 'large'],
)
def test_other_archives(tmp_path, content):
    archive_of(tmp_path / 'state.pt', content)
    with pytest.raises(DamagedState):
        checkpoint.read(tmp_path / 'state.pt')


def test_pipes_and_devices(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(OSError, match='not a regular file'):
        checkpoint.read(tmp_path / 'pipe')
