"""Rules for values from outside: what each accepts, and one sentence for everything else."""

import pytest

from dnnlib import schema
from dnnlib.schema import Choice, Either, Flag, Integer, ListIn, ListOf, MapOf, Number, Optional, Record, Text

DEEP: list = []
for _ in range(100_000):
    DEEP = [DEEP]

NOTHING_ELSE = [None, True, 0.5, 7, 10**400, float('nan'), 'text', b'bytes', [], {}, (), DEEP, object()]

RULES = {
    'number': (Number(-1, 1), [-1, 0.5, 1]),
    'above': (Number(0, 1, above_low=True), [1e-300, 1]),
    'integer': (Integer(0, 3), [0, 3]),
    'flag': (Flag(), [True, False]),
    'text': (Text(4), ['', 'four', 'ü']),
    'pattern': (Text(4, pattern='[a-c]+', kind='letters'), ['abc']),
    'choice': (Choice(('one', 'two')), ['one']),
    'optional': (Optional(ListOf(Flag(), 2)), [None, [True, False]]),
    'either': (Either(Integer(1, 2), ListOf(Integer(1, 2), 2, 2)), [1, [1, 2]]),
    'list': (ListOf(Integer(0, 1), max_length=3, min_length=1), [[0], [1, 1, 1]]),
    'list of several': (ListIn((Flag(), Text())), [[True, 'a']]),
    'map': (MapOf(Flag(), max_length=2), [{}, {'a': True, 'b': False}]),
    'record': (Record({'a': Flag(), 'b': Flag()}, required=['a']), [{'a': True}, {'a': True, 'b': False}]),
    'open record': (Record({'a': Flag()}, ignores_others=True), [{'b': object()}, {'a': True}]),
}
BAD = {
    'number': [-1.1, '0', [0]],
    'above': [0, -1, 1.1],
    'integer': [4, -1, 1.0, '1'],
    'flag': [0, 1, 'true'],
    'text': ['five!', 'a\0b', 3],
    'pattern': ['abd', 'aaaaa', 'a\n'],
    'choice': ['three', 1, ['one']],
    'optional': [[1], [True] * 3],
    'either': [3, [1], [1, 3], [1, 2, 1]],
    'list': [[], [2], [0] * 4, (0,)],
    'list of several': [['a', True], [True]],
    'map': [{'a': 1}, {'a': True, 'b': True, 'c': True}, {3: True}, {'x' * 1001: True}],
    'record': [{}, {'a': 1}, {'a': True, 'c': True}, {'a': True, 5: True}],
    'open record': [{'a': 0}],
}


@pytest.mark.parametrize('name', RULES)
def test_what_a_rule_accepts(name):
    rule, good = RULES[name]
    for value in good:
        rule.check(value, 'it')


@pytest.mark.parametrize('name', RULES)
def test_everything_else_is_one_short_sentence(name):
    rule, _good = RULES[name]
    for value in [*BAD[name], *(value for value in NOTHING_ELSE if not rule.accepts(value))]:
        with pytest.raises(ValueError, match='it') as caught:
            rule.check(value, 'it')
        text = str(caught.value)
        assert text.endswith('.') and len(text) < 400 and text.isprintable(), text


def test_messages_name_place_value_and_rule():
    rule = Record({'inner': ListOf(Record({'number': Integer(1, 1000)}, required=['number']), 10)})
    with pytest.raises(
        ValueError, match=r"^FILE\.inner\[1\]\.number is 'x', but must be an integer from 1 to 1,000\.$"
    ):
        rule.check({'inner': [{'number': 1}, {'number': 'x'}]}, 'FILE')
    with pytest.raises(
        ValueError, match=r"^FILE\.inner\[0\] does not have the expected keys: 'a\\x1bb' is unknown; 'num"
    ):
        rule.check({'inner': [{'a\x1bb': 1}]}, 'FILE')


def test_shared_parts_do_not_multiply_the_work(monkeypatch):
    monkeypatch.setattr(schema, 'MAX_VALUES', 1000)
    shared = ['x'] * 100
    with pytest.raises(ValueError, match='more than 1,000 values'):
        ListOf(ListOf(Text(), 100), 100).check([shared] * 100, 'it')
