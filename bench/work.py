"""The least convolution work of the networks and of the training phases, in FLOP. Floors are computed from it.

The work is counted from the layers, not from the operations that an implementation runs. A convolution that changes
the resolution needs one multiplication and one addition for each weight and each pixel at the *lower* of its two
resolutions: inserted zeros need not be multiplied, nor dropped pixels computed. Only dense convolutions count, not
resampling filters, fully connected layers or element-wise operations, so a floor may be too low but never too high.

The work of a training phase follows from the chain rule. For y = w * x, the gradients with respect to x and to w cost
as much as y itself. `phase_flop` states which of them each phase needs; a test compares this with the convolutions that
PyTorch runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training import networks_stylegan3
from training.networks_stylegan2 import Conv2dLayer, SynthesisLayer, ToRGBLayer

CONVOLUTION_LAYERS = (Conv2dLayer, SynthesisLayer, ToRGBLayer, networks_stylegan3.SynthesisLayer)


@dataclass(frozen=True)
class LayerWork:
    """The work of one layer for one image."""

    name: str
    is_to_rgb: bool
    flop: int


@torch.no_grad()
def layer_work(network: torch.nn.Module, *inputs: torch.Tensor) -> list[LayerWork]:
    """Return the convolution layers of G or D in the order they run.

    Args:
        network: G or D.
        *inputs: Arguments of one forward pass, with a batch size of 1.
    """
    layers = []

    def counting_hook(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            pixels = min(args[0].shape[2] * args[0].shape[3], output.shape[2] * output.shape[3])
            is_to_rgb = isinstance(module, ToRGBLayer) or getattr(module, 'is_torgb', False)
            layers.append(LayerWork(name, is_to_rgb, 2 * module.weight.numel() * pixels))

        return hook

    hooks = [
        module.register_forward_hook(counting_hook(name))
        for name, module in network.named_modules()
        if isinstance(module, CONVOLUTION_LAYERS)
    ]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    return layers


def generator_flop(G: Any, z: torch.Tensor, c: torch.Tensor) -> int:
    """Return the convolution work of G for a batch of latents [N, z_dim] and labels [N, c_dim]."""
    return len(z) * sum(layer.flop for layer in layer_work(G, z[:1], c[:1]))


@dataclass(frozen=True)
class NetworkWork:
    """FLOP of one image through both networks, and through the layers that some derivatives do not need."""

    G: int
    G_to_rgb: int
    D: int
    D_from_rgb: int  # the layer that takes the images
    D_epilogue: int  # the layer after the minibatch standard deviation, the only curved function in D

    @classmethod
    def of(cls, G: Any, D: Any) -> NetworkWork:
        """Count the work in one forward pass of each network, on its own device."""
        device = next(G.parameters()).device
        label = torch.zeros([1, G.c_dim], device=device)
        image = torch.zeros([1, G.img_channels, G.img_resolution, G.img_resolution], device=device)
        g_layers = layer_work(G, torch.zeros([1, G.z_dim], device=device), label)
        d_layers = layer_work(D, image, label)
        return cls(
            G=sum(layer.flop for layer in g_layers),
            G_to_rgb=sum(layer.flop for layer in g_layers if layer.is_to_rgb),
            D=sum(layer.flop for layer in d_layers),
            D_from_rgb=d_layers[0].flop,
            D_epilogue=d_layers[-1].flop,
        )


def phase_flop(work: NetworkWork, batch_size: int, pl_batch_shrink: int = 2) -> dict[str, int]:
    """Return the forward and backward convolution work of one run of each training phase.

    Gmain: Forward through G and D. Backward through D with respect to activations, through G with respect to
        activations and weights.
    Gboth: As Gmain, for runs without path length regularization.
    Greg: On a smaller batch, forward through G, and its gradient with respect to ws. The derivative of that with
        respect to the gradients and the weights. Modulation multiplies activations, so from there also backward through
        G, except for ToRGB, which the image depends on linearly.
    Dmain: Forward through G. Forward and backward through D for generated and for real images, without the gradient
        with respect to the images.
    Dreg: Forward through D, and its gradient with respect to the images. The derivative of that, as for G. The
        minibatch standard deviation is curved, so from there also backward through the layers before it.
    """
    g, d = work.G, work.D
    g_main = batch_size * (3 * g + 2 * d)
    return {
        'Gmain': g_main,
        'Gboth': g_main,
        'Greg': max(batch_size // pl_batch_shrink, 1) * (6 * g - 2 * work.G_to_rgb),
        'Dmain': batch_size * (g + 2 * (3 * d - work.D_from_rgb)),
        'Dreg': batch_size * (4 * d + 2 * (d - work.D_epilogue) - work.D_from_rgb),
    }
