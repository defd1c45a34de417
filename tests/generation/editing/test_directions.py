"""Files of directions, and what directions do to latents."""

import json

import pytest
import safetensors.torch
import torch

from dnnlib.errors import InvalidArgument
from generation.editing import directions
from generation.editing.directions import Direction, apply, make_direction
from tests.small_generators import make_generator, make_stylegan3_generator


@pytest.fixture
def G():
    return make_generator()


@pytest.fixture
def some(G):
    vector = torch.linspace(-1, 2, G.w_dim)
    free = torch.arange(6 * 8).reshape(6, 8) / 10
    return [
        make_direction('one', vector, 0.5, 'sefa', [0, 1, 4], G.num_ws),
        Direction('free.2-3', free.clone(), 2.0, 'linear', list(range(6))),
    ]


def test_files_keep_everything(G, some, tmp_path):
    directions.write(tmp_path / 'd.safetensors', some, G, network='x.pkl')
    found = directions.read(tmp_path / 'd.safetensors', G)
    assert list(found) == ['one', 'free.2-3']
    for direction in some:
        other = found[direction.name]
        assert torch.equal(direction.vectors, other.vectors)
        assert (other.scale, other.method, other.layers) == (direction.scale, direction.method, direction.layers)
    with safetensors.safe_open(tmp_path / 'd.safetensors', 'pt') as file:
        metadata = file.metadata()
    assert metadata['format'] == 'ada-gan-directions'
    assert json.loads(metadata['network'])['mapping_sha256'] == directions.mapping_digest(G)


def test_strength_and_layers(some):
    one, free = some
    step = one.offset(3)
    torch.testing.assert_close(step[1], one.vectors[0] * 1.5)
    assert torch.all(step[[2, 3, 5]] == 0)
    elsewhere = one.offset(3, [2, 5])  # the same in all of its layers, so it can be applied to any
    assert torch.equal(elsewhere[2], step[0]) and torch.equal(elsewhere[5], step[0])
    assert torch.all(elsewhere[[0, 1, 3, 4]] == 0)
    own = free.offset(-1, [3])  # different in each layer
    assert torch.equal(own[3], free.vectors[3] * -2) and own.count_nonzero() == own[3].count_nonzero()


def test_apply_moves_latents(some):
    ws = torch.randn(2, 6, 8, dtype=torch.float64)
    moved = apply(ws, some[0], 2)
    assert moved.dtype == torch.float64
    torch.testing.assert_close(moved - ws, some[0].offset(2).double().expand(2, -1, -1))


# ---------------------------------------------------------------------------------------------------------------------
# Other networks, damaged files


def test_directions_of_another_network(G, some, tmp_path):
    path = tmp_path / 'd.safetensors'
    directions.write(path, some, G)
    other = make_generator(noise_strength=0.1, w_avg=0.3)  # the same mapping network
    assert set(directions.read(path, other)) == {'one', 'free.2-3'}
    other.mapping.fc1.bias.add_(1)
    with pytest.raises(InvalidArgument, match='for another network, whose w mean something else'):
        directions.read(path, other)
    assert set(directions.read(path, other, any_network=True)) == {'one', 'free.2-3'}
    with pytest.raises(InvalidArgument, match='6 layers and 8 numbers in w, but this network has 8'):
        directions.read(path, make_stylegan3_generator(), any_network=True)


def changed(path, edit_metadata=None, edit_tensors=None):
    content = path.read_bytes()
    with safetensors.safe_open(path, 'pt') as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load(content)
    if edit_metadata:
        edit_metadata(metadata)
    if edit_tensors:
        edit_tensors(tensors)
    return safetensors.torch.save(tensors, metadata=metadata)


def with_directions(change):
    def edit(metadata):
        described = json.loads(metadata['directions'])
        change(described)
        metadata['directions'] = json.dumps(described)

    return edit


@pytest.mark.parametrize('damage, hint', [
    (lambda p: b'', 'is not a file of directions'),
    (lambda p: p.read_bytes()[:-3], 'damaged'),
    (lambda p: p.read_bytes()[:40], 'damaged'),
    (lambda p: changed(p, lambda m: m.update(format='other')), 'not one of directions'),
    (lambda p: changed(p, lambda m: m.update(version='7')), 'a version that this program does not read'),
    (lambda p: changed(p, lambda m: m.pop('network')), 'the description of the network'),
    (lambda p: changed(p, lambda m: m.update(directions='[')), 'not valid JSON'),
    (lambda p: changed(p, lambda m: m.update(directions='[]')), 'must be a list of 1 to'),
    (lambda p: changed(p, with_directions(lambda d: d[0].update(name='3'))), 'a name that begins with a letter'),
    (lambda p: changed(p, with_directions(lambda d: d[0].update(name='two'))), "'two' is not a tensor"),
    (lambda p: changed(p, with_directions(lambda d: d[0].update(layers=[6]))), 'layers that the network does not have'),
    (lambda p: changed(p, with_directions(lambda d: d[0].update(layers=[]))), 'layers that the network does not have'),
    (lambda p: changed(p, with_directions(lambda d: d[0].update(scale=1e30))), 'must be a number from 0'),
    (lambda p: changed(p, None, lambda t: t.update(one=torch.zeros(6, 9))), 'not a tensor of shape'),
    (lambda p: changed(p, None, lambda t: t.update(one=torch.full([6, 8], torch.nan))), 'not finite'),
])  # fmt: skip
def test_damaged_files(G, some, tmp_path, damage, hint):
    path = tmp_path / 'd.safetensors'
    directions.write(path, some, G)
    path.write_bytes(damage(path))
    with pytest.raises(InvalidArgument, match=hint) as caught:
        directions.read(path, G)
    assert caught.value.argument == 'direction' and str(path) in str(caught.value)


def test_missing_file(G, tmp_path):
    with pytest.raises(InvalidArgument, match='No such file'):
        directions.read(tmp_path / 'none.safetensors', G)


def test_two_directions_need_two_names(G, some, tmp_path):
    with pytest.raises(ValueError, match='the same name'):
        directions.write(tmp_path / 'd.safetensors', [some[0], some[0]], G)
    assert not list(tmp_path.iterdir())
