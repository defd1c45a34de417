"""The model card: what a network is, what it was made from, how good it is, how to use it, and where its limits are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dnnlib.text import format_time
from network_files.changes.architectures import STYLEGAN2
from publishing.facts import Facts, MetricValue, base_name, public_changes, source_name
from publishing.markdown import code, front_matter, sentence, table

NOT_STATED = 'not stated'

_MAX_CLASSES = 20
_MAX_OPTIONS = 40
_CHANNELS = {1: 'grayscale', 2: 'grayscale with alpha', 3: 'RGB', 4: 'RGB with alpha'}
_PAPERS = {
    'StyleGAN2-ADA': '[arXiv 2006.06676](https://arxiv.org/abs/2006.06676)',
    'StyleGAN2': '[arXiv 1912.04958](https://arxiv.org/abs/1912.04958)',
    'StyleGAN3': '[arXiv 2106.12423](https://arxiv.org/abs/2106.12423)',
}


@dataclass(frozen=True)
class Terms:
    """What the user says of a network.

    Args:
        repo: 'owner/name'.
        revision: Branch, or None for the main one.
        license: Identifier of the license of the network, or None.
        data_license: License of the training images, or None.
    """

    repo: str
    revision: str | None = None
    license: str | None = None
    data_license: str | None = None

    @property
    def address(self) -> str:
        """The address of the network for `--network`."""
        return f'hf://{self.repo}' + ('' if self.revision is None else f'@{self.revision}')


def card(facts: Facts, terms: Terms, files: Sequence[tuple[str, str]], grid: str, has_training: bool) -> str:
    """Return the text of a model card.

    Args:
        facts: What is known of the network.
        terms: What the user says.
        files: Names of the files beside the card, and what they are.
        grid: What the grid of samples shows.
        has_training: Whether G and D are in the file, with which a training can start.
    """
    sections = [
        ('', _introduction(facts, terms, grid)),
        ('How to use it', _usage(facts, terms, has_training)),
        ('Training data', _data(facts, terms)),
        ('Training', _training(facts)),
        ('Metrics', _metrics(facts)),
        ('Memorization', _memorization(facts)),
        ('Intended use', _INTENDED_USE),
        ('Limits', _limits(facts)),
        ('Files', table(['file', 'content'], [(f'`{name}`', text) for name, text in files])),
    ]
    text = ''.join(f'{f"## {title}" if title else ""}\n\n{content.strip()}\n\n' for title, content in sections)
    return f'{_metadata(facts, terms)}\n{text.strip()}\n'


def _metadata(facts: Facts, terms: Terms) -> str:
    values: dict[str, str | list[str]] = {}
    if terms.license is not None:
        values['license'] = terms.license
    values['library_name'] = 'ada-gan'
    values['pipeline_tag'] = 'unconditional-image-generation'
    conditional = ['class-conditional'] if facts.num_classes else []
    values['tags'] = ['gan', 'image-generation', facts.kind, 'ada', *conditional]
    return front_matter(values)


def _introduction(facts: Facts, terms: Terms, grid: str) -> str:
    size = f'{facts.width}×{facts.height}'
    images = f'{size} {_CHANNELS.get(facts.channels, f"{facts.channels}-channel")} images'
    family = 'StyleGAN2' if facts.kind == STYLEGAN2 else 'StyleGAN3'
    labels = f', conditional on {_count(facts.num_classes, "class", "classes")}' if facts.num_classes else ''
    return (
        f'# {terms.repo.split("/")[1]}\n\n'
        f'A generator of {images}{labels}: {facts.kind} ({_PAPERS[family]}) with {facts.num_parameters:,} parameters, '
        f'trained with ADA-GAN ({_PAPERS["StyleGAN2-ADA"]}).\n\n'
        f'![{grid}](grid.png)\n\n*{grid}. Nothing was selected.*'
    )


def _usage(facts: Facts, terms: Terms, has_training: bool) -> str:
    revision = '' if terms.revision is None else f', revision={terms.revision!r}'
    option = ' --class=0' if facts.num_classes else ''
    label = 'c' if facts.num_classes else 'None'
    labels = f', c [N, {facts.num_classes}] (one-hot)' if facts.num_classes else ''
    training = (
        'The file also has the discriminator, so that a training can start from it: '
        f'`ada-gan train --resume={terms.address} …`.'
        if has_training
        else 'The file has the averaged generator only: no training can start from it.'
    )
    return f"""With ADA-GAN and its extra `hub` installed:

