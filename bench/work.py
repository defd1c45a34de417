"""The least convolution work of the networks and of the training phases, in FLOP: what their floors are made of.

Counted from the layers, not from what an implementation happens to run. A convolution that changes the resolution
needs one multiplication and one addition for each weight and each pixel at the *lower* of its two resolutions: no
inserted zero is multiplied, no dropped pixel is computed. Only the dense convolutions count. Resampling filters, dense
layers and element-wise work are left out: a floor may be too low, never too high.

What a phase of training adds up to follows from the chain rule. With y = w * x, the gradient in x and that in w cost
as much as y itself. `phase_flop` says for each phase which of them the mathematics needs; a test holds this against
the convolutions that PyTorch really runs.
"""

from dataclasses import dataclass

import torch

from training.networks_stylegan2 import Conv2dLayer, SynthesisLayer, ToRGBLayer

CONVOLUTION_LAYERS = (Conv2dLayer, SynthesisLayer, ToRGBLayer)


@dataclass(frozen=True)
class LayerWork:
    """One layer for one image."""

    name: str
    kind: type
    flop: int


@torch.no_grad()
def layer_work(network: torch.nn.Module, *inputs) -> list[LayerWork]:
    """The convolution layers of G or D in the order they run, from one forward pass with `inputs` of batch size 1."""
    layers = []

    def count(name):
        def hook(module, args, output):
            pixels = min(args[0].shape[2] * args[0].shape[3], output.shape[2] * output.shape[3])
            layers.append(LayerWork(name, type(module), 2 * module.weight.numel() * pixels))

        return hook

    hooks = [
        module.register_forward_hook(count(name))
        for name, module in network.named_modules()
        if isinstance(module, CONVOLUTION_LAYERS)
    ]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    return layers


@dataclass(frozen=True)
class NetworkWork:
    """FLOP of one image through both networks, and of the layers that a derivative can do without."""

    G: int
    G_to_rgb: int
    D: int
    D_from_rgb: int  # takes the images
    D_epilogue: int  # comes after the minibatch standard deviation, the only curved function of D

    @classmethod
    def of(cls, G: torch.nn.Module, D: torch.nn.Module) -> 'NetworkWork':
        """Count in one forward pass of each network, on the device it is on."""
        device = next(G.parameters()).device
        label = torch.zeros([1, G.c_dim], device=device)
        image = torch.zeros([1, G.img_channels, G.img_resolution, G.img_resolution], device=device)
        g_layers = layer_work(G, torch.zeros([1, G.z_dim], device=device), label)
        d_layers = layer_work(D, image, label)
        return cls(
            G=sum(layer.flop for layer in g_layers),
            G_to_rgb=sum(layer.flop for layer in g_layers if layer.kind is ToRGBLayer),
            D=sum(layer.flop for layer in d_layers),
            D_from_rgb=d_layers[0].flop,
            D_epilogue=d_layers[-1].flop,
        )


def phase_flop(work: NetworkWork, batch_size: int, pl_batch_shrink: int = 2) -> dict[str, int]:
    """Forward and backward convolution work of one run of each training phase.

    Gmain: G and D forward; back through D in the activations, through G in activations and weights.
    Greg: on a smaller batch, G forward; its gradient in ws; the derivative of that, in its gradients and in the
        weights; and, since modulation multiplies activations, from there back through G as well, but for ToRGB,
        which the image depends on linearly.
    Dmain: G forward; D forward and back, for generated and for real images; no gradient in images.
    Dreg: D forward; its gradient in the images; the derivative of that, as for G; and, since the minibatch standard
        deviation is curved, from there back through the layers before it.
    """
    g, d = work.G, work.D
    return {
        'Gmain': batch_size * (3 * g + 2 * d),
        'Greg': max(batch_size // pl_batch_shrink, 1) * (6 * g - 2 * work.G_to_rgb),
        'Dmain': batch_size * (g + 2 * (3 * d - work.D_from_rgb)),
        'Dreg': batch_size * (4 * d + 2 * (d - work.D_epilogue) - work.D_from_rgb),
    }
