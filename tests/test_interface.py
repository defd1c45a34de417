"""What other code relies on: the names and parameters that network pickles use, and what their source may import.

A pickle contains the source of its classes, which runs with the packages of this project here and with those of the
published code elsewhere. The functions below may get further parameters at their end, but never lose or rename one.
"""

import ast
import importlib
import inspect
import math
import sys
from pathlib import Path

import pytest
import torch

import dnnlib

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = inspect.Parameter.empty

# ---------------------------------------------------------------------------------------------------------------------
# Names and parameters; `...` is a default that is not part of the interface

FILTER_OPTIONS = dict(flip_filter=False, gain=1, impl='cuda')
FROZEN_FUNCTIONS = {
    'torch_utils.persistence.persistent_class': dict(cls=REQUIRED),
    'torch_utils.persistence.is_persistent': dict(obj=REQUIRED),
    'torch_utils.persistence.import_hook': dict(hook=REQUIRED),
    'torch_utils.persistence._reconstruct_persistent_obj': dict(meta=REQUIRED),
    'torch_utils.misc.assert_shape': dict(tensor=REQUIRED, ref_shape=REQUIRED),
    'torch_utils.misc.constant': dict(value=REQUIRED, shape=None, dtype=None, device=None, memory_format=None),
    'torch_utils.misc.profiled_function': dict(fn=REQUIRED),
    'torch_utils.misc.suppress_tracer_warnings': dict(),
    'torch_utils.misc.copy_params_and_buffers': dict(src_module=REQUIRED, dst_module=REQUIRED, require_all=False),
    'torch_utils.misc.params_and_buffers': dict(module=REQUIRED),
    'torch_utils.misc.named_params_and_buffers': dict(module=REQUIRED),
    'torch_utils.misc.print_module_summary': dict(module=REQUIRED, inputs=REQUIRED, max_nesting=3, skip_redundant=True),
    'torch_utils.ops.bias_act.bias_act': dict(
        x=REQUIRED, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'
    ),
    'torch_utils.ops.upfirdn2d.setup_filter': dict(
        f=REQUIRED, device=torch.device('cpu'), normalize=True, flip_filter=False, gain=1, separable=None
    ),
    'torch_utils.ops.upfirdn2d.upfirdn2d': dict(x=REQUIRED, f=REQUIRED, up=1, down=1, padding=0, **FILTER_OPTIONS),
    'torch_utils.ops.upfirdn2d.filter2d': dict(x=REQUIRED, f=REQUIRED, padding=0, **FILTER_OPTIONS),
    'torch_utils.ops.upfirdn2d.upsample2d': dict(x=REQUIRED, f=REQUIRED, up=2, padding=0, **FILTER_OPTIONS),
    'torch_utils.ops.upfirdn2d.downsample2d': dict(x=REQUIRED, f=REQUIRED, down=2, padding=0, **FILTER_OPTIONS),
    'torch_utils.ops.conv2d_resample.conv2d_resample': dict(
        x=REQUIRED, w=REQUIRED, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False
    ),
    'torch_utils.ops.filtered_lrelu.filtered_lrelu': dict(
        x=REQUIRED,
        fu=None,
        fd=None,
        b=None,
        up=1,
        down=1,
        padding=0,
        gain=math.sqrt(2),
        slope=0.2,
        clamp=None,
        flip_filter=False,
        impl='cuda',
    ),
    'torch_utils.ops.fma.fma': dict(a=REQUIRED, b=REQUIRED, c=REQUIRED),
    'torch_utils.ops.conv2d_gradfix.conv2d': dict(
        input=REQUIRED, weight=REQUIRED, bias=None, stride=1, padding=0, dilation=1, groups=1
    ),
    'torch_utils.ops.conv2d_gradfix.conv_transpose2d': dict(
        input=REQUIRED, weight=REQUIRED, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
    ),
    'torch_utils.ops.conv2d_gradfix.no_weight_gradients': dict(disable=...),
    'torch_utils.ops.grid_sample_gradfix.grid_sample': dict(input=REQUIRED, grid=REQUIRED),
}
OTHER_FROZEN_NAMES = [
    'dnnlib.EasyDict',
    'dnnlib.util.EasyDict',
    'torch_utils.misc.nan_to_num',
    'torch_utils.misc.symbolic_assert',
    'torch_utils.ops.bias_act.activation_funcs',
]
# Names in the `training_set_kwargs` of pickles and in configurations; their code is not frozen.
NAMES_IN_FILES = [
    'training.dataset.ImageFolderDataset',
    'training.networks_stylegan2.Generator',
    'training.networks_stylegan2.Discriminator',
    'training.networks_stylegan3.Generator',
    'training.augment.AugmentPipe',
    'training.loss.StyleGAN2Loss',
]


