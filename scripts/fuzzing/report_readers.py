"""The readers of what reports show, of the findings and lists of checks, and of the package of emoji."""

from __future__ import annotations

import io
import json
from pathlib import Path

import PIL.Image

from dataset_conversion.checking.files import read_findings
from dataset_conversion.emoji_package import open_emoji
from dataset_conversion.exclusion import read_exclusions
from reporting.page import build_page
from reporting.run_record import read_run
from scripts.fuzzing import structured_mutations as structured
from scripts.fuzzing.file_reader import FileReader, new_folder
from scripts.fuzzing.mutations import BYTE_MUTATIONS
from training.options import Options, build_config, open_training_set
from training.run.run_dir import RunDir

_EXPECTED = (ValueError, OSError)


def _png() -> bytes:
    file = io.BytesIO()
    PIL.Image.new('RGB', (64, 64), 'red').save(file, 'png')
    return file.getvalue()


def _write_report(path: Path) -> None:
    page = build_page([read_run(str(path.parent))], {}, 'now')
    assert '<script' not in page


def report_readers(folder: Path, data: Path) -> list[FileReader]:
    """Return the readers of the files in a run directory that reports show."""
    options = Options(outdir=str(folder), data=str(data), cond=True, cfg='tiny', batch=4, device='cpu')
    config = build_config(options, open_training_set(options), 'cpu', 1)
    run_dir = RunDir(str(new_folder(folder / '00000-run')))
    config.save(run_dir.options_json)
    means = {'Progress/kimg': 1.0, 'Loss/G/loss': 2.0, 'Loss/D/loss': 0.5, 'Timing/sec_per_kimg': 3.0}
    line = json.dumps({name: {'num': 1, 'mean': value, 'std': 0} for name, value in means.items()})
    statistics = ''.join(f'{line}\n' for _ in range(6)).encode()
    result = {'results': {'fid50k': 3.5}, 'snapshot_pkl': 'network-snapshot-000001.pkl', 'bootstrap': {'low': 3}}
    of_lines = [*BYTE_MUTATIONS, *[structured.mutate_json_lines] * len(BYTE_MUTATIONS)]
    of_png = [*BYTE_MUTATIONS, *[structured.mutate_png] * 2]
    Path(run_dir.stats_jsonl).write_bytes(statistics)
    values = {'metric': f'{json.dumps(result)}\n'.encode()}
    metric, grid = Path(run_dir.metric_jsonl('fid50k')), Path(run_dir.fakes_png(1000))
    stats = Path(run_dir.stats_jsonl)
    return [
        FileReader('statistics in a report', stats, {'stats': statistics}, of_lines, _write_report, _EXPECTED),
        FileReader('metric in a report', metric, values, of_lines, _write_report, _EXPECTED),
        FileReader('grid in a report', grid, {'grid': _png()}, of_png, _write_report, _EXPECTED, 1500),
    ]


def check_readers(folder: Path) -> list[FileReader]:
    """Return the readers of findings and lists, and of the package of emoji."""
    kind = {'kind': 'empty', 'title': 'Empty', 'hint': 'nothing', 'count': 1, 'images': [['a.png', 'plain']]}
    findings = {'data': 'x', 'num_images': 3, 'notes': ['a note'], 'class_sizes': [1, 2], 'kinds': [kind]}
    of_json = [*BYTE_MUTATIONS, *[structured.mutate_json] * 3 * len(BYTE_MUTATIONS)]
    table = [{'short_name': 'a', 'category': 'B & C', 'image': '1f355.png', 'has_img_google': True}]
    members = [('package/emoji.json', json.dumps(table).encode()), ('package/img/google/64/1f355.png', _png())]
    of_package = [*BYTE_MUTATIONS, *map(structured.tar_gz_mutation, [*BYTE_MUTATIONS, structured.mutate_json])]
    contents = {'findings': json.dumps(findings).encode()}
    package = new_folder(folder / 'emoji') / 'emoji-datasource-google-1.tgz'
    lists = {'list': b'# a comment\na.png\tempty\n'}
    place = new_folder(folder / 'check')
    return [
        FileReader('findings of a check', place / 'findings.json', contents, of_json, read_findings, _EXPECTED),
        FileReader('excluded images', place / 'list.txt', lists, list(BYTE_MUTATIONS), read_exclusions, _EXPECTED),
        FileReader('emoji', package, {'emoji': structured.tar_gz_of(members)}, of_package, open_emoji, _EXPECTED),
    ]
