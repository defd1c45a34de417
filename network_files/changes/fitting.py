"""What is adapted by least squares where a change cannot be exact, and how large the difference is that remains.

Everything is measured on images of the network itself: no training image is needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from network_files.changes.architectures import is_stylegan3, sides_of
from network_files.changes.colors import color_map, to_rgb_layers
from network_files.changes.resolutions import resample

_SEED = 5
_MAX_SAMPLES = 64
_MAX_PIXELS = 2**19  # of all samples: 8 images of 256x256
_PIXELS_AT_ONCE = 2**14
_LOGITS_AT_ONCE = 4  # which any group size of the minibatch standard deviation allows
_RIDGE = 1e-4  # relative to the mean square of the features
_READER_STEPS, _READER_PIXELS, _READER_LR = 300, 8192, 0.05


def sample_latents(G: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the w [N, w_dim] and the labels [N, c_dim] on which changes of a generator are measured.

    Labels are classes in turn.
    """
    height, width = sides_of(G)
    count = max(4, min(_MAX_SAMPLES, _MAX_PIXELS // (height * width)))
    random = torch.Generator().manual_seed(_SEED)
    z = torch.randn([count, G.z_dim], generator=random)
    c = torch.eye(G.c_dim)[torch.arange(count) % G.c_dim] if G.c_dim > 0 else torch.zeros([count, 0])
    return G.mapping(z, c)[:, 0], c


def synthesize(G: Any, w: torch.Tensor) -> torch.Tensor:
    """Return the images [N, C, H, W] for w [N, w_dim], a few at a time, without noise."""
    ws = w[:, None].expand(-1, G.num_ws, -1)
    return torch.cat([G.synthesis(some, noise_mode='none') for some in ws.split(_batch(G))])


def _batch(network: Any) -> int:
    """Return how many images a network works on at once."""
    height, width = sides_of(network)
    return max(1, _PIXELS_AT_ONCE // (height * width))


def converted(images: torch.Tensor, network: Any) -> torch.Tensor:
    """Return images with the size and the channels of those of a network."""
    colors = color_map(images.shape[1], network.img_channels)
    return colors.apply(resample(images, *sides_of(network)))


def rms(x: torch.Tensor) -> float:
    """Return the root of the mean square."""
    return float(x.double().square().mean().sqrt())


# ---------------------------------------------------------------------------------------------------------------------
# Generator


def fit_to_rgb(G: Any, w: torch.Tensor, targets: torch.Tensor) -> None:
    """Adapt the last conversion to RGB, so that a generator gives the target images as nearly as possible.

    The image is linear in the weight [O, C] and the bias of that layer: ridge regression of the difference, so that
    what does not matter keeps its value.

    Args:
        G: Generator, changed in place.
        w: [N, w_dim].
        targets: [N, O, H, W].
    """
    layer = to_rgb_layers(G)[-1]
    num_features = layer.in_channels + 1
    gram = torch.zeros([num_features, num_features], dtype=torch.float64)
    moments = torch.zeros([num_features, G.img_channels], dtype=torch.float64)
    for some, target in zip(w.split(_batch(G)), targets.split(_batch(G))):
        with _inputs_of(layer) as inputs:
            images = synthesize(G, some)
        features = _features(G, layer, *inputs).double()  # [pixels, C + 1]
        difference = (target - images).double().transpose(0, 1).flatten(1).t()  # [pixels, O]
        gram += features.t() @ features
        moments += features.t() @ difference
    gram += torch.eye(num_features, dtype=torch.float64) * (_RIDGE * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, moments).t().to(layer.weight)  # [O, C + 1]
    layer.weight[:, :, 0, 0] += solution[:, :-1]
    layer.bias += solution[:, -1]


@contextlib.contextmanager
def _inputs_of(layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Within this context, the list gets the maps and the w that the layer is called with."""
    inputs: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _module, args: inputs.extend(args[:2]))
    try:
        yield inputs
    finally:
        hook.remove()


def _features(G: Any, layer: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Return what the weight and the bias of a conversion to RGB are multiplied by: [pixels, C + 1]."""
    gain = getattr(layer, 'weight_gain', layer.in_channels**-0.5)
    scale = 1.0
    if is_stylegan3(G):
        scale = G.synthesis.output_scale
        gain *= float(layer.magnitude_ema.rsqrt()) * scale
    maps = (x * (layer.affine(w) * gain)[:, :, None, None]).transpose(0, 1).flatten(1).t()  # [pixels, C]
    return torch.cat([maps, torch.full_like(maps[:, :1], scale)], dim=1)


def measure_magnitudes(G: Any, w: torch.Tensor) -> None:
    """Set the mean squares by which a StyleGAN3 generator divides the inputs of its layers, layer by layer."""
    some = w[: _batch(G)]
    hooks = [getattr(G.synthesis, name).register_forward_pre_hook(_set_magnitude) for name in G.synthesis.layer_names]
    synthesize(G, some)
    for hook in hooks:
        hook.remove()


def _set_magnitude(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    layer.magnitude_ema.copy_(inputs[0].square().mean())


# ---------------------------------------------------------------------------------------------------------------------
# Discriminator


def fit_reader(D: Any, old: Any, images: torch.Tensor, steps: int) -> None:
    """Adapt the layer of a discriminator that reads the image to what `steps` removed blocks gave the block after it.

    Args:
        D: Discriminator whose first block is new as the first one; changed in place.
        old: Discriminator for images that are twice as large, `steps` times.
        images: Samples [N, C, H, W] of the size of `D`.
        steps: Number of removed blocks.
    """
    reader = getattr(D, f'b{D.block_resolutions[0]}').fromrgb
    targets = _maps_after(old, resample(images, *sides_of(old)), steps)  # [N, O, H, W]
    x, y = images.transpose(0, 1).flatten(1).t(), targets.transpose(0, 1).flatten(1).t()  # [pixels, C], [pixels, O]
    random = torch.Generator().manual_seed(_SEED)
    chosen = torch.randperm(len(x), generator=random)[:_READER_PIXELS]
    inputs = torch.cat([x[chosen], torch.ones([len(chosen), 1])], dim=1)
    solution = torch.linalg.lstsq(inputs, y[chosen] / reader.act_gain).solution  # [C + 1, O], without the nonlinearity
    solution = _descend(solution, lambda weight: _leaky(inputs @ weight) * reader.act_gain - y[chosen])
    reader.weight.copy_(solution[:-1].t()[:, :, None, None] / reader.weight_gain)
    reader.bias.copy_(solution[-1])


def _leaky(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.leaky_relu(x, 0.2)


def _descend(start: torch.Tensor, difference: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return the weights at the smallest mean square of the difference that Adam meets."""
    with torch.enable_grad():
        weight = start.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([weight], lr=_READER_LR * max(rms(start), 1e-3))
        best, best_loss = start, float('inf')
        for _ in range(_READER_STEPS):
            loss = difference(weight).square().mean()
            if loss.item() < best_loss:
                best, best_loss = weight.detach().clone(), loss.item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return best


def _maps_after(D: Any, images: torch.Tensor, steps: int) -> torch.Tensor:
    """Return what the first blocks of a discriminator give the next one."""
    x, img = None, images
    for level in D.block_resolutions[:steps]:
        x, img = getattr(D, f'b{level}')(x, img)
    assert x is not None
    return x


# ---------------------------------------------------------------------------------------------------------------------
# What remains


def logits(D: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the logits [N, 1]; images of a batch influence each other, so only equal batches can be compared."""
    pairs = zip(images.split(_LOGITS_AT_ONCE), labels.split(_LOGITS_AT_ONCE))
    return torch.cat([D(*pair) for pair in pairs])
