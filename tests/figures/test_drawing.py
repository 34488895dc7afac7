"""What all figures share: discovery, saving, style, and texts that can be read."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from trbounds.errors import InputError
from trbounds_figures import FORMATS, all_figures, get_figure, render, save
from trbounds_figures._drawing import _spread, number

# Smaller grids than the defaults, where those take long; the drawing is the same.
_QUICK: dict[str, dict[str, Any]] = {
    "radius": {"points": 2},
    "phase": {"points": 120},
    "phase_papers": {"points": 120},
}
NAMES = list(all_figures())


@cache
def drawn(name: str) -> Figure:
    figure = render(name, get_figure(name).data(**_QUICK.get(name, {})))
    figure.draw_without_rendering()
    return figure


def texts(figure: Figure) -> list[Text]:
    """Every text that is drawn: matplotlib also keeps labels of ticks beyond the limits."""
    beyond = set()
    panels = [panel for ax in figure.axes for panel in (ax, *ax.child_axes)]
    for axis in (axis for ax in panels for axis in (ax.xaxis, ax.yaxis)):
        scale = axis.get_transform()
        low, high = sorted(scale.transform(axis.get_view_interval()))
        slack = 1e-6 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low - slack <= scale.transform([tick.get_loc()])[0] <= high + slack:
                beyond |= {tick.label1, tick.label2}
    return [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text)
        and text not in beyond
        and text.get_visible()
        and text.get_text().strip()
    ]


def test_expected_figures_are_found() -> None:
    assert set(NAMES) >= {
        "acceptance",
        "caps",
        "estimators",
        "horizon",
        "mismatch",
        "phase",
        "phase_papers",
        "ppo_clip",
        "pruning",
        "radius",
        "sparse",
        "steps",
        "tightness",
        "traces",
    }


def test_unknown_figure_lists_the_figures() -> None:
    with pytest.raises(InputError, match=r"no figure 'horizn'; there are: acceptance, "):
        get_figure("horizn")


_MANY: dict[str, Any] = {
    "T": 100_000,
    "kl_max": 1e-5,
    "kl_seq": 0.01,
    "tv_max": 1e-3,
    "tv_seq": 0.05,
    "chi2_max": 2e-5,
    "chi2_path_max": 0.1,
    "kl_path_max": 0.05,
    "reward_var": 0.05,
}


def crowded() -> Figure:
    """The horizon figure with every scalar known, hence a dozen curves."""
    figure = render("horizon", get_figure("horizon").data(**_MANY))
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("name", [*NAMES, "horizon, crowded"])
def test_texts_do_not_overlap_and_are_not_clipped(name: str) -> None:
    figure = drawn(name) if name in NAMES else crowded()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    page = figure.bbox
    for text, box in boxes:
        assert box.x0 >= page.x0 - 1, text
        assert box.y0 >= page.y0 - 1, text
        assert box.x1 <= page.x1 + 1, text
        assert box.y1 <= page.y1 + 1, text
    # Boxes reach from ascender to descender: a hair of overlap is empty paper.
    hair = 0.6 * figure.dpi / 72
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        apart = (
            a.x1 <= b.x0 + hair or b.x1 <= a.x0 + hair or a.y1 <= b.y0 + hair or b.y1 <= a.y0 + hair
        )
        assert apart, (one, other)


@pytest.mark.parametrize("name", NAMES)
def test_texts_can_be_read_at_column_width(name: str) -> None:
    figure = drawn(name)
    assert figure.get_figwidth() <= (7.0 if figure.axes[0].child_axes else 3.5)
    assert min(float(text.get_fontsize()) for text in texts(figure)) >= 7


@pytest.mark.parametrize("name", NAMES)
def test_axes_are_labelled_and_something_is_drawn(name: str) -> None:
    (ax,) = drawn(name).axes
    assert ax.get_xlabel()
    panels = ax.child_axes or [ax]
    assert all(panel.lines or panel.collections for panel in panels)
    # A column of names says what the panels' vertical axis is.
    assert ax.get_ylabel() or all(label.get_text() for label in panels[0].get_yticklabels())


@pytest.mark.parametrize("name", ["caps", "horizon", "radius", "sparse", "horizon, crowded"])
def test_no_two_curves_have_the_same_colour_and_style(name: str) -> None:
    (ax,) = (drawn(name) if name in NAMES else crowded()).axes
    # The strokes from the ends of curves to their labels leave the axes.
    curves = [line for line in ax.lines if line.get_clip_on()]
    looks = [(line.get_color(), line.get_linestyle()) for line in curves]
    assert len(looks) >= 3
    assert len(set(looks)) == len(looks)


def test_clipping_says_which_advantages_and_which_clip_are_drawn() -> None:
    said = " ".join(text.get_text() for text in texts(drawn("ppo_clip")))
    assert "$c$ = 0.2" in said
    assert "|A| = 1" in said


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(mpl.rcParams)
    render("acceptance")
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_saving_twice_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    contents = get_figure("estimators").data()
    written = [save("estimators", tmp_path / f"{i}.{suffix}", contents) for i in range(2)]
    first, second = (path.read_bytes() for path in written)
    assert first == second
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert first.startswith(start)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"0.{suffix}", f"1.{suffix}"]


def test_unknown_suffix_and_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found suffix '\.gif', expected \.png, \.svg, \.pdf"):
        save("estimators", tmp_path / "a.gif")
    with pytest.raises(InputError, match="the folder does not exist"):
        save("estimators", tmp_path / "no" / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def fail(self: Figure, *args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save("estimators", target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("seed", range(20))
def test_labels_are_spread_apart_and_keep_their_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = np.sort(rng.random(rng.integers(1, 12)))
    gap = 0.07
    placed = np.array(_spread(wanted.tolist(), gap))
    assert np.all(np.diff(placed) >= gap * (1 - 1e-9))
    assert placed[0] >= gap / 2 - 1e-9
    assert placed[-1] <= 1 - gap / 2 + 1e-9


def test_labels_with_room_stay_where_they_are() -> None:
    assert _spread([0.2, 0.5, 0.8], 0.1) == pytest.approx([0.2, 0.5, 0.8])
    assert _spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5e-324, r"$4.94\times 10^{-324}$"),
        (1.7976931348623157e308, r"$1.8\times 10^{308}$"),
        (0.0, "0"),
        (0.01, "0.01"),
        (1e-4, "$10^{-4}$"),
        (2.5e-6, r"$2.5\times 10^{-6}$"),
        (4096.0, "4096"),
        (1e6, "$10^{6}$"),
    ],
)
def test_numbers_in_labels(value: float, text: str) -> None:
    assert number(value) == text