```python
import ada_gan
G = ada_gan.from_pretrained({terms.repo!r}{revision})
```

`G(z, {label})` takes z [N, {facts.z_dim}]{labels} and returns images [N, {facts.channels}, {facts.height}, \
{facts.width}] in [-1, +1]. In a shell:

```sh
ada-gan generate --network={terms.address} --seeds=0-15{option} --outdir=out
```

Opening `network.safetensors` runs no code. {training}"""


# ---------------------------------------------------------------------------------------------------------------------
# Where it is from


def _data(facts: Facts, terms: Terms) -> str:
    kwargs = facts.training_set or {}
    path, number = kwargs.get('path'), kwargs.get('max_size')
    if facts.num_classes == 0:
        classes = 'none'
    elif facts.class_names:
        shown = ', '.join(code(name, 40) for name in facts.class_names[:_MAX_CLASSES])
        more = len(facts.class_names) - _MAX_CLASSES
        classes = f'{facts.num_classes}: {shown}' + (f' and {more:,} more' if more > 0 else '')
    else:
        classes = f'{facts.num_classes}, without names'
    license_of = NOT_STATED if terms.data_license is None else sentence(terms.data_license)
    held_out = None
    config = None if facts.run is None else facts.run.config
    if config is not None and config.validation_set_kwargs is not None:
        count = config.validation_set_kwargs.get('max_size')
        held_out = 'not counted' if count is None else f'{count:,}'
    rows = [
        ('name', NOT_STATED if path is None else code(base_name(path))),
        ('images', NOT_STATED if number is None else f'{number:,}'),
        ('held out of the training', held_out),
        ('size', f'{facts.width}×{facts.height}, {_CHANNELS.get(facts.channels, f"{facts.channels} channels")}'),
        ('classes', classes),
        ('shown with mirror images', _mirroring(facts)),
        ('license', license_of),
        ('SHA-256 of all images and labels', 'not known' if not facts.dataset_sha256 else f'`{facts.dataset_sha256}`'),
    ]
    return table(['', ''], [(name, value) for name, value in rows if value is not None])


def _mirroring(facts: Facts) -> str | None:
    kwargs = facts.training_set
    if kwargs is None:
        return None
    sides = [name for name, key in (('left-right', 'xflip'), ('upside down', 'yflip')) if kwargs.get(key)]
    return ', '.join(sides) or 'no'


def _training(facts: Facts) -> str:
    run = facts.run
    if run is None:
        return 'Only the network is known, not how it was trained.'
    config, kimg = run.config, facts.kimg
    rows = []
    if kimg is not None:
        total = '' if config is None else f' of {config.total_kimg:g}'
        rows.append(('length', f'{kimg:,}{total} thousand images shown'))
    if facts.hours is not None:
        rows.append(('time', format_time(facts.hours * 3600)))
    if run.starts:
        last = run.starts[-1]
        device = last.get('processor') if last.get('device') in (None, 'cpu') else last.get('device')
        processes = '' if config is None else f'{_count(config.num_gpus, "process", "processes")} on '
        rows.append(('hardware', f'{processes}{code(device, 80)}'))
    if config is not None:
        options = config.options or {}
        rows.append(('configuration', code(options.get('cfg', 'auto'), 40)))
        rows.append(('batch size', f'{config.batch_size:,}'))
        rows.append(('start', _start(config.resume_pkl)))
    text = table(['', ''], rows) if rows else 'The files of the run do not say.\n'
    changes = public_changes(facts)[:_MAX_OPTIONS]
    if changes:
        cells = [(f'`{option}`', code(value, 60), code(default, 60)) for option, value, default in changes]
        text += '\nOptions that differ from the configuration:\n\n' + table(['option', 'value', 'default'], cells)
    if config is not None:
        text += '\n`training_options.json` has the complete configuration.\n'
    return text


def _start(resume_pkl: str | None) -> str:
    return 'from scratch' if resume_pkl is None else f'from {code(source_name(resume_pkl))}'


# ---------------------------------------------------------------------------------------------------------------------
# How good it is


def _metrics(facts: Facts) -> str:
    values = [value for value in facts.metrics if not _is_memorization(value)]
    if not values:
        return 'Not measured.'
    coverage = {value.interval['coverage'] for value in values if value.interval is not None}
    head = ['metric', 'value', 'interval', 'generated', 'real', 'features']
    rows = [
        (
            code(value.name, 60),
            f'{value.value:.4g}',
            _interval(value),
            _images(value, 'fake'),
            _images(value, 'real'),
            'none' if value.detector is None else code(value.detector['name'], 40),
        )
        for value in values
    ]
    note = ''
    if coverage:
        levels = ' or '.join(f'{level:.0%}' for level in sorted(coverage))
        note = f'\nIntervals cover the true value in {levels} of such measurements.\n'
    note += '\n`metrics.json` says how each was measured.\n'
    if facts.dataset_sha256 and any(v.dataset_sha256 not in (None, facts.dataset_sha256) for v in values):
        note += '\nSome values were measured with other images than those of the training.\n'
    return table(head, rows) + note


def _is_memorization(value: MetricValue) -> bool:
    return value.metric.startswith('memorization')


def _interval(value: MetricValue) -> str:
    return 'none' if value.interval is None else '{low:.4g} to {high:.4g}'.format(**value.interval)


def _images(value: MetricValue, part: str) -> str:
    return f'{value.num_images[part]:,}' if part in value.num_images else ''


def _memorization(facts: Facts) -> str:
    values = [value for value in facts.metrics if _is_memorization(value)]
    if not values:
        return (
            'Not measured: how many of its images are copies of training images is not known. '
            '`ada-gan calc-metrics --metrics=memorization5k` measures it, where the training images are.'
        )
    lines = []
    for value in values:
        compared = '' if value.compared_with is None else f' (compared with {code(value.compared_with, 60)})'
        generated = _images(value, 'fake')
        if value.name.endswith('_share'):
            interval = value.interval
            span = '' if interval is None else ' ({coverage:.0%} interval: {low:.2%} to {high:.2%})'.format(**interval)
            count = f' of {generated} generated images' if generated else ''
            lines.append(f'- {code(value.name, 60)}: {value.value:.2%}{count} are copies of training images{span}')
        else:
            lines.append(f'- {code(value.name, 60)}: {value.value:.4g}, interval {_interval(value)}{compared}')
    return '\n'.join(lines) + '\n\nA ratio of 0 is an exact copy, and around 1 a new image of the same kind.'


# ---------------------------------------------------------------------------------------------------------------------
# What it is for

_INTENDED_USE = (
    'Research on generative models with limited data, teaching, and pictures made by people who say that they are '
    'generated. It is not for deceiving anyone: do not pass its images off as photographs or as the work of others, '
    'and do not use them as evidence, in medicine, or to decide anything about people.'
)


def _limits(facts: Facts) -> str:
    number = (facts.training_set or {}).get('max_size')
    images = 'its training images' if number is None else f'its {number:,} training images'
    limits = [
        f'It shows what {images} show, with their gaps and prejudices, and nothing else.',
        'Nothing was done to keep its images harmless, fair or true.',
        'Its images may resemble training images; see "Memorization". Rights in those may then matter.',
        f'Its images have {facts.width}×{facts.height} pixels. Some are faulty, above all without truncation.',
    ]
    if facts.run is None:
        limits.append('How it was trained is not documented here.')
    if facts.problems:
        limits.append('Some files of the training could not be read completely, so this page may lack something.')
    return '\n'.join(f'- {limit}' for limit in limits)


def _count(number: int, one: str, many: str) -> str:
    return f'{number:,} {one if number == 1 else many}'
