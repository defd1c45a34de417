"""Put the report of one or more runs together: summary, advice, curves, pictures, data, configuration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dnnlib.text import format_time
from reporting.advice import advise, best_value, has_best_value, maintenance_share
from reporting.charts import Line, as_text, chart
from reporting.markup import escaped, table
from reporting.pictures import data_pictures, run_pictures
from reporting.run_record import Curve, RunRecord
from reporting.samples import Samples
from reporting.style import STYLE
from training.method_options import DEFAULT_AUG
from training.options import Options
from training.presets import DEFAULT_AUGPIPE, get_preset

MAX_RUNS = 20

_MAX_ROWS = 200  # of the table of differences
_MAX_SHOWN_FINDINGS = 5  # names of each kind
_MAX_JSON = 50_000  # characters of a configuration
_PRESET_OF_OPTION = {
    'loss': 'loss',
    'gamma': 'r1_gamma',
    'd_reg_interval': 'd_reg_interval',
    'kimg': 'total_kimg',
    'batch': 'batch_size',
    'cbase': 'channel_base',
    'cmax': 'channel_max',
    'glr': 'lr',
    'dlr': 'd_lr',
    'map_depth': 'mapping_layers',
    'mbstd_group': 'mbstd_group',
}
_NAMED_DEFAULTS = {'aug': DEFAULT_AUG, 'augpipe': DEFAULT_AUGPIPE}  # of options that are None if they are not given

# Title, unit, statistics with their labels, note
_CHARTS: list[tuple[str, str, dict[str, str], str]] = [
    (
        'Losses',
        'loss',
        {'Loss/G/loss': 'G', 'Loss/D/loss': 'D'},
        'D near 1.39 guesses, near 0 it tells all images apart.',
    ),
    (
        'Outputs of the discriminator',
        'score',
        {'Loss/scores/real': 'real', 'Loss/scores/fake': 'generated'},
        'The further they are apart, the surer it is.',
    ),
    (
        'Sign statistic',
        'mean sign',
        {'Loss/signs/real': 'real', 'Loss/signs/fake': 'generated'},
        'Near 1 for real images: the discriminator overfits.',
    ),
    ('Augmentation', 'strength p', {'Progress/augment': 'p', 'Progress/apa': 'p of APA'}, 'Above 0.8 it may leak.'),
    (
        'Overfitting on held-out images',
        'r_v',
        {'Validation/r_v': 'r_v'},
        '0: held-out images look like training images; 1: they look generated, so the others are memorized.',
    ),
    (
        'Outputs for held-out images',
        'score',
        {'Validation/held_out': 'held out', 'Validation/real': 'training'},
        'Where they part, the discriminator has begun to memorize.',
    ),
    (
        'Penalties',
        'penalty',
        {'Loss/r1_penalty': 'R1', 'Loss/r2_penalty': 'R2', 'Loss/pl_penalty': 'path length'},
        'Squared norms, without their weights.',
    ),
    ('Speed', 'images per second', {'images/s': 'images/s'}, 'Without snapshots and metrics.'),
    ('Time', 'hours', {'Timing/total_hours': 'total'}, 'Including snapshots and metrics.'),
    (
        'Memory',
        'GiB',
        {'Resources/cpu_mem_gb': 'process', 'Resources/peak_gpu_mem_gb': 'GPU'},
        'Peaks; those of the GPU since the last tick.',
    ),
]

_FROM_ZERO = ('Augmentation', 'Penalties', 'Speed', 'Time', 'Memory')


def build_page(records: Sequence[RunRecord], samples: Mapping[str, Samples], written_at: str) -> str:
    """Return the HTML of a report.

    Args:
        records: The runs, `MAX_RUNS` at most.
        samples: Generated pictures by the path of the run; runs may be left out.
        written_at: Date and time, as text.
    """
    title = records[0].name if len(records) == 1 else f'{len(records)} training runs'
    is_one_of_many = len(records) > 1
    headings = [
        f'{short_name(records, index)}: {record.name}' if is_one_of_many else '' for index, record in enumerate(records)
    ]
    runs = list(zip(records, headings))
    sections = [
        _section('Summary', _summary(records)),
        _section('What to try next', ''.join(_advice(record, heading) for record, heading in runs)),
        _section('Metrics', _metric_charts(records)),
        _section('Curves', _statistic_charts(records)),
        _section('Images', ''.join(_images(record, samples, heading) for record, heading in runs)),
        _section('Data', ''.join(_data(record, heading) for record, heading in runs)),
        _section('Differences between the runs', _differences(records)),
        _section('Configuration', ''.join(_configuration(record, heading) for record, heading in runs)),
        _section('Problems with files', ''.join(_problems(record) for record in records)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        # Nothing is loaded from anywhere, and nothing is executed, whatever the directories of the runs contain.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<title>{escaped(title)}</title><style>{STYLE}</style></head><body>'
        f'<header><h1>{escaped(title)}</h1><p>Report of {escaped(written_at)}</p></header>'
        f'<main>{"".join(sections)}</main></body></html>\n'
    )


def _section(title: str, content: str) -> str:
    return f'<section><h2>{escaped(title)}</h2>{content}</section>' if content else ''


def _run_heading(heading: str) -> str:
    return f'<h3>{escaped(heading)}</h3>' if heading else ''


# ---------------------------------------------------------------------------------------------------------------------
# Summary and advice


def _summary(records: Sequence[RunRecord]) -> str:
    facts = [_facts(record) for record in records]
    names = dict.fromkeys(name for row in facts for name in row)
    rows = [(name, *(row.get(name, '') for row in facts)) for name in names]
    if len(records) == 1:
        return table(['', 'value'], rows, 'The run in figures')
    rows.insert(0, ('directory', *(record.name for record in records)))
    head = ['', *(short_name(records, index) for index in range(len(records)))]
    return table(head, rows, 'The runs in figures')


def _facts(record: RunRecord) -> dict[str, str]:
    """Return what the summary says of a run: progress, best values, hardware, cost."""
    facts: dict[str, str] = {}
    config, kimg, hours = record.config, record.curve('Progress/kimg'), record.curve('Timing/total_hours')
    if kimg is not None:
        total = '' if config is None else f' of {as_text(config.total_kimg)}'
        facts['images shown'] = f'{as_text(kimg.last)}{total} thousand'
    if config is not None:
        size = config.training_set_kwargs.get('max_size')
        facts['training images'] = '' if size is None else f'{size:,}'
    for name, curve in [(name, curve) for name, curve in record.metrics.items() if has_best_value(name)][:4]:
        value, at = best_value(name, curve)
        facts[f'best {name}'] = f'{as_text(value)} at {as_text(at)} kimg'
    if hours is not None:
        facts['time'] = format_time(hours.last * 3600)
        if config is not None and config.num_gpus > 1:
            facts['time of all processes'] = format_time(hours.last * 3600 * config.num_gpus)
    speed = images_per_second(record)
    if speed is not None:
        facts['images per second'] = as_text(speed.last_mean())
    share = maintenance_share(record)
    if share is not None:
        facts['snapshots and metrics'] = f'{share:.0%} of the time'
    for name, label in (('Resources/cpu_mem_gb', 'memory'), ('Resources/peak_gpu_mem_gb', 'GPU memory')):
        memory = record.curve(name)
        if memory is not None and max(memory.values) > 0:
            facts[label] = f'{max(memory.values):.2f} GiB'
    return facts | _hardware(record)


def _hardware(record: RunRecord) -> dict[str, str]:
    facts: dict[str, str] = {}
    if record.config is not None:
        facts['processes'] = f'{record.config.num_gpus} on {record.config.device}'
    if record.starts:
        last = record.starts[-1]
        device = last.get('device')
        facts['hardware'] = str(last.get('processor') if device in (None, 'cpu') else device)
        versions = last.get('versions')
        facts['PyTorch'] = str(versions.get('torch', '')) if isinstance(versions, dict) else ''
        facts['starts'] = str(len(record.starts))
    return facts


def images_per_second(record: RunRecord) -> Curve | None:
    """Return the speed of the training, without what happens between ticks."""
    seconds = record.curve('Timing/sec_per_kimg')
    if seconds is None:
        return None
    curve = Curve()
    for kimg, value in zip(seconds.kimg, seconds.values):
        if value > 0:
            curve.add(kimg, 1000 / value)
    return curve if curve.values else None


def _advice(record: RunRecord, heading: str) -> str:
    items = ''.join(
        f'<li><strong>{escaped(item.action)}</strong> {escaped(item.reason)}</li>' for item in advise(record)
    )
    content = f'<ol class="advice">{items}</ol>' if items else '<p>No rule applies: nothing stands out.</p>'
    return _run_heading(heading) + content


# ---------------------------------------------------------------------------------------------------------------------
# Charts


def curve_charts(record: RunRecord) -> str:
    """Return the HTML of all charts of one run: metrics, then statistics."""
    return _metric_charts([record]) + _statistic_charts([record])


def _statistic_charts(records: Sequence[RunRecord]) -> str:
    figures = []
    for title, unit, names, note in _CHARTS:
        present = [name for name in names if any(_has_values(record, name) for record in records)]
        lines = []
        for index, record in enumerate(records):
            for position, name in enumerate(present):
                curve = images_per_second(record) if name == 'images/s' else record.curve(name)
                if curve is not None:
                    lines.append(_line(records, index, curve, names[name], position, len(present)))
        from_zero = title in _FROM_ZERO
        figures.append(chart(title, unit, lines, note, _guide(title, records), from_zero))
    return _grid_of(figures)


def _line(records: Sequence[RunRecord], index: int, curve: Curve, label: str, position: int, num_labels: int) -> Line:
    """Return a line of a run: with several runs, colors tell the runs apart, and dashes what is shown."""
    if len(records) == 1:
        return Line(label, curve, position, is_dashed=position > 0)
    name = short_name(records, index)
    return Line(f'{name}: {label}' if num_labels > 1 else name, curve, index, is_dashed=position > 0)


def short_name(records: Sequence[RunRecord], index: int) -> str:
    """Return the number of a run if that tells it apart from the others, or else its position."""
    number = records[index].name.split('-')[0]
    numbers = [record.name.split('-')[0] for record in records]
    if numbers.count(number) == 1 and number.isdigit():
        return f'run {number}'
    return f'run {index + 1}'


def _has_values(record: RunRecord, name: str) -> bool:
    """Return whether a statistic is worth drawing: not that of a GPU that is not there, or of nothing at all."""
    curve = record.curve('Timing/sec_per_kimg' if name == 'images/s' else name)
    if curve is None:
        return False
    return name not in ('Resources/peak_gpu_mem_gb', 'Progress/apa') or max(curve.values) > 0


def _guide(title: str, records: Sequence[RunRecord]) -> float | None:
    """Return the target of ADA for the chart of the statistic that it follows, if all runs have the same."""
    heuristic = {'Sign statistic': 'rt', 'Overfitting on held-out images': 'rv'}.get(title)
    targets = {
        None if record.config is None or record.config.ada_heuristic != heuristic else record.config.ada_target
        for record in records
    }
    return targets.pop() if len(targets) == 1 else None


def _metric_charts(records: Sequence[RunRecord]) -> str:
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    figures = []
    for name in names[:50]:
        lines = [
            _line(records, index, record.metrics[name], name, 0, 1)
            for index, record in enumerate(records)
            if name in record.metrics
        ]
        has_intervals = any(low is not None for line in lines for low in line.curve.low)
        figures.append(chart(name, name, lines, 'Bars are intervals of 95%.' if has_intervals else ''))
    return _grid_of(figures)


def _grid_of(figures: Sequence[str]) -> str:
    content = ''.join(figures)
    return f'<div class="charts">{content}</div>' if content else ''


# ---------------------------------------------------------------------------------------------------------------------
# Images and data


def _images(record: RunRecord, samples: Mapping[str, Samples], heading: str) -> str:
    content = run_pictures(record, samples.get(record.run_dir.path))
    return _run_heading(heading) + content if content else ''


def _data(record: RunRecord, heading: str) -> str:
    if record.config is None:
        return ''
    kwargs = record.config.training_set_kwargs
    parts = [f'<p>{escaped(kwargs["path"])}</p>']
    skipped = record.curve('Data/skipped_images')
    if skipped is not None and max(skipped.values) > 0:
        parts.append(f'<p>Unreadable images, replaced by others: up to {max(skipped.values):.2%} in a tick.</p>')
    findings = record.findings
    if findings is None:
        parts.append(
            '<p>The images were not checked. <code>python dataset_tool.py --check=DATA</code> looks for duplicates, '
            'empty and blurred images and other problems; the next report shows what it finds.</p>'
        )
    else:
        parts.append(f'<p>{findings["num_images"]:,} images were checked.</p>')
        notes = ''.join(f'<li>{escaped(note)}</li>' for note in findings['notes'])
        parts.append(f'<ul>{notes}</ul>' if notes else '')
        rows = [
            (
                kind['title'],
                f'{kind["count"]:,}',
                kind['hint'],
                ', '.join(n for n, _r in kind['images'][:_MAX_SHOWN_FINDINGS]),
            )
            for kind in findings['kinds']
        ]
        parts.append(table(['finding', 'images', 'meaning', 'such as'], rows, 'What the check of the images has found'))
        parts.append(data_pictures(record))
    return _run_heading(heading) + ''.join(parts)


# ---------------------------------------------------------------------------------------------------------------------
# Configuration


def _configuration(record: RunRecord, heading: str) -> str:
    if record.config is None:
        return ''
    rows = changed_options(record)
    content = table(['option', 'this run', 'default'], rows, 'Options that differ from the preset and the defaults')
    if not rows:
        content = '<p>All options have their defaults.</p>'
    text = json.dumps(dataclasses.asdict(record.config), indent=2)[:_MAX_JSON]
    commands = ''.join(f'<li><code>{escaped(start.get("command", ""))}</code></li>' for start in record.starts[-20:])
    return (
        _run_heading(heading)
        + content
        + (f'<details><summary>Commands</summary><ol>{commands}</ol></details>' if commands else '')
        + f'<details><summary>All of it</summary><pre tabindex="0">{_escaped_long(text)}</pre></details>'
    )


def _escaped_long(text: str) -> str:
    return ''.join(escaped(line) + '\n' for line in text.split('\n'))


def changed_options(record: RunRecord) -> list[tuple[str, str, str]]:
    """Return option, value and default of the options that differ from the preset and the defaults."""
    assert record.config is not None
    given = record.config.options or {}
    defaults = {item.name: item.default for item in dataclasses.fields(Options)}
    preset_values = _preset_values(record)
    rows = []
    for name, value in given.items():
        default = defaults.get(name, dataclasses.MISSING)
        if default is dataclasses.MISSING or name in ('data', 'outdir'):
            continue
        if value != (list(default) if isinstance(default, tuple) else default):
            shown = {**_NAMED_DEFAULTS, **preset_values}.get(name, default)
            if value == shown:
                continue
            rows.append((f'--{name.replace("_", "-")}', as_cell(value), 'none' if shown is None else as_cell(shown)))
    return rows


def _preset_values(record: RunRecord) -> dict[str, Any]:
    """Return the values of the preset by the options that replace them; {} if the preset is not known."""
    config = record.config
    assert config is not None
    resolution = config.training_set_kwargs.get('resolution')
    if resolution is None:
        return {}
    try:
        preset = get_preset((config.options or {}).get('cfg', 'auto'), resolution, config.num_gpus)
    except (ValueError, KeyError, TypeError):
        return {}
    return {option: getattr(preset, name) for option, name in _PRESET_OF_OPTION.items()}


def as_cell(value: Any) -> str:
    """Format a value of a configuration for a table."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f'{value:.6g}'
    if isinstance(value, (list, tuple)):
        return ', '.join(map(as_cell, value)) or 'none'
    return str(value)


def _differences(records: Sequence[RunRecord]) -> str:
    if len(records) < 2:
        return ''
    flat = [flattened({} if record.config is None else dataclasses.asdict(record.config)) for record in records]
    names = sorted(set().union(*flat) - {'run_dir', 'options'})
    rows = []
    for name in names:
        cells = [as_cell(values[name]) if name in values else '' for values in flat]
        if len(set(cells)) > 1 and not name.startswith('options.'):
            rows.append((name, *cells))
    head = ['field', *(short_name(records, index) for index in range(len(records)))]
    if not rows:
        return '<p>The configurations are the same.</p>'
    return table(head, rows[:_MAX_ROWS], 'Fields of the configuration that differ')


def flattened(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return nested dicts as one, with names such as 'loss_kwargs.r1_gamma'."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def _problems(record: RunRecord) -> str:
    items = ''.join(f'<li>{escaped(record.name)}: {escaped(problem)}</li>' for problem in record.problems)
    return f'<ul>{items}</ul>' if items else ''
