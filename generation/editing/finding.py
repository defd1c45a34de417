"""Ways to find directions in the space of w, without training anything.

Shapes: N samples, K directions, L number of w vectors (`num_ws`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dnnlib.errors import InvalidArgument
from dnnlib.progress import track
from generation.editing.directions import Direction, make_direction
from generation.editing.style_layers import module_named, style_weights

_BATCH = 16  # images at once, where layers are observed


def sefa(
    G: Any, w: torch.Tensor, count: int = 10, layers: Sequence[int] | None = None, suffix: str = ''
) -> list[Direction]:
    """Factorize the layers that turn w into styles (SeFa, arXiv 2007.06600).

    The directions n of unit length that change the styles A·w of the chosen layers most, |A·n|² → max, are the
    eigenvectors of AᵀA with the largest eigenvalues, where A contains the weights of these layers one below the other.

    Args:
        G: Generator.
        w: [N, w_dim] samples of w, which give the scale of the directions.
        count: K, at most w_dim.
        layers: Layers to factorize and to change. None: all.
        suffix: Appended to the names, which are 'sefa0', 'sefa1', ...

    Returns:
        K directions, that of the largest eigenvalue first.
    """
    layers = list(range(G.num_ws)) if layers is None else list(layers)
    weights = style_weights(G)
    A = torch.cat([weights[layer].cpu().double() for layer in layers])  # [styles of all layers, w_dim]
    _values, vectors = torch.linalg.eigh(A.t() @ A)  # ascending
    found = vectors.flip(1).t()[:count]  # [K, w_dim]
    return [
        make_direction(f'sefa{index}{suffix}', vector, _spread(w, vector), 'sefa', layers, G.num_ws)
        for index, vector in enumerate(map(_oriented, found))
    ]


def principal_components(
    G: Any, w: torch.Tensor, count: int = 10, layers: Sequence[int] | None = None, suffix: str = ''
) -> list[Direction]:
    """Return the principal components of w (GANSpace, arXiv 2004.02546).

    Args:
        G: Generator.
        w: [N, w_dim] samples.
        count: K, at most w_dim.
        layers: Layers to change. None: all.
        suffix: Appended to the names, which are 'pca0', 'pca1', ...

    Returns:
        K directions, that of the largest variance first; `scale` is the standard deviation along each.
    """
    layers = list(range(G.num_ws)) if layers is None else list(layers)
    components, deviations = components_of(w, count)
    return [
        make_direction(f'pca{index}{suffix}', vector, deviation, 'pca of w', layers, G.num_ws)
        for index, (vector, deviation) in enumerate(zip(components, deviations.tolist()))
    ]


def principal_components_of_layer(
    G: Any,
    w: torch.Tensor,
    layer: str,
    count: int = 10,
    layers: Sequence[int] | None = None,
    suffix: str = '',
) -> list[Direction]:
    """Return directions of w that move the principal components of a layer's output (GANSpace, arXiv 2004.02546).

    The outputs of the layer are projected on their principal components. The direction of w for a component is the
    least-squares estimate of the change of w that belongs to one standard deviation of it.

    Args:
        G: Generator.
        w: [N, w_dim] samples, more than `count`.
        layer: Name or index of the layer, see `style_layers.layer_modules`.
        count: K.
        layers: Layers to change. None: all.
        suffix: Appended to the names, which are 'LAYER-pca0', 'LAYER-pca1', ...

    Raises:
        InvalidArgument: The network has no layer of this name (argument 'features_of').
    """
    layers = list(range(G.num_ws)) if layers is None else list(layers)
    outputs = outputs_of_layer(G, w, layer)
    components, deviations = components_of(outputs, count)
    scores = (outputs.double() - outputs.double().mean(dim=0)) @ components.t()  # [N, K]
    # The components are uncorrelated, so that each estimate is a covariance divided by a variance.
    centered = w.cpu().double() - w.cpu().double().mean(dim=0)
    steps = (scores.t() @ centered) / (len(w) * deviations[:, None].clamp(min=1e-12))  # [K, w_dim], per deviation
    lengths = steps.norm(dim=1).clamp(min=1e-12)
    prefix = layer if not layer.isdecimal() else f'layer{layer}'
    return [
        make_direction(
            f'{prefix}-pca{index}{suffix}', step / length, length.item(), f'pca of {layer}', layers, G.num_ws
        )
        for index, (step, length) in enumerate(zip(steps, lengths))
    ]


def linear_direction(
    name: str,
    ws: torch.Tensor,
    values: torch.Tensor,
    w: torch.Tensor,
    layers: Sequence[int] | None = None,
    method: str = 'linear',
) -> Direction:
    """Return the direction along which a number rises that belongs to each latent.

    It is the covariance of w and the number. Where the number is 0 for some latents and 1 for the others, that is the
    direction from the mean of the former to the mean of the latter.

    Args:
        name: Name of the direction.
        ws: [N, L, w_dim] or, for one vector that belongs to all layers, [N, 1, w_dim].
        values: [N] numbers, not all the same.
        w: [M, w_dim] samples of w, which give the scale of the direction.
        layers: Layers to change. None: all.
        method: Description of where latents and numbers come from.

    Raises:
        InvalidArgument: Argument 'values': the numbers are all the same, or the latents are.
    """
    num_ws = ws.shape[1]
    numbers = values.cpu().double() - values.cpu().double().mean()
    latents = ws.cpu().double() - ws.cpu().double().mean(dim=0)
    covariance = torch.einsum('n,nlw->lw', numbers, latents) / len(numbers)  # [L, w_dim]
    lengths = covariance.norm(dim=1)
    if len(numbers) < 2 or lengths.max() <= 1e-12:
        raise InvalidArgument('values', 'the numbers or the latents are all the same, so no direction can be found.')
    layers = list(range(num_ws)) if layers is None else list(layers)
    vectors = torch.zeros(covariance.shape, dtype=torch.float32)
    vectors[layers] = (covariance / lengths[layers].max().clamp(min=1e-12)).float()[layers]
    unit = covariance / lengths[:, None].clamp(min=1e-12)
    spreads = torch.stack([_spread_tensor(w, unit[layer]) for layer in layers])
    return Direction(name, vectors, spreads.square().mean().sqrt().item(), method, layers)


# ---------------------------------------------------------------------------------------------------------------------
# Mathematics


def components_of(samples: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first principal components of samples, and the standard deviations along them.

    Args:
        samples: [N, D].
        count: K, at most N - 1 and D.

    Returns:
        float64 [K, D] of unit length, whose largest element is positive; float64 [K], descending (divided by N).
    """
    samples = samples.cpu().double()
    centered = samples - samples.mean(dim=0)
    num_samples, num_features = centered.shape
    if num_features <= num_samples:
        values, vectors = torch.linalg.eigh(centered.t() @ centered / num_samples)
        components = vectors.flip(1).t()[:count]
    else:  # The matrix of products between samples is smaller, and has the same eigenvalues.
        values, vectors = torch.linalg.eigh(centered @ centered.t() / num_samples)
        components = vectors.flip(1).t()[:count] @ centered
        components = components / components.norm(dim=1, keepdim=True).clamp(min=1e-12)
    deviations = values.flip(0)[:count].clamp(min=0).sqrt()
    return torch.stack([_oriented(component) for component in components]), deviations


