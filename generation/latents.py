"""The inputs of a generator: seeds become latents, classes become labels."""

from __future__ import annotations

import copy
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dataset_format.labels import is_number
from dnnlib.errors import InvalidArgument
from dnnlib.text import excerpt, join_excerpts

MAX_SEED = 2**32 - 1  # of numpy.random.RandomState
_MAX_NAMES_LISTED, _MAX_NAME = 30, 40  # names of classes in a message, and characters of each
_SAMPLES_SEED, _SAMPLES_AT_ONCE = 123, 1000


@dataclass(frozen=True)
class Truncation:
    """How latents are moved towards a mean of w.

    Args:
        psi: Scale of the distance from the mean; 1 changes nothing, 0 gives the mean. Several values are a series.
        cutoff: Truncate only the first so many of the num_ws vectors. None: all.
        towards: 'mean' (the mean of w over all classes, which the network file contains) or 'class' (that of the
            latent's own class).
    """

    psi: tuple[float, ...] = (1,)
    cutoff: int | None = None
    towards: str = 'mean'

    @property
    def is_active(self) -> bool:
        """Whether anything is truncated."""
        return any(psi != 1 for psi in self.psi)


NO_TRUNCATION = Truncation()


def z_of_seed(seed: int, z_dim: int) -> np.ndarray:
    """Return the latent z of a seed, float64 [1, z_dim]; it depends on nothing but the seed."""
    return np.random.RandomState(seed).randn(1, z_dim)


def z_on_circle(seed: int, z_dim: int, turns: float) -> np.ndarray:
    """Return a latent on a great circle through that of a seed, float64 [1, z_dim].

    Args:
        seed: The seed; its next z_dim random numbers give the direction of the circle.
        z_dim: Size of z.
        turns: Where on the circle: 0 and 1 are the latent of the seed, 0.5 is its opposite.
    """
    start, across = np.random.RandomState(seed).randn(2, z_dim)
    angle = 2 * math.pi * (turns % 1)
    return (math.cos(angle) * start + math.sin(angle) * across)[None]


@torch.no_grad()
def ws_of_seeds(
    G: Any,
    seeds: Sequence[int],
    labels: torch.Tensor,
    truncation_psi: float | Sequence[float] = 1,
    truncation_cutoff: int | None = None,
    center: torch.Tensor | None = None,
    turns: Sequence[float] | None = None,
) -> torch.Tensor:
    """Map seeds to latents w.

    Args:
        G: Generator.
        seeds: N seeds.
        labels: float32 [N, c_dim], or [1, c_dim] for all of them, on the device of G.
        truncation_psi: Scale of the distance from the mean of w; 1 changes nothing, 0 gives the mean. One, or N.
        truncation_cutoff: Truncate only the first so many of the num_ws vectors. None: all.
        center: float32 [N, w_dim], or [1, w_dim] for all of them: truncate towards these instead of the mean of w. See
            `truncation_center`.
        turns: N places on the circles of `z_on_circle`. None: the latents of the seeds.

    Returns:
        [N, num_ws, w_dim] on the device of `labels`.
    """
    if turns is None:
        zs = [z_of_seed(seed, G.z_dim) for seed in seeds]
    else:
        zs = [z_on_circle(seed, G.z_dim, turn) for seed, turn in zip(seeds, turns)]
    z = torch.from_numpy(np.concatenate(zs)).to(labels.device, torch.float32)  # [N, z_dim]
    labels = labels.expand(len(seeds), -1)
    psis = [truncation_psi] * len(seeds) if isinstance(truncation_psi, (int, float)) else list(truncation_psi)
    if center is None and len(set(psis)) == 1:
        return G.mapping(z, labels, truncation_psi=psis[0], truncation_cutoff=truncation_cutoff)
    ws = G.mapping(z, labels)
    return truncate(ws, mean_of_w(G)[None] if center is None else center, psis, truncation_cutoff)


def truncate(ws: torch.Tensor, center: torch.Tensor, psi: Sequence[float], cutoff: int | None = None) -> torch.Tensor:
    """Move latents towards a center.

    Args:
        ws: [N, num_ws, w_dim].
        center: [N, w_dim] or [1, w_dim].
        psi: N scales of the distance from the center.
        cutoff: Number of vectors to truncate, from the first on. None: all.
    """
    kept = ws.shape[1] if cutoff is None else cutoff
    weight = torch.tensor(psi, dtype=ws.dtype, device=ws.device)[:, None, None]
    moved = center[:, None].to(ws).lerp(ws[:, :kept], weight)
    return torch.cat([moved, ws[:, kept:]], dim=1)


def mean_of_w(G: Any) -> torch.Tensor:
    """Return the mean of w, [w_dim], that training has kept.

    Raises:
        InvalidArgument: Argument 'trunc': the network has none.
    """
    mean = getattr(G.mapping, 'w_avg', None)
    if mean is None:
        raise InvalidArgument('trunc', 'this network has no mean of w, so it must be 1.')
    return mean


def truncation_center(G: Any, labels: torch.Tensor, towards: str) -> torch.Tensor | None:
    """Return what latents are truncated towards: None for 'mean', otherwise the mean of w of each label's class.

    Args:
        G: Generator.
        labels: float32 [N, c_dim] on the device of G.
        towards: 'mean' or 'class'. A network without classes has one mean of w.

    Returns:
        float32 [N, w_dim], or None.
    """
    if towards == 'mean' or G.c_dim == 0:
        return None
    different, indices = labels.unique(dim=0, return_inverse=True)
    centers = [sample_w(G, label[None]).mean(dim=0) for label in different]
    return torch.stack(centers)[indices.cpu()].to(labels.device, torch.float32)


@torch.no_grad()
def sample_w(G: Any, labels: torch.Tensor, num_samples: int = 10_000) -> torch.Tensor:
    """Return w of a fixed set of random z, without truncation: float64 [num_samples, w_dim] on the CPU.

    Args:
        G: Generator.
        labels: float32 [1, c_dim], or [num_samples, c_dim], on the device of G.
        num_samples: Number of samples.
    """
    z = np.random.RandomState(_SAMPLES_SEED).randn(num_samples, G.z_dim).astype(np.float32)
    zs = torch.from_numpy(z).split(_SAMPLES_AT_ONCE)
    cs = labels.expand(num_samples, -1).split(_SAMPLES_AT_ONCE)
    mapping = copy.deepcopy(G.mapping).eval()  # in training mode, the mean of w would change
    return torch.cat([mapping(z.to(labels.device), c)[:, 0].cpu().double() for z, c in zip(zs, cs)])


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
