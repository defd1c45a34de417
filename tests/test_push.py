"""push.py: what is uploaded to a local hub and what never is, the model card, and what others do with the result."""

import json
import os
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import generate
import push
import train
from metrics.features.samples import network_sha256
from network_files.reading import open_network
from network_files.writing import save_network_pkl
from tests.small_generators import make_generator, write_networks
from tests.small_hub import TOKEN, Hub
from tests.small_runs import SMALL, only, write_images
from training.networks_stylegan2 import Discriminator

huggingface_hub = pytest.importorskip('huggingface_hub')

ATTACK = '<script>alert(1)</script>|`x`\n# h\n---\nlicense: "mit"\n[a](https://evil.example/x) $$x$$ '
ATTACK += '\x1b[2J\u202e &lt; ![i](x)'


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Hub() as hub:
        hub.use_in_this_process(tmp_path, monkeypatch, TOKEN)
        yield hub


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """The configuration of a small run, as train.py makes it."""
    folder = tmp_path_factory.mktemp('machine') / 'private folder'
    data = write_images(folder / 'photos')
    result = CliRunner().invoke(train.main, [f'--data={data}', f'--outdir={folder}', '--dry-run', '--gamma=2', *SMALL])
    assert result.exit_code == 0, result.output
    return json.JSONDecoder().raw_decode(result.output[result.output.index('{') :])[0]


def networks(class_names=('cat', 'dog', 'red fox'), path='/home/me/photos.zip'):
    """The content of a snapshot of a training run."""
    torch.manual_seed(0)
    D = Discriminator(3, 16, 3, channel_base=128, channel_max=8, mapping_kwargs={'num_layers': 1})
    G_ema = make_generator(c_dim=3)
    kwargs = {'class_name': 'training.dataset.ImageFolderDataset', 'path': path, 'max_size': 24}
    return {
        'G': make_generator(c_dim=3),
        'D': D.eval().requires_grad_(False),
        'G_ema': G_ema,
        'augment_pipe': None,
        'training_set_kwargs': kwargs,
        'class_names': list(class_names),
        'secret': '/home/me/secret',
    }


def make_run(folder, config, data=None, **changes):
    """A run with one snapshot, its metrics, and files that are not to be published."""
    folder.mkdir(parents=True)
    data = data or networks()
    save_network_pkl(data, folder / 'network-snapshot-000100.pkl')
    (folder / 'training_options.json').write_text(json.dumps({**config, 'run_dir': str(folder), **changes}))
    (folder / 'provenance.json').write_text(
        json.dumps([{'dataset_sha256': 'd' * 64, 'device': 'cpu', 'processor': 'A processor', 'command': 'secret'}])
    )
    for name in ('log.txt', 'reals.png', 'training-state-000100.pt', 'report.html'):
        (folder / name).write_text('secret')
    digest = network_sha256(data['G_ema'])
    write_metric(folder, 'fid50k_full', {'fid50k_full': 7.5}, digest, fid50k_full=(7.25, 7.75))
    shares = {'memorization5k_share': 0.002, 'memorization5k_ratio': 1.02}
    write_metric(folder, 'memorization5k', shares, digest, memorization5k_share=(0, 0.004))
    return folder


def write_metric(folder, metric, results, digest, snapshot='network-snapshot-000100.pkl', **intervals):
    line = {
        'results': results,
        'metric': metric,
        'snapshot_pkl': snapshot,
        'intervals': {name: {'low': low, 'high': high, 'coverage': 0.95} for name, (low, high) in intervals.items()},
        'num_images': {'real': 24, 'fake': 50000},
        'seed': 0,
        'detector': {'name': 'inception', 'sha256': 'e' * 64},
        'dataset_sha256': 'd' * 64,
        'network_sha256': digest,
        'path': '/home/me/secret',
    }
    with open(folder / f'metric-{metric}.jsonl', 'a') as file:
        file.write(json.dumps(line) + '\n')


def run(*args, status=0):
    result = CliRunner().invoke(push.main, [str(arg) for arg in args])
    assert result.exit_code == status, (result.output, result.exc_info)
    if status:
        assert isinstance(result.exception, SystemExit)
    assert TOKEN not in result.output
    return result.output


def dry_run(tmp_path, *args):
    """The files of a dry run: {name: content}."""
    run(*args, '--repo=me/cats', '--dry-run', f'--dest={tmp_path / "dest"}')
    return {path.name: path.read_bytes() for path in (tmp_path / 'dest').iterdir()}


def card_of(files):
    text = files['README.md'].decode()
    return huggingface_hub.ModelCard(text).data.to_dict(), text


# ---------------------------------------------------------------------------------------------------------------------
# Round trip


