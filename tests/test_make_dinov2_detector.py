"""scripts/make_dinov2_detector.py with random weights under the official names: the same mathematics as in NumPy."""

import math

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch

from metrics.features import detectors
from metrics.features.feature_requests import DINOV2_FEATURES
from scripts import make_dinov2_detector as script

WIDTH, BLOCKS, HEADS = 24, 2, 3


def random_weights(width, num_blocks):
    """Under the official names."""
    rng = np.random.RandomState(0)
    shapes = {
        'cls_token': [1, 1, width],
        'pos_embed': [1, 37 * 37 + 1, width],
        'mask_token': [1, width],
        'patch_embed.proj.weight': [width, 3, 14, 14],
        'patch_embed.proj.bias': [width],
        'norm.weight': [width],
        'norm.bias': [width],
    }
    for block in range(num_blocks):
        for name, shape in {
            'norm1.weight': [width],
            'norm1.bias': [width],
            'attn.qkv.weight': [3 * width, width],
            'attn.qkv.bias': [3 * width],
            'attn.proj.weight': [width, width],
            'attn.proj.bias': [width],
            'ls1.gamma': [width],
            'norm2.weight': [width],
            'norm2.bias': [width],
            'mlp.fc1.weight': [4 * width, width],
            'mlp.fc1.bias': [4 * width],
            'mlp.fc2.weight': [width, 4 * width],
            'mlp.fc2.bias': [width],
            'ls2.gamma': [width],
        }.items():
            shapes[f'blocks.{block}.{name}'] = shape
    return {name: torch.from_numpy(rng.randn(*shape).astype(np.float32) * 0.1) for name, shape in shapes.items()}


def in_transformers(weights):
    """The same weights under the names of the transformers library."""
    renamed = {}
    for name, tensor in weights.items():
        name = {
            'pos_embed': 'embeddings.position_embeddings',
            'cls_token': 'embeddings.cls_token',
            'mask_token': 'embeddings.mask_token',
        }.get(name, name)
        name = name.replace('patch_embed.proj', 'embeddings.patch_embeddings.projection')
        name = 'layernorm' + name.removeprefix('norm') if name.startswith('norm.') else name
        name = name.replace('blocks.', 'encoder.layer.').replace('attn.proj', 'attention.output.dense')
        name = name.replace('ls1.gamma', 'layer_scale1.lambda1').replace('ls2.gamma', 'layer_scale2.lambda1')
        if '.attn.qkv.' in name:
            for part, rows in zip(('query', 'key', 'value'), tensor.chunk(3)):
                renamed[name.replace('attn.qkv', f'attention.attention.{part}')] = rows.clone()
        else:
            renamed[name] = tensor
    return renamed


@pytest.fixture
def small(monkeypatch):
    """A network of two narrow blocks among the supported ones."""
    monkeypatch.setattr(script, 'ARCHITECTURES', {**script.ARCHITECTURES, WIDTH: (BLOCKS, HEADS)})
    return random_weights(WIDTH, BLOCKS)


def make(path, dest):
    return click.testing.CliRunner().invoke(script.main, [f'--weights={path}', f'--dest={dest}'])


# ---------------------------------------------------------------------------------------------------------------------
# By the definition, in float64


def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * weight + bias


def cubic(x, a=-0.75):
    """Keys' kernel, with the parameter of interpolation without antialiasing."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0


def interpolate_axis(values):
    """From 37 positions to 16: the steps between them are 37 / 16.1."""
    result = np.zeros([16, *values.shape[1:]])
    for i in range(16):
        center = (i + 0.5) * 37 / 16.1 - 0.5
        for j in range(math.floor(center) - 1, math.floor(center) + 3):
            result[i] += cubic(center - j) * values[min(max(j, 0), 36)]
    return result


def slow_features(image, weights, num_blocks, num_heads):
    """uint8 [3, H, W] → float64 [D]."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}
    pixels = np.stack(
        [np.asarray(PIL.Image.fromarray(x.astype(np.float32)).resize((224, 224), PIL.Image.BICUBIC)) for x in image]
    ).astype(np.float64)
    pixels = (pixels / 255 - np.reshape([0.485, 0.456, 0.406], [3, 1, 1])) / np.reshape(
        [0.229, 0.224, 0.225], [3, 1, 1]
    )
    patches = pixels.reshape(3, 16, 14, 16, 14).transpose(1, 3, 0, 2, 4).reshape(256, -1)
    tokens = patches @ w['patch_embed.proj.weight'].reshape(-1, 3 * 14 * 14).T + w['patch_embed.proj.bias']
    grid = w['pos_embed'][0, 1:].reshape(37, 37, -1)
    grid = interpolate_axis(interpolate_axis(grid).transpose(1, 0, 2)).transpose(1, 0, 2)
    x = np.concatenate([w['cls_token'][0] + w['pos_embed'][0, :1], tokens + grid.reshape(256, -1)])
    for block in range(num_blocks):
        p = {name.split('.', 2)[2]: value for name, value in w.items() if name.startswith(f'blocks.{block}.')}
        y = layer_norm(x, p['norm1.weight'], p['norm1.bias']) @ p['attn.qkv.weight'].T + p['attn.qkv.bias']
        q, k, v = (part.reshape(257, num_heads, -1) for part in np.split(y, 3, axis=1))
        heads = []
        for head in range(num_heads):
            logits = q[:, head] @ k[:, head].T / np.sqrt(q.shape[2])
            attention = np.exp(logits - logits.max(axis=1, keepdims=True))
            heads.append(attention / attention.sum(axis=1, keepdims=True) @ v[:, head])
        y = np.concatenate(heads, axis=1) @ p['attn.proj.weight'].T + p['attn.proj.bias']
        x = x + y * p['ls1.gamma']
        y = layer_norm(x, p['norm2.weight'], p['norm2.bias']) @ p['mlp.fc1.weight'].T + p['mlp.fc1.bias']
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / np.sqrt(2)))
        x = x + (y @ p['mlp.fc2.weight'].T + p['mlp.fc2.bias']) * p['ls2.gamma']
    return layer_norm(x, w['norm.weight'], w['norm.bias'])[0]


