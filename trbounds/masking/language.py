"""The language of masking rules: a tokenizer and a recursive-descent parser.

::

    rule       = term { "or" term }
    term       = factor { "and" factor }
    factor     = "not" factor | "(" rule ")" | preset | comparison
    comparison = statistic OP number | number OP statistic [ OP number ]
    preset     = NAME [ "(" number { "," number } ")" ]
    OP         = "<=" | "<" | ">=" | ">"

Statistics are those of a sequence, :data:`trbounds.masking.STATISTICS`, and those of a single
token, :data:`trbounds.masking.TOKEN_STATISTICS`; presets are those of
:data:`trbounds.masking.PRESETS`. Text is only ever compared with known words; nothing is executed.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple, NoReturn

from trbounds.errors import InputError, did_you_mean
from trbounds.masking.presets import PRESETS
from trbounds.masking.rules import And, Interval, Not, Or, Rule
from trbounds.masking.statistics import STATISTICS, TOKEN_STATISTICS

_LONGEST = 2000
_DEEPEST = 50
_SHOWN = 60

_PATTERN = re.compile(
    r"""\s*(?:
      (?P<term>\|\s*rho\s*-\s*1\s*\||\(\s*rho\s*-\s*1\s*\)\s*\^\s*2)
    | (?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.]))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*(?:[-&][A-Za-z][A-Za-z0-9_]*)*)
    | (?P<symbol><=|>=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_AGGREGATES = ("max", "mean", "sum", "min", "product", "geomean", "token")
_KNOWN = (*STATISTICS, *TOKEN_STATISTICS)
_WORDS = ("and", "or", "not")
_COMPARISONS = ("<=", "<", ">=", ">")


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def parse_rule(text: str) -> Rule:
    """Parse a rule.

    Parameters
    ----------
    text : str
        Such as ``max k2 <= 0.05 and mean k3 <= 0.001``, ``not max |rho-1| > 0.5``,
        ``0.999 <= geomean ratio <= 1.001`` or ``TRM-Max&Avg(0.05, 0.001)``; on tokens,
        ``0.5 <= token ratio <= 5`` or ``token k2 <= 0.05 and mean k3 <= 0.001``. At most 2000
        characters, nested at most 50 deep.

    Returns
    -------
    Rule

    Raises
    ------
    InputError
        If the text is no rule: what was expected, and a caret ^ in the text at the place.

    Examples
    --------
    >>> from trbounds.masking import parse_rule
    >>> str(parse_rule("seq_mean_k3(0.001) and not max ratio > 2"))
    'mean clamped_k3 <= 0.001 and (not (max ratio > 2.0))'
    """
    if len(text) > _LONGEST:
        raise InputError(f"found {len(text)} characters, expected at most {_LONGEST}", field="rule")
    parser = _Parser(text)
    rule = parser.rule(0)
    if parser.here.kind != "end":
        parser.refuse("'and', 'or' or the end")
    return rule


def parse_family(text: str) -> str:
    """Return the statistic of a family of rules ``statistic <= x``.

    Parameters
    ----------
    text : str
        A statistic, spaces or hyphens between its words (``max k2``, ``max-k2``), or a preset
        with one threshold (``TRM-Max``, ``seq_mean_k3``).

    Returns
    -------
    str
        Name of the statistic.

    Raises
    ------
    InputError
        If it is neither, or acts on single tokens.
    """
    words = text.strip()
    preset = PRESETS.get(words.lower())
    if preset is not None and len(preset.parameters) == 1:
        (words,) = preset.rule(1.0).names
    for name in (words, words.replace("-", " ", 1)):
        if name in STATISTICS:
            return name
        if name in TOKEN_STATISTICS:
            whole = f"max {TOKEN_STATISTICS[name].term}"
            raise InputError(
                f"'{name}' masks single tokens, expected a statistic of sequences; '{name} <= x' "
                f"masks no token of those with '{whole} <= x'",
                field="family",
            )
    single = [
        preset.name
        for preset in PRESETS.values()
        if len(preset.parameters) == 1 and preset.rule(1.0).statistics
    ]
    hint = did_you_mean(words, [*single, *STATISTICS])
    expected = f"a statistic such as 'max k2', or one of {', '.join(single)}"
    raise InputError(f"found {text!r}, expected {expected}{hint}", field="family")


class _Parser:
    """One pass over the tokens of a text, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self.here = self._next()

    def rule(self, depth: int) -> Rule:
        parts = [self._term(depth)]
        while self._take("or"):
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def refuse(self, expected: str, *, at: int | None = None) -> NoReturn:
        """Raise what was expected here, or what is wrong at a place, with a caret in the text."""
        problem = expected
        if at is None:
            at = self.here.start
            found = "the end" if self.here.kind == "end" else repr(self.here.text)
            problem = f"found {found}, expected {expected}"
        first, last = max(at - _SHOWN, 0), at + _SHOWN
        before = "..." * (first > 0) + self._text[first:at]
        after = self._text[at:last] + "..." * (last < len(self._text))
        # As a literal, so that a line break does not break the line.
        raise InputError(f"{problem}, at ^ in {f'{before}^{after}'!r}", field="rule")

    def _term(self, depth: int) -> Rule:
        parts = [self._factor(depth)]
        while self._take("and"):
            parts.append(self._factor(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _factor(self, depth: int) -> Rule:
        if depth > _DEEPEST:
            self.refuse(f"nested more than {_DEEPEST} deep", at=self.here.start)
        if self._take("not"):
            return Not(self._factor(depth + 1))
        if self._take("("):
            inside = self.rule(depth + 1)
            self._expect(")")
            return inside
        # "ser" is a statistic, "SER(0.01)" the rule that caps it.
        word = self.here.text
        if self.here.kind == "name" and word not in STATISTICS and word.lower() in PRESETS:
            return self._preset()
        if self.here.kind == "number":
            return self._from_number()
        return self._from_statistic()

    def _preset(self) -> Rule:
        start, preset = self.here.start, PRESETS[self._advance().text.lower()]
        numbers: list[float] = []
        if self._take("("):
            numbers.append(self._number())
            while self._take(","):
                numbers.append(self._number())
            self._expect(")")
        try:
            return preset.rule(*numbers)
        except InputError as error:
            self.refuse(error.problem, at=start)

    def _from_number(self) -> Rule:
        first = self._number()
        operator = self._operator()
        statistic = self._statistic()
        # "x < statistic" is "statistic > x".
        mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}[operator]
        interval = _interval(statistic, mirrored, first)
        if self.here.text not in _COMPARISONS:
            return interval
        start = self.here.start
        second = self._operator()
        if second[0] != operator[0]:
            self.refuse("both comparisons of a range point the same way", at=start)
        other = _interval(statistic, second, self._number())
        lower, upper = (interval, other) if operator[0] == "<" else (other, interval)
        if lower.low > upper.high:
            self.refuse("nothing lies in this range", at=start)
        return Interval(statistic, lower.low, upper.high, lower.low_open, upper.high_open)

    def _from_statistic(self) -> Rule:
        statistic = self._statistic()
        return _interval(statistic, self._operator(), self._number())

    def _statistic(self) -> str:
        start, first = self.here.start, self.here.text
        if self.here.kind != "name" or first in _WORDS:
            self.refuse("a statistic such as 'max k2', a number, a preset, 'not' or '('")
        self._advance()
        if first in STATISTICS:
            return first
        if first not in _AGGREGATES:
            self.refuse(
                f"unknown '{first}', expected {', '.join(_AGGREGATES)}, ser, ln_trm or a preset"
                + did_you_mean(first, [preset.name for preset in PRESETS.values()]),
                at=start,
            )
        if self.here.kind not in ("name", "term"):
            self.refuse(f"what the {first} is of")
        second = re.sub(r"\s", "", self.here.text)
        name = f"{first} {second}"
        if name not in _KNOWN:
            known = [known.split(" ", 1)[1] for known in _KNOWN if known.startswith(f"{first} ")]
            self.refuse(f"{first} of one of {', '.join(known)}")
        self._advance()
        return name

    def _operator(self) -> str:
        if self.here.text not in _COMPARISONS:
            self.refuse("'<=', '<', '>=' or '>'")
        return self._advance().text

    def _number(self) -> float:
        if self.here.kind != "number" or not math.isfinite(float(self.here.text)):
            self.refuse("a finite number")
        return float(self._advance().text)

    def _take(self, text: str) -> bool:
        if self.here.kind not in ("name", "symbol") or self.here.text != text:
            return False
        self._advance()
        return True

    def _expect(self, text: str) -> None:
        if not self._take(text):
            self.refuse(f"'{text}'")

    def _advance(self) -> _Token:
        token = self.here
        self.here = self._next()
        return token

    def _next(self) -> _Token:
        found = _PATTERN.match(self._text, self._place)
        if found is None:
            rest = self._text[self._place :]
            start = self._place + len(rest) - len(rest.lstrip())
            if start == len(self._text):
                return _Token("end", "", start)
            self.refuse(f"unexpected character {self._text[start]!r}", at=start)
        self._place = found.end()
        kind = str(found.lastgroup)
        return _Token(kind, found[kind], found.start(kind))


def _interval(statistic: str, operator: str, number: float) -> Interval:
    open_end = len(operator) == 1
    if operator[0] == "<":
        return Interval(statistic, high=number, high_open=open_end)
    return Interval(statistic, low=number, low_open=open_end)
