"""The schema of a run directory: it agrees with the code, and nothing but this project's classes can be named."""

import dataclasses
import inspect
import json
import random

import pytest

from dnnlib.util import construct_class_by_name, get_obj_by_name
from training import known_classes, schema
from training.config import TrainingConfig
from training.options import PER_CALL_OPTIONS, Options


def small_config(**changes):
    adam = {'class_name': known_classes.OPTIMIZER, 'lr': 0.002, 'betas': [0, 0.99], 'eps': 1e-8}
    config = TrainingConfig(
        num_gpus=1,
        device='cpu',
        training_set_kwargs={'class_name': known_classes.DATASET, 'path': 'data.zip'},
        data_loader_kwargs={'num_workers': 0},
        G_kwargs={'class_name': known_classes.GENERATOR, 'z_dim': 8, 'w_dim': 8},
        D_kwargs={'class_name': known_classes.DISCRIMINATOR},
        G_opt_kwargs=adam,
        D_opt_kwargs=adam,
        loss_kwargs={'class_name': known_classes.LOSS},
        augment_kwargs={'class_name': known_classes.AUGMENTATION, 'xflip': 1},
        validation_set_kwargs={'class_name': known_classes.DATASET, 'path': 'data.zip', 'skip': 3},
        batch_size=8,
        batch_gpu=4,
        total_kimg=1,
        ema_kimg=1,
        ema_rampup=None,
        options={'data': 'data.zip'},
    )
    return dataclasses.asdict(config) | changes


