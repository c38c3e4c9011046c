"""The report of a study while it runs: when it is rendered, by whom, and that it changes nothing."""

import argparse
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from synthetic import TAGS, Made, fill, results
from test_embeddings import artifact

from analysis import live
from analysis.plots.cache import FigureCache
from analysis.render import files
from analysis.report import render
from analysis.sections import figures
from analysis.trials import load
from search_spaces import SPACES, Selection, own, select, selection_from
from search_spaces.spaces import remove_space
from study.cli import options
from study.ledger.look import Look
from study.ledger.seed_plans import declare_seed_plans, plans_at_look, read_seed_plans
from study.run import main
from study.session.live import SHARE, LiveReport, Pace, pace_of
from study.session.study_run import StudyRun
from trainables.extensions import files as extension_files

TYPED = ["--space", "quickstart", "--report-every", "5m"]


def test_when_a_report_is_rendered() -> None:
    usual = Pace()
    assert usual.due(began=1000.0, last=None) == 1300.0  # a study of five minutes never has one
    assert usual.due(began=1000.0, last=(1400.0, 2.0)) == 1700.0
    # At most one part in twenty of a core's time.
    assert usual.due(began=1000.0, last=(1400.0, 60.0)) == 1400.0 + SHARE * 60
    forced = pace_of(30.0)
    assert forced == Pace(every=30.0, forced=True)
    assert forced.due(began=1000.0, last=(1400.0, 60.0)) == 1430.0
    assert pace_of(None) == usual
    assert pace_of(0.0) is None


def test_what_report_every_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert [options.parse_report_every(text) for text in ("0", "never", "90s", "1h30m")] == [0, 0, 90, 5400]
    for given in ("often", "5", "-5m"):
        with pytest.raises(SystemExit) as ended:
            main(["--space", "quickstart", f"--report-every={given}"])
        assert ended.value.code == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line.endswith(
            f"argument --report-every: got {given!r}; allowed: a time such as 90s, 30m, 2h, 1h30m or 1d,"
            " 0 or never"
        )
    with pytest.raises(SystemExit):
        main(["--space", "quickstart", "--no-report", "--report-every", "5m"])
    assert "--report-every: got with --no-report; allowed: one of them" in capsys.readouterr().err


class Watched:
    """A live report by a clock that a test sets, whose process is a few lines of Python."""

    def __init__(self, folder: Path, source: str, pace: Pace | None) -> None:
        self.now, self.said, self.declared = 0.0, list[str](), list[float]()
        self.folder = folder
        prelude = f"import os, pathlib, pickle, sys, time; look = pickle.load(sys.stdin.buffer)\n{source}"
        self.report = LiveReport(
            lambda left: look_at(folder, left=left),
            pace,
            command=(sys.executable, "-c", prelude),
            clock=lambda: self.now,
        )
        self.report.say = self.said.append
        self.report.declare = lambda: self.declared.append(self.now)

    def at(self, now: float, left: str = "") -> None:
        """Consider it, and wait for what that begins."""
        self.now = now
        self.report.consider(left)
        if self.report._thread is not None:
            self.report._thread.join(30)


def look_at(place: Path, **changes: Any) -> Look:
    made = Look(
        args=options.parser().parse_args(TYPED),
        typed=("python", "study/run.py", *TYPED),
        uri=f"sqlite:///{place}/mlflow.db",
        experiment="test",
        artifact_root=place / "artifacts",
        folder=place / "report",
        digests={"digits": TAGS["data.sha256"]},
        files=(),
        left="",
        every=300.0,
    )
    return replace(made, **changes)


COUNTS = """
count = look.folder.parent / "count"
count.write_text(count.read_text() + look.left + " " if count.exists() else look.left + " ")
print("a warning")
print(2.5)
"""


