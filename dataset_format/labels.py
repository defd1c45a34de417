"""Labels: the `dataset.json` file, how it is read and checked, and how labels are matched with images.

The file contains `{"labels": [[file name, label], ...]}` or `{"labels": null}`. A label is a class index (an integer,
at least 0) or a vector (a list of numbers: multi-hot, attributes, an embedding). All labels of a dataset are of the
same kind. The optional `"class_names": ["airplane", ...]` names the classes, or the entries of the vectors.

Like the published reader, this one also takes `{"labels": {file name: label, ...}}`, and class indices that are written
as `1.0`, `true` or `"1"`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from dataset_format.names import normal_name
from dnnlib.json_input import parse_json
from dnnlib.text import excerpt, join_excerpts

LABEL_FILE = 'dataset.json'
FORMAT_HINT = 'expected {"labels": [["file name", 3], ...]} or {"labels": null}'
MAX_LABEL_FILE_BYTES = 2**28
MAX_LABEL_DIM = 100_000  # classes, or entries of a vector; each takes a row of weights in several layers

_MAX_VALUES, _MAX_LISTS = 40_000_000, 8_000_000  # in a label file, since they take far more memory than their text
_MAX_FLOAT32 = (2 - 2**-23) * 2.0**127

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
    num_values, num_lists = content.count(b','), content.count(b'[') + content.count(b'{')
    if num_values > _MAX_VALUES or num_lists > _MAX_LISTS:
        raise ValueError(
            f'{label_file} has {num_values:,} values in {num_lists:,} lists, but at most {_MAX_VALUES:,} in '
            f'{_MAX_LISTS:,} are read.'
        )
    data = parse_json(content, label_file, MAX_LABEL_FILE_BYTES)
    if not isinstance(data, dict) or 'labels' not in data:
        raise ValueError(f'{label_file} has no "labels": {FORMAT_HINT}.')
    if data['labels'] is None:
        return LabelTable()
    if not isinstance(data['labels'], (list, dict)):
        raise ValueError(f'{label_file}: "labels" is neither a list nor null: {FORMAT_HINT}.')

    by_name: dict[str, Label] = {}
    for position, entry in enumerate(data['labels'] if isinstance(data['labels'], list) else data['labels'].items()):
        if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not isinstance(entry[0], str):
            raise ValueError(f'{label_file}: entry {position} of "labels" is {_shorten(entry)}; {FORMAT_HINT}.')
        name, label = normal_name(entry[0]), entry[1]
        if name in by_name:
            raise ValueError(f'{label_file} has more than one label for {excerpt(name)}; keep only one.')
        by_name[name] = parse_label(label, f'{label_file}: the label of {excerpt(name)}')
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


def parse_label(value: object, description: str) -> Label:
    """Return a label: a class index from 0 to `MAX_LABEL_DIM` - 1, or as many numbers within the range of float32.

    Args:
        value: Content of a label file.
        description: Start of an error message, such as 'dataset.json: the label of a.png'.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(value, list):
        return _parse_vector(value, description)
    index = _whole_number(value)
    if index is None or index < 0:
        raise ValueError(
            f'{description} is {_shorten(value)}; a label must be a non-negative integer or a list of finite numbers.'
        )
    if index >= MAX_LABEL_DIM:
        raise ValueError(
            f'{description} is {_shorten(value)}, but classes have numbers from 0 to {MAX_LABEL_DIM - 1}: number them '
            'without gaps.'
        )
    return index


def _parse_vector(values: list, description: str) -> list[int] | list[float]:
    if not values or not all(isinstance(value, (int, float)) for value in values):
        raise ValueError(
            f'{description} is {_shorten(values)}; a label must be a non-negative integer or a list of finite numbers.'
        )
    if len(values) > MAX_LABEL_DIM:
        raise ValueError(f'{description} has {len(values)} entries, but a label may have at most {MAX_LABEL_DIM}.')
    for position, value in enumerate(values):
        if not abs(value) <= _MAX_FLOAT32:
            raise ValueError(
                f'{description} has the entry {_shorten(value)} (number {position}), which is beyond the range of '
                f'float32, {_MAX_FLOAT32:.3g}: scale the labels.'
            )
    return [int(value) if isinstance(value, bool) else value for value in values]


def _whole_number(value: object) -> int | None:
    """Return the integer that the published reader would make of a value, or None if it would fail or round."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r'[0-9]{1,18}', value) else None
    return int(value) if isinstance(value, int) else None


def check_num_classes(count: int, source: str) -> None:
    """Raise ValueError if `source` has more classes than `MAX_LABEL_DIM`."""
    if count > MAX_LABEL_DIM:
        raise ValueError(f'{source} has {count} classes, but at most {MAX_LABEL_DIM} are supported.')


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
    check_num_classes(len(class_names), f'{label_file}: "class_names"')
    dim = label_dim(labels)
    if len(class_names) < dim:
        raise ValueError(f'{label_file}: "class_names" has {len(class_names)} names for labels of {dim} classes.')


def label_dim(labels: Iterable[Label]) -> int:
    """Return the number of classes, or the length of the vectors, of labels of the same kind."""
    return max((len(label) if isinstance(label, list) else label + 1 for label in labels), default=0)


def classes_without_images(labels: Iterable[int], num_classes: int) -> list[int]:
    """Return the classes from 0 to `num_classes` - 1 that are not among the labels."""
    return sorted(set(range(num_classes)).difference(labels))


def describe_classes(classes: Sequence[int], class_names: Sequence[str] | None = None, limit: int = 5) -> str:
    """List classes for a message, with their names if they have any: '0 (cat), 3 (dog) and 2 more'."""
    return join_names((f'{c} ({class_names[c]})' if class_names else str(c) for c in classes), limit)


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
