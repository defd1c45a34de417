"""The inputs of a generator: seeds become latents, classes become labels."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dnnlib.errors import InvalidArgument

MAX_SEED = 2**32 - 1  # of numpy.random.RandomState


def z_of_seed(seed: int, z_dim: int) -> np.ndarray:
    """Return the latent z of a seed, float64 [1, z_dim]; it depends on nothing but the seed."""
    return np.random.RandomState(seed).randn(1, z_dim)


@torch.no_grad()
def ws_of_seeds(G: Any, seeds: Sequence[int], labels: torch.Tensor, truncation_psi: float = 1) -> torch.Tensor:
    """Map seeds to latents w.

    Args:
        G: Generator.
        seeds: N seeds.
        labels: float32 [N, c_dim], or [1, c_dim] for all of them, on the device of G.
        truncation_psi: Scale of the distance from the mean of w; 1 changes nothing, 0 gives the mean.

    Returns:
        [N, num_ws, w_dim] on the device of `labels`.
    """
    z = torch.from_numpy(np.concatenate([z_of_seed(seed, G.z_dim) for seed in seeds]))
    z = z.to(labels.device, torch.float32)  # [N, z_dim]
    return G.mapping(z, labels.expand(len(seeds), -1), truncation_psi=truncation_psi)


def check_seeds(seeds: Sequence[int], argument: str = 'seeds') -> None:
    """Raise InvalidArgument if a number is too large for a seed."""
    if max(seeds) > MAX_SEED:
        raise InvalidArgument(argument, f'{max(seeds)} is too large: seeds must be {MAX_SEED} or less.')


# ---------------------------------------------------------------------------------------------------------------------
# Labels


def class_index(text: str | None, c_dim: int, names: Sequence[str]) -> int | None:
    """Return the index of a class that is given as a number or a name.

    Args:
        text: Digits are an index, anything else is a name.
        c_dim: Number of classes of the network.
        names: Names of the classes; empty if they have none.

    Returns:
        The index, or None for an unconditional network.

    Raises:
        InvalidArgument: Argument 'class': the class is unknown or missing; the message lists the choices.
    """
    if c_dim == 0:
        return None
    choices = f'a number from 0 to {c_dim - 1}' + (f' or one of {", ".join(names)}' if names else '')
    if text is None:
        raise InvalidArgument(
            'class',
            f'the network is conditional, so a class is required: choose {choices}. Use --label for a label of {c_dim} '
            'numbers that is not a class.',
        )
    text = text.strip()
    if re.fullmatch(r'[+-]?\d+', text):
        if not 0 <= int(text) < c_dim:
            raise InvalidArgument('class', f'Unknown class {text}: choose {choices}.')
        return int(text)
    if not names:
        raise InvalidArgument(
            'class', f'Unknown class {text!r}: the classes of this network have no names; choose {choices}.'
        )
    if text not in names:
        raise InvalidArgument('class', f'Unknown class {text!r}: choose {choices}.')
    return names.index(text)


def class_names_of(data: dict[str, Any], c_dim: int) -> list[str]:
    """Return the names of the classes stored in a network file, or [] if it does not have one for each class."""
    names = data.get('class_names')
    if not isinstance(names, (list, tuple)) or len(names) != c_dim:
        return []
    return [str(name) for name in names]


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
        raise InvalidArgument('label', f'cannot be combined with class {class_text!r}: use only one of them.')
    if len(numbers) != c_dim:
        raise InvalidArgument('label', f'expected {c_dim} numbers for this network, got {len(numbers)}.')
    return list(map(float, numbers))