def test_it_is_rendered_at_its_pace_and_told_once(tmp_path: Path) -> None:
    watched = Watched(tmp_path, COUNTS, Pace(every=10.0))
    count = tmp_path / "count"
    watched.at(500, "early")  # nothing trains
    watched.report.start()
    watched.at(505, "soon")
    assert not count.exists()
    assert not watched.declared
    watched.at(510, "first")
    watched.at(519, "between")
    watched.at(559, "between")  # 2.5 s take 50
    watched.at(560, "second")
    assert count.read_text().split() == ["first", "second"]
    assert watched.declared == [510.0]  # before the first look, and never again
    assert watched.said == [f"report so far: {(tmp_path / 'report/report.html').as_uri()}"]
    watched.report.stop()
    watched.at(1000, "after the end")
    assert count.read_text().split() == ["first", "second"]
    watched.report.start()  # the finalists of a search
    watched.at(1001, "third")
    assert count.read_text().split()[-1] == "third"


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    watched = Watched(tmp_path, COUNTS, None)
    watched.report.start()
    watched.at(1e9)
    assert not (tmp_path / "count").exists()
    assert not watched.declared
    assert not watched.report.begun


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("print('trials on different data'); sys.exit(1)", "trials on different data"),
        ("raise MemoryError('too much')", "MemoryError: too much"),
        ("os._exit(9)", "its process ended with 9"),
    ],
)
def test_a_failure_is_one_note(tmp_path: Path, source: str, reason: str) -> None:
    watched = Watched(tmp_path, source, Pace(every=10.0, forced=True))
    watched.report.start()
    for now in (10, 20, 30):
        watched.at(now)
    assert watched.said == [f"the report so far could not be rendered: {reason}"]
    assert not watched.report.exists


def test_one_rendering_at_a_time_which_ends_when_it_is_told_to(tmp_path: Path) -> None:
    hang = "(look.folder.parent / f'begun-{os.getpid()}').touch(); time.sleep(60); print(1)"
    watched = Watched(tmp_path, hang, Pace(every=10.0, forced=True))
    watched.report.start()
    for watched.now in (10.0, 20.0, 30.0):
        watched.report.consider("")
        wait_for(lambda: list(tmp_path.glob("begun-*")))
    (begun,) = tmp_path.glob("begun-*")
    asked = time.monotonic()
    watched.report.stop()
    assert time.monotonic() - asked < 2
    assert not Path(f"/proc/{begun.name.removeprefix('begun-')}").exists()
    assert watched.said == []  # nothing went wrong
    assert watched.report.begun  # so that a page that it has written is settled
    assert not watched.report.exists


AHEAD = """
(look.folder.parent / "ahead").write_text(str(look.ahead))
time.sleep(look.left == "" and 0.5)
print(9)
"""


def test_what_takes_longest_is_drawn_ahead_beside_the_pace_of_looks(tmp_path: Path) -> None:
    watched = Watched(tmp_path, AHEAD, Pace(every=10.0))
    report = watched.report
    assert report.draw_ahead()  # nothing trains: that is done
    assert report._thread is None
    report.start()
    assert report.draw_ahead()
    assert not report.draw_ahead()  # later: one is under way
    assert report._thread is not None
    report._thread.join(30)
    assert (tmp_path / "ahead").read_text() == "True"
    assert (watched.said, report.exists, report._last, watched.declared) == ([], False, None, [])
    watched.at(10, "a look")
    assert watched.declared == [10]
    assert (tmp_path / "ahead").read_text() == "False"
    never = Watched(tmp_path / "never", AHEAD, None)
    never.report.start()
    assert never.report.draw_ahead()
    assert never.report._thread is None


