"""Labels: the `dataset.json` file, how it is read and checked, and how labels are matched with images.

The file contains `{"labels": [[file name, label], ...]}` or `{"labels": null}`. A label is a class index (an integer,
at least 0) or a vector (a list of numbers: multi-hot, attributes, an embedding). All labels of a dataset are of the
same kind. The optional `"class_names": ["airplane", ...]` names the classes, or the entries of the vectors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from dataset_format.names import normal_name
from dnnlib.text import excerpt, join_excerpts

LABEL_FILE = 'dataset.json'
FORMAT_HINT = 'expected {"labels": [["file name", 3], ...]} or {"labels": null}'

_NUMBER = re.compile(r'[+-]?\d{1,1000}(\.\d{1,1000})?')

Label = int | list[int] | list[float]


@dataclass(frozen=True)
class LabelTable:
    """Content of a label file.

    Args:
        by_name: Labels by file name, or None if the dataset has no labels.
        class_names: Names of the classes or of the entries of the vectors, or None if they have no names.
    """

    by_name: dict[str, Label] | None = None
    class_names: list[str] | None = None


def join_names(names: Iterable[str], limit: int = 3) -> str:
    """Join names from a dataset for an error message: 'a.png, b.png, c.png and 7 more'."""
    return join_excerpts(names, limit)


# ---------------------------------------------------------------------------------------------------------------------
# Class names


def is_number(class_name: str) -> bool:
    """Return whether the name of a class is a number, such as '7', '007', '-1' or '0.5'."""
    return _NUMBER.fullmatch(class_name.strip()) is not None


def sort_class_names(class_names: Iterable[str]) -> list[str]:
    """Sort names of folders in the order of their classes: as numbers if all of them are numbers, otherwise as text."""
    names = sorted(class_names)
    return sorted(names, key=lambda name: Decimal(name.strip())) if all(map(is_number, names)) else names


# ---------------------------------------------------------------------------------------------------------------------
# Reading and writing


def parse_label_file(content: bytes, label_file: str) -> LabelTable:
    """Parse and check a `dataset.json`.

    Args:
        content: Bytes of the file.
        label_file: How error messages refer to the file.

    Raises:
        ValueError: The file is not valid.
    """
    try:
        data = json.loads(content)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f'{label_file} is not valid JSON: {error}.') from error
    if not isinstance(data, dict) or 'labels' not in data:
        raise ValueError(f'{label_file} has no "labels": {FORMAT_HINT}.')
    if data['labels'] is None:
        return LabelTable()
    if not isinstance(data['labels'], list):
        raise ValueError(f'{label_file}: "labels" is neither a list nor null: {FORMAT_HINT}.')

    by_name: dict[str, Label] = {}
    for position, entry in enumerate(data['labels']):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise ValueError(f'{label_file}: entry {position} of "labels" is {_shorten(entry)}; {FORMAT_HINT}.')
        name, label = normal_name(entry[0]), entry[1]
        if name in by_name:
            raise ValueError(f'{label_file} has more than one label for {excerpt(name)}; keep only one.')
        check_label(label, f'{label_file}: the label of {name}')
        by_name[name] = label
    check_same_kind(by_name.items(), label_file)
    class_names = data.get('class_names')
    check_class_names(class_names, by_name.values(), label_file)
    return LabelTable(by_name, class_names)


def format_label_file(named_labels: list[tuple[str, Label]] | None, class_names: list[str] | None) -> bytes:
    """Return the bytes of a `dataset.json`, one entry per line."""
    if named_labels is None:
        return b'{"labels": null}\n'
    entries = ',\n'.join(json.dumps(list(entry), ensure_ascii=False) for entry in named_labels)
    names = '' if class_names is None else f',\n"class_names": {json.dumps(class_names, ensure_ascii=False)}'
    return f'{{"labels": [\n{entries}\n]{names}}}\n'.encode(errors='backslashreplace')  # also an escape in JSON


# ---------------------------------------------------------------------------------------------------------------------
# Checks


def check_label(label: object, description: str) -> None:
    """Raise ValueError unless `label` is a class index or a non-empty list of finite numbers."""

    def is_number(value: object) -> bool:
        return type(value) is int or (type(value) is float and math.isfinite(value))

    is_index = type(label) is int and label >= 0
    is_vector = isinstance(label, list) and len(label) > 0 and all(map(is_number, label))
    if not (is_index or is_vector):
        raise ValueError(
            f'{description} is {_shorten(label)}; a label must be a non-negative integer or a list of finite numbers.'
        )


def kind_of_label(label: Label) -> str:
    """Describe the kind of a label: 'class index' or 'vector of length 10'."""
    return f'vector of length {len(label)}' if isinstance(label, list) else 'class index'


def check_same_kind(labels: Iterable[tuple[str, Label]], label_file: str) -> None:
    """Raise ValueError if the labels mix class indices and vectors, or vectors of different lengths."""
    first_of_kind: dict[str, str] = {}
    for name, label in labels:
        first_of_kind.setdefault(kind_of_label(label), name)
    if len(first_of_kind) > 1:
        examples = ', '.join(f'{excerpt(name)} has a {kind}' for kind, name in list(first_of_kind.items())[:3])
        raise ValueError(
            f'{label_file} mixes labels of different kinds ({examples}); all labels must be class indices, or vectors '
            'of the same length.'
        )


def check_class_names(class_names: object, labels: Iterable[Label], label_file: str) -> None:
    """Raise ValueError unless `class_names` is None or names every class (or every entry of the vectors)."""
    if class_names is None:
        return
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise ValueError(f'{label_file}: "class_names" must be a list of strings.')
    if len(set(class_names)) < len(class_names):
        raise ValueError(f'{label_file}: "class_names" contains a name more than once.')
    dim = label_dim(labels)
    if len(class_names) < dim:
        raise ValueError(f'{label_file}: "class_names" has {len(class_names)} names for labels of {dim} classes.')


def label_dim(labels: Iterable[Label]) -> int:
    """Return the number of classes, or the length of the vectors, of labels of the same kind."""
    return max((len(label) if isinstance(label, list) else label + 1 for label in labels), default=0)


def match_labels(image_names: Sequence[str], by_name: dict[str, Label], label_file: str) -> list[Label]:
    """Return the label of each image, in the order of the images.

    Args:
        image_names: Paths of the images in the dataset.
        by_name: Labels by path.
        label_file: How error messages refer to the label file.

    Raises:
        ValueError: An image has no label, or a label has no image. Nearly always this means that files were renamed on
            one side, and training on the rest would hide it.
    """
    unlabeled = [name for name in image_names if name not in by_name]
    if unlabeled:
        raise ValueError(
            f'{label_file} has no label for {len(unlabeled)} of {len(image_names)} images '
            f'({join_names(unlabeled)}); add a label for each image, named by its path in the dataset.'
        )
    if len(by_name) > len(image_names):
        orphans = sorted(set(by_name) - set(image_names))
        raise ValueError(
            f'{label_file} has {len(orphans)} labels that match no image ({join_names(orphans)}); '
            'correct or remove these names.'
        )
    return [by_name[name] for name in image_names]


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