def test_a_pushed_network_gives_the_same_images(hub, tmp_path):
    path = write_networks(tmp_path, {'network': make_generator()}).network
    run(f'--network={path}', '--repo=me/net')
    for network, outdir in (('hf://me/net', 'hub'), (path, 'file')):
        options = [f'--network={network}', '--seeds=7', f'--outdir={tmp_path / outdir}']
        assert CliRunner().invoke(generate.main, options).exit_code == 0
    assert (tmp_path / 'hub' / 'seed0007.png').read_bytes() == (tmp_path / 'file' / 'seed0007.png').read_bytes()


@pytest.mark.slow
def test_processes_that_push_and_generate(run_script, tmp_path):
    path = write_networks(tmp_path, {'network': make_generator()}).network
    with Hub() as hub:
        settings = hub.environment(tmp_path, TOKEN)
        pushed = run_script('push.py', f'--network={path}', '--repo=me/net', '--private', env=settings)
        assert pushed.returncode == 0, pushed.stderr
        assert '--network=hf://me/net' in pushed.stdout and TOKEN not in pushed.stdout + pushed.stderr
        assert hub.repos['me/net'].private
        assert sorted(hub.repos['me/net'].at('main')[1]) == [
            '.gitattributes', 'README.md', 'grid.png', 'network.safetensors',
        ]  # fmt: skip
        for network in ('hf://me/net', path):
            outdir = 'hub' if network != path else 'file'
            result = run_script('generate.py', f'--network={network}', '--seeds=7', f'--outdir={outdir}', env=settings)
            assert result.returncode == 0, result.stderr
    assert (tmp_path / 'hub' / 'seed0007.png').read_bytes() == (tmp_path / 'file' / 'seed0007.png').read_bytes()


def test_upload_is_one_commit_on_its_branch(hub, tmp_path, config):
    folder = make_run(tmp_path / 'runs' / '00000-photos', config)
    output = run(f'--run={folder}', '--repo=me/cats', '--pickle')
    assert 'Uploaded: ' in output and len(hub.messages) == 1
    assert hub.messages == ['Upload network after 100 kimg']
    first = hub.repos['me/cats'].at('main')[1]
    assert 'network.pkl' in first and not hub.repos['me/cats'].private

    run(f'--run={folder}', '--repo=me/cats', '--revision=older', '--message=Second', '--generator-only')
    assert hub.messages[1:] == ['Second']
    branch = hub.repos['me/cats'].at('older')[1]
    assert hub.repos['me/cats'].at('main')[1] == first
    assert 'network.pkl' not in branch  # it would be another network than that beside it
    assert len(branch['network.safetensors']) < len(first['network.safetensors'])
    assert 'hf://me/cats@older' in branch['README.md'].decode()
    whole, small = open_network('hf://me/cats'), open_network('hf://me/cats@older')
    assert whole['D'] is not None and small['D'] is None and small['class_names'] == ['cat', 'dog', 'red fox']
    pickled = open_network('hf://me/cats/network.pkl')
    assert network_sha256(pickled['G_ema']) == network_sha256(small['G_ema']) == network_sha256(whole['G_ema'])

    hub.repos['me/cats'].commit({'README.md': b'my own words', 'notes.txt': b'mine'})
    run(f'--run={folder}', '--repo=me/cats', '--card=0')
    files = hub.repos['me/cats'].at('main')[1]
    assert files['README.md'] == b'my own words' and files['notes.txt'] == b'mine'
    assert only_temporary_folders_of_push() == []


