"""The series of a run by training step: what is drawn, and what is recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.traces import TraceSummary, example_path, summarize
from trbounds_figures import render
from trbounds_figures.steps import Panel, StepsData, data, measure

SUMMARIES = Path(__file__).parents[2] / "figures" / "trbounds_figures" / "data"


def test_the_record_is_that_of_the_stale_rollouts(tmp_path: Path) -> None:
    paths = [str(SUMMARIES / f"stale_k{steps}.tbs") for steps in (1, 4, 16)]
    found = measure(summarize(paths).steps())
    assert found.step == (1, 4, 16)
    for drawn, recorded in zip(found.panels, data().panels, strict=True):
        assert (drawn.label, drawn.change) == (recorded.label, recorded.change)
        np.testing.assert_allclose(drawn.values, recorded.values, rtol=1e-9)
        np.testing.assert_allclose(drawn.errors, recorded.errors, rtol=1e-9)
    own = tmp_path / "own.json"
    own.write_text(found.to_json())
    assert data(own) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"step": [1], "panels": [{}]}',
        '{"step": [1], "panels": [{"label": "", "values": [1, 2], "errors": [], "change": null}]}',
    ],
)
def test_other_documents_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "steps.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a record of steps"):
        data(path)


def test_a_trace_without_steps_is_refused() -> None:
    series = TraceSummary.load(SUMMARIES / "fp8.tbs").steps()
    object.__setattr__(series, "step", np.full_like(series.step, -1))
    with pytest.raises(InputError, match="there is nothing to draw by step"):
        measure(series)


def test_changes_are_marked_where_they_are() -> None:
    panels = (
        Panel("D", (0.1, 0.1, 2.0, 2.0), (0.01, 0.2, 0.1, float("nan")), 12),
        Panel("reward", (0.7, 0.7, 0.7, 0.2), (0.01, 0.01, 0.01, 0.01), 13),
        Panel("share", (1.0, 0.9, 0.5, 0.4), (), None),
    )
    (ax,) = render("steps", StepsData((10, 11, 12, 13), panels)).axes
    dashed = [
        [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--"]
        for panel in ax.child_axes
    ]
    assert dashed == [[12], [13], []]
    assert "dashed: clearest change" in ax.get_title(loc="left")
    assert [panel.get_yscale() for panel in ax.child_axes] == ["log", "linear", "linear"]


def test_one_step_and_no_divergence_are_drawn() -> None:
    one = measure(summarize(example_path()).steps())
    assert len(one.step) == 1
    render("steps", one).draw_without_rendering()
    alike = StepsData((0, 1), (Panel("D", (0.0, 0.0), (0.0, 0.0), None),))
    (ax,) = render("steps", alike).axes
    assert ax.child_axes[0].get_yscale() == "linear"


def test_many_steps_are_drawn_as_means_of_stretches() -> None:
    steps = tuple(range(1000))
    panels = tuple(
        Panel(label, tuple(0.5 + step / 2000 for step in steps), (), None) for label in "Ds"
    )
    (ax,) = render("steps", StepsData(steps, panels)).axes
    assert "means of 80 stretches" in ax.get_title(loc="left")
    for panel in ax.child_axes:
        dots, line = panel.lines
        assert len(dots.get_xdata()) == 1000
        x, y = line.get_xdata(), line.get_ydata()
        assert len(x) == 80
        np.testing.assert_allclose(y, 0.5 + np.asarray(x) / 2000)
