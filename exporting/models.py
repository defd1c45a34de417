"""What is exported: modules whose arguments are tensors only, with everything else fixed.

Within `plain_operators`, they consist of PyTorch's own operators, so that a program without this project runs them.

Shapes: N batch, L number of w vectors, C channels, H W height and width.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from dataset_format.sizes import sides
from dnnlib.errors import InvalidArgument
from torch_utils.ops import native

Part = Literal['G', 'D', 'mapping', 'synthesis']

MAX_BATCH = 4096
_MAX_FREE_GROUP = 128  # of a discriminator with a free batch, which is tried with two groups
_EXAMPLE_BATCH = 3  # for a free batch: more than one, and not a size that code would expect
_TOLERANCE, _TOLERANCE_HALF = 1e-4, 5e-2


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a user chooses about an export.

    Args:
        model: 'G', 'D', or half of a generator: 'mapping' (z → w) or 'synthesis' (w → image).
        truncation_psi: Fixed truncation, or None to make it an input.
        truncation_cutoff: Truncate only the first so many vectors. None: all.
        label: Fixed label [1, c_dim], or None to make it an input.
        noise_mode: 'const' or 'none'.
        batch: Fixed batch size, or None to leave it free.
        half: Compute in half precision where the network does so on CUDA.
    """

    model: Part = 'G'
    truncation_psi: float | None = 1
    truncation_cutoff: int | None = None
    label: torch.Tensor | None = None
    noise_mode: str = 'const'
    batch: int | None = None
    half: bool = False


@dataclasses.dataclass(frozen=True)
class Model:
    """A module to export.

    Args:
        module: Takes the inputs by name and returns one tensor.
        inputs: Example of each input.
        unbatched: Names of the inputs without a batch axis.
        output: Name of the output.
        batch: Fixed batch size, or None.
        half: Whether parts of it compute in half precision.
        checked_sizes: Batch sizes for which an export is compared with the module.
    """

    module: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    unbatched: tuple[str, ...]
    output: str
    batch: int | None
    half: bool
    checked_sizes: tuple[int, ...]

    def inputs_for(self, batch_size: int) -> dict[str, torch.Tensor]:
        """Return other inputs of the same distribution, always the same ones."""
        generator = torch.Generator().manual_seed(batch_size)
        result = {}
        for name, example in self.inputs.items():
            if name in self.unbatched:
                result[name] = example
            elif name == 'c':
                classes = torch.arange(batch_size) % example.shape[1]
                result[name] = torch.nn.functional.one_hot(classes, example.shape[1]).to(example.dtype)
            else:
                result[name] = torch.randn([batch_size, *example.shape[1:]], generator=generator)
        return result


class _Mapping(torch.nn.Module):
    """z [N, z_dim] (and c [N, c_dim], truncation_psi []) → w [N, L, w_dim]."""

    def __init__(self, G: Any, choices: Choices):
        super().__init__()
        self.mapping: Any = G.mapping
        self.num_ws = G.num_ws
        self.psi, self.cutoff = choices.truncation_psi, choices.truncation_cutoff
        self.label = choices.label

    def forward(
        self, z: torch.Tensor, c: torch.Tensor | None = None, truncation_psi: torch.Tensor | None = None
    ) -> torch.Tensor:
        if c is None and self.label is not None:
            c = self.label.expand(z.shape[0], -1)
        if truncation_psi is None:
            return self.mapping(z, c, truncation_psi=self.psi, truncation_cutoff=self.cutoff)
        ws = self.mapping(z, c)
        kept = self.num_ws if self.cutoff is None else self.cutoff
        mean = self.mapping.w_avg
        return torch.cat([mean + truncation_psi * (ws[:, :kept] - mean), ws[:, kept:]], dim=1)


class _Synthesis(torch.nn.Module):
    """w [N, L, w_dim] → image [N, C, H, W]."""

    def __init__(self, G: Any, choices: Choices):
        super().__init__()
        self.synthesis = G.synthesis
        self.options: dict[str, Any] = {'noise_mode': choices.noise_mode}
        if hasattr(G.synthesis, 'block_resolutions'):  # StyleGAN2: the weights stay constants
            self.options['fused_modconv'] = False

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        return self.synthesis(w, **self.options).to(torch.float32)


