"""Labels: the `dataset.json` file, read, checked and matched with the images it speaks of.

The file holds `{"labels": [[file name, label], ...]}` or `{"labels": null}`. A label is a class index (an integer
from 0) or a vector (a list of numbers: multi-hot, attributes, an embedding). All labels of a dataset are of one kind.
An optional `"class_names": ["airplane", ...]` names the classes, or the entries of the vectors.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LABEL_FILE = 'dataset.json'
FORMAT_HINT = 'expected {"labels": [["file name", 3], ...]} or {"labels": null}'

Label = int | list[int] | list[float]


@dataclass(frozen=True)
class LabelTable:
    """What a label file says. `by_name` is None where it says that there are no labels."""

    by_name: dict[str, Label] | None = None
    class_names: list[str] | None = None


def name_some(names: Iterable[str], limit: int = 3) -> str:
    """'a.png, b.png, c.png and 7 more': names for an error message."""
    names = list(names)
    shown = ', '.join(names[:limit])
    return shown if len(names) <= limit else f'{shown} and {len(names) - limit} more'


def parse_label_file(content: bytes, where: str) -> LabelTable:
    """Read the bytes of a `dataset.json`; `where` says in errors which one. Raises ValueError."""
    try:
        data = json.loads(content)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f'{where} is not valid JSON: {error}.') from error
    if not isinstance(data, dict) or 'labels' not in data:
        raise ValueError(f'{where} has no "labels": {FORMAT_HINT}.')
    if data['labels'] is None:
        return LabelTable()
    if not isinstance(data['labels'], list):
        raise ValueError(f'{where}: "labels" is neither a list nor null: {FORMAT_HINT}.')

    by_name: dict[str, Label] = {}
    for position, entry in enumerate(data['labels']):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise ValueError(f'{where}: entry {position} of "labels" is {_short(entry)}; {FORMAT_HINT}.')
        name, label = entry[0].replace('\\', '/'), entry[1]
        if name in by_name:
            raise ValueError(f'{where} has more than one label for {name}; keep one.')
        check_label(label, f'{where}: the label of {name}')
        by_name[name] = label
    check_same_kind(by_name.items(), where)
    class_names = data.get('class_names')
    check_class_names(class_names, by_name.values(), where)
    return LabelTable(by_name, class_names)


def check_label(label: object, what: str) -> None:
    """Raise ValueError unless `label` is a class index or a non-empty list of finite numbers."""

    def is_number(value: object) -> bool:
        return type(value) is int or (type(value) is float and math.isfinite(value))

    is_index = type(label) is int and label >= 0
    is_vector = isinstance(label, list) and len(label) > 0 and all(map(is_number, label))
    if not (is_index or is_vector):
        raise ValueError(f'{what} is {_short(label)}; a label is an integer from 0 or a list of finite numbers.')


def kind_of(label: Label) -> str:
    return f'vector of length {len(label)}' if isinstance(label, list) else 'class index'


def check_same_kind(labels: Iterable[tuple[str, Label]], where: str) -> None:
    """Raise ValueError where class indices meet vectors, or vectors of several lengths meet."""
    first_of_kind: dict[str, str] = {}
    for name, label in labels:
        first_of_kind.setdefault(kind_of(label), name)
    if len(first_of_kind) > 1:
        examples = ', '.join(f'{name} has a {kind}' for kind, name in list(first_of_kind.items())[:3])
        raise ValueError(
            f'{where} mixes labels of different kinds: {examples}; all must be class indices, or vectors of one length.'
        )


def check_class_names(class_names: object, labels: Iterable[Label], where: str) -> None:
    """Raise ValueError unless `class_names` is None or has a name for every class (every entry of the vectors)."""
    if class_names is None:
        return
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise ValueError(f'{where}: "class_names" is not a list of strings.')
    if len(set(class_names)) < len(class_names):
        raise ValueError(f'{where}: "class_names" has the same name twice.')
    dim = label_dim(labels)
    if len(class_names) < dim:
        raise ValueError(f'{where}: "class_names" has {len(class_names)} names for labels of {dim} classes.')


def label_dim(labels: Iterable[Label]) -> int:
    """Number of classes, or the length of the vectors, of labels of one kind."""
    return max((len(label) if isinstance(label, list) else label + 1 for label in labels), default=0)


def match_labels(image_names: Sequence[str], by_name: dict[str, Label], where: str) -> list[Label]:
    """The label of each image, in the order of the images.

    Raises ValueError when labels and images are not the same set: an image without a label, or a label without its
    image, nearly always means that names were changed on one side, and training on the rest would hide that.
    """
    unlabelled = [name for name in image_names if name not in by_name]
    if unlabelled:
        raise ValueError(
            f'{where} has no label for {len(unlabelled)} of {len(image_names)} images '
            f'({name_some(unlabelled)}); give each image a label, named by its path in the dataset.'
        )
    if len(by_name) > len(image_names):
        orphans = sorted(set(by_name) - set(image_names))
        raise ValueError(
            f'{where} has {len(orphans)} labels that match no image ({name_some(orphans)}); '
            'correct these names, or remove them.'
        )
    return [by_name[name] for name in image_names]


def format_label_file(named_labels: list[tuple[str, Label]] | None, class_names: list[str] | None) -> bytes:
    """The bytes of a `dataset.json`, one entry per line."""
    if named_labels is None:
        return b'{"labels": null}\n'
    entries = ',\n'.join(json.dumps(list(entry), ensure_ascii=False) for entry in named_labels)
    names = '' if class_names is None else f',\n"class_names": {json.dumps(class_names, ensure_ascii=False)}'
    return f'{{"labels": [\n{entries}\n]{names}}}\n'.encode()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
