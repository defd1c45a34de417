"""The methods that `scripts/compare_methods.py` compares, each as options of `train.py`."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from dnnlib.text import excerpt

METHODS = {
    'noaug': '--aug=noaug',
    'ada': '--aug=ada',
    'ada-rv': '--aug=ada --ada-heuristic=rv --validation=100',
    'diffaugment': '--aug=noaug --diffaugment=color,translation,cutout',
    'diffaugment+ada': '--aug=ada --diffaugment=translation,cutout',
    'apa': '--aug=noaug --apa=1',
    'apa+ada': '--aug=ada --apa=1',
    'lecam+ada': '--aug=ada --lecam=0.0003',
    'bcr': '--aug=noaug --bcr=10',
    'bcr+ada': '--aug=ada --bcr=10',
    'relativistic': '--aug=noaug --loss=relativistic',
    'relativistic+ada': '--aug=ada --loss=relativistic',
    # R1 and R2 in each step, as in R3GAN.
    'relativistic-each': '--aug=noaug --loss=relativistic --d-reg-interval=1',
    'relativistic-each+ada': '--aug=ada --loss=relativistic --d-reg-interval=1',
}
"""Options of `train.py` by the name of the method."""

NAME_PATTERN = r'[a-z0-9][a-z0-9+._-]{0,39}'

_OWN_OPTIONS = frozenset(
    'outdir data subset seed kimg tick snap metrics detectors resume resume-run dry-run n desc keep-states help'.split()
)


@dataclass(frozen=True)
class Method:
    """A method: its name in tables, and the options of `train.py` that choose it."""

    name: str
    options: tuple[str, ...]


def parse_options(text: str, what: str) -> tuple[str, ...]:
    """Return options of `train.py` that are written as in a shell.

    Args:
        text: The options.
        what: What they are for, for messages.

    Raises:
        ValueError: They cannot be split, do not look like options, or contain one that the comparison sets itself.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f'{excerpt(repr(text))} for {what} cannot be split into options: {error}.') from error
    for word in words:
        name = re.match(r'--?([A-Za-z][A-Za-z0-9_-]*)(=|$)', word)
        if name is None:
            raise ValueError(f'{excerpt(repr(word))} for {what} is not an option such as --aug=ada.')
        if name[1].lower().replace('_', '-') in _OWN_OPTIONS:
            raise ValueError(f'{excerpt(word)} for {what} is an option that the comparison sets for all runs.')
    return tuple(words)


def parse_methods(values: tuple[str, ...]) -> list[Method]:
    """Return the methods that the values of `--methods` stand for.

    Args:
        values: Each is a list of names in METHODS, separated by commas, or one method of one's own as name:options.

    Raises:
        ValueError: A name is unknown or given twice, or options are not usable.
    """
    methods: list[Method] = []
    for value in values:
        name, colon, options = value.partition(':')
        if colon:
            if re.fullmatch(NAME_PATTERN, name) is None:
                raise ValueError(
                    f'{excerpt(repr(name))} cannot be the name of a method: use up to 40 lower-case letters, digits '
                    'and any of + . _ -, as in mine:"--aug=ada --gamma=1".'
                )
            methods.append(Method(name, parse_options(options, name)))
            continue
        for name in value.split(','):
            if name.strip() not in METHODS:
                raise ValueError(
                    f'{excerpt(repr(name.strip()))} is not one of {", ".join(METHODS)}. Methods of your own are '
                    'written as name:"options".'
                )
            methods.append(Method(name.strip(), parse_options(METHODS[name.strip()], name.strip())))
    names = [method.name for method in methods]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f'{repeated!r} is given twice.')
    return methods