def test_what_is_drawn_ahead_is_not_drawn_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.others_here", lambda: 0)
    selection = selection_from(look_at(store).args)

    def end(numbers: range) -> None:
        made = [
            Made(config=t, metrics=results(t), artifacts={"embeddings.npz": artifact(t)})
            for t in (selection.trials[number] for number in numbers)
        ]
        fill(store / "mlflow.db", store / "artifacts", made)

    end(range(3))
    look, figures_there = look_at(store, ahead=True), store / "report/figures"
    live.render_look(look)
    assert not list(figures_there.glob("*"))  # an arm has no result yet
    end(range(3, 5))
    live.render_look(look)
    assert sorted(path.name for path in figures_there.glob("*.png")) == [
        "embeddings-test-0.png",
        "embeddings-train-0.png",
    ]
    assert not (store / "report/report.html").exists()
    end(range(5, 12))
    monkeypatch.setattr(figures.embeddings, "draw", lambda *_: pytest.fail("drawn again"))
    at_the_end(store, selection, store / "report")
    page = (store / "report/report.html").read_text()
    assert page.count("PCA and t-SNE of") >= 2


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a ledger that has nothing yet; this process keeps its priority."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setattr(os, "nice", lambda _: 0)
    return tmp_path


def add(folder: Path, selection: Selection, numbers: range) -> None:
    made = [Made(config=selection.trials[i], metrics=results(selection.trials[i], gain=0.3)) for i in numbers]
    fill(folder / "mlflow.db", folder / "artifacts", made)


def compared_in(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "tables/paired.csv").drop(columns="planned_on")


def at_the_end(folder: Path, selection: Selection, out: Path) -> pd.DataFrame:
    """The comparisons of the last report, which `study/run.py` renders."""
    ledger = look_at(folder).ledger
    records = ledger.trials()
    render(selection, load(selection, records, plans_at_look(ledger, selection, records)), ledger, out)
    return compared_in(out)


def test_looks_record_nothing_and_change_no_verdict(
    store: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FigureCache, "add", lambda *_: [])  # which would take seconds
    selection = selection_from(look_at(store).args)
    alone = tmp_path_factory.mktemp("alone")
    shutil.copy(store / "mlflow.db", alone / "mlflow.db")
    add(store, selection, range(7))
    ledger = look_at(store).ledger
    declare_seed_plans(ledger, selection, {})  # as the driver does before the first look
    before = (store / "mlflow.db").read_bytes()
    look = look_at(store, left="about 4 min left", folder=store / "out")
    with monkeypatch.context() as patched:
        patched.setattr(figures, "embedding_figures", None)  # t-SNE is slow: it is not asked for
        page = live.render_look(look)
    assert (store / "mlflow.db").read_bytes() == before
    text = page.read_text()
    banner = re.findall('<p class="live">(.*)</p>', text)[0]
    assert banner.startswith("running: 7 of 12 trials finished, about 4 min left · rendered 20")
    assert " UTC · without PCA and t-SNE" in banner
    assert '<meta http-equiv="refresh" content="300">' in text
    assert f"*{banner}*" in (store / "out/report.md").read_text()
    early = compared_in(store / "out")
    assert set(early.loc[early["n"] > 0, "rule"]) == {"anytime"}
    # Stopped: it says so, and does not load itself again.
    files.settle(store / "out")
    assert '<p class="live">stopped; before that: 7 of 12 trials finished · rendered 20' in page.read_text()
    assert "http-equiv" not in page.read_text()
    assert "*stopped; before that: 7 of 12 trials finished · " in (store / "out/report.md").read_text()
    # Finished: the last report is rendered, and is that of a study nobody looked at before.
    add(store, selection, range(7, 12))
    after = at_the_end(store, selection, store / "out")
    assert 'class="live"' not in page.read_text()
    assert "running:" not in (store / "out/report.md").read_text()
    add(alone, selection, range(12))
    pd.testing.assert_frame_equal(after, at_the_end(alone, selection, alone / "out"))
    assert set(after["rule"]) == {"t"}
    assert read_seed_plans(ledger, "quickstart") == read_seed_plans(look_at(alone).ledger, "quickstart")
    settled = page.read_text()
    files.settle(store / "out")
    assert page.read_text() == settled


