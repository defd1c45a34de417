"""Files with objects and classes of other projects: what is left out, and what legacy.py --trust-pickle rewrites."""

import io
import pickle
import re
import sys
import types

import pytest
import torch

import legacy
from network_files.own_classes import with_own_classes
from tests.test_legacy import make_networks, read
from torch_utils import persistence
from training import networks_stylegan2, transfer

SOURCE = networks_stylegan2.__loader__.get_source(networks_stylegan2.__name__)
FORK = """
from torch_utils import persistence
import torch

open(__import__('os').environ['MADE_BY_FORK'], 'x').close()

@persistence.persistent_class
class Head(torch.nn.Module):
    pass
"""


def define(module_name, **classes):
    """Return classes that pickles name by module and class, of a module that exists in this test only."""
    module = types.ModuleType(module_name)
    for name, base in classes.items():
        setattr(module, name, type(name, (base,), {'__module__': module_name}))
    return module


@pytest.fixture
def others(monkeypatch):
    """Modules of other projects."""
    diffusion = define('training.diffusion', Identity=torch.nn.Module, Settings=dict, History=list, Tags=set)
    monkeypatch.setitem(sys.modules, 'training.diffusion', diffusion)
    return diffusion


def with_sources(data, change, names=None, protocol=4):
    """Return a pickle of `data` with the source of the networks changed, and classes renamed."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, value):
            if isinstance(value, type) or not persistence.is_persistent(value):
                return NotImplemented
            function, (meta,) = value.__reduce_ex__(4)
            if meta['module_src'] == SOURCE:
                meta = {**meta, 'module_src': change(meta['module_src'])}
            return function, ({**meta, 'class_name': (names or {}).get(meta['class_name'], meta['class_name'])},)

    file = io.BytesIO()
    Pickler(file, protocol=protocol).dump(data)
    return file.getvalue()


def dumps_by_force(data):
    """Return a pickle even if arguments are not plain data, which other versions of persistence do not check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(persistence, '_check_plain', lambda *_args: None)
        return pickle.dumps(data)


class ForeignPersistent:
    """Pickles as a persistent object whose source makes a file."""

    def __reduce__(self):
        state = {'_init_args': (), '_init_kwargs': {}, '_modules': {'fc': torch.nn.Linear(2, 2)}}
        meta = dict(type='class', version=6, module_src=FORK, class_name='Head', state=state)
        return persistence._reconstruct_persistent_obj, (meta,)


# ---------------------------------------------------------------------------------------------------------------------
# Foreign objects beside the networks


