"""Instance discrimination as an additional task for D and G (arXiv 2106.04566, InsGen).

Besides telling real images from generated ones, D learns to recognize each single image, real or generated, in another
view: the features of an image are to be more similar to those of the same image, augmented anew or generated from
almost the same latent, than to those of other images. That takes features that memorizing real images does not give.
G is trained to make images that D can tell apart in this way, which means diverse ones.

For features, there is a head of two layers for real images and one for generated images. The other view is seen by
moving averages of D and of the heads, and the other images are those of the last batches, in a queue (momentum
contrast, arXiv 1911.05722). All of this is outside of D: network pickles do not contain it.

Shapes: N batch, F features of D, K length of the vectors that are compared, Q length of the queue.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.nn.functional import cross_entropy, normalize

from torch_utils import distributed, misc
from torch_utils.distributed import World
from training.regularizers import FAKE, REAL

NUM_FEATURES = 128  # K
TEMPERATURE = 2.0  # of the similarities, which are from -1 to +1
MOMENTUM = 0.999  # factor of the old averages in each batch
PERTURBATION = 0.15  # standard deviation of what is added to a latent for another view
HEAD_LR = 0.002


class Head(torch.nn.Module):
    """Two layers from features of D to vectors of length 1."""

    def __init__(self, num_features: int):
        super().__init__()
        self.hidden = torch.nn.Linear(num_features, num_features)
        self.output = torch.nn.Linear(num_features, NUM_FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, F] → [N, K]."""
        return normalize(self.output(torch.relu(self.hidden(x))), dim=1)