@pytest.mark.parametrize('size', [(32, 32), (300, 260)])
def test_features_by_the_definition(small, tmp_path, size):
    torch.save(small, tmp_path / 'weights.pth')
    result = make(tmp_path / 'weights.pth', tmp_path / 'dinov2.pt')
    assert result.exit_code == 0 and f'{WIDTH} features' in result.output, result.output
    images = np.random.RandomState(1).randint(0, 256, size=[2, 3, *size]).astype(np.uint8)
    detector = detectors.load('dinov2', folder=tmp_path)
    found = detectors.apply(detector, torch.from_numpy(images), DINOV2_FEATURES).numpy()
    expected = np.stack([slow_features(image, small, BLOCKS, HEADS) for image in images])
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_safetensors_under_both_names(small, tmp_path):
    torch.save(small, tmp_path / 'weights.pth')
    safetensors = pytest.importorskip('safetensors.torch')
    safetensors.save_file(small, tmp_path / 'official.safetensors')
    safetensors.save_file(in_transformers(small), tmp_path / 'transformers.safetensors')
    images = torch.randint(0, 256, [1, 3, 40, 40], dtype=torch.uint8)
    features = []
    for name in ('weights.pth', 'official.safetensors', 'transformers.safetensors'):
        features.append(script.build(script.read_weights(str(tmp_path / name)), name)(images))
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])


def test_a_network_of_the_official_size(tmp_path, monkeypatch):
    """ViT-S/14, where the metrics find it."""
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path))
    with pytest.raises(detectors.DetectorError, match=r'make_dinov2_detector\.py .*detectors/dinov2\.pt'):
        detectors.load('dinov2')
    torch.save(random_weights(384, 12), tmp_path / 'dinov2_vits14_pretrain.pth')
    result = click.testing.CliRunner().invoke(script.main, [f'--weights={tmp_path / "dinov2_vits14_pretrain.pth"}'])
    assert result.exit_code == 0, result.output
    detector = detectors.load('dinov2')
    assert detectors.check(detector, DINOV2_FEATURES, 32, 'cpu') == 384
    assert (detector.name, detector.label) == ('dinov2', None)


def test_wrong_weights(small, tmp_path):
    cases = {
        'without.pth': ({k: v for k, v in small.items() if k != 'norm.bias'}, ['1 tensors', 'norm.bias']),
        'registers.pth': (
            {**small, 'register_tokens': torch.zeros(1, 4, WIDTH)},
            ['register_tokens', 'without registers'],
        ),
        'wide.pth': ({**small, 'cls_token': torch.zeros(1, 1, 1536)}, ['ViT-S/14']),
        'list.pth': ([torch.zeros(3)], ['does not contain the weights']),
    }
    for name, (content, words) in cases.items():
        torch.save(content, tmp_path / name)
        result = make(tmp_path / name, tmp_path / 'out' / 'dinov2.pt')
        assert result.exit_code == 2 and all(word in result.output for word in ['--weights', name, *words]), (
            result.output
        )
    for name in ('text.pth', 'text.safetensors'):
        (tmp_path / name).write_text('no weights')
        result = make(tmp_path / name, tmp_path / 'out' / 'dinov2.pt')
        assert result.exit_code == 2 and name in result.output, result.output
    result = make(tmp_path / 'gone.pth', tmp_path / 'out' / 'dinov2.pt')
    assert result.exit_code == 2 and 'gone.pth' in result.output
    assert not (tmp_path / 'out').exists()