def frozen(name):
    module, _, attribute = name.rpartition('.')
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize('name', FROZEN_FUNCTIONS)
def test_parameters(name):
    actual = list(inspect.signature(frozen(name)).parameters.values())
    expected = FROZEN_FUNCTIONS[name]
    assert [parameter.name for parameter in actual][: len(expected)] == list(expected)
    assert all(parameter.default is not REQUIRED for parameter in actual[len(expected) :])
    for parameter in actual[: len(expected)]:
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if expected[parameter.name] is not ...:
            assert parameter.default == expected[parameter.name], parameter


@pytest.mark.parametrize('name', [*OTHER_FROZEN_NAMES, *NAMES_IN_FILES])
def test_names(name):
    assert dnnlib.util.get_obj_by_name(name) is frozen(name)


def test_easy_dict_is_one_class_and_pickles_under_the_published_name():
    assert dnnlib.EasyDict is dnnlib.util.EasyDict
    assert (dnnlib.EasyDict.__module__, dnnlib.EasyDict.__qualname__) == ('dnnlib.util', 'EasyDict')


def test_activations():
    functions = frozen('torch_utils.ops.bias_act.activation_funcs')
    root_2 = math.sqrt(2)
    assert {name: (f.def_alpha, pytest.approx(f.def_gain)) for name, f in functions.items()} == {
        'linear': (0, 1),
        'relu': (0, root_2),
        'lrelu': (0.2, root_2),
        'tanh': (0, 1),
        'sigmoid': (0, 1),
        'elu': (0, 1),
        'selu': (0, 1),
        'softplus': (0, 1),
        'swish': (0, root_2),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Imports, read from the syntax trees; those for type checkers only do not count

PACKAGES = (
    'dataset_conversion',
    'dataset_format',
    'dnnlib',
    'generation',
    'metrics',
    'network_files',
    'torch_utils',
    'training',
)


class _Imports(ast.NodeVisitor):
    """Collects the dotted names that a module imports: everywhere, and those at its top level."""

    def __init__(self):
        self.names, self.at_top = set(), set()
        self.depth = 0

    def _add(self, names):
        self.names |= names
        if self.depth == 0:
            self.at_top |= names

    def visit_Import(self, node):
        self._add({alias.name for alias in node.names})

    def visit_ImportFrom(self, node):
        assert node.level == 0, 'imports are absolute, so that the source also runs outside of its package'
        self._add({f'{node.module}.{alias.name}' for alias in node.names})

    def visit_FunctionDef(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    def visit_If(self, node):
        if not (isinstance(node.test, ast.Name) and node.test.id == 'TYPE_CHECKING'):
            self.generic_visit(node)


def imports_of(path):
    visitor = _Imports()
    visitor.visit(ast.parse(path.read_text(encoding='utf-8')))
    return visitor


def modules():
    """{dotted name: path} of all modules of the project, except tests, bench/ and scripts/."""
    paths = [*ROOT.glob('*.py'), *(path for package in PACKAGES for path in (ROOT / package).rglob('*.py'))]
    names = {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path for path in paths}
    assert {'train', 'dnnlib', 'torch_utils.ops.upfirdn2d', 'training.config'} <= names.keys()
    return names


def test_no_module_imports_itself_through_others():
    known = modules()
    edges = {}
    for name, path in known.items():
        named = imports_of(path).at_top
        edges[name] = {other if other in known else other.rpartition('.')[0] for other in named} & known.keys() - {name}
    done = set()

    def visit(name, path):
        assert name not in path, ' imports '.join([*path[path.index(name) :], name])
        if name not in done:
            for other in edges[name]:
                visit(other, [*path, name])
            done.add(name)

    for name in edges:
        visit(name, [])


@pytest.mark.parametrize('package', ['dnnlib', 'dataset_conversion', 'dataset_format'])
def test_packages_that_load_without_torch(package):
    for name, path in modules().items():
        if name.split('.')[0] == package:
            assert not {other for other in imports_of(path).at_top if other.split('.')[0] == 'torch'}, name


@pytest.mark.parametrize('name', ['networks_stylegan2', 'networks_stylegan3', 'augment'])
def test_modules_embedded_in_pickles_import_only_frozen_names(name):
    path = ROOT / 'training' / f'{name}.py'
    if not path.is_file():
        pytest.skip('not part of this version')
    frozen_names = {*FROZEN_FUNCTIONS, *OTHER_FROZEN_NAMES}
    frozen_modules = {name.rpartition('.')[0] for name in frozen_names}
    aliases = {}  # dotted names by the names in the file
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                dotted = f'{node.module}.{alias.name}'
                aliases[alias.asname or alias.name] = dotted
        elif isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name] = alias.name
    ours = {}
    for alias, dotted in aliases.items():
        top = dotted.split('.')[0]
        if top in ('torch_utils', 'dnnlib'):
            assert dotted in frozen_modules | frozen_names, dotted
            ours[alias] = dotted
        else:
            assert top in ('numpy', 'scipy', 'torch') or top in sys.stdlib_module_names, dotted
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
            used = f'{ours[node.value.id]}.{node.attr}'
            assert used in frozen_modules | frozen_names, used
