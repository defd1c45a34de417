"""Networks on a hub, against a real local server: what is found, cached, refused, and never printed or run."""

import hashlib
import json
import pickle
from pathlib import Path

import click
import pytest

import ada_gan
import calc_metrics
import dnnlib.http_documents
import studio
from dnnlib import downloads
from network_files import hub
from network_files.reading import NetworkPickleError, open_network
from network_files.snapshots import network_file
from studio_server.networks import describe_sources
from tests.small_generators import make_generator
from tests.small_hub import TOKEN, Hub
from torch_utils import misc

constants = pytest.importorskip('huggingface_hub.constants')

NETWORK = pickle.dumps({'G_ema': make_generator()})
OTHER = pickle.dumps({'G_ema': make_generator(img_channels=1)})


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub, and everything else set as if this process had been started for it, without waits between attempts."""
    monkeypatch.setattr(downloads, '_FIRST_RETRY_DELAY_SEC', 0.001)
    monkeypatch.setattr(downloads, '_LONGEST_RETRY_DELAY_SEC', 0.01)
    monkeypatch.setattr(dnnlib.http_documents, '_RETRY_DELAY_SEC', 0.001)
    with Hub() as server:
        server.use_in_this_process(tmp_path, monkeypatch)
        yield server


def channels(address):
    return open_network(network_file(address))['G_ema'].img_channels


def failure(address, **kwargs):
    with pytest.raises((OSError, ValueError)) as caught:
        open_network(network_file(address), **kwargs)
    sentence = str(caught.value)
    assert '\n' not in sentence and TOKEN not in sentence
    return sentence


def left_behind(tmp_path):
    """Files in the folder for downloads, except for a complete network."""
    return [path.name for path in (tmp_path / 'cache' / 'downloads').glob('*')]


# ---------------------------------------------------------------------------------------------------------------------
# Addresses and the order of files


@pytest.mark.parametrize('text, parts', [
    ('hf://a/b', ('a/b', None, None)),
    ('hf://a/b@v1', ('a/b', None, 'v1')),
    ('hf://a/b/x.pkl', ('a/b', 'x.pkl', None)),
    ('hf://a/b/c d/x.safetensors@refs/pr/1', ('a/b', 'c d/x.safetensors', 'refs/pr/1')),
])  # fmt: skip
def test_parts_of_an_address(text, parts):
    address = hub.Address.parse(text)
    assert (address.repo, address.file, address.revision) == parts and str(address) == text


@pytest.mark.parametrize('text', [
    'hf://', 'hf://a', 'hf://a/', 'hf:///b', 'hf://a..b/c', 'hf://a/b--c', 'hf://-a/b', 'hf://a/b@', 'hf://a/b@..',
    'hf://a/b@-x', 'hf://a/b/', 'hf://a/b/../x.pkl', 'hf://a/b//x.pkl', 'hf://a/b/.\\x.pkl', 'hf://a/b/x.txt',
    'hf://a/b/\x1b[2J.pkl', 'hf://a?b/c', f'hf://{"a" * 97}/b', 'hf://a/b/' + 'x' * 600 + '.pkl',
])  # fmt: skip
def test_other_addresses_are_refused_in_one_sentence(text):
    with pytest.raises(hub.HubError, match='^hf://') as caught:
        hub.Address.parse(text)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_order_of_files():
    names = ['z.pt', 'network-snapshot-000200.pkl', 'network-snapshot-001000.pkl', 'network.pkl', 'b.safetensors']
    names += ['a/network.safetensors', 'network.safetensors', '../network.safetensors', 'readme.md', 'a.pkl']
    assert hub.order(names) == [
        'network.safetensors', 'b.safetensors', 'a/network.safetensors', 'network.pkl', 'network-snapshot-001000.pkl',
        'network-snapshot-000200.pkl', 'a.pkl', 'z.pt',
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Finding and caching


def test_a_network_is_downloaded_once(server, tmp_path, capsys):
    repo = server.repo('a/b', network__pkl=NETWORK, other__pkl=OTHER)
    first = repo.at('main')[0]
    assert network_file('hf://a/b') == f'hf://a/b/network.pkl@{first}'
    assert 'Using network.pkl of hf://a/b' in capsys.readouterr().err
    assert channels('hf://a/b') == channels('hf://a/b@main') == channels(f'hf://a/b@{first}') == 3
    assert channels('hf://a/b/other.pkl') == 1
    assert len([path for _m, path, _h, _a in server.requests if path.startswith('/objects/')]) == 2
    assert len(left_behind(tmp_path)) == 2

    second = repo.commit({'network.pkl': OTHER})
    assert network_file('hf://a/b') == f'hf://a/b/network.pkl@{second}'
    assert channels('hf://a/b') == 1 and channels(f'hf://a/b@{first}') == 3
    repo.branches['v1'] = repo.branches['main'][:1]
    assert channels('hf://a/b@v1') == 3


def test_scripts_that_resolve_networks_themselves(server):
    commit = server.repo('a/b', network__pkl=NETWORK).at('main')[0]
    address = f'hf://a/b/network.pkl@{commit}'
    assert calc_metrics.list_network_pkls('hf://a/b', None) == [address]
    assert studio.checked_network('hf://a/b') == address
    assert describe_sources([address])[0]['name'] == 'a/b'
    with pytest.raises(click.BadParameter, match='hf://a/c does not exist'):
        calc_metrics.list_network_pkls('hf://a/c', None)
    with pytest.raises(click.BadParameter, match='hf://a/c does not exist'):
        studio.checked_network('hf://a/c')


def test_without_the_hub(server, tmp_path, monkeypatch, capsys):
    server.repo('a/b', network__pkl=NETWORK, other__pkl=OTHER)
    assert channels('hf://a/b') == 3
    server.answers['/api/models/a/b/revision/main'] = lambda request: request.send(status=500)
    assert channels('hf://a/b') == 3
    assert 'the server returned 500' in capsys.readouterr().err
    num_requests = len(server.requests)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert channels('hf://a/b') == 3
    assert 'HF_HUB_OFFLINE' in failure('hf://a/b/other.pkl')
    assert 'HF_HUB_OFFLINE' in failure('hf://a/unknown')

    # What huggingface_hub has downloaded is found.
    folder = tmp_path / 'hf' / 'hub' / 'models--a--c'
    snapshot = folder / 'snapshots' / ('1' * 40)
    snapshot.mkdir(parents=True)
    (folder / 'refs').mkdir()
    (folder / 'refs' / 'main').write_text('1' * 40)
    (snapshot / 'network.pkl').write_bytes(OTHER)
    assert channels('hf://a/c') == 1
    assert 'does not exist' in failure('hf://a/c/missing.pkl')
    assert len(server.requests) == num_requests


def test_a_damaged_cache_is_asked_for_again(server, tmp_path):
    server.repo('a/b', network__pkl=NETWORK)
    assert channels('hf://a/b') == 3
    for path in (tmp_path / 'cache' / 'hub').iterdir():
        path.write_text('{"commit": "../..", "files": [[]]}')
    (path,) = (tmp_path / 'cache' / 'downloads').iterdir()
    path.write_bytes(b'damaged')
    assert channels('hf://a/b') == 3


def test_token(server, monkeypatch, capfd):
    server.repo('a/secret', private=True, network__pkl=NETWORK)
    sentence = failure('hf://a/secret')
    assert 'is private' in sentence and 'hf auth login' in sentence
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    assert channels('hf://a/secret') == 3
    assert {host for _m, _p, host, token in server.requests if token} == {server.url[len('http://') :]}
    assert any(path.startswith('/objects/') for _m, path, _h, token in server.requests if token is None)
    assert TOKEN not in str(capfd.readouterr())
    monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
    assert 'token that was sent may be wrong' in failure('hf://a/secret')
    monkeypatch.setenv('HF_TOKEN', 'hf_with\x07bell')
    assert 'set it again' in failure('hf://a/secret') and 'bell' not in failure('hf://a/secret')


def test_from_python(server):
    server.repo('a/b', network__pkl=NETWORK, other__pkl=OTHER)
    G = ada_gan.from_pretrained('a/b')
    expected = make_generator()
    for name, tensor in misc.named_params_and_buffers(G):
        assert tensor.equal(dict(misc.named_params_and_buffers(expected))[name])
    assert ada_gan.from_pretrained('a/b', 'other.pkl', revision='main').img_channels == 1
    assert ada_gan.from_pretrained('hf://a/b/other.pkl').img_channels == 1
    with pytest.raises(ValueError, match='already names'):
        ada_gan.from_pretrained('hf://a/b/other.pkl', 'network.pkl')
    with pytest.raises(OSError, match='does not name a repository'):
        ada_gan.from_pretrained('../network.pkl')


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong


def test_wrong_names_are_explained(server):
    server.repo('a/b', network__pkl=NETWORK)
    server.repo('a/empty', readme__md=b'nothing')
    assert 'hf://a/other does not exist' in failure('hf://a/other')
    assert 'the networks there are network.pkl' in failure('hf://a/b/x.pkl')
    assert "has no revision 'v9'" in failure('hf://a/b@v9')
    assert 'has no network' in failure('hf://a/empty')


@pytest.mark.parametrize('answer, reason', [
    (dict(status=403), 'ask for access'),
    (dict(status=418), 'returned 418'),
    (dict(status=500), 'returned 500'),
    (dict(status=302, Location='/api/models/a/b/revision/main'), 'redirected more than'),
    (dict(status=302, Location='ftp://x/y'), 'not a valid http'),
    (dict(body=b'{"sha"'), 'not valid JSON'),
    (dict(body=b'[' * 100_000), 'nested'),
    (dict(body=json.dumps({'sha': '../../x', 'siblings': []}).encode()), 'must be a commit'),
    (dict(body=json.dumps({'sha': 'a' * 40, 'siblings': [{'rfilename': 7}]}).encode()), 'rfilename'),
    (dict(body=b'{}', length=1000), 'connection was lost'),
])  # fmt: skip
def test_wrong_answers_about_a_repository(server, tmp_path, answer, reason):
    server.answers['/api/models/a/b/revision/main'] = lambda request: request.send(**answer)
    assert reason in failure('hf://a/b')
    assert left_behind(tmp_path) == []


def test_an_answer_without_an_end(server, monkeypatch):
    monkeypatch.setattr(hub, '_MAX_LISTING_BYTES', 1 << 20)
    server.answers['/api/models/a/b/revision/main'] = lambda request: request.send_for_ever()
    assert 'more than 1,048,576 bytes' in failure('hf://a/b')


def serve_file(server, answer):
    repo = server.repo('a/b', network__pkl=NETWORK)
    server.answers[f'/a/b/resolve/{repo.at("main")[0]}/network.pkl'] = answer


@pytest.mark.parametrize('answer, reason', [
    (lambda request: request.send(status=404), 'returned 404'),
    (lambda request: request.send(status=500), 'returned 500'),
    (lambda request: request.send(status=302, Location=request.path), 'redirected more than'),
    (lambda request: request.send_for_ever(), 'the server sent more than'),
    (lambda request: request.send_for_ever(Content_Encoding='gzip'), 'decompressed'),
    (lambda request: request.send(NETWORK, length=10**16), 'instead of'),
    (lambda request: request.send(NETWORK[:-9]), 'instead of'),
    (lambda request: request.send(NETWORK[:-1] + b'x'), 'SHA-256'),
])  # fmt: skip
def test_wrong_content_leaves_nothing(server, tmp_path, answer, reason):
    serve_file(server, answer)
    assert reason in failure('hf://a/b')
    assert left_behind(tmp_path) == []


def test_a_file_that_claims_to_be_larger_than_the_disk(server, tmp_path):
    repo = server.repo('a/b', network__pkl=NETWORK)
    repo.sizes['network.pkl'] = 10**17
    serve = f'/a/b/resolve/{repo.at("main")[0]}/network.pkl'
    server.answers[serve] = lambda request: request.send(NETWORK, length=10**17)
    assert 'has space for' in failure('hf://a/b')
    assert left_behind(tmp_path) == []


def test_names_that_leave_the_repository_are_not_seen(server, tmp_path):
    repo = server.repo('a/b')
    repo.commit(
        {'../../network.pkl': NETWORK, '/etc/network.pkl': NETWORK, 'a\\b.pkl': NETWORK, 'x\x1b[2J.pkl': NETWORK}
    )
    assert 'has no network' in failure('hf://a/b')
    repo.commit({'network.pkl': NETWORK})
    assert channels('hf://a/b') == 3
    assert [path.parent for path in tmp_path.rglob('*.pkl')] == [tmp_path / 'cache' / 'downloads']


def test_pickles_from_a_hub_run_nothing(server, tmp_path):
    marker = tmp_path / 'this-was-run'
    hostile = pickle.dumps({'G_ema': RunsCode(marker)})
    repo = server.repo('a/b', network__pkl=hostile)
    assert 'Nothing in it was run' in failure('hf://a/b')
    with pytest.raises(NetworkPickleError, match='never run'):
        open_network('hf://a/b', trust=True)
    repo.commit({'network.pkl': None, 'network.safetensors': hostile})
    assert 'Nothing in it was run' in failure('hf://a/b')
    assert not marker.exists()
    pickle.loads(hostile)
    assert marker.exists()


def test_listing_is_stored_by_what_it_is_about(server, tmp_path):
    server.repo('a/b', network__pkl=NETWORK)
    network_file('hf://a/b')
    names = {path.name for path in (tmp_path / 'cache' / 'hub').iterdir()}
    assert f'{hashlib.sha256(f"{server.url}/a/b@main".encode()).hexdigest()[:32]}.json' in names and len(names) == 2
