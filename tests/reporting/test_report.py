"""report.py and the report of train.py: what is on the page, damaged and hostile directories, several runs."""

import base64
import html.parser
import io
import json
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import report
import train
from dataset_conversion.checking.files import default_folder
from reporting.advice import advise
from reporting.charts import as_text, ticks
from reporting.run_record import MAX_POINTS, read_run
from reporting.samples import NearestImages, make_samples
from reporting.writing import SnapshotReport, write_report
from training.networks_stylegan2 import Generator

ATTACK = '<script>alert(1)</script><img src=https://example.com/x onerror=alert(2)>"\'\x1b[2J\u202e'


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The configuration of a small run, as train.py makes it."""
    folder = tmp_path_factory.mktemp('data') / 'photos'
    folder.mkdir()
    rng = np.random.RandomState(0)
    for index in range(24):
        PIL.Image.fromarray(rng.randint(0, 256, [8, 8, 3], dtype=np.uint8)).save(folder / f'{index:02d}.png')
    arguments = ['--data', folder, '--outdir', folder.parent, '--dry-run', '--cfg=tiny', '--metrics=none', '--gamma=2']
    result = CliRunner().invoke(train.main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return json.JSONDecoder().raw_decode(result.output[result.output.index('{') :])[0]


def stats_line(kimg: float, **means: float) -> str:
    values = {
        'Progress/kimg': kimg,
        'Progress/augment': 0.3,
        'Loss/G/loss': 1 + kimg / 10,
        'Loss/D/loss': 1.0,
        'Loss/signs/real': 0.5,
        'Loss/signs/fake': -0.5,
        'Timing/total_hours': kimg / 100,
        'Timing/sec_per_kimg': 20.0,
        'Timing/sec_per_tick': 20.0,
        'Timing/maintenance_sec': 1.0,
        'Resources/cpu_mem_gb': 0.5,
        **{name.replace('__', '/'): value for name, value in means.items()},
    }
    return json.dumps(
        {name: {'num': 1, 'mean': value, 'std': 0.0} for name, value in values.items()} | {'timestamp': 1}
    )


def make_run(path: Path, config: dict, lines: list[str] | None = None, **changes: object) -> Path:
    path.mkdir(parents=True)
    (path / 'training_options.json').write_text(json.dumps({**config, **changes}))
    lines = [stats_line(kimg) for kimg in range(1, 9)] if lines is None else lines
    (path / 'stats.jsonl').write_text(''.join(f'{line}\n' for line in lines))
    rng = np.random.RandomState(1)
    for name in ('reals.png', 'fakes_init.png', 'fakes000004.png', 'fakes000008.png'):
        PIL.Image.fromarray(rng.randint(0, 256, [80, 96, 3], dtype=np.uint8)).save(path / name)
    return path


def metric_line(kimg: int, value: float, **more: object) -> str:
    return json.dumps(
        {'results': {'fid50k_full': value}, 'metric': 'fid50k_full', 'snapshot_pkl': f'network-snapshot-{kimg:06d}.pkl'}
        | more
    )


class Page(html.parser.HTMLParser):
    """What a page consists of; checks on the way that it is closed properly and loads nothing."""

    VOID = {'meta', 'img'}
    ALLOWED = set(
        'html head meta title style body header main section h1 h2 h3 p ul ol li strong b code pre table caption thead '
        'tbody tr th td div figure figcaption img svg g line text circle polyline title span details summary'.split()
    )

    def __init__(self, path: Path):
        super().__init__()
        self.text, self.images, self.headings, self.charts = '', [], [], []
        self._open: list[str] = []
        content = path.read_text(encoding='utf-8')
        assert '\x1b' not in content and '\u202e' not in content
        self.feed(content)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert tag in self.ALLOWED, tag
        assert not [name for name in attributes if name.startswith('on') or name in ('href', 'srcset', 'style')]
        if tag == 'img':
            assert attributes['alt'] and re.match(r'data:image/(png|jpeg);base64,', attributes['src'])
            self.images.append(base64.b64decode(attributes['src'].split(',')[1]))
        if tag == 'svg' and 'role' in attributes:
            assert attributes['aria-label']
            self.charts.append(attributes['aria-label'])
        if re.fullmatch('h[1-6]', tag):
            assert int(tag[1]) <= (self.headings[-1] if self.headings else 0) + 1, 'a level is left out'
            self.headings.append(int(tag[1]))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != 'style':
            self.text += f'{data} '


def written(run_dirs: list[Path], path: Path) -> Page:
    write_report(path, [str(run_dir) for run_dir in run_dirs], {})
    return Page(path)


def call(*args: object, status: int = 0) -> str:
    result = CliRunner().invoke(report.main, list(map(str, args)))
    assert result.exit_code == status, result.output
    return ' '.join(result.output.split())


# ---------------------------------------------------------------------------------------------------------------------
# One run


def test_a_page_about_a_run(tmp_path: Path, config: dict):
    options = {**config['options'], 'aug': 'noaug', 'loss': 'nonsaturating'}
    run = make_run(tmp_path / '00000-photos-tiny', config, options=options)
    interval = {'low': 38.0, 'high': 45.0, 'coverage': 0.95, 'num_resamples': 100}
    lines = [metric_line(2, 60.0), metric_line(4, 40.0), metric_line(4, 41.0, bootstrap=interval)]
    (run / 'metric-fid50k_full.jsonl').write_text('\n'.join(lines))
    start = {'command': 'train.py --gamma=2', 'processor': 'A CPU', 'device': 'cpu', 'versions': {'torch': '2.9'}}
    (run / 'provenance.json').write_text(json.dumps([start]))
    output = call(run, '--samples=0')
    assert 'report.html' in output
    page = Page(run / 'report.html')
    assert page.headings.count(1) == 1
    for part in ('Summary', 'What to try next', 'Metrics', 'Curves', 'Images', 'Data', 'Configuration'):
        assert part in page.text
    assert 'Problems with files' not in page.text
    assert '41 at 4 kimg' in page.text  # of two lines for a snapshot, the last counts
    assert 'A CPU' in page.text and '50' in page.text and '4m 48s' in page.text
    assert re.search(r'--gamma\s+2\s+0.05', page.text)  # the default of the preset
    assert re.search(r'--aug\s+noaug\s+ada', page.text) and re.search(r'--metrics\s+none\s+fid50k_full', page.text)
    assert '--loss' not in page.text  # the one of the preset
    losses = next(chart for chart in page.charts if chart.startswith('Losses'))
    assert 'G: from 1.1 to 1.8, lowest 1.1, highest 1.8' in losses
    assert len(page.images) == 4
    assert all(PIL.Image.open(io.BytesIO(image)).width <= 640 for image in page.images)


def test_the_network_itself_is_shown(tmp_path: Path, config: dict):
    """With a network, the report has an interpolation and the nearest training images."""
    run = make_run(tmp_path / 'run', config)
    torch.manual_seed(0)
    G = Generator(
        z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=3, synthesis_kwargs={'channel_max': 4}
    ).eval()
    dataset = NearestImages(config['training_set_kwargs'])
    samples = make_samples(G, 8, dataset)
    assert samples.strip.size == (9 * 8, 8) and samples.neighbors.size == (8 * 8, 4 * 8)
    assert samples.num_compared == samples.num_training == 24
    write_report(tmp_path / 'a.html', [str(run)], {str(run): samples})
    page = Page(tmp_path / 'a.html')
    assert 'Interpolation in w (after 8 kimg)' in page.text and 'nearest of all 24 training images' in page.text


def test_copies_are_found(config: dict):
    dataset = NearestImages(config['training_set_kwargs'])
    path = config['training_set_kwargs']['path']
    original = np.asarray(PIL.Image.open(Path(path, '07.png'))).transpose(2, 0, 1)
    noise = np.random.RandomState(0).randint(-20, 20, original.shape)
    query = np.clip(original + noise, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(dataset.find(query[None], 3)[0, 0], original)


def test_training_images_that_cannot_be_read(tmp_path: Path, config: dict):
    run = make_run(tmp_path / 'run', config)
    torch.manual_seed(0)
    G = Generator(8, 0, 8, 8, 3, synthesis_kwargs={'channel_max': 4}).eval()
    data = tmp_path / 'data'
    data.mkdir()
    for path in sorted(Path(config['training_set_kwargs']['path']).iterdir())[:3]:
        (data / path.name).write_bytes(path.read_bytes())
    kwargs = {**config['training_set_kwargs'], 'path': str(data), 'max_size': None}
    (data / '01.png').write_bytes((data / '01.png').read_bytes()[:60])
    SnapshotReport(kwargs)(G, str(run), 8000)
    assert 'nearest of 2 of 3 training images' in Page(run / 'report.html').text
    snapshot_report = SnapshotReport({**kwargs, 'path': str(tmp_path / 'moved')})
    snapshot_report(G, str(run), 8000)
    text = Page(run / 'report.html').text
    assert 'The training images cannot be read' in text and 'Interpolation in w' in text


def test_the_best_values_of_metrics(tmp_path: Path, config: dict):
    run = make_run(tmp_path / 'run', config)
    shares = {'memorization_share': (0.25, 0.5), 'memorization_ratio': (0.75, 1.25), 'prdc_recall': (0.375, 0.125)}
    shares['prdc_nothing'] = (0, 0)
    for metric in ('memorization', 'prdc'):
        lines = [
            {'results': {name: both[i] for name, both in shares.items() if name.startswith(metric)},
             'metric': metric, 'snapshot_pkl': f'network-snapshot-{kimg:06d}.pkl', 'timestamp': i}
            for i, kimg in enumerate((4, 8))
        ]  # fmt: skip
        (run / f'metric-{metric}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    summary = written([run], tmp_path / 'a.html').text
    assert 'best memorization_share' in summary and '0.25 at 4 kimg' in summary
    assert 'best prdc_recall' in summary and '0.375 at 4 kimg' in summary
    assert 'best memorization_ratio' not in summary and 'memorization_ratio' in summary
    axis = re.search(r'prdc_nothing ([-\d. ]+) images shown', summary)
    assert axis and axis[1].startswith('0 '), 'where all values are 0, the axis begins at 0'


def test_the_gallery_of_the_metric_and_the_check_of_the_data(tmp_path: Path, config: dict):
    run = make_run(tmp_path / 'run', config)
    PIL.Image.new('RGB', (3000, 300)).save(run / 'memorization-000008.png')
    folder = default_folder(config['training_set_kwargs']['path'])
    folder.mkdir()
    kind = {'kind': 'duplicate', 'title': 'Duplicates', 'hint': ATTACK, 'count': 5, 'images': [['a.png', 'like b']]}
    findings = {'data': 'x', 'num_images': 24, 'notes': [ATTACK], 'class_sizes': None, 'kinds': [kind]}
    (folder / 'findings.json').write_text(json.dumps(findings))
    PIL.Image.new('RGB', (1200, 400)).save(folder / 'contact-sheet.png')
    page = written([run], tmp_path / 'a.html')
    assert 'memorization-000008.png' in page.text and 'Duplicates' in page.text and 'a.png' in page.text
    assert '5 images are duplicates' in page.text
    assert len(page.images) == 6
    (folder / 'findings.json').write_text('{"kinds": 3}')
    assert 'findings.json' in written([run], tmp_path / 'a.html').text
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


# ---------------------------------------------------------------------------------------------------------------------
# Advice


def titles(run: Path) -> str:
    return ' '.join(item.action for item in advise(read_run(str(run))))


@pytest.mark.parametrize(
    'means, changes, expected',
    [
        ({'Progress__augment': 0.9}, {}, 'a larger --gamma, or more images'),
        ({'Progress__augment': 0.0}, {}, 'a smaller --gamma'),
        ({'Loss__D__loss': 0.1}, {}, '--gamma=6 (now 2)'),
        ({'Loss__D__loss': 1.38}, {}, '--gamma=0.667 (now 2)'),
        ({'Loss__signs__real': 0.9}, {'ada_target': None}, '--aug=ada'),
        ({'Validation__r_v': 0.8}, {}, 'means against overfitting'),
        ({'Data__skipped_images': 0.01}, {}, '--check=DATA'),
        ({'Gradients__nonfinite__Gmain': 0.5}, {}, '--fp32=1'),
        ({'Timing__maintenance_sec': 40.0}, {}, 'a larger --snap'),
    ],
)
def test_advice_by_stated_rules(tmp_path: Path, config: dict, means: dict, changes: dict, expected: str):
    good = make_run(tmp_path / 'good', config, [stats_line(kimg) for kimg in range(1, 13)])
    assert expected not in titles(good)
    bad = make_run(tmp_path / 'bad', config, [stats_line(kimg, **means) for kimg in range(1, 13)], **changes)
    assert expected in titles(bad)


def test_when_to_stop(tmp_path: Path, config: dict):
    run = make_run(tmp_path / 'run', config)
    for values, expected in (
        ([90, 50, 30, 34, 39, 45], 'Stop, and use the network after 2 kimg.'),
        ([90, 70, 50, 40, 33, 25], 'Train longer'),
    ):
        lines = [metric_line(kimg, value) for kimg, value in enumerate(values)]
        (run / 'metric-fid50k_full.jsonl').write_text('\n'.join(lines))
        assert expected in titles(run)
    short = make_run(tmp_path / 'short', config, [stats_line(1)])
    assert titles(short) == 'Wait.'


# ---------------------------------------------------------------------------------------------------------------------
# Several runs


def test_several_runs(tmp_path: Path, config: dict):
    runs = [make_run(tmp_path / f'0000{number}-photos', config) for number in range(3)]
    changed = {**config, 'loss_kwargs': {**config['loss_kwargs'], 'r1_gamma': 7.5}}
    runs.append(make_run(tmp_path / '00003-photos-gamma7.5', changed))
    assert 'required' in call(*runs, status=2)
    call(*runs, '--output', tmp_path / 'all.html', '--samples=0')
    page = Page(tmp_path / 'all.html')
    assert '4 training runs' in page.text
    assert 'run 00003: G' in page.text  # in the legend
    losses = next(chart for chart in page.charts if chart.startswith('Losses'))
    assert losses.count(': from') == 8
    assert re.search(r'loss_kwargs.r1_gamma\s+2\s+2\s+2\s+7.5', page.text)
    page = written(runs[:2], tmp_path / 'two.html')
    assert 'The configurations are the same.' in page.text
    with pytest.raises(ValueError, match='21 runs are too many'):
        write_report(tmp_path / 'b.html', [str(runs[0])] * 21, {})


# ---------------------------------------------------------------------------------------------------------------------
# Damaged and hostile directories


def png_bomb(width: int, height: int) -> bytes:
    chunks = [b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0), b'IDAT', b'IEND']
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk)) for chunk in chunks
    )


def test_everything_hostile_at_once(tmp_path: Path, config: dict):
    lines = [
        *[stats_line(kimg) for kimg in range(1, 7)],
        json.dumps({'Progress/kimg': {'mean': 7}, 'Loss/G/loss': {'mean': float('nan')}, ATTACK: {'mean': 1}}),
        '{"Progress/kimg": {"mean": 8}, "Loss/G/loss": {"mean": 1e999}, "Loss/D/loss": {"mean": "x"}}',
        '{"Progress/kimg": {"mean": -Infinity}}',
        '{"Progress/kimg": {"mean": ' + '9' * 5000 + '}}',
        '[' * 5000,
        '[1, 2]',
        'null',
        '\x00\x00\x00',
        '{"Progress/kimg": {"mean": 9}, "Loss/G',
    ]
    options = {**config['options'], 'desc': ATTACK[:100], 'resume': ATTACK}
    run = make_run(tmp_path / ATTACK.replace('/', '-')[:80], config, lines, options=options, resume_pkl=ATTACK)
    lines = [
        metric_line(2, 3.0, results={ATTACK: 5.0, 'b': None, 'c': float('inf'), 'd': 10**400}),
        metric_line(4, 1.0, bootstrap=3),
    ]
    (run / 'metric-fid.jsonl').write_text('\n'.join([*lines, '{"results": {}']))
    (run / 'metric-a.jsonl').symlink_to('/dev/zero')
    (run / 'provenance.json').write_text(json.dumps([{'command': ATTACK, 'processor': {'a': ATTACK}, 'device': 'cpu'}]))
    (run / 'fakes000004.png').write_bytes(png_bomb(60_000, 60_000))
    (run / 'fakes000008.png').write_bytes(b'GIF89a' + bytes(100))
    (run / 'reals.png').unlink()
    os.mkfifo(run / 'reals.png')
    (run / 'memorization-1.png').symlink_to('/etc/passwd')
    page = written([run], tmp_path / 'a.html')
    assert '<script>alert(1)</script>' in page.text  # shown as text
    problems = page.text[page.text.index('Problems with files') :]
    assert 'stats.jsonl has 5 lines' in problems.replace('  ', ' ') or 'lines that are incomplete' in problems
    assert 'values that are not finite numbers' in problems
    for name in ('fakes000004.png', 'fakes000008.png', 'reals.png', 'memorization-1.png', 'metric-a.jsonl'):
        assert name in problems
    assert 'root:' not in page.text
    losses = next(chart for chart in page.charts if chart.startswith('Losses'))
    assert 'nan' not in losses.lower() and 'inf' not in losses.lower()


def test_files_that_are_missing(tmp_path: Path, config: dict):
    run = make_run(tmp_path / 'run', config)
    for name in ('stats.jsonl', 'reals.png', 'fakes000008.png'):
        (run / name).unlink()
        written([run], tmp_path / 'a.html')
    (run / 'training_options.json').write_text('{"num_gpus": "many"}')
    page = written([run], tmp_path / 'a.html')
    assert 'training_options.json' in page.text and 'stats.jsonl does not exist' in page.text
    (run / 'training_options.json').unlink()
    assert 'is not the directory of a training run' in call(run, status=2)
    assert 'is not a folder' in call(tmp_path / 'nothing', status=2)
    (tmp_path / 'x.txt').touch()
    assert 'must end in .html' in call(run, '--output', tmp_path / 'x.txt', status=2)


def test_long_runs_make_small_pages(tmp_path: Path, config: dict):
    run = make_run(tmp_path / 'run', config, [stats_line(kimg / 10) for kimg in range(1, 5001)])
    curve = read_run(str(run)).statistics['Loss/G/loss']
    assert len(curve.values) <= 2 * MAX_POINTS + 1
    assert curve.kimg[0] == 0.1 and curve.kimg[-1] == 500 and curve.kimg == sorted(curve.kimg)
    write_report(tmp_path / 'a.html', [str(run)], {})
    assert (tmp_path / 'a.html').stat().st_size < 2**20


def test_numbers_on_axes():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
    assert ticks(-7.3, 12) == [-5, 0, 5, 10]
    assert ticks(3, 3) == [3]
    assert [as_text(value) for value in (0, 0.25, 1234.5, 25000, 1e-9, 2e8, -0.125)] == [
        '0', '0.25', '1,234', '25,000', '1e-09', '2e+08', '-0.125'
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# While training


def test_a_snapshot_report_changes_nothing_and_ends_nothing(
    tmp_path: Path, config: dict, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    run = make_run(tmp_path / 'run', config)
    torch.manual_seed(0)
    G = Generator(
        z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=3, synthesis_kwargs={'channel_max': 4}
    ).eval()
    before = {name: value.clone() for name, value in G.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    snapshot_report = SnapshotReport(config['training_set_kwargs'])
    snapshot_report(G, str(run), 8000)
    snapshot_report(G, str(run), 9000)
    assert 'after 9 kimg' in Page(run / 'report.html').text
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())

    monkeypatch.setattr('reporting.writing.build_page', lambda *args: 1 / 0)
    content = (run / 'report.html').read_bytes()
    snapshot_report(G, str(run), 9000)
    assert 'could not be written; training continues. ZeroDivisionError' in capsys.readouterr().err
    assert (run / 'report.html').read_bytes() == content


def test_training_writes_the_report_and_the_same_files_without_it(tmp_path: Path, config: dict, run_script):
    data = config['training_set_kwargs']['path']
    small = ['--cfg=tiny', '--cbase=32', '--cmax=4', '--batch=8', '--kimg=0.032', '--tick=0.008', '--snap=2']
    for name, more in (('with', []), ('without', ['--report=0'])):
        result = run_script(
            'train.py', '--data', data, '--outdir', name, *small, '--device=cpu', '--metrics=none', *more
        )
        assert result.returncode == 0, result.stderr
    (one,), (other,) = (list((tmp_path / name).iterdir()) for name in ('with', 'without'))
    assert 'Interpolation' in Page(one / 'report.html').text and not (other / 'report.html').exists()
    for path in [*one.glob('*.pkl'), *one.glob('*.png')]:
        assert path.read_bytes() == (other / path.name).read_bytes()
    call(one, other, '--output', tmp_path / 'both.html', '--device=cpu')
    assert 'nearest of all 24 training images' in Page(tmp_path / 'both.html').text
