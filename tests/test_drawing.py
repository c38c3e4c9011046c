"""Figures that other processes draw: the same bytes as here, and nothing is lost with a process."""

import functools
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from analysis.plots import drawing
from analysis.plots.drawing import Drawing, Task
from analysis.plots.style import panels_of, per_cent


def lines(slope: float) -> Figure:
    """A figure of two panels, which prints, as a function of one's own may."""
    print("drawn", flush=True)
    figure, grid = panels_of(2)
    for axes in grid:
        axes.plot([0, 1, 2], [0, slope, 0.5], label="γ = 10⁻³")
        per_cent(axes.yaxis)
    return figure


def not_here(slope: float) -> Figure:
    raise AssertionError(f"drawn here: {slope:g}")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_another_process_writes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    for others in (0, 1):
        folder = tmp_path / str(others)
        with Drawing(others) as pens:
            pens.begin()
            if others:  # this process draws nothing itself
                monkeypatch.setattr(Drawing, "_next_here", lambda pens: None)
                monkeypatch.setattr(Task, "do", lambda task: pytest.fail(f"{task.name} is drawn here"))
            pens.add(Task(lines(1.0), folder, "drawn"))
            pens.add(Task(functools.partial(lines, 2.0), folder, "drawn-there"))
            pens.finish()
    written = contents(tmp_path / "0")
    assert sorted(written) == ["drawn-there.pdf", "drawn-there.png", "drawn.pdf", "drawn.png"]
    assert contents(tmp_path / "1") == written


def test_what_another_process_cannot_do_is_done_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one ends at once, or what is to be done cannot be pickled."""
    monkeypatch.setattr(drawing, "__file__", str(tmp_path / "none.py"))
    figure = lines(1.0)
    figure.axes[0].yaxis.set_major_formatter(lambda value, _: f"{value}")
    with Drawing(1) as pens:
        pens.begin()
        for name in ("a", "b"):
            pens.add(Task(figure, tmp_path, name))
        pens._threads[0].join(5)
        pens.finish()
    assert {path.name for path in tmp_path.iterdir()} == {"a.pdf", "a.png", "b.pdf", "b.png"}
    with Drawing(1) as pens:
        pens.begin()
        pens.add(Task(functools.partial(not_here, 3.0), tmp_path, "c"))
        with pytest.raises(AssertionError, match="drawn here: 3"):
            pens.finish()


def test_few_figures_wait_at_once_and_one_core_has_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(Task, "do", lambda task: done.append(task.name))
    names = [f"{number}" for number in range(drawing.MOST_WAITING + 2)]
    pens = Drawing(1)  # the other one has not begun
    for name in names:
        pens.add(Task(functools.partial(lines, 1.0), tmp_path, name), long=name == names[1])
    assert done == names[-2:]
    pens.finish()
    assert done == [*names[-2:], "3", "2", "0", "1"], "what takes long is left to others"
    monkeypatch.setattr(drawing.os, "sched_getaffinity", lambda pid: {0})
    assert drawing.others_here() == 0
    monkeypatch.setattr(drawing.os, "sched_getaffinity", lambda pid: set(range(64)))
    assert drawing.others_here() == drawing.MOST_PROCESSES
