"""Files that are often taken for network pickles are named for what they are, without unpickling anything in them."""

import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch

import legacy
from tests.small_generators import make_generator
from training.networks_stylegan2 import Discriminator

TORCH_SAVE = 'a file of torch.save'


class Bomb:
    def __reduce__(self):
        return pytest.fail, ('something was unpickled',)


def saved_by_torch(obj, **options):
    file = io.BytesIO()
    torch.save(obj, file, **options)
    return file.getvalue()


def zip_of(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name in names:
            archive.writestr(name, b'1' * 50)
    return file.getvalue()


def tar_of(*names, **options):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w', **options) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 700
            archive.addfile(info, io.BytesIO(b'x' * 700))
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, w=np.zeros([1, 6, 8]))
    return file.getvalue()


LEGACY_TAR = ('sys_info', 'pickle', 'tensors', 'storages')
G = make_generator()
FILES = {
    'other module': (saved_by_torch(torch.nn.Linear(1, 1)), TORCH_SAVE),
    'discriminator': (saved_by_torch(Discriminator(0, 16, 3, channel_max=8)), TORCH_SAVE),
    'state dict': (saved_by_torch(G.state_dict()), TORCH_SAVE),
    'checkpoint': (saved_by_torch({'g_ema': G.state_dict(), 'iteration': 7}), TORCH_SAVE),
    'hostile': (saved_by_torch(Bomb()), TORCH_SAVE),
    'cut': (saved_by_torch(G)[:5000], TORCH_SAVE),
    'before 1.6': (saved_by_torch(G.state_dict(), _use_new_zipfile_serialization=False), TORCH_SAVE),
    'before 1.6, protocol 4': (
        saved_by_torch(G.state_dict(), _use_new_zipfile_serialization=False, pickle_protocol=4),
        TORCH_SAVE,
    ),
    'tar': (tar_of(*LEGACY_TAR), TORCH_SAVE),
    'tar of GNU': (tar_of(*LEGACY_TAR, format=tarfile.GNU_FORMAT), TORCH_SAVE),
    'TorchScript': (zip_of('net/data.pkl', 'net/code/x.py', 'net/constants.pkl'), 'a TorchScript module'),
    'torch.export': (zip_of('net/archive_format', 'net/models/model.json'), 'a program of torch.export'),
    'npz': (npz(), 'an npz archive of NumPy'),
    'other zip': (zip_of('photos/1.png', 'dataset.json'), 'a zip archive that contains photos/1.png'),
    'other tar': (tar_of('photos/1.png'), 'a tar archive that contains photos/1.png'),
    'empty zip header': (b'PK\x03\x04', 'a zip archive'),
    'many members': (zip_of(*(f'net/data/{index}' for index in range(3000)), 'net/data.pkl'), TORCH_SAVE),
}


@pytest.mark.parametrize('trust', [False, True])
@pytest.mark.parametrize('name', FILES)
def test_file_is_named_for_what_it_is(name, trust):
    content, kind = FILES[name]
    with pytest.raises(legacy.NetworkPickleError, match=f'not a network pickle but {kind}.*use the network pickle'):
        legacy.load_network_pkl(io.BytesIO(content), trust=trust)


@pytest.mark.parametrize('value, kind', [
    (G, "an object of class 'Generator' without G, D or G_ema"),
    (G.state_dict(), 'a state dict without'),
    ({'G_ema': G.state_dict()}, 'G_ema is a state dict, not a Generator'),
    (torch.nn.Linear(1, 1), r"an object of class 'torch\.nn\.modules\.linear\.Linear' without"),
], ids=['module', 'state', 'state of G_ema', 'torch module'])  # fmt: skip
def test_pickles_of_a_module_or_state_dict(value, kind):
    with pytest.raises(legacy.NetworkPickleError, match=kind):
        legacy.load_network_pkl(io.BytesIO(pickle.dumps(value)))


def test_names_of_endless_archives_are_read_in_part():
    entry = b'PK\x01\x02' + b'\0' * 24 + b'\xff\xff' + b'\0' * 16
    content = b'PK\x03\x04' + b'\0' * 26 + entry * 200_000
    with pytest.raises(legacy.NetworkPickleError, match='a zip archive') as caught:
        legacy.load_network_pkl(io.BytesIO(content))
    assert len(str(caught.value)) < 300


def test_script_names_the_file(run_script, tmp_path):
    (tmp_path / 'checkpoint.pt').write_bytes(FILES['state dict'][0])
    result = run_script('legacy.py', '--source=checkpoint.pt', '--dest=own.pkl')
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert 'checkpoint.pt is not a network pickle but a file of torch.save' in result.stderr
