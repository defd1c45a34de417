"""The inputs of a generator: seeds become latents, classes become labels."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dataset_format.labels import is_number
from dnnlib.errors import InvalidArgument
from dnnlib.text import excerpt, join_excerpts

MAX_SEED = 2**32 - 1  # of numpy.random.RandomState
_MAX_NAMES_LISTED, _MAX_NAME = 30, 40  # names of classes in a message, and characters of each


def z_of_seed(seed: int, z_dim: int) -> np.ndarray:
    """Return the latent z of a seed, float64 [1, z_dim]; it depends on nothing but the seed."""
    return np.random.RandomState(seed).randn(1, z_dim)


@torch.no_grad()
def ws_of_seeds(
    G: Any,
    seeds: Sequence[int],
    labels: torch.Tensor,
    truncation_psi: float = 1,
    truncation_cutoff: int | None = None,
) -> torch.Tensor:
    """Map seeds to latents w.

    Args:
        G: Generator.
        seeds: N seeds.
        labels: float32 [N, c_dim], or [1, c_dim] for all of them, on the device of G.
        truncation_psi: Scale of the distance from the mean of w; 1 changes nothing, 0 gives the mean.
        truncation_cutoff: Truncate only the first so many of the num_ws vectors. None: all.

    Returns:
        [N, num_ws, w_dim] on the device of `labels`.
    """
    z = torch.from_numpy(np.concatenate([z_of_seed(seed, G.z_dim) for seed in seeds]))
    z = z.to(labels.device, torch.float32)  # [N, z_dim]
    labels = labels.expand(len(seeds), -1)
    return G.mapping(z, labels, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)


def check_seeds(seeds: Sequence[int], argument: str = 'seeds') -> None:
    """Raise InvalidArgument if a number is too large for a seed."""
    if max(seeds) > MAX_SEED:
        raise InvalidArgument(argument, f'{max(seeds)} is too large: seeds must be {MAX_SEED} or less.')


# ---------------------------------------------------------------------------------------------------------------------
# Labels


def class_index(text: str | None, c_dim: int, names: Sequence[str]) -> int | None:
    """Return the index of a class that is given as a name, as a number or as `#` and a number.

    Names come first. A number that is not a name is an index, but not where names are numbers too: there, `#3` is the
    class with index 3.

    Args:
        text: The class.
        c_dim: Number of classes of the network.
        names: Names of the classes; empty if they have none.

    Returns:
        The index, or None for an unconditional network.

    Raises:
        InvalidArgument: Argument 'class': the class is unknown, ambiguous or missing; the message lists the choices.
    """
    if c_dim == 0:
        return None
    choices = _class_choices(c_dim, names)
    if text is None:
        raise InvalidArgument(
            'class',
            f'the network is conditional, so a class is required: choose {choices}. Use --label for a label of {c_dim} '
            'numbers that is not a class.',
        )
    name = text if text in names else text.strip()
    if name in names:
        _check_unique(name, names)
        return names.index(name)
    match = re.fullmatch(r'(#\s*)?([+-]?)0*(\d+)', name)
    if match is None:
        reason = ':' if names else ': the classes of this network have no names;'
        raise InvalidArgument('class', f'Unknown class {excerpt(name)!r}{reason} choose {choices}.')
    has_mark, sign, digits = match.groups()
    index = int(digits) if len(digits) < 10 else c_dim
    if (sign == '-' and index > 0) or index >= c_dim:
        raise InvalidArgument('class', f'Unknown class {excerpt(name)}: choose {choices}.')
    if not has_mark and any(map(is_number, names)):
        raise InvalidArgument(
            'class',
            f'{name} is not the name of a class, and the class with index {index} is named '
            f'{excerpt(names[index], _MAX_NAME)!r}: write #{index} for that class, or choose {choices}.',
        )
    return index


def _class_choices(c_dim: int, names: Sequence[str]) -> str:
    if not names:
        return f'a number from 0 to {c_dim - 1}'
    listed = join_excerpts(names, _MAX_NAMES_LISTED, _MAX_NAME)
    if any(map(is_number, names)):
        return f'one of {listed}, or an index from #0 to #{c_dim - 1}'
    return f'a number from 0 to {c_dim - 1} or one of {listed}'


def _check_unique(name: str, names: Sequence[str]) -> None:
    same = [f'#{index}' for index, other in enumerate(names) if other == name]
    if len(same) > 1:
        raise InvalidArgument(
            'class', f'{len(same)} classes are named {excerpt(name, _MAX_NAME)!r}: choose {join_excerpts(same, 10)}.'
        )


def class_names_of(data: dict[str, Any], c_dim: int) -> list[str]:
    """Return the names of the classes stored in a network file, or [] if it does not have one for each class."""
    names = data.get('class_names')
    if not isinstance(names, (list, tuple)) or len(names) != c_dim:
        return []
    return [str(name) for name in names] if all(type(name) in (str, int) for name in names) else []


def make_label(
    data: dict[str, Any],
    class_text: str | None,
    numbers: Sequence[float] | None,
    device: torch.device | str,
) -> torch.Tensor:
    """Return the label for a generator.

    Args:
        data: Content of a network file, with 'G_ema'.
        class_text: Class, as in `class_index`.
        numbers: The label itself, in place of a class.
        device: Where the result is stored.

    Returns:
        float32 [1, c_dim]: one-hot for a class, otherwise the numbers; [1, 0] for an unconditional network.

    Raises:
        InvalidArgument: Argument 'class' or 'label'.
    """
    c_dim = data['G_ema'].c_dim
    if numbers is not None and c_dim > 0:
        return torch.tensor([_checked_label(numbers, class_text, c_dim)], device=device)
    label = torch.zeros([1, c_dim], device=device)
    index = class_index(class_text, c_dim, class_names_of(data, c_dim))
    if index is not None:
        label[:, index] = 1
        _warn_if_without_images(data, index)
    return label


def _warn_if_without_images(data: dict[str, Any], index: int) -> None:
    """Print a notice if the network has seen no image of a class, according to the network file."""
    classes = data.get('classes_without_images')
    if isinstance(classes, (list, tuple)) and any(type(c) is int and c == index for c in classes):
        print(
            f'Warning: class {index} had no image in the training data, so the network has learned nothing about it.',
            file=sys.stderr,
        )


def _checked_label(numbers: Sequence[float], class_text: str | None, c_dim: int) -> list[float]:
    if class_text is not None:
        raise InvalidArgument('label', f'cannot be combined with class {excerpt(class_text)!r}: use only one of them.')
    if len(numbers) != c_dim:
        raise InvalidArgument('label', f'expected {c_dim} numbers for this network, got {len(numbers)}.')
    return list(map(float, numbers))
