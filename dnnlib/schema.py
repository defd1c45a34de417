"""Rules for values from outside: which types, ranges, lengths and keys a file may contain.

A rule is data: `Record({'batch_size': Integer(1, 4096)}, required=['batch_size'])`. `rule.check(value, where)` returns
nothing, or raises a ValueError of one sentence that names the place, the value and the rule. Checking takes time in
proportion to the value at most, however often its parts are shared (`MAX_VALUES`).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dnnlib.text import excerpt

MAX_VALUES = 1_000_000
"""Values that one check looks at; more than that are an error."""

_MAX_SHOWN = 80
_MAX_LISTED = 5


def shown(value: Any) -> str:
    """Describe a value from outside in a few printable characters, whatever its size."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f'an integer of {value.bit_length()} bits'
    if value is None or isinstance(value, (bool, int, float)):
        return excerpt(repr(value), _MAX_SHOWN)
    if isinstance(value, (str, bytes)):
        return excerpt(repr(value[:_MAX_SHOWN]), _MAX_SHOWN)
    name = type(value).__name__
    return f'{"an" if name[:1].lower() in "aeiou" else "a"} {excerpt(name, 40)}'


class Budget:
    """The number of values that a check may still look at."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def spend(self, where: str) -> None:
        """Count one value."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f'{where} is one of more than {MAX_VALUES:,} values.')


class Rule:
    """What a value may be."""

    @property
    def description(self) -> str:
        """What the value must be, to complete 'must be ...'."""
        raise NotImplementedError

    def check(self, value: Any, where: str, budget: Budget | None = None) -> None:
        """Check a value.

        Args:
            value: Anything.
            where: What the value is, to begin the error message with.
            budget: Values that may still be checked; by default `MAX_VALUES`.

        Raises:
            ValueError: The value breaks the rule; one sentence.
        """
        budget = budget or Budget()
        budget.spend(where)
        if not self.accepts(value):
            raise ValueError(f'{where} is {shown(value)}, but must be {self.description}.')
        self.check_parts(value, where, budget)

    def accepts(self, value: Any) -> bool:
        """Return whether the value itself, apart from its parts, follows the rule."""
        raise NotImplementedError

    def check_parts(self, value: Any, where: str, budget: Budget) -> None:
        """Check the parts of a value that `accepts` has accepted."""


# ---------------------------------------------------------------------------------------------------------------------
# Single values


@dataclass(frozen=True)
class Number(Rule):
    """A finite number in a range; a bool is not a number."""

    low: float
    high: float
    above_low: bool = False  # exclude `low` itself

    @property
    def description(self) -> str:
        if self.above_low:
            return f'a number above {self.low:,.10g} and at most {self.high:,.10g}'
        return f'a number from {self.low:,.10g} to {self.high:,.10g}'

    def accepts(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        return math.isfinite(value) and not (self.above_low and value == self.low)


@dataclass(frozen=True)
class Integer(Rule):
    """An integer in a range; neither a bool nor 4.0 is an integer."""

    low: int
    high: int

    @property
    def description(self) -> str:
        return f'an integer from {self.low:,} to {self.high:,}'

    def accepts(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Flag(Rule):
    """True or false."""

    @property
    def description(self) -> str:
        return 'true or false'

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Text(Rule):
    """Text without null characters, of limited length."""

    max_length: int = 4096
    pattern: str | None = None  # regular expression that must match the whole text
    kind: str = 'text'  # what the pattern stands for, for messages

    @property
    def description(self) -> str:
        return self.kind if self.pattern else f'{self.kind} of at most {self.max_length:,} characters'

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, str) or len(value) > self.max_length or '\0' in value:
            return False
        return self.pattern is None or re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True)
class Choice(Rule):
    """One of several texts."""

    choices: Collection[str]

    @property
    def description(self) -> str:
        return ' or '.join(map(repr, self.choices)) if len(self.choices) < 3 else f'one of {", ".join(self.choices)}'

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.choices


# ---------------------------------------------------------------------------------------------------------------------
# Containers and alternatives


