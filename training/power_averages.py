"""Averages of the generator whose length is chosen after the training (arXiv 2312.02696, section 3.1 and 3.2).

A power-function average weights the parameters at time τ by τ^γ, so that it follows the training at a fixed relative
distance: its length σ_rel is the standard deviation of the weights as a fraction of the time that has passed. Two such
averages are kept in the training, and written with each snapshot. Any other length is a linear combination of those
that were written, found by least squares: `combine` returns its coefficients.

Time t is the number of images shown. Parameters do not change between two steps, and for those the update is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch


def exponent(length: float) -> float:
    """Return γ for σ_rel: the largest root of σ_rel² (γ + 2)² (γ + 3) = γ + 1 (eq. 126 of the paper).

    Args:
        length: σ_rel, from `schema.MIN_LENGTH` to `schema.MAX_LENGTH`.
    """
    inverse = length**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real.max())


def length_of(gamma: float) -> float:
    """Return σ_rel for γ."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


class PowerAverages:
    """Power-function averages of the parameters of a module.

    Args:
        module: The module, whose buffers are not averaged.
        lengths: σ_rel of each average.
    """

    def __init__(self, module: torch.nn.Module, lengths: Sequence[float]):
        self.lengths = list(lengths)
        self._gammas = [exponent(length) for length in lengths]
        self._parameters = dict(module.named_parameters())
        self._averages = [
            {name: parameter.detach().clone() for name, parameter in self._parameters.items()} for _ in lengths
        ]

    @torch.no_grad()
    def update(self, before_nimg: int, now_nimg: int) -> None:
        """Move all averages towards the parameters, which are those of the images from `before_nimg` to `now_nimg`."""
        for gamma, average in zip(self._gammas, self._averages):
            weight = 1 - (before_nimg / now_nimg) ** (gamma + 1)
            for name, parameter in self._parameters.items():
                average[name].lerp_(parameter, weight)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all averages, by position and name of the parameter: '0/mapping.fc0.weight'."""
        averages = enumerate(self._averages)
        return {f'{index}/{name}': tensor for index, average in averages for name, tensor in average.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


# ---------------------------------------------------------------------------------------------------------------------
# Combination


@dataclass(frozen=True)
class Profile:
    """The weights of an average over time: proportional to τ^γ from 0 to `time`, and 0 after that."""

    gamma: float
    time: float


def inner_product(one: Profile, other: Profile) -> float:
    """Return the integral of the product of two profiles over time, each of which has the integral 1.

    With γ and δ the exponents and s ≤ t the times: (γ + 1)(δ + 1) s^(γ + δ + 1) / ((γ + δ + 1) s^(γ + 1) t^(δ + 1)).
    """
    early, late = sorted((one, other), key=lambda profile: profile.time)
    factor = (early.gamma + 1) * (late.gamma + 1) / (early.gamma + late.gamma + 1)
    return factor / late.time * (early.time / late.time) ** late.gamma


def combine(stored: Sequence[Profile], target: Profile) -> tuple[np.ndarray, float]:
    """Return the combination of stored averages that comes closest to a target (section 3.2).

    Args:
        stored: Their profiles.
        target: The profile to reconstruct.

    Returns:
        The coefficients, float64 [number of stored averages], whose sum is 1, and the distance of the two profiles in
        proportion to the norm of the target: 0 is perfect.
    """
    # Minimize |Σ c_i p_i - p|² with Σ c_i = 1; multiples of the same functions with the norm 1 are better conditioned.
    norms = np.sqrt([inner_product(profile, profile) for profile in stored])
    gram = np.array([[inner_product(a, b) for b in stored] for a in stored]) / np.outer(norms, norms)
    right = np.array([inner_product(profile, target) for profile in stored]) / norms
    count = len(stored)
    system = np.zeros([count + 1, count + 1])
    system[:count, :count] = gram
    system[:count, count] = system[count, :count] = 1 / norms
    solution = np.linalg.lstsq(system, np.append(right, 1), rcond=None)[0][:count]
    square = inner_product(target, target)
    distance = square - 2 * solution @ right + solution @ gram @ solution
    coefficients = solution / norms
    return coefficients / coefficients.sum(), math.sqrt(max(distance, 0) / square)


class Combination:
    """A sum of averages, each times its coefficient, which are added one after the other.

    The sum is in float64, because coefficients of both signs can be large.
    """

    def __init__(self) -> None:
        self._total: dict[str, torch.Tensor] = {}

    def add(self, average: Mapping[str, torch.Tensor], coefficient: float) -> None:
        """Add the tensors of one average.

        Raises:
            ValueError: It has other tensors than the first one.
        """
        if not self._total:
            self._total = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in average.items()}
        shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (self._total, average)]
        if shapes[0] != shapes[1]:
            raise ValueError('the averages are of different networks')
        for name, tensor in average.items():
            self._total[name] += tensor.to(torch.float64) * coefficient

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the sum by name, in float64."""
        return self._total