def test_a_look_leaves_out_trials_on_other_data(store: Path) -> None:
    """Which would stop a report: no table mixes them."""
    selection = selection_from(look_at(store).args)
    add(store, selection, range(3))
    stale = Made(
        config=selection.trials[3], metrics=results(selection.trials[3]), tags={"data.sha256": "old"}
    )
    fill(store / "mlflow.db", store / "artifacts", [stale])
    look = look_at(store)
    trial, record = selection.trials[3], look.ledger.trials()[selection.trials[3].key]
    assert not look.counts(trial, record)
    assert look_at(store, digests={}).counts(trial, record)
    assert look.counts(selection.trials[0], look.ledger.trials()[selection.trials[0].key])


def test_the_real_process_renders_and_ends_with_its_driver(store: Path) -> None:
    add(store, selection_from(look_at(store).args), range(5))
    report = LiveReport(lambda left: look_at(store, left=left), Pace(every=0.0, forced=True))
    said: list[str] = []
    report.say = said.append
    report.start()
    report.consider("about 9 s left")
    assert report._thread is not None
    report._thread.join(120)
    page = store / "report/report.html"
    assert said == [f"report so far: {page.as_uri()}"]
    assert "running: 5 of 12 trials finished, about 9 s left" in page.read_text()
    assert report._last is not None
    assert 0.5 < report._last[1] < 60  # seconds of CPU time, as the process tells
    assert "python study/run.py --space quickstart --report-every 5m" in page.read_text()
    # Its driver is killed, of which nobody tells it: the pipe that it reads is closed.
    page.unlink()
    report.consider("again")
    wait_for(lambda: report._process)
    process = report._process
    assert process is not None
    assert process.stdin is not None
    wait_for(lambda: os.getpriority(os.PRIO_PROCESS, process.pid) >= live.NICE)  # it is at work
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, process.stdin.fileno())
    os.close(nowhere)
    report._thread.join(30)
    assert process.returncode == 1
    assert not page.exists()


@pytest.mark.usefixtures("own_files")
def test_a_space_in_a_file_of_ones_own_is_known_to_the_process(tmp_path: Path) -> None:
    path = tmp_path / "my_study.py"
    path.write_text("from search_spaces import SPACES\ndef mine():\n    return SPACES['quickstart']()[:2]\n")
    names = own.resolved(f"quickstart,{path}")
    assert names == "quickstart,my_study.mine"
    shipped = [file.shipped for file in extension_files.loaded()]
    path.write_text("edited since")
    extension_files.load_shipped([])  # another process
    remove_space("my_study.mine")
    assert "my_study.mine" not in SPACES
    extension_files.load_shipped(shipped)
    own.know_again(names)
    assert len(selection_from(look_at(tmp_path, args=with_space(names)).args).trials) == 12
    assert len(SPACES["my_study.mine"]()) == 2


def with_space(names: str) -> argparse.Namespace:
    return options.parser().parse_args(["--space", names])


def test_a_quick_report_forgets_nothing_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "embeddings-test-0.png").touch()
    for quick in (True, False):
        cache = FigureCache(tmp_path, known={"embeddings-test-0": "drawn"}, measured={"a": {}}, quick=quick)
        cache.prune()
        assert (tmp_path / "embeddings-test-0.png").exists() is quick
        assert bool(cache.known) is bool(cache.measured) is quick


@pytest.mark.parametrize(("left", "drawn"), [(None, 0), (3.0, 0), (60.0, 1)])
def test_nothing_is_drawn_ahead_where_little_is_left(left: float | None, drawn: int) -> None:
    """A process that draws costs seconds of a core, in a study of seconds as in one of days."""
    calls: list[str] = []
    run = StudyRun.__new__(StudyRun)
    run._something_finished, run._lease_lost = True, threading.Event()
    run._draw_ahead, run._first_seed = True, {select("quickstart").trials[0]}
    run._progress = SimpleNamespace(seconds_left=left, left="")  # type: ignore[assignment]
    run._live = SimpleNamespace(  # type: ignore[assignment]
        draw_ahead=lambda: calls.append("drawn") or True, consider=lambda left: None
    )
    run._consider_a_look()
    assert calls == []  # not all arms have a result
    run._first_seed = set()
    run._consider_a_look()
    run._consider_a_look()
    assert len(calls) == drawn