@torch.no_grad()
def outputs_of_layer(G: Any, w: torch.Tensor, layer: str) -> torch.Tensor:
    """Return what a layer computes for samples w [N, w_dim], without noise: float32 [N, D] on the CPU.

    Raises:
        InvalidArgument: The network has no layer of this name (argument 'features_of').
    """
    module = module_named(G, layer)
    outputs: list[torch.Tensor] = []
    hook = module.register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output.float().flatten(1).cpu())
    )
    try:
        batches = w.split(_BATCH)
        for batch in track(batches, len(batches), 'batch'):
            ws = batch.unsqueeze(1).repeat(1, G.num_ws, 1)
            G.synthesis(ws, noise_mode='none', force_fp32=True)
    finally:
        hook.remove()
    return torch.cat(outputs)


def _oriented(vector: torch.Tensor) -> torch.Tensor:
    """Return a vector or its opposite, whichever has a positive element of largest magnitude."""
    return vector * torch.sign(vector[vector.abs().argmax()])


def _spread_tensor(w: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation of samples w [N, w_dim] along a unit vector."""
    return (w.cpu().double() @ vector.cpu().double()).std(unbiased=False)


def _spread(w: torch.Tensor, vector: torch.Tensor) -> float:
    return _spread_tensor(w, vector).item()
