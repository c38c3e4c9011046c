"""What MLflow's pages are given to show; `test_browser.py` looks at them."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from study.ledger import pages
from study.ledger.pages import NOTE_TAG, VIEW_TAG, StudyReport, experiment_tags
from trainables.metrics import METRICS
from trainables.trial import FIELDS

LONGEST = 5000
"""Characters of an experiment's tag in MLflow's database."""
REPORT = StudyReport(space="a+b", run_id="r1")


def views() -> dict[str, dict[str, object]]:
    saved = {key: json.loads(text) for key, text in experiment_tags("7", {}).items() if key != NOTE_TAG}
    assert set(saved) == {VIEW_TAG + pages.TRIALS, VIEW_TAG + pages.ARMS}
    assert all(isinstance(view["createdAt"], int) for view in saved.values())
    return {view["name"]: json.loads(view["state"]) for view in saved.values()}


def test_views_show_what_trials_have() -> None:
    known = {"tags.`arm`"} | {f"params.`{name}`" for name in FIELDS}
    known |= {f"metrics.`final/{name}`" for name in METRICS}
    for state in views().values():
        assert set(state["selectedColumns"]) <= known
        assert set(state["columnOrder"]) >= set(state["selectedColumns"])
    trials, arms = views()["Trials"], views()["Arms"]
    assert trials["selectedColumns"][:3] == ["tags.`arm`", "params.`seed`", "metrics.`final/test_acc`"]
    assert "groupBy" not in trials
    assert arms["groupBy"]["groupByKeys"][0] == {"mode": "tag", "groupByData": "arm"}


def test_charts_begin_with_curves() -> None:
    for state in views().values():
        sections = {section["uuid"]: section["display"] for section in state["compareRunSections"]}
        first = next(iter(sections))
        shown = [
            (c["type"], c["metricKey"]) for c in state["compareRunCharts"] if sections[c["metricSectionId"]]
        ]
        assert shown[0] == ("LINE", "val/acc")
        assert ("BAR", "final/test_acc") in shown
        assert {c["type"] for c in state["compareRunCharts"] if c["metricSectionId"] == first} == {"LINE"}


@pytest.mark.parametrize("report", [None, REPORT])
def test_tags_fit(report: StudyReport | None) -> None:
    assert max(map(len, experiment_tags("123456789", {}, report).values())) <= LONGEST


def test_a_description_leads_to_the_newest_report() -> None:
    note = experiment_tags("7", {})[NOTE_TAG]
    first, *others = note.splitlines()
    assert first.startswith("**Views:** [trials](#/experiments/7/runs?")
    assert "Report" not in first
    for run_id in ("r1", "r2"):
        report = StudyReport(space="a+b", run_id=run_id)
        note = experiment_tags("7", {NOTE_TAG: note}, report)[NOTE_TAG]
        link = f"[`a+b`](#/experiments/7/runs/{run_id}/artifacts/report.html?"
        assert note.splitlines()[0].startswith(f"**Report:** {link}")
        assert note.splitlines()[1:] == others
    assert NOTE_TAG not in experiment_tags("7", {NOTE_TAG: note})  # no new report, nothing to write


@pytest.mark.parametrize(
    "own", ["", "Our notes.\n\nThe **Report:** is late.", "**Report:** see the wiki", "a\\1 \\g<0>"]
)
def test_what_people_have_written_stays(own: str) -> None:
    assert experiment_tags("7", {NOTE_TAG: own}, REPORT).get(NOTE_TAG) == own
    ours = pages._links("7", None)
    note = experiment_tags("7", {NOTE_TAG: f"{own}\n{ours}\n{own}"}, REPORT)[NOTE_TAG]
    before, after = note.split(pages._links("7", REPORT))
    assert (before, after) == (f"{own}\n", f"\n{own}")


def test_the_page_of_a_metric_reads_its_address() -> None:
    run_ids = [f"{number:032x}" for number in range(50)]
    address = pages.metric_page("7", run_ids, "test_acc")
    # As MLflow reads it: the runs stand behind the question mark, all values are JSON.
    assert address.startswith("#/metric?runs=")
    given = {name: text for name, (text,) in parse_qs(urlsplit(urlsplit(address).fragment).query).items()}
    assert json.loads(given["runs"]) == run_ids
    assert json.loads(given["experiments"]) == ["7"]
    assert json.loads(given["plot_metric_keys"]) == ["final/test_acc", "val/acc"]
    assert json.loads(given["metric"]) == "final/test_acc"
    assert len(address) < 2500