@dataclass(frozen=True)
class Optional(Rule):
    """None, or what another rule allows."""

    rule: Rule

    @property
    def description(self) -> str:
        return f'{self.rule.description}, or null'

    def accepts(self, value: Any) -> bool:
        return value is None or self.rule.accepts(value)

    def check_parts(self, value: Any, where: str, budget: Budget) -> None:
        if value is not None:
            self.rule.check_parts(value, where, budget)


@dataclass(frozen=True)
class Either(Rule):
    """What one of two rules allows; their values must differ in type."""

    first: Rule
    second: Rule

    @property
    def description(self) -> str:
        return f'{self.first.description}, or {self.second.description}'

    def accepts(self, value: Any) -> bool:
        return self.first.accepts(value) or self.second.accepts(value)

    def check_parts(self, value: Any, where: str, budget: Budget) -> None:
        (self.first if self.first.accepts(value) else self.second).check_parts(value, where, budget)


@dataclass(frozen=True)
class ListOf(Rule):
    """A list of values that all follow one rule."""

    item: Rule
    max_length: int
    min_length: int = 0

    @property
    def description(self) -> str:
        if self.min_length == self.max_length:
            return f'a list of {self.max_length:,} values'
        return f'a list of {self.min_length:,} to {self.max_length:,} values'

    def accepts(self, value: Any) -> bool:
        return isinstance(value, list) and self.min_length <= len(value) <= self.max_length

    def check_parts(self, value: Any, where: str, budget: Budget) -> None:
        for index, item in enumerate(value):
            self.item.check(item, f'{where}[{index}]', budget)


@dataclass(frozen=True)
class ListIn(Rule):
    """A list of a fixed length whose values have a rule each."""

    items: tuple[Rule, ...]

    @property
    def description(self) -> str:
        return f'a list of {len(self.items)} values'

    def accepts(self, value: Any) -> bool:
        return isinstance(value, list) and len(value) == len(self.items)

    def check_parts(self, value: Any, where: str, budget: Budget) -> None:
        for index, (rule, item) in enumerate(zip(self.items, value)):
            rule.check(item, f'{where}[{index}]', budget)


@dataclass(frozen=True)
class MapOf(Rule):
    """A dictionary with keys of one kind (by default any text) and values that all follow one rule."""

    item: Rule
    max_length: int
    key: Rule = dataclasses.field(default_factory=lambda: Text(1000))

    @property
    def description(self) -> str:
        return f'an object with at most {self.max_length:,} keys'

    def accepts(self, value: Any) -> bool:
        return isinstance(value, dict) and len(value) <= self.max_length

    def check_parts(self, value: Any, where: str, budget: Budget) -> None:
        for key, item in value.items():
            self.key.check(key, f'a key of {where}', budget)
            self.item.check(item, f'{where}.{excerpt(key, _MAX_SHOWN)}', budget)


@dataclass(frozen=True)
class Record(Rule):
    """A dictionary with known keys, each of which has a rule.

    Args:
        keys: The rule of each key.
        required: Keys that must be present.
        ignores_others: Accept further keys, with any values.
    """

    keys: Mapping[str, Rule]
    required: Collection[str] = ()
    ignores_others: bool = False

    @property
    def description(self) -> str:
        return 'an object'

    def accepts(self, value: Any) -> bool:
        return isinstance(value, dict)

    def check_parts(self, value: Any, where: str, budget: Budget) -> None:
        unknown = [] if self.ignores_others else [key for key in value if key not in self.keys]
        missing = [key for key in self.required if key not in value]
        if unknown or missing:
            raise ValueError(f'{where} does not have the expected keys: {_complaint(unknown, missing)}.')
        for key, rule in self.keys.items():
            if key in value:
                rule.check(value[key], f'{where}.{key}', budget)


def _complaint(unknown: list[Any], missing: list[str]) -> str:
    lists = {'unknown': [shown(key) for key in unknown], 'missing': [repr(key) for key in missing]}
    return '; '.join(
        f'{", ".join(keys[:_MAX_LISTED])}{" and others" if len(keys) > _MAX_LISTED else ""} '
        f'{"is" if len(keys) == 1 else "are"} {problem}'
        for problem, keys in lists.items()
        if keys
    )