def only_temporary_folders_of_push():
    return [path for path in Path(os.environ.get('TMPDIR', '/tmp')).glob('.ada-gan-push.*') if os.access(path, os.W_OK)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_starts_from_a_pushed_network(run_script, tmp_path):
    data = write_images(tmp_path / 'images')
    small = [*SMALL, f'--data={data}', '--kimg=0.008', '--snap=1', '--tick=0.008']
    with Hub() as hub:
        settings = hub.environment(tmp_path, TOKEN)
        first = run_script('train.py', *small, '--outdir=first', env=settings, timeout=250)
        assert first.returncode == 0, first.stderr
        folder = only(tmp_path / 'first')
        pushed = run_script('push.py', f'--run={folder}', '--repo=me/net', env=settings, timeout=250)
        assert pushed.returncode == 0, pushed.stderr
        dry = run_script(
            'train.py', *small, '--outdir=dry', '--resume=hf://me/none', '--dry-run', env=settings, timeout=250
        )
        assert dry.returncode == 0, dry.stderr
        second = run_script('train.py', *small, '--outdir=second', '--resume=hf://me/net', env=settings, timeout=250)
        assert second.returncode == 0, second.stderr
        commit = hub.repos['me/net'].at('main')[0]
        options = json.loads((only(tmp_path / 'second') / 'training_options.json').read_text())
        assert options['resume_pkl'] == f'hf://me/net/network.safetensors@{commit}'
        missing = run_script('train.py', *small, '--outdir=third', '--resume=hf://me/none', env=settings, timeout=250)
        assert missing.returncode == 2 and 'hf://me/none does not exist' in missing.stderr
        assert not (tmp_path / 'third').exists()


@pytest.mark.slow
@pytest.mark.parametrize('command', [
    'style_mixing.py --rows=1 --cols=2 --styles=0 --outdir=out',
    'gen_video.py --seeds=0,1 --frames=2 --output=video.mp4',
    'edit.py directions --method=sefa --count=4 --outdir=out',
    'export.py --dest=network.pt2',
    'legacy.py --source --dest=network.safetensors',
])  # fmt: skip
def test_other_scripts_take_addresses(run_script, tmp_path, command):
    path = write_networks(tmp_path, {'network': make_generator()}).network
    with Hub() as hub:
        hub.repo('a/b', network__pkl=path.read_bytes())
        script, *options = command.split()
        option = '--source' if '--source' in options else '--network'
        options = [text for text in options if text != '--source']
        result = run_script(script, *options, f'{option}=hf://a/b', env=hub.environment(tmp_path))
    assert result.returncode == 0, result.stderr
    assert 'Using network.pkl of hf://a/b' in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# What is published


def test_files_of_a_run(tmp_path, config):
    folder = make_run(tmp_path / 'runs' / '00000-photos', config, resume_pkl='/home/me/other.pkl')
    write_metric(folder, 'fid50k_full', {'fid50k_full': 99}, 'f' * 64)  # of another network
    write_metric(folder, 'kid50k_full', {'kid50k_full': 99}, None, snapshot='network-snapshot-000050.pkl')
    files = dry_run(tmp_path, f'--run={folder}', '--license=cc-by-4.0', '--data-license=my own | <b>photographs</b>')
    assert sorted(files) == ['README.md', 'grid.png', 'metrics.json', 'network.safetensors', 'training_options.json']
    for content in files.values():
        for secret in (b'/home/me', str(tmp_path).encode(), b'private folder', b'secret'):
            assert secret not in content
    metadata, text = card_of(files)
    assert metadata['license'] == 'cc-by-4.0' and metadata['library_name'] == 'ada-gan'
    assert {'gan', 'StyleGAN2', 'class-conditional'} <= set(metadata['tags'])
    for expected in (
        "G = ada_gan.from_pretrained('me/cats')", 'ada-gan generate --network=hf://me/cats', '`photos`', 'images | 24 ',
        '3: `cat`, `dog`, `red fox`', 'my own &#124; &lt;b>photographs', 'd' * 64, '| `--gamma` | `2` |',
        '100 of', '`fid50k_full` | 7.5 | 7.25 to 7.75 | 50,000 | 24 | `inception`', '`A processor`', 'from `other.pkl`',
        '0.20% of 50,000 generated images are copies of training images (95% interval: 0.00% to 0.40%)',
        '## Intended use', '## Limits', '![Samples of 3 of 3 classes', 'network.safetensors',
    ):  # fmt: skip
        assert expected in text
    assert '99' not in re.sub(r'0\.99', '', text) and 'kid50k_full' not in text
    options = json.loads(files['training_options.json'])
    assert options['training_set_kwargs']['path'] == options['options']['data'] == 'photos'
    assert options['run_dir'] is None and options['resume_pkl'] == 'other.pkl' and options['options']['gamma'] == 2
    values = {value['name']: value for value in json.loads(files['metrics.json'])['values']}
    assert values['fid50k_full']['interval'] == {'low': 7.25, 'high': 7.75, 'coverage': 0.95}
    grid = np.asarray(PIL.Image.open(tmp_path / 'dest' / 'grid.png'))
    assert grid.std() > 5 and grid.shape[1] >= 8 * 64


def test_a_lone_network(tmp_path):
    path = write_networks(tmp_path, {'network': make_generator()}).network
    files = dry_run(tmp_path, f'--network={path}')
    assert sorted(files) == ['README.md', 'grid.png', 'network.safetensors']
    metadata, text = card_of(files)
    assert 'license' not in metadata and '| license | not stated |' in text
    assert 'Only the network is known' in text and text.count('Not measured') == 2
    assert 'no training can start from it' in text and 'How it was trained is not documented' in text


def test_files_of_an_enemy(tmp_path, config):
    """Text of a run is shown as text, whatever it is; numbers that are none, and lines without an end, are left out."""
    names = [ATTACK, '```', 'https://evil.example']
    data = networks(names, path=f'C:\\Users\\me\\{ATTACK[:60]}')
    folder = make_run(tmp_path / 'run', config, data)
    digest = network_sha256(data['G_ema'])
    write_metric(folder, 'evil', {ATTACK: 1.5, 'nan': float('nan'), 'text': ATTACK, 'big': 10**400}, digest)
    with open(folder / 'metric-evil.jsonl', 'a') as file:
        file.write('[' * 2000 + '\n' + json.dumps({'results': 7, 'snapshot_pkl': 8, 'intervals': []}) + '\n')
        file.write('{' + 'x' * 3_000_000)
    provenance = [{'dataset_sha256': None, 'processor': ATTACK, 'device': {'a': [ATTACK] * 9}, 'versions': ATTACK}]
    (folder / 'provenance.json').write_text(json.dumps(provenance))
    (folder / 'stats.jsonl').write_text('\x00' * 1000)
    files = dry_run(tmp_path, f'--run={folder}')
    metadata, text = card_of(files)
    assert 'license' not in metadata and len(text) < 20_000
    assert '\x1b' not in text and '\u202e' not in text and 'could not be read completely' in text
    for secret in ('Users', str(tmp_path)):
        assert secret not in text
    markdown = pytest.importorskip('markdown_it').MarkdownIt('commonmark').enable('table')
    body = text.split('\n---\n', 1)[1]
    tokens = markdown.parse(body)
    inline = [child for token in tokens for child in token.children or []]
    assert not [token for token in [*tokens, *inline] if token.type in ('html_block', 'html_inline')]
    links = {token.attrs['href'] for token in inline if token.type == 'link_open'}
    assert links and all(link.startswith('https://arxiv.org/abs/') for link in links)
    assert [token.attrs['src'] for token in inline if token.type == 'image'] == ['grid.png']
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == 'heading_open']
    assert headings[0] == 'cats' and headings[-1] == 'Files' and len(headings) == 9
    assert any('script' in token.content for token in inline if token.type == 'code_inline')