@pytest.mark.parametrize('protocol', range(6))
def test_foreign_objects_under_other_keys_are_left_out_in_one_line(others, protocol, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MADE_BY_FORK', str(tmp_path / 'made'))
    data = make_networks(
        DHead=ForeignPersistent(), GHead=torch.nn.Sequential(torch.nn.Linear(2, 2)), kimg=5, names=['a', {'b': 1}],
        nested=[{'deep': others.Identity()}], settings=others.Settings(a=1), history=others.History([1]),
        tags=others.Tags([2]), function=torch.nn.functional.relu,
    )  # fmt: skip
    back = read(pickle.dumps(data, protocol=protocol))
    kept = ['G', 'D', 'G_ema', 'augment_pipe', 'training_set_kwargs', 'kimg', 'names']
    assert list(back) == kept and back['kimg'] == 5 and back['names'] == data['names']
    assert torch.equal(back['G_ema'].synthesis.b4.const, data['G_ema'].synthesis.b4.const)
    (line,) = capsys.readouterr().err.splitlines()
    assert 'opened without DHead (Head, ' in line and 'GHead (torch.nn.modules.container.Sequential, ' in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('pipe', ['Identity', 'persistent', 'mismatch'])
def test_foreign_augmentation_is_left_out(others, pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MADE_BY_FORK', str(tmp_path / 'made'))
    data = make_networks()
    data['augment_pipe']._init_kwargs['colorful'] = 1
    pipes = {'Identity': others.Identity(), 'persistent': ForeignPersistent(), 'mismatch': data['augment_pipe']}
    back = read({**data, 'augment_pipe': pipes[pipe]})
    assert back['augment_pipe'] is None and type(back['D']) is networks_stylegan2.Discriminator
    (line,) = capsys.readouterr().err.splitlines()
    assert 'opened without augment_pipe' in line and not (tmp_path / 'made').exists()


def test_thousands_of_foreign_objects_are_one_short_line(others, capsys):
    data = {f'key {index}': others.Identity() for index in range(2000)}
    read({'G_ema': make_networks()['G_ema'], **data})
    (line,) = capsys.readouterr().err.splitlines()
    assert 'and 1995 more' in line and len(line) < 1000


@pytest.mark.parametrize('key', ['G', 'D', 'G_ema'])
def test_foreign_networks_are_refused(others, key):
    for value in (others.Identity(), ForeignPersistent(), torch.nn.functional.relu):
        with pytest.raises(legacy.NetworkPickleError, match=rf'{key} was not opened: it is of class .*--trust-pickle'):
            read({**make_networks(), key: value})


def test_number_of_foreign_names_is_bounded():
    names = b''.join(b'cab\nC%d\n' % index for index in range(900_000))
    with pytest.raises(legacy.NetworkPickleError, match=r'ab\.C10000'):
        read(b'](' + names + b'e.')


def test_foreign_object_among_the_arguments_is_named(others):
    data = make_networks()
    data['G_ema']._init_kwargs['mapping_kwargs']['num_layers'] = others.Identity()
    data['G']._init_kwargs['mapping_kwargs']['more'] = others.Identity()
    for key in ('G', 'G_ema'):
        with pytest.raises(legacy.NetworkPickleError, match='more layers|a training.diffusion.Identity. If you trust'):
            legacy.load_network_pkl(io.BytesIO(dumps_by_force({'G_ema': data[key]})))


def test_networks_under_other_keys_are_refused():
    networks = make_networks()
    for value in (networks['G'], [networks['G']]):
        with pytest.raises(legacy.NetworkPickleError, match='more contains a Generator, but only G, D, G_ema'):
            read({**networks, 'more': value})


def test_only_the_keys_that_are_asked_for(others, capsys):
    data = make_networks(DHead=ForeignPersistent(), more=make_networks()['G'])
    data['D'] = others.Identity()
    back = read(data, keys=['G', 'G_ema'])
    assert {key for key, value in back.items() if value is not None} == {'G', 'G_ema'}
    assert capsys.readouterr().err == ''


def test_training_starts_from_the_networks_whatever_is_beside_them(others, tmp_path, capsys):
    data = make_networks(DHead=ForeignPersistent(), more=others.Identity())
    legacy.save_network_pkl({**data, 'augment_pipe': others.Identity()}, tmp_path / 'insgen.pkl')
    assert list(transfer.open_pretrained(str(tmp_path / 'insgen.pkl')).networks) == ['G', 'D', 'G_ema']
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('name', ['os.system', 'builtins.eval', '__builtin__.eval', 'subprocess.Popen', 'torch.load'])
def test_calls_of_functions_are_refused_under_every_key(name):
    module, _, function = name.rpartition('.')
    for call in (f'c{module}\n{function}\n(S"touch made"\ntR', f'(S"touch made"\ni{module}\n{function}\n'):
        content = b"}S'DHead'\n" + call.encode() + b"sS'G_ema'\nNs."
        with pytest.raises(legacy.NetworkPickleError, match=re.escape(name)):
            read(content)


# ---------------------------------------------------------------------------------------------------------------------
# Rewriting with this project's classes

RENAMED = {'MinibatchStdLayer': 'StdOfBatch', 'Generator': 'StyleGenerator', 'SynthesisBlock': 'Block'}


def renamed(source):
    for name, other in RENAMED.items():
        source = source.replace(name, other)
    return source


def with_argument(source):
    """Return a source whose mapping networks and generators take an argument that does not change what they compute."""
    changed = source.replace('w_avg_beta: float | None = 0.995,', 'w_avg_beta: float | None = 0.995, unused: int = 0,')
    changed = changed.replace('**more_synthesis_kwargs: Any,', 'attention: bool = False,')
    return changed.replace('**more_synthesis_kwargs}', '}')


def rewrite(run_script, tmp_path, content, *options, dest='own.pkl'):
    (tmp_path / 'fork.pkl').write_bytes(content)
    return run_script('legacy.py', '--source=fork.pkl', f'--dest={dest}', '--trust-pickle', *options)


def test_script_rewrites_a_fork_with_own_classes(run_script, tmp_path, others):
    data = make_networks(c_dim=2, kimg=5)
    content = with_sources(data, renamed, RENAMED)
    with pytest.raises(legacy.NetworkPickleError, match='legacy.py --trust-pickle'):
        read(content)
    result = rewrite(run_script, tmp_path, content, '--force-fp16=1')
    assert result.returncode == 0, result.stderr
    back = legacy.open_network(str(tmp_path / 'own.pkl'))
    for key in ('G', 'D', 'G_ema', 'augment_pipe'):
        assert type(back[key]) is type(data[key])
        ours, theirs = back[key].state_dict(), data[key].state_dict()
        assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert back['kimg'] == 5 and back['G_ema'].synthesis.num_fp16_res == back['D'].b16.use_fp16 + 3 == 4


@pytest.mark.parametrize('change', [renamed, with_argument, lambda source: source + '\nEXTRA = 1\n'])
def test_forks_that_compute_the_same(change, capsys, others):
    data = make_networks()
    if change is with_argument:
        for key in ('G', 'G_ema'):
            data[key]._init_kwargs['mapping_kwargs'].update(unused=1)
            data[key]._init_kwargs['attention'] = True
    content = with_sources({**data, 'heads': [data['D']]}, change, RENAMED if change is renamed else None)
    rewritten = with_own_classes(read(content, trust=True), 'fork.pkl')
    assert 'fork.pkl is opened without heads (' in capsys.readouterr().err
    back = read(pickle.dumps(rewritten))
    z = torch.ones(1, 8)
    assert torch.equal(back['G_ema'](z, None, noise_mode='const'), data['G_ema'].eval()(z, None, noise_mode='const'))
    assert back['G_ema'].init_kwargs.mapping_kwargs == {'num_layers': 2}


def doubled(source):
    return source.replace('return x * torch.rsqrt(mean_square + eps)', 'return 2 * x * torch.rsqrt(mean_square + eps)')


@pytest.mark.parametrize('change, message', [
    (doubled, r'fork\.pkl: G cannot be rewritten.*computes something else'),
    (lambda source: source, r'fork\.pkl: G cannot be rewritten.*mapping\.more is unknown'),
], ids=['results', 'names'])  # fmt: skip
def test_forks_that_cannot_be_rewritten(run_script, tmp_path, change, message):
    data = make_networks()
    if change is not doubled:
        data['G'].mapping.register_buffer('more', torch.zeros(1))
    result = rewrite(run_script, tmp_path, with_sources(data, change))
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    text = ' '.join(result.stderr.split())
    assert re.search(message, text), text
    assert '--trust-pickle' not in text.partition('Error')[2] and not (tmp_path / 'own.pkl').exists()


def test_fork_that_cannot_be_run_is_rewritten_with_a_warning(capsys):
    content = with_sources(make_networks(), lambda source: source.replace('ws = self.mapping(z', 'ws = self.gone(z'))
    rewritten = with_own_classes(read(content, trust=True), 'fork.pkl')
    assert type(read(pickle.dumps(rewritten))['G']) is networks_stylegan2.Generator
    assert 'fork.pkl: G: the class in the file could not be compared' in capsys.readouterr().err


def test_half_precision_in_the_layout_of_stylegan3():
    """Synthesis options beside the others, in a class that takes them so."""

    def change(source):
        source = source.replace('synthesis_kwargs: Mapping[str, Any] | None = None,\n', '')
        source = source.replace('**more_synthesis_kwargs', '**synthesis_kwargs')
        return source.replace('{**(synthesis_kwargs or {}), **synthesis_kwargs}', 'synthesis_kwargs')

    data = make_networks()
    for key in ('G', 'G_ema'):
        data[key]._init_kwargs.update(data[key]._init_kwargs.pop('synthesis_kwargs'))
    content = with_sources(data, change)
    for back in (read(content, trust=True, force_fp16=True), read(content, force_fp16=True)):
        assert back['G_ema'].synthesis.num_fp16_res == 4 and back['D'].b16.use_fp16
        assert torch.equal(back['G_ema'].synthesis.b4.const, data['G_ema'].synthesis.b4.const)