class _Generator(torch.nn.Module):
    """z [N, z_dim] (and c [N, c_dim], truncation_psi []) → image [N, C, H, W]."""

    def __init__(self, G: Any, choices: Choices):
        super().__init__()
        self.to_w = _Mapping(G, choices)
        self.to_image = _Synthesis(G, choices)

    def forward(
        self, z: torch.Tensor, c: torch.Tensor | None = None, truncation_psi: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.to_image(self.to_w(z, c, truncation_psi))


class _Discriminator(torch.nn.Module):
    """image [N, C, H, W] (and c [N, c_dim]) → logits [N, 1]."""

    def __init__(self, D: Any, choices: Choices):
        super().__init__()
        self.discriminator = D
        self.label = choices.label

    def forward(self, image: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        if c is None and self.label is not None:
            c = self.label.expand(image.shape[0], -1)
        return self.discriminator(image, c)


def make_model(network: Any, choices: Choices) -> Model:
    """Return the module to export.

    Args:
        network: Generator or, for `choices.model='D'`, discriminator; on the CPU, in evaluation mode. With
            `choices.half` it is changed.
        choices: What the user has chosen.

    Raises:
        InvalidArgument: Arguments 'batch' and 'trunc': the network cannot be exported so.
    """
    if choices.half:
        _compute_in_half_on_cpus(network)
    batch_size = choices.batch or _EXAMPLE_BATCH
    sizes: tuple[int, ...] = (1, _EXAMPLE_BATCH + 1)
    if choices.model == 'D':
        _check_group_size(network, choices.batch)
        sizes = (1, 2 * _group_size(network))
        batch_size = choices.batch or max(sizes[1], _EXAMPLE_BATCH)
        inputs = {'image': torch.zeros([batch_size, network.img_channels, *sides(network.img_resolution)])}
        module: torch.nn.Module = _Discriminator(network, choices)
    elif choices.model == 'synthesis':
        inputs = {'w': torch.zeros([batch_size, network.num_ws, network.w_dim])}
        module = _Synthesis(network, choices)
    else:
        if choices.truncation_psi != 1 and getattr(network.mapping, 'w_avg', None) is None:
            reason = 'this network has no mean of w, so it cannot be truncated: write a file (not a page) with 1.'
            raise InvalidArgument('trunc', reason)
        inputs = {'z': torch.zeros([batch_size, network.z_dim])}
        module = (_Generator if choices.model == 'G' else _Mapping)(network, choices)
    if network.c_dim > 0 and choices.label is None and choices.model != 'synthesis':
        inputs['c'] = torch.zeros([batch_size, network.c_dim])
    if choices.truncation_psi is None and choices.model in ('G', 'mapping'):
        inputs['truncation_psi'] = torch.tensor(0.7)
    output = {'D': 'logits', 'mapping': 'w'}.get(choices.model, 'image')
    sizes = sizes if choices.batch is None else (choices.batch,)
    model = Model(module.eval(), inputs, ('truncation_psi',), output, choices.batch, choices.half, sizes)
    return dataclasses.replace(model, inputs=model.inputs_for(batch_size))


@torch.no_grad()
def check_results(compute: Callable[[dict[str, torch.Tensor]], torch.Tensor], model: Model, what: str) -> float:
    """Compare the results of an export with those of PyTorch.

    Args:
        compute: Computes the output of the export for inputs by name.
        model: What was exported.
        what: What computes, for messages.

    Returns:
        The largest difference, relative to the largest magnitude.

    Raises:
        ValueError: The difference is more than 1e-4, or 5e-2 in half precision.
    """
    tolerance = _TOLERANCE_HALF if model.half else _TOLERANCE
    worst = 0.0
    for size in model.checked_sizes:
        inputs = model.inputs_for(size)
        expected = model.module(**inputs).to(torch.float32)
        difference = (compute(inputs).to(torch.float32) - expected).abs().max()
        relative = float(difference / expected.abs().max().clamp(min=1e-8))
        if not relative <= tolerance:  # also if it is not a number
            raise ValueError(
                f'{what} computes something else than PyTorch (relative difference {relative:.1e}, at most '
                f'{tolerance:g} is accepted), so nothing was written.'
            )
        worst = max(worst, relative)
    return worst


@contextlib.contextmanager
def plain_operators() -> Iterator[None]:
    """Within this context, networks compute with PyTorch's own operators only."""
    with native.reference_only(), torch.no_grad():
        yield


def _compute_in_half_on_cpus(network: torch.nn.Module) -> None:
    """Let the parts of a network that compute in half precision on CUDA do so everywhere."""
    for module in network.modules():
        if getattr(module, 'use_fp16', False):
            module.half_on_cpu = True  # type: ignore[assignment]


def _group_size(D: Any) -> int:
    """Return the size of the groups of which a discriminator computes standard deviations; 1 without groups."""
    layer = D.b4.mbstd
    return 1 if layer is None or layer.group_size is None else layer.group_size


def _check_group_size(D: Any, batch: int | None) -> None:
    size = _group_size(D)
    if batch is None and size > _MAX_FREE_GROUP:
        raise InvalidArgument(
            'batch',
            f'this discriminator compares the images of groups of {size}, so a fixed number of images is needed.',
        )
    if batch is not None and batch > size and batch % size != 0:
        raise InvalidArgument(
            'batch', f'{batch} must be a multiple of {size}, the size of the groups in this discriminator, or less.'
        )