def test_options_that_cannot_be_read(tmp_path, config):
    folder = make_run(tmp_path / 'run', config)
    (folder / 'training_options.json').write_text('{"G_kwargs": {"class_name": "os.system"}}')
    files = dry_run(tmp_path, f'--run={folder}')
    assert 'training_options.json' not in files
    assert 'could not be read completely' in card_of(files)[1] and '| license | not stated |' in card_of(files)[1]


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize('options, reason', [
    (['--repo=me/x'], 'either a run'),
    (['--run=.', '--network=x.pkl', '--repo=me/x'], 'either a run'),
    (['--run=nothing', '--repo=me/x'], 'is not a folder'),
    (['--run=.', '--repo=me'], "'--repo'"),
    (['--run=.', '--repo=me/../x'], "'--repo'"),
    (['--run=.', '--repo=me/x', '--revision=a..b'], "'--revision'"),
    (['--run=.', '--repo=me/x', '--license=M I T'], "'--license'"),
    (['--run=.', '--repo=me/x', '--data-license=a\nb'], "'--data-license'"),
    (['--run=.', '--repo=me/x', '--dry-run'], 'belong together'),
    (['--run=.', '--repo=me/x', '--dest=x'], 'belong together'),
    (['--run=.', '--repo=me/x', '--dry-run', '--dest=.'], 'is not empty'),
    (['--run=.', '--repo=me/x', '--dry-run', '--dest=new'], 'no network-snapshot'),
    (['--network=f.txt', '--repo=me/x', '--dry-run', '--dest=new'], 'f.txt'),
])  # fmt: skip
def test_usage_errors(tmp_path, monkeypatch, options, reason):
    monkeypatch.chdir(tmp_path)
    Path('f.txt').write_text('text')
    assert reason in run(*options, status=2)
    assert [path.name for path in tmp_path.iterdir()] == ['f.txt']


def test_what_the_hub_refuses(hub, tmp_path, monkeypatch):
    path = write_networks(tmp_path, {'network': make_generator()}).network
    hub.repo('me/public')
    assert 'exists and is public' in run(f'--network={path}', '--repo=me/public', '--private', status=2)
    assert 'no right to write there' in run(f'--network={path}', '--repo=others/net', status=2)
    assert 'must be one of' in run(f'--network={path}', '--repo=me/net', '--license=my-own', status=2)
    monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
    assert 'does not accept the token' in run(f'--network={path}', '--repo=me/net2', status=2)
    monkeypatch.setenv('HF_TOKEN', '')
    assert 'hf auth login' in run(f'--network={path}', '--repo=me/net2', status=2)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    assert 'HF_HUB_OFFLINE' in run(f'--network={path}', '--repo=me/net2', status=2)
    assert hub.messages == [] and 'me/net2' not in hub.repos


def test_the_token_is_not_printed_if_the_hub_sends_it_back(hub, tmp_path):
    path = write_networks(tmp_path, {'network': make_generator()}).network
    answer = {'error': f'you sent {TOKEN}'}
    hub.answers['/api/repos/create'] = lambda request: request.send_json(answer, 400)
    assert 'you sent (token)' in run(f'--network={path}', '--repo=me/net', status=2)
