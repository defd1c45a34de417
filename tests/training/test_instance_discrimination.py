"""Instance discrimination, against a formula for one image at a time."""

import pickle

import numpy as np
import pytest
import torch

from tests import small_losses
from tests.small_losses import assert_gradient, make_batch, one, score, softplus
from torch_utils import launcher
from torch_utils.distributed import World
from training.instance_discrimination import (
    MOMENTUM,
    PERTURBATION,
    TEMPERATURE,
    InstanceDiscrimination,
    contrast,
    features_captured,
)
from training.loss import StyleGAN2Loss
from training.regularizers import FAKE, REAL
from training.relativistic_loss import RelativisticLoss

ALONE = World(0, 1, torch.device('cpu'))
BOTH_LOSSES = pytest.mark.parametrize('make', [StyleGAN2Loss, RelativisticLoss])
WEIGHTS = (0.7, 0.3)


def make_loss(make=StyleGAN2Loss, filled=5):
    """A loss whose averages differ from D and the heads, whose other views are mirror images, and with full queues."""
    G, D = small_losses.networks(c_dim=2)
    kwargs = dict(r2_gamma=0) if make is RelativisticLoss else {}
    loss = make(
        'cpu', G, D, style_mixing_prob=0, pl_weight=0, r1_gamma=0, insgen_weights=WEIGHTS, insgen_queue=5, **kwargs
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in (loss.instances.average_D, loss.instances.average_heads):
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        for kind, queue in loss.instances.queues.items():
            queue.copy_(torch.nn.functional.normalize(torch.randn(queue.shape, generator=generator).double(), dim=1))
            loss.instances.counts[kind].fill_(filled)
    loss.other_view = lambda images, c, z: images.flip(3).detach()
    return loss


def vector(D, head, image, label):
    """The vector of one image, by NumPy from the features of D on."""
    with features_captured(D) as features, torch.no_grad():
        D(image, label)
    x = features[0][0].numpy()
    hidden = np.maximum(head.hidden.weight.detach().numpy() @ x + head.hidden.bias.detach().numpy(), 0)
    out = head.output.weight.detach().numpy() @ hidden + head.output.bias.detach().numpy()
    return out / np.sqrt((out**2).sum())


def slow_contrast(loss, kind, image, label):
    instances = loss.instances
    query = vector(loss.D, instances.heads[kind], image, label)
    key = vector(instances.average_D, instances.average_heads[kind], image.flip(3), label)
    others = instances.queues[kind][: int(instances.counts[kind])].numpy()
    similar = np.exp(query @ key / TEMPERATURE)
    return -np.log(similar / (similar + sum(np.exp(query @ other / TEMPERATURE) for other in others)))


def pairs(loss, batch):
    fake_c = batch.real_c if isinstance(loss, RelativisticLoss) else batch.gen_c
    for index in range(len(batch.real_img)):
        pair = one(batch._replace(gen_c=fake_c), index)
        yield pair.real_img, pair.real_c, loss.G(pair.gen_z, pair.gen_c), pair.gen_c


def slow_D(loss, batch):
    values = []
    for real, real_c, fake, fake_c in pairs(loss, batch):
        a, b = score(loss.D, real, real_c), score(loss.D, fake, fake_c)
        value = softplus(b - a) if isinstance(loss, RelativisticLoss) else softplus(-a) + softplus(b)
        values.append(
            value + WEIGHTS[0] * (slow_contrast(loss, REAL, real, real_c) + slow_contrast(loss, FAKE, fake, fake_c))
        )
    return np.mean(values)


def slow_G(loss, batch):
    values = []
    for real, real_c, fake, fake_c in pairs(loss, batch):
        b = score(loss.D, fake, fake_c)
        value = softplus(score(loss.D, real, real_c) - b) if isinstance(loss, RelativisticLoss) else softplus(-b)
        # The other view is a constant in the gradient of G.
        values.append(value + WEIGHTS[1] * slow_contrast(loss, FAKE, fake, fake_c))
    return np.mean(values)


@BOTH_LOSSES
def test_gradient_of_D(make):
    loss, batch = make_loss(make), make_batch(c_dim=2)
    assert_gradient(loss, 'Dmain', batch, lambda: slow_D(loss, batch), gain=1.5)


@BOTH_LOSSES
def test_gradient_of_G(make):
    loss, batch = make_loss(make), make_batch(c_dim=2)
    views = [fake.flip(3).detach() for _real, _c, fake, _fake_c in pairs(loss, batch)]
    loss.other_view = lambda images, c, z: torch.cat(views)

    def slow():
        values = []
        for view, (real, real_c, fake, fake_c) in zip(views, pairs(loss, batch)):
            b = score(loss.D, fake, fake_c)
            value = softplus(score(loss.D, real, real_c) - b) if make is RelativisticLoss else softplus(-b)
            instances = loss.instances
            query = vector(loss.D, instances.heads[FAKE], fake, fake_c)
            key = vector(instances.average_D, instances.average_heads[FAKE], view, fake_c)
            others = np.exp(instances.queues[FAKE].numpy() @ query / TEMPERATURE).sum()
            similar = np.exp(query @ key / TEMPERATURE)
            values.append(value - WEIGHTS[1] * np.log(similar / (similar + others)))
        return np.mean(values)

    assert slow() == pytest.approx(slow_G(loss, batch))
    assert_gradient(loss, 'Gmain', batch, slow, gain=1.5)


def test_gradient_of_the_heads():
    loss, batch = make_loss(), make_batch(c_dim=2)
    small_losses.gradient_of(loss, 'Dmain', batch)
    generator = torch.Generator().manual_seed(4)
    for name in ('real.hidden.weight', 'real.output.bias', 'fake.output.weight'):
        parameter = loss.instances.heads.get_parameter(name)
        direction, step, values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64), 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
                values.append(slow_D(loss, batch))
                parameter -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        assert float((parameter.grad * direction).sum()) == pytest.approx(slope, rel=1e-4)
    before = [parameter.grad.clone() for parameter in loss.instances.heads.parameters()]
    small_losses.gradient_of(loss, 'Gmain', batch)  # which leaves the heads alone
    assert all(torch.equal(a, p.grad) for a, p in zip(before, loss.instances.heads.parameters(), strict=True))


