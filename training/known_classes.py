"""The classes that configurations may name. No other class is imported or called, whatever file names it.

A configuration such as `dict(class_name='torch.optim.Adam', lr=0.002)` may come from a file that somebody else has
written, for example the `training_options.json` of a run, or the `training_set_kwargs` of a network pickle. To train
with a class of your own, add its name here and the rules of its keywords to `training.schema`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dnnlib.schema import shown
from dnnlib.util import construct_class_by_name

DATASET = 'training.dataset.ImageFolderDataset'
GENERATOR = 'training.networks_stylegan2.Generator'
GENERATOR_STYLEGAN3 = 'training.networks_stylegan3.Generator'
DISCRIMINATOR = 'training.networks_stylegan2.Discriminator'
AUGMENTATION = 'training.augment.AugmentPipe'
LOSS = 'training.loss.StyleGAN2Loss'
RELATIVISTIC_LOSS = 'training.relativistic_loss.RelativisticLoss'
OPTIMIZER = 'torch.optim.Adam'

DATASETS = (DATASET,)
GENERATORS = (GENERATOR, GENERATOR_STYLEGAN3)
DISCRIMINATORS = (DISCRIMINATOR,)
AUGMENTATIONS = (AUGMENTATION,)
LOSSES = (LOSS, RELATIVISTIC_LOSS)
OPTIMIZERS = (OPTIMIZER,)


def construct(kwargs: Mapping[str, Any], known: Collection[str], **more: Any) -> Any:
    """Construct an object of one of the known classes.

    Args:
        kwargs: `class_name` and keywords of its constructor.
        known: The names that are allowed here, such as `GENERATORS`.
        **more: Further keywords.

    Raises:
        ValueError: The class is not one of them.
    """
    name = kwargs.get('class_name')
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f'the class name is {shown(name)}, but must be {" or ".join(map(repr, known))}; to use a class of your '
            'own, add its name to training/known_classes.py.'
        )
    return construct_class_by_name(**kwargs, **more)