def test_the_fields_are_those_of_the_configuration():
    fields = dataclasses.fields(TrainingConfig)
    assert set(schema.TRAINING_OPTIONS.keys) == {field.name for field in fields}
    required = {
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    assert set(schema.TRAINING_OPTIONS.required) == required
    options = {field.name for field in dataclasses.fields(Options)} - set(PER_CALL_OPTIONS)
    assert set(schema.COMMAND_LINE.keys) == options


@pytest.mark.parametrize(
    'names, keywords',
    [
        (known_classes.DATASETS, schema.DATASET_KEYWORDS),
        (known_classes.GENERATORS, schema.GENERATOR_KEYWORDS),
        (known_classes.DISCRIMINATORS, schema.DISCRIMINATOR_KEYWORDS),
        (known_classes.AUGMENTATIONS, schema.AUGMENTATION_KEYWORDS),
        (known_classes.LOSSES, schema.LOSS_KEYWORDS),
        (known_classes.OPTIMIZERS, schema.OPTIMIZER_KEYWORDS),
    ],
)
def test_the_keywords_are_those_of_the_constructors(names, keywords):
    for name in names:
        parameters = inspect.signature(get_obj_by_name(name)).parameters
        assert set(keywords.keys) <= set(parameters) or any(p.kind == p.VAR_KEYWORD for p in parameters.values())


@pytest.mark.parametrize(
    'field', [name for name in small_config() if name.endswith('_kwargs') and name != 'data_loader_kwargs']
)
@pytest.mark.parametrize('class_name', ['os.system', 'torch.load', 'training.dataset', '', None, 3, ['os.system']])
def test_other_classes_are_not_named_anywhere(field, class_name):
    changed = {field: small_config()[field] | {'class_name': class_name}}
    with pytest.raises(ValueError, match=rf'{field}\.class_name is .*, but must be '):
        TrainingConfig.from_json(json.dumps(small_config(**changed)), 'FILE')


@pytest.mark.parametrize(
    'name', ['os.system', 'builtins.exec', None, 5, ['os.system'], 'dnnlib.util.call_func_by_name']
)
def test_only_known_classes_are_constructed(name):
    for known in (known_classes.DATASETS, known_classes.GENERATORS, known_classes.OPTIMIZERS):
        with pytest.raises(ValueError, match=r'the class name is .*training/known_classes\.py'):
            known_classes.construct({'class_name': name, 'command': 'false'}, known)
    assert construct_class_by_name(class_name='builtins.dict', a=1) == {'a': 1}  # for users, it remains as it is


EDITS = {
    'zero batch': {'batch_size': 0},
    'zero batch of a process': {'batch_gpu': 0},
    'a batch that cannot be divided': {'batch_gpu': 3},
    'infinite length': {'total_kimg': float('inf')},
    'no length': {'total_kimg': float('nan')},
    'negative length': {'total_kimg': -1},
    'text for a number': {'total_kimg': '25'},
    'endless length': {'total_kimg': 1e300},
    'negative interval': {'ada_interval': -4},
    'zero interval': {'G_reg_interval': 0},
    'too many processes': {'num_gpus': 10**9},
    'device': {'device': 'cuda:0; rm'},
    'many layers': {'G_kwargs': small_config()['G_kwargs'] | {'mapping_kwargs': {'num_layers': 10**9}}},
    'wide layers': {'G_kwargs': small_config()['G_kwargs'] | {'z_dim': 10**9}},
    'activation': {'G_kwargs': small_config()['G_kwargs'] | {'synthesis_kwargs': {'activation': 'evil'}}},
    'unknown keyword': {'D_kwargs': small_config()['D_kwargs'] | {'c_dim': 3}},
    'missing keyword': {'G_kwargs': {'class_name': known_classes.GENERATOR}},
    'no betas': {'G_opt_kwargs': {'class_name': known_classes.OPTIMIZER, 'lr': 0.1}},
    'bad betas': {'D_opt_kwargs': small_config()['D_opt_kwargs'] | {'betas': [0, 1]}},
    'path': {'training_set_kwargs': small_config()['training_set_kwargs'] | {'path': ['a']}},
    'path with a null character': {'training_set_kwargs': small_config()['training_set_kwargs'] | {'path': 'a\0b'}},
    'no dictionary': {'loss_kwargs': 'none'},
    'metrics': {'metrics': [3]},
    'options': {'options': {'data': 'data.zip', 'gamma': [1]}},
    'options without data': {'options': {}},
    'options of another type': {'options': [1]},
    'seed': {'random_seed': -1},
    'unknown': {'new': 1},
}


@pytest.mark.parametrize('change', EDITS.values(), ids=EDITS.keys())
def test_edited_options(change):
    with pytest.raises(ValueError, match=r'^FILE') as caught:
        TrainingConfig.from_json(json.dumps(small_config(**change)), 'FILE')
    text = str(caught.value)
    assert text.endswith('.') and '\n' not in text and len(text) < 400
    assert TrainingConfig.from_json(json.dumps(small_config()), 'FILE').batch_size == 8


@pytest.mark.parametrize(
    'text', ['', '[]', '3', 'null', '{}', '[' * 100_000, '{"a":' * 50 + '1' + '}' * 50, '\0', b'\xff']
)
def test_other_text(text):
    with pytest.raises(ValueError, match=r'^FILE'):
        TrainingConfig.from_json(text, 'FILE')


VALUES = [None, True, -1, 0, 0.5, 10**30, 'x', 'os.system', '\0', [], [1], {}, {'class_name': 'os.system'}, [[[[]]]]]


def mutated(value, rng):
    """A copy of a JSON value with one place changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        return {**value, key: mutated(value[key], rng)} if rng.random() < 0.9 else {**value, 'more': 1}
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        return [*value[:index], mutated(value[index], rng), *value[index + 1 :]]
    return rng.choice(VALUES)


def test_random_edits_are_accepted_or_one_sentence():
    rng = random.Random(0)
    refused = 0
    for _ in range(3000):
        text = json.dumps(mutated(small_config(), rng))
        if rng.random() < 0.1:
            position = rng.randrange(len(text))
            text = text[:position] + rng.choice(['', '[', '{', '"', '9' * 5000, '\ud800', 'NaN']) + text[position + 1 :]
        try:
            config = TrainingConfig.from_json(text, 'FILE')
        except ValueError as error:
            refused += 1
            assert str(error).startswith('FILE') and str(error).endswith('.') and len(str(error)) < 600, str(error)
        else:
            kwargs = [value for name, value in vars(config).items() if name.endswith('_kwargs') and value is not None]
            assert not any(value.get('class_name') == 'os.system' for value in kwargs)
    assert 1500 < refused < 3000
