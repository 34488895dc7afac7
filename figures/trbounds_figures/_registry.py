"""Finding, rendering and saving the figures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trbounds.errors import InputError, no_such

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: File formats that :func:`save` writes, with metadata that would otherwise hold the date.
FORMATS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
)

_FOLDER = Path(__file__).parent
_STYLE = _FOLDER / "trbounds.mplstyle"


@dataclass(frozen=True)
class FigureSpec:
    """A figure: what its file holds.

    Parameters
    ----------
    name : str
        Key, and the name of the file.
    title : str
        What it shows.
    size : (float, float)
        Width and height in inches.
    data : callable
        Computes what is drawn.
    draw : callable
        ``draw(data, ax)``.
    """

    name: str
    title: str
    size: tuple[float, float]
    data: Callable[..., Any]
    draw: Callable[[Any, Axes], None]


@cache
def all_figures() -> Mapping[str, FigureSpec]:
    """Return every figure by name, in alphabetical order."""
    found: dict[str, FigureSpec] = {}
    for name in sorted(m.name for m in iter_modules([str(_FOLDER)]) if m.name[0] != "_"):
        module = import_module(f"{__package__}.{name}")
        if name != module.NAME:
            raise RuntimeError(f"file {name}.py holds the figure '{module.NAME}'")
        found[name] = FigureSpec(name, module.TITLE, module.SIZE, module.data, module.draw)
    return MappingProxyType(found)


def get_figure(name: str) -> FigureSpec:
    """Return one figure.

    Parameters
    ----------
    name : str
        Its key, such as ``"horizon"``.

    Raises
    ------
    InputError
        If there is no such figure; the message lists them.
    """
    figures = all_figures()
    if name not in figures:
        raise no_such("figure", name, figures)
    return figures[name]


def render(name: str, data: Any = None) -> Figure:
    """Draw a figure, without pyplot and without changing matplotlib's settings.

    Parameters
    ----------
    name : str
        Its key.
    data : object, optional
        What the figure's ``data`` returned; its defaults otherwise.

    Returns
    -------
    matplotlib.figure.Figure
        With one axes.

    Raises
    ------
    InputError
        If there is no such figure.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    spec = get_figure(name)
    contents = spec.data() if data is None else data
    with _style(mpl):
        figure = Figure(figsize=spec.size, layout="constrained")
        spec.draw(contents, figure.add_subplot())
    return figure


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse, before anything is computed, a path that :func:`save` cannot write to.

    Parameters
    ----------
    path : path-like
        As for :func:`save`.

    Raises
    ------
    InputError
        If the suffix is not known, or the folder does not exist.
    """
    target = Path(path)
    if _suffix(target) not in FORMATS:
        raise InputError(
            f"found suffix '{target.suffix}', expected {', '.join('.' + f for f in FORMATS)}",
            file=str(target),
        )
    if not target.parent.is_dir():
        raise InputError("the folder does not exist", file=str(target))


def _suffix(target: Path) -> str:
    return target.suffix.lower().removeprefix(".")


def save(name: str, path: str | os.PathLike[str], data: Any = None) -> Path:
    """Draw a figure and write it, to a temporary name first.

    The same data and library versions give the same bytes.

    Parameters
    ----------
    name : str
        Its key.
    path : path-like
        File to write; its suffix, one of :data:`FORMATS`, says how.
    data : object, optional
        What the figure's ``data`` returned; its defaults otherwise.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InputError
        If there is no such figure, the suffix is not known, or the folder does not exist or
        cannot be written to.
    """
    import matplotlib as mpl

    check_target(path)
    target = Path(path)
    suffix = _suffix(target)
    figure = render(name, data)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=f".{suffix}")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=str(target)) from None
    os.close(handle)
    try:
        with _style(mpl):
            figure.savefig(temporary, format=suffix, metadata=dict(FORMATS[suffix]))
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def _style(mpl: Any) -> Any:
    return mpl.rc_context(fname=_STYLE)
