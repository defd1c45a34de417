"""Directions: compared with slow formulas, scikit-learn, and directions whose answer is known."""

import numpy as np
import pytest
import sklearn.decomposition
import torch

from generation import latents
from generation.editing import finding, style_layers
from tests.small_generators import make_generator, make_stylegan3_generator

GENERATORS = {'stylegan2': make_generator, 'stylegan3': make_stylegan3_generator}


@pytest.fixture(scope='module', params=GENERATORS)
def G(request):
    return GENERATORS[request.param]()


@pytest.fixture(scope='module')
def w(G):
    return latents.sample_w(G, torch.zeros(1, 0), 500).float()


def same_line(a, b, tolerance=1e-4):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) > 1 - tolerance


# ---------------------------------------------------------------------------------------------------------------------
# SeFa


def style_of(G, index, vector):
    """The style that a layer computes from w, without its bias, by calling the layer itself."""
    affine = list(style_layers.layer_modules(G).values())[index].affine
    return affine(vector[None])[0] - affine(torch.zeros_like(vector)[None])[0]


def test_sefa_finds_the_eigenvectors_by_power_iteration(G, w):
    """Power iteration with deflation, where A·n is computed by the layers themselves."""
    layers = [1, 2, 4]
    found = finding.sefa(G, w, 3, layers)
    A = torch.stack([torch.cat([style_of(G, i, e) for i in layers]) for e in torch.eye(G.w_dim)], dim=1).double()
    M = (A.T @ A).numpy()
    random = np.random.RandomState(0)
    for direction in found:
        n = random.randn(G.w_dim)
        for _ in range(3000):
            n = M @ n
            n /= np.linalg.norm(n)
        assert same_line(n, direction.vectors[layers[0]])
        M = M - (n @ M @ n) * np.outer(n, n)
    for first, second in ((0, 1), (1, 2)):
        energies = [(A @ found[k].vectors[layers[0]].double()).norm() for k in (first, second)]
        assert energies[0] >= energies[1]


def test_sefa_changes_its_layers_only_and_has_unit_length(G, w):
    (direction, *_rest) = finding.sefa(G, w, 2, [0, 3])
    assert direction.layers == [0, 3] and direction.name == 'sefa0'
    others = [layer for layer in range(G.num_ws) if layer not in (0, 3)]
    assert torch.all(direction.vectors[others] == 0)
    assert direction.vectors[0].norm().item() == pytest.approx(1, abs=1e-5)
    assert direction.scale == pytest.approx((w.double() @ direction.vectors[0].double()).numpy().std(), rel=1e-4)


def test_style_weights_are_those_of_the_layers(G):
    vector = torch.linspace(-1, 1, G.w_dim)
    for index, weight in enumerate(style_layers.style_weights(G)):
        torch.testing.assert_close(weight @ vector, style_of(G, index, vector), rtol=1e-4, atol=1e-5)
    assert len(style_layers.style_weights(G)) == G.num_ws


# ---------------------------------------------------------------------------------------------------------------------
# Principal components


def test_components_of_w_are_those_of_scikit_learn(G, w):
    expected = sklearn.decomposition.PCA(n_components=4).fit(w.double().numpy())
    found = finding.principal_components(G, w, 4)
    for index, direction in enumerate(found):
        assert same_line(expected.components_[index], direction.vectors[0])
        variance = expected.explained_variance_[index] * (len(w) - 1) / len(w)  # divided by N there
        assert direction.scale == pytest.approx(variance**0.5, rel=1e-4)
        assert torch.equal(direction.vectors[0], direction.vectors[-1])


@pytest.mark.parametrize('shape', [(60, 9), (9, 60)], ids=['more samples', 'more features'])
def test_components_of_any_shape(shape):
    samples = np.random.RandomState(1).randn(*shape) * np.linspace(1, 3, shape[1])
    expected = sklearn.decomposition.PCA(n_components=5).fit(samples)
    components, deviations = finding.components_of(torch.from_numpy(samples), 5)
    for ours, theirs in zip(components, expected.components_):
        assert same_line(ours, theirs, 1e-9)
    np.testing.assert_allclose(deviations.square() * shape[0] / (shape[0] - 1), expected.explained_variance_)


def test_components_of_a_layer_are_those_of_scikit_learn_and_least_squares(G, w):
    samples = w[:40]
    names = list(style_layers.layer_modules(G))
    layer = names[2]
    outputs = []
    hook = style_layers.layer_modules(G)[layer].register_forward_hook(lambda m, i, o: outputs.append(o.flatten(1)))
    for sample in samples:
        G.synthesis(sample.expand(1, G.num_ws, -1), noise_mode='none', force_fp32=True)
    hook.remove()
    activations = torch.cat(outputs).double().numpy()
    pca = sklearn.decomposition.PCA(n_components=3, svd_solver='full').fit(activations)
    scores = pca.transform(activations)
    centered = samples.double().numpy() - samples.double().numpy().mean(axis=0)
    slopes = np.linalg.lstsq(scores, centered, rcond=None)[0]  # [3, w_dim]
    found = finding.principal_components_of_layer(G, samples, layer, 3)
    by_index = finding.principal_components_of_layer(G, samples, '2', 3)
    for index, direction in enumerate(found):
        assert direction.name == f'{layer}-pca{index}'
        step = slopes[index] * scores[:, index].std()
        assert same_line(step, direction.vectors[0], 1e-3)
        assert direction.scale == pytest.approx(np.linalg.norm(step), rel=1e-2)
        assert torch.equal(by_index[index].vectors, direction.vectors)


def test_unknown_layer_is_named(G, w):
    for name in ('b8.conv7', '99', 'w2', ''):
        with pytest.raises(ValueError, match='Unknown layer .* choose w, a number from 0 to'):
            finding.principal_components_of_layer(G, w[:5], name)


# ---------------------------------------------------------------------------------------------------------------------
# Linear


def test_linear_direction_of_two_sets_is_that_between_their_means(G, w):
    ws = latents.ws_of_seeds(G, range(7), torch.zeros(1, 0))
    values = torch.tensor([0.0, 0, 0, 1, 1, 1, 1])
    direction = finding.linear_direction('d', ws, values, w)
    expected = ws[3:].mean(dim=0) - ws[:3].mean(dim=0)
    assert same_line(expected[0], direction.vectors[0])
    assert expected[0] @ direction.vectors[0] > 0
    assert direction.vectors[0].norm().item() == pytest.approx(1, abs=1e-5)


def test_linear_direction_of_numbers_finds_what_they_measure(w):
    truth = torch.randn(w.shape[1], generator=torch.Generator().manual_seed(2))
    samples = torch.randn(4000, 3, w.shape[1], generator=torch.Generator().manual_seed(3))
    direction = finding.linear_direction('d', samples, samples[:, 1] @ truth, w, [1])
    assert same_line(truth, direction.vectors[1], 1e-2)
    assert torch.all(direction.vectors[[0, 2]] == 0)


def test_linear_direction_needs_differences(G, w):
    ws = latents.ws_of_seeds(G, range(3), torch.zeros(1, 0))
    for values, latents_ in ((torch.ones(3), ws), (torch.tensor([0.0, 1, 1]), ws[:1].expand(3, -1, -1))):
        with pytest.raises(ValueError, match='are all the same'):
            finding.linear_direction('d', latents_, values, w)