@contextlib.contextmanager
def features_captured(D: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Within this context, each call of D appends the input [N, F] of its last layer to the list."""
    found: list[torch.Tensor] = []
    # Removed again, because a network pickle would contain it.
    handle = D.get_submodule('b4.out').register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        handle.remove()


def contrast(queries: torch.Tensor, keys: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return -log of the probability with which a query finds its key among others (arXiv 2106.04566).

    Args:
        queries: [N, K] vectors of length 1.
        keys: [N, K] vectors of length 1, the same instances in another view.
        others: [Q, K] vectors of length 1 of other instances.

    Returns:
        [N].
    """
    positive = (queries * keys).sum(dim=1, keepdim=True)  # [N, 1]
    similarities = torch.cat([positive, queries @ others.t()], dim=1) / TEMPERATURE  # [N, 1 + Q]
    right = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    return cross_entropy(similarities, right, reduction='none')


class InstanceDiscrimination:
    """The heads, averages and queues; all of them are equal on all ranks.

    Args:
        D: The discriminator.
        weights: Weights of the task in the losses of D and of G.
        queue_size: Q, images in the queue of each kind.
    """

    def __init__(self, D: torch.nn.Module, weights: Sequence[float], queue_size: int):
        self.D = D
        self.D_weight, self.G_weight = weights
        like = D.get_submodule('b4.fc').weight
        assert isinstance(like, torch.Tensor)
        with torch.random.fork_rng(devices=[]):  # the same on all ranks, and apart from the numbers of the training
            torch.manual_seed(0)
            heads = torch.nn.ModuleDict({kind: Head(like.shape[0]) for kind in (REAL, FAKE)})
        self.heads = heads.to(like.device, like.dtype).requires_grad_(False)
        self.average_heads = copy.deepcopy(self.heads)
        for parameter in self.heads.parameters():
            parameter.grad = torch.zeros_like(parameter)
        gradients = distributed.flatten_gradients(self.heads.parameters())
        assert gradients is not None
        self._gradients = gradients  # of the heads, which stay where they are for CUDA graphs
        self.average_D = copy.deepcopy(D).requires_grad_(False)
        shape = [queue_size, NUM_FEATURES]
        self.queues = {kind: torch.zeros(shape, device=like.device, dtype=like.dtype) for kind in (REAL, FAKE)}
        self.counts = {kind: torch.zeros([], dtype=torch.int64) for kind in (REAL, FAKE)}  # images so far
        self._new_keys: dict[str, list[torch.Tensor]] = {REAL: [], FAKE: []}
        self._optimizer = torch.optim.Adam(self.heads.parameters(), lr=HEAD_LR, betas=(0.0, 0.99), eps=1e-8)
        for parameter in self.heads.parameters():  # from the beginning, so that the state always has the same tensors
            moments = {name: torch.zeros_like(parameter) for name in ('exp_avg', 'exp_avg_sq')}
            self._optimizer.state[parameter] = {'step': torch.zeros([]), **moments}

    def D_penalty(self, kind: str, features: torch.Tensor, view: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Return what to add to the loss of D for each image, [N]; the heads learn with D.

        Args:
            kind: REAL or FAKE.
            features: [N, F] features of D for the images.
            view: [N, C, H, W] another view of each.
            c: [N, c_dim] their labels.
        """
        self.heads.requires_grad_(True)
        queries = self.heads[kind](features)
        keys = self._keys(kind, view, c)
        self._new_keys[kind].append(keys)
        return contrast(queries, keys, self._others(kind)) * self.D_weight

    def G_penalty(self, features: torch.Tensor, view: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Return what to add to the loss of G for each image, [N]; see `D_penalty`."""
        self.heads.requires_grad_(False)
        return contrast(self.heads[FAKE](features), self._keys(FAKE, view, c), self._others(FAKE)) * self.G_weight

    def has_fixed_shapes(self) -> bool:
        """Return whether the queues are full, so that all batches compute with the same shapes from now on."""
        return all(int(count) == len(self.queues[kind]) for kind, count in self.counts.items())

    def take_new_keys(self) -> dict[str, list[torch.Tensor]]:
        """Remove and return the keys that are not in the queues yet, by kind."""
        taken, self._new_keys = self._new_keys, {REAL: [], FAKE: []}
        return taken

    def add_new_keys(self, keys: Mapping[str, Sequence[torch.Tensor]]) -> None:
        """Add keys [N, K] for the queues."""
        for kind, added in keys.items():
            self._new_keys[kind] += added

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters that are trained with those of D."""
        return list(self.heads.parameters())

    @torch.no_grad()
    def _keys(self, kind: str, view: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        with features_captured(self.average_D) as features:
            self.average_D(view, c)
        return self.average_heads[kind](features[0])

    def _others(self, kind: str) -> torch.Tensor:
        return self.queues[kind][: int(self.counts[kind])]

    @torch.no_grad()
    def end_batch(self, world: World) -> None:
        """Train the heads, move the averages, and put the keys of this batch into the queues. Collective."""
        if not self._new_keys[REAL] and not self._new_keys[FAKE]:
            return
        distributed.average_gradients(world, self._gradients)
        self._optimizer.step()
        self._gradients.zero_()
        for average, current in ((self.average_D, self.D), (self.average_heads, self.heads)):
            for averaged, value in zip(average.parameters(), current.parameters(), strict=True):
                averaged.lerp_(value, 1 - MOMENTUM)
            for copied, buffer in zip(average.buffers(), current.buffers(), strict=True):
                copied.copy_(buffer)
        for kind, keys in self.take_new_keys().items():
            if keys:
                self._enqueue(kind, distributed.gather_to_all(world, torch.cat(keys)))

    def _enqueue(self, kind: str, keys: torch.Tensor) -> None:
        """Put keys [M, K] in front, in place of the oldest ones."""
        queue = self.queues[kind]
        kept = torch.cat([torch.nan_to_num(keys), queue])[: len(queue)]  # a single bad step must not remain
        queue.copy_(kept)
        self.counts[kind].add_(len(keys)).clamp_(max=len(queue))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all tensors that are kept from one batch to the next, by name."""
        state: dict[str, torch.Tensor] = {}
        for name, module in (('D', self.average_D), ('heads', self.heads), ('average_heads', self.average_heads)):
            state |= {f'insgen/{name}/{key}': tensor.detach() for key, tensor in misc.named_params_and_buffers(module)}
        for key, parameter in self.heads.named_parameters():
            moments = self._optimizer.state[parameter]
            state |= {f'insgen/{name}/{key}': tensor for name, tensor in moments.items()}
        for kind in (REAL, FAKE):
            state |= {f'insgen/queue/{kind}': self.queues[kind], f'insgen/count/{kind}': self.counts[kind]}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
        for kind, count in self.counts.items():
            count.clamp_(0, len(self.queues[kind]))
