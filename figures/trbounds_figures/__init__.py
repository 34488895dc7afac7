"""The figures, one file each. Discovered by listing this folder: to add a figure, add a file.

A file whose name does not start with an underscore holds

``NAME``
    Its key, the name of the file.
``TITLE``
    What it shows, in a line.
``SIZE``
    Width and height in inches.
``data(...)``
    Computes what is drawn, as a frozen dataclass. Every argument has a default.
``draw(data, ax)``
    Draws it into the axes of any figure. Computes nothing.
"""

from trbounds_figures._registry import (
    FORMATS,
    FigureSpec,
    all_figures,
    check_target,
    get_figure,
    render,
    save,
)

__all__ = [
    "FORMATS",
    "FigureSpec",
    "all_figures",
    "check_target",
    "get_figure",
    "render",
    "save",
]
