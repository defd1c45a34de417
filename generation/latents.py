"""What a network starts from: seeds turned into latents, classes into labels."""

import re
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
import torch

LARGEST_SEED = 2**32 - 1  # of numpy.random.RandomState


def z_of_seed(seed: int, z_dim: int) -> np.ndarray:
    """Latent z [1, z_dim] (float64) of a seed: the same everywhere and always, whatever else is made beside it."""
    return np.random.RandomState(seed).randn(1, z_dim)


@torch.no_grad()
def ws_of_seeds(
    G: torch.nn.Module, seeds: Sequence[int], labels: torch.Tensor, truncation_psi: float = 1
) -> torch.Tensor:
    """Latents w [N, num_ws, w_dim] of the seeds, on the device of `labels`, which is [N, c_dim], or [1, c_dim] for all.

    truncation_psi: Distance from the mean of w that is kept: 1 all of it, 0 nothing.
    """
    z = np.concatenate([z_of_seed(seed, G.z_dim) for seed in seeds])
    z = torch.from_numpy(z).to(labels.device, torch.float32)  # [N, z_dim]
    return G.mapping(z, labels.expand(len(seeds), -1), truncation_psi=truncation_psi)


def check_seeds(seeds: Sequence[int], option: str = '--seeds') -> None:
    """Raises click.BadParameter where a number is beyond what a seed can be."""
    if max(seeds) > LARGEST_SEED:
        raise click.BadParameter(f'{max(seeds)} is too large: seeds go up to {LARGEST_SEED}.', param_hint=f"'{option}'")


def class_index(text: str | None, c_dim: int, names: Sequence[str], option: str = '--class') -> int | None:
    """Index that `--class` means for a network of `c_dim` classes; None for an unconditional one.

    Digits are a number; anything else is a name. Raises click.UsageError with what there is to choose from.
    """
    if c_dim == 0:
        if text is not None:
            click.echo(f'Warning: {option}={text} is ignored, since the network knows no classes.', err=True)
        return None
    choices = f'a number from 0 to {c_dim - 1}' + (f' or one of: {", ".join(names)}' if names else '')
    hint = f"'{option}'"
    if text is None:
        raise click.UsageError(
            f'Missing option {option}: the network is conditional; give {choices}. A label that is no class '
            f'is given as {c_dim} numbers with {label_option_beside(option)}.'
        )
    text = text.strip()
    if re.fullmatch(r'[+-]?\d+', text):
        if not 0 <= int(text) < c_dim:
            raise click.BadParameter(f'there is no class {text}: give {choices}.', param_hint=hint)
        return int(text)
    if not names:
        raise click.BadParameter(
            f'{text!r} is a name, and this network has only numbers for its classes: give {choices}.', param_hint=hint
        )
    if text not in names:
        raise click.BadParameter(f'there is no class named {text!r}: give {choices}.', param_hint=hint)
    return names.index(text)


def class_names_of(data: dict[str, Any], c_dim: int) -> list[str]:
    """Names of the classes where the pickle has one for each."""
    names = data.get('class_names')
    if not isinstance(names, (list, tuple)) or len(names) != c_dim:
        return []
    return [str(name) for name in names]


def label_option_beside(option: str) -> str:
    """'--label' for '--class'."""
    return option.replace('class', 'label')


def _checked_label(numbers: Sequence[float], class_text: str | None, c_dim: int, option: str) -> list[float]:
    label_option = label_option_beside(option)
    if class_text is not None:
        raise click.UsageError(f'{option} and {label_option} both say what to show: give one of them.')
    if len(numbers) != c_dim:
        raise click.BadParameter(
            f'a label of this network has {c_dim} numbers, not {len(numbers)}.', param_hint=f"'{label_option}'"
        )
    return list(map(float, numbers))


def label_of(
    data: dict[str, Any],
    class_text: str | None,
    numbers: Sequence[float] | None,
    device: torch.device | str,
    option: str = '--class',
) -> torch.Tensor:
    """Label [1, c_dim] (float32) for `data['G_ema']`: one-hot for the class that the user named, or these numbers.

    The numbers come from the option `label_option_beside(option)`. Raises click.UsageError (see also `class_index`).
    """
    c_dim = data['G_ema'].c_dim
    if numbers is not None and c_dim > 0:
        return torch.tensor([_checked_label(numbers, class_text, c_dim, option)], device=device)
    if numbers is not None:
        click.echo(f'Warning: {label_option_beside(option)} is ignored, since the network knows no labels.', err=True)
    label = torch.zeros([1, c_dim], device=device)
    index = class_index(class_text, c_dim, class_names_of(data, c_dim), option)
    if index is not None:
        label[:, index] = 1
    return label
