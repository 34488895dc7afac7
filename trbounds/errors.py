"""The errors trbounds raises on purpose.

::

    TrboundsError
    ├── InputError        bad input: a value, a file, a record or a field (also a ValueError)
    │   └── MissingField  what is asked for needs fields that are not known
    └── MissingDependency an optional package is needed and absent (also an ImportError)

The command line turns either into one line on stderr and exit code 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

__all__ = [
    "InputError",
    "MissingDependency",
    "MissingField",
    "TrboundsError",
    "did_you_mean",
    "no_such",
]


_USER = re.compile(r"(https?://|://(?=[^/\s'\"@]*:))[^/\s'\"]*@")
_SECRET = re.compile(
    r"([?&][^=&\s'\"]*(?:sig|token|key|secret|password|credential|auth)[^=&\s'\"]*=)[^&\s'\"]+",
    re.IGNORECASE,
)


def _without_credentials(text: str) -> str:
    """Mask ``user:password@`` and signed queries of URLs: messages end up in logs and reports."""
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", text))


class TrboundsError(Exception):
    """Base class of every error that trbounds raises on purpose."""


class InputError(TrboundsError, ValueError):
    """Bad input, with the place it was found.

    Parameters
    ----------
    problem : str
        What was found and what was expected, without the place.
    file : str, optional
        Path of the file. The message masks credentials in it.
    record : int, optional
        Zero-based index of the record (sequence, row or line) within the file.
    field : str, optional
        Name of the field, column or option.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        record: int | None = None,
        field: str | None = None,
    ) -> None:
        self.problem = problem = _without_credentials(problem)
        self.file = file
        self.record = record
        self.field = field
        place = [
            part
            for part in (
                None if file is None else _without_credentials(file),
                None if record is None else f"record {record}",
                None if field is None else f"field '{field}'",
            )
            if part is not None
        ]
        super().__init__(": ".join([", ".join(place), problem]) if place else problem)


class MissingField(InputError):  # noqa: N818 - says what is wrong
    """What is asked for needs fields of a profile, or of a case, that are not known."""


class MissingDependency(TrboundsError, ImportError):  # noqa: N818 - says what is wrong
    """An optional package is needed and absent.

    Parameters
    ----------
    package : str
        The name that could not be imported.
    extra : str
        The extra of trbounds that installs it.
    purpose : str
        What needs it.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        self.package = package
        self.extra = extra
        self.purpose = purpose = _without_credentials(purpose)
        super().__init__(f"{purpose} needs {package}: pip install 'trbounds[{extra}]'")

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is rebuilt from its message; this one comes back from worker processes.
        return partial(type(self), extra=self.extra, purpose=self.purpose), (self.package,)


def no_such(what: str, name: str, known: Iterable[str], *, field: str | None = None) -> InputError:
    """Return the error for a name that nothing has; it lists the names, and suggests the nearest.

    Parameters
    ----------
    what : str
        Kind of thing that is named.
    name : str
        What was found.
    known : iterable of str
        The names there are.
    field : str, optional
        Name of the field or option.
    """
    names = list(known)
    text = f"no {what} '{name}'; there are: {', '.join(names)}{did_you_mean(name, names)}"
    return InputError(text, field=field)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error's text that suggests the nearest name, if one is near."""
    import difflib

    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