def test_an_empty_queue_teaches_nothing():
    queries = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    assert contrast(queries, queries.flip(0), torch.zeros(0, 4)).tolist() == [0, 0, 0]


def test_other_views(monkeypatch):
    loss, batch = make_loss(), make_batch(c_dim=2)
    del loss.other_view
    images = loss.G(batch.gen_z, batch.gen_c)
    assert torch.equal(loss.other_view(batch.real_img, batch.real_c, None), batch.real_img)
    torch.manual_seed(5)
    view = loss.other_view(images, batch.gen_c, batch.gen_z)
    torch.manual_seed(5)
    z = batch.gen_z + PERTURBATION * torch.randn_like(batch.gen_z)
    assert torch.equal(view, loss.G(z, batch.gen_c)) and not torch.equal(view, images)
    loss.diffaugment = ['translation']
    assert not torch.equal(loss.other_view(batch.real_img, batch.real_c, None), batch.real_img)


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


def test_queues_hold_the_newest_keys():
    instances = InstanceDiscrimination(small_losses.networks()[1], WEIGHTS, queue_size=5)
    keys = torch.nn.functional.normalize(torch.randn(8, 128, dtype=torch.float64), dim=1)
    for first in (0, 3, 6):
        instances._new_keys[REAL].append(keys[first : first + 2])
        instances._new_keys[REAL].append(keys[first + 2 : first + 3])
        instances.end_batch(ALONE)
        assert int(instances.counts[REAL]) == min(first + 3, 5) and int(instances.counts[FAKE]) == 0
    assert torch.equal(instances.queues[REAL], keys[[6, 7, 3, 4, 5]])
    instances._new_keys[FAKE].append(torch.full([7, 128], float('nan'), dtype=torch.float64))
    instances.end_batch(ALONE)
    assert int(instances.counts[FAKE]) == 5 and not instances.queues[FAKE].any()


def test_averages_and_heads_move():
    loss, batch = make_loss(), make_batch(c_dim=2)
    instances = loss.instances
    before = {name: tensor.clone() for name, tensor in instances.state_dict().items()}
    small_losses.gradient_of(loss, 'Dmain', batch)
    with torch.no_grad():
        loss.D.b4.conv.weight.add_(1)
    loss.end_batch(ALONE)
    after = instances.state_dict()
    name = 'insgen/D/b4.conv.weight'
    expected = MOMENTUM * before[name] + (1 - MOMENTUM) * loss.D.b4.conv.weight
    assert torch.allclose(after[name], expected, rtol=1e-12)
    weight = 'insgen/heads/real.output.weight'
    assert not torch.equal(after[weight], before[weight]) and float(after['insgen/step/real.output.weight']) == 1
    assert all(not parameter.grad.any() for parameter in instances.heads.parameters())


def test_the_state_comes_back():
    loss, batch = make_loss(), make_batch(c_dim=2)
    small_losses.gradient_of(loss, 'Dmain', batch)
    loss.end_batch(ALONE)
    state = {name: tensor.clone() for name, tensor in loss.shared_state_dict().items()}
    other = make_loss()
    other.load_shared_state_dict(state)
    assert other.shared_state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.shared_state_dict().items())
    state['insgen/count/real'] = torch.tensor(10**9)
    other.load_shared_state_dict(state)
    assert int(other.instances.counts[REAL]) == 5


def test_pickles_of_D_stay_as_they_are():
    loss, batch = make_loss(), make_batch(c_dim=2)
    before = len(pickle.dumps(small_losses.networks(c_dim=2)[1]))
    small_losses.gradient_of(loss, 'Dmain', batch)
    loss.D.zero_grad(set_to_none=True)
    assert len(pickle.dumps(loss.D)) == before and not loss.D.b4.out._forward_pre_hooks


def of_all_ranks(world, path):
    instances = InstanceDiscrimination(small_losses.networks()[1], WEIGHTS, queue_size=3)
    instances._new_keys[REAL].append(torch.full([1, 128], float(world.rank + 1), dtype=torch.float64))
    instances.end_batch(world)
    torch.save(instances.state_dict(), f'{path}/{world.rank}.pt')


def test_queues_are_equal_on_all_ranks(tmp_path):
    launcher.launch(of_all_ranks, 2, 'cpu', str(tmp_path))
    one_rank, other = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one_rank.items())
    assert one_rank['insgen/queue/real'][:, 0].tolist() == [1, 2, 0] and int(one_rank['insgen/count/real']) == 2
