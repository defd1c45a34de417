"""Other labels: unconditional networks become conditional, and networks of some classes become those of others.

Each class computes at first what the network computed before: a class that the network knows, by name, what it computed
for this class; any other class what it computed without labels, or for the mean of the embedded classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from network_files.changes.architectures import construct_like, copy_equal_shapes, keywords_of

_SEED = 1


def match_classes(old: Sequence[str] | int, new: Sequence[str] | int) -> list[int | None]:
    """Return for each new class the index of the old one with the same name, or None.

    Args:
        old: Names of the classes, or their number. A class without a name is called by its number.
        new: The same.
    """
    known = {name: index for index, name in enumerate(_names(old))}
    return [known.get(name) for name in _names(new)]


def _names(classes: Sequence[str] | int) -> list[str]:
    return [str(name) for name in (range(classes) if isinstance(classes, int) else classes)]


def change_labels(network: Any, wanted: Any, matches: Sequence[int | None], one_hot: bool = True) -> Any:
    """Return a network for other labels.

    Args:
        network: G or D.
        wanted: Network with the labels that are wanted. If `network` is unconditional, this one also decides on the
            size of its embedding.
        matches: For each new class or entry of the label, the index of the old one, or None.
        one_hot: Whether labels are classes. Otherwise they are vectors, and an entry that is new is without effect.
    """
    kwargs, is_generator = keywords_of(network), hasattr(network, 'synthesis')
    kwargs['c_dim'] = wanted.c_dim
    if not is_generator:
        kwargs['cmap_dim'] = None
        if network.c_dim > 0 and wanted.c_dim > 0:
            kwargs['cmap_dim'] = network.b4.cmap_dim
        elif network.c_dim == 0:
            kwargs['cmap_dim'], kwargs['mapping_kwargs'] = wanted.b4.cmap_dim, keywords_of(wanted)['mapping_kwargs']
    changed = construct_like(network, kwargs, _SEED)
    copy_equal_shapes(network, changed)
    if network.c_dim > 0 and wanted.c_dim > 0:
        _exchange_classes(network.mapping.embed, changed.mapping.embed, matches, one_hot)
    elif wanted.c_dim > 0:
        _embed_all_alike(changed.mapping.embed)
        (_ignore_embedding_in_G if is_generator else _ignore_embedding_in_D)(network, changed)
    else:
        (_average_classes_in_G if is_generator else _average_classes_in_D)(network, changed)
    return changed


def _normalized(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-8)


def _embed_all_alike(embed: Any) -> None:
    """Embed every label as the same random vector, so that gradients reach the weights of all of them."""
    embed.bias.copy_(embed.weight[:, 0])
    embed.weight.zero_()


def _exchange_classes(old: Any, new: Any, matches: Sequence[int | None], one_hot: bool) -> None:
    """Take over the columns of the embedding [features, classes]; a new class gets their mean."""
    ratio = old.weight_gain / new.weight_gain  # it depends on the number of classes
    mean = old.weight.mean(dim=1)
    for index, match in enumerate(matches):
        column = old.weight[:, match] if match is not None else mean if one_hot else torch.zeros_like(mean)
        new.weight[:, index] = column * ratio


# ---------------------------------------------------------------------------------------------------------------------
# Generator: the first layer of the mapping network reads [z, embedding]


def _ignore_embedding_in_G(old: Any, new: Any) -> None:
    """Subtract what the first layer computes from the embedding, which is the same for all labels, from its bias."""
    before, layer = old.mapping.fc0, new.mapping.fc0
    layer.weight[:, : old.z_dim] = before.weight * (before.weight_gain / layer.weight_gain)
    added = layer.weight[:, old.z_dim :] @ _normalized(new.mapping.embed.bias) * layer.weight_gain
    layer.bias.copy_(before.bias - added / layer.bias_gain)


def _average_classes_in_G(old: Any, new: Any) -> None:
    """Put the mean of the embedded classes into the bias of the first layer."""
    before, layer = old.mapping.fc0, new.mapping.fc0
    layer.weight.copy_(before.weight[:, : old.z_dim] * (before.weight_gain / layer.weight_gain))
    embedded = _normalized(old.mapping.embed(torch.eye(old.c_dim))).mean(dim=0)
    added = before.weight[:, old.z_dim :] @ embedded * before.weight_gain
    layer.bias.copy_(before.bias + added / layer.bias_gain)


# ---------------------------------------------------------------------------------------------------------------------
# Discriminator: the logit is the product of the last layer's output with the mapped label m, divided by √K


def _ignore_embedding_in_D(old: Any, new: Any) -> None:
    """Set the last layer W [K, C] so that mᵀW/√K is the old one: min-norm, plus a random part that m does not see.

    Without the random part, all rows would be multiples of one, and classes could only learn to scale the same logit.
    """
    before, layer = old.b4.out, new.b4.out
    size = new.b4.cmap_dim
    m = new.mapping(None, torch.zeros([1, new.c_dim]))[0].double()  # [K], the same for all labels
    along = m[:, None] / m.square().sum()
    random = layer.weight.double()
    random = random - along * (m @ random)
    layer.weight.copy_(random + along * before.weight.double() * (size**0.5 * before.weight_gain / layer.weight_gain))
    layer.bias.copy_((along * before.bias.double() * size**0.5)[:, 0])


def _average_classes_in_D(old: Any, new: Any) -> None:
    """Make the logit the mean of those of all classes."""
    before, layer = old.b4.out, new.b4.out
    m = old.mapping(None, torch.eye(old.c_dim)).mean(dim=0) / old.b4.cmap_dim**0.5  # [K]
    layer.weight.copy_((m @ before.weight)[None] * (before.weight_gain / layer.weight_gain))
    layer.bias.copy_((m @ before.bias)[None])
