"""The layers of a generator by the w vectors that they read, for StyleGAN2 and StyleGAN3.

A generator takes num_ws vectors w. Vector i belongs to one main layer: in StyleGAN2 its i-th convolution, and the last
vector the ToRGB layer at the end; in StyleGAN3 the input, and then each layer. The ToRGB layers of StyleGAN2's other
blocks read the vector of the next convolution as well.
"""

from __future__ import annotations

from typing import Any

import torch

from dnnlib.errors import InvalidArgument
from dnnlib.text import excerpt


def is_stylegan3(G: Any) -> bool:
    """Return whether a generator has the synthesis network of StyleGAN3."""
    return hasattr(G.synthesis, 'layer_names')


def layer_modules(G: Any) -> dict[str, torch.nn.Module]:
    """Return the main layer of each w vector, by its name in `G.synthesis`, coarse to fine.

    Returns:
        num_ws modules, each with an `affine` that turns w into styles: `b4.conv1`, `b8.conv0`, ..., `b32.torgb`, or
        `input`, `L0_36_512`, ...
    """
    if is_stylegan3(G):
        return {name: getattr(G.synthesis, name) for name in ['input', *G.synthesis.layer_names]}
    modules: dict[str, torch.nn.Module] = {}
    for level in G.synthesis.block_resolutions:
        block = getattr(G.synthesis, f'b{level}')
        modules |= {f'b{level}.{name}': getattr(block, name) for name in ('conv0', 'conv1') if hasattr(block, name)}
    last = G.synthesis.block_resolutions[-1]
    modules[f'b{last}.torgb'] = getattr(G.synthesis, f'b{last}').torgb
    return modules


def style_weights(G: Any) -> list[torch.Tensor]:
    """Return the weight of the main affine layer of each w vector: num_ws matrices [styles, w_dim], in float32.

    The matrices contain the layers' gain, so that `w @ weight.t()` is the style without its bias.
    """
    affines: list[Any] = [module.affine for module in layer_modules(G).values()]
    return [affine.weight.detach().float() * affine.weight_gain for affine in affines]


def check_layers(G: Any, layers: list[int] | None, argument: str = 'layers') -> list[int]:
    """Return layers in ascending order, each once; None: all of them.

    Raises:
        InvalidArgument: The network does not have one of them.
    """
    if layers is None:
        return list(range(G.num_ws))
    if max(layers) >= G.num_ws:
        raise InvalidArgument(
            argument, f'Unknown layer {max(layers)}: this network has {G.num_ws} layers, 0 to {G.num_ws - 1}.'
        )
    return sorted(set(layers))


def module_named(G: Any, name: str, argument: str = 'features_of') -> torch.nn.Module:
    """Return a main layer by its name or by its index.

    Raises:
        InvalidArgument: There is none of this name.
    """
    modules = layer_modules(G)
    if name in modules:
        return modules[name]
    if name.isdecimal() and len(name) < 6 and int(name) < len(modules):
        return list(modules.values())[int(name)]
    raise InvalidArgument(
        argument,
        f'Unknown layer {excerpt(name, 60)!r}: choose w, a number from 0 to {len(modules) - 1}, or one of '
        f'{", ".join(modules)}.',
    )
