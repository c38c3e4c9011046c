"""MLflow's pages of an experiment: names of runs, saved views, the description, addresses.

Pure text; `store` writes it.

None of this is in MLflow's documentation. It was read from the pages that MLflow 3.17 ships, and
`tests/test_browser.py` looks at the result: a saved view is a tag of the experiment, with the columns, charts
and filters as JSON; `viewStateShareKey=` in an address opens it, but only in an address without filters.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from study.ledger.records import FINAL_PREFIX
from trainables.trial import TrialConfig, format_value

REPORT = "report.html"
"""The artifact of a study's run that the description leads to."""
NOTE_TAG, VIEW_TAG = "mlflow.note.content", "mlflow.sharedViewState."
TRIALS, ARMS = "trials", "arms"
"""The keys of the saved views: a row for each trial; curves and means of each arm."""
TRAINING = "workflowType=machine_learning"
"""Without it MLflow shows the menu for applications of language models."""
CURVES = ("val/acc", "train/acc", "train/loss")
ACCURACIES = ("final/test_acc", "final/val_acc")
COLUMN_WIDTHS = {
    "tags.`arm`": 120,
    "params.`seed`": 60,
    **{f"metrics.`{name}`": 115 for name in ACCURACIES},
    "params.`dataset`": 110,
    "params.`augmentations`": 200,
    "params.`backbone`": 110,
    "params.`epochs`": 80,
}
"""What a table shows (in pixels). Accuracies before the cell: a narrow window shows the first four."""
GROUPED_BY = ("dataset", "backbone", "augmentations", "epochs")
"""Parameters that the trials of a row of the view of arms agree in, beside the arm."""
_LINKS = re.compile(r"^(\*\*Report:\*\* .* · )?\*\*Views:\*\* \[trials\]\(.*$", re.MULTILINE)
"""The one line of a description that changes: the one that `_links` wrote, not one that begins alike."""
_ABOUT = """One run is one trial, called by its arm, seed and cell.

- The tag `arm` says what is compared. The parameter `seed` is the replicate. The other parameters make the
  cell: arms are compared within a cell, seed by seed.
- `train/loss`, `train/acc` and `val/acc` have a point for each epoch. What begins with `final/` was measured
  once, after the last epoch. Accuracies are fractions.
- For means over seeds choose *Group by*, then the tag `arm` and the parameters in which your cells differ, or
  open the view *Arms*. Its rows are means over all trials of an arm with equal dataset, backbone,
  augmentations and epochs that are loaded: 100 at first.
- Which differences are more than chance is in the report: `report.html` among the artifacts of the run called
  "study ...", which the views leave out.
"""


_EARLIER = (
    'One run is one trial, called by arm, seed and cell. The runs called "study ..." have the report of',
    "Which differences are more than chance is in the report.\n",
)
"""How the description of an earlier version begins and ends, which had no links."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyReport:
    """A report that was logged: the space it is of, and the run that has it."""

    space: str
    run_id: str


def run_name(config: TrialConfig) -> str:
    """What a trial's run is called. MLflow's pages cut off the end: there all runs of a cell agree."""
    augmentations = format_value(config.augmentations)
    return f"{config.arm} · s{config.seed} · {config.dataset}/{config.backbone}/{augmentations}"


def view_page(experiment_id: str, view: str, *, charts: bool = False) -> str:
    """The experiment's runs in a saved view, as a table or as charts; to be put behind MLflow's address."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?{TRAINING}&viewStateShareKey={view}{mode}"


def run_page(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """A run, or one of its artifacts; to be put behind MLflow's address."""
    shown = f"/artifacts/{artifact}" if artifact else ""
    return f"#/experiments/{experiment_id}/runs/{run_id}{shown}?{TRAINING}"


def metric_page(experiment_id: str, run_ids: Sequence[str], metric: str) -> str:
    """A final metric (without prefix) of some runs: a value for each, and their learning curves above.

    Not the table of runs: an address with a filter cannot open a saved view, and without one that table shows
    no metric. To be put behind MLflow's address.
    """
    final = FINAL_PREFIX + metric
    # The runs come first: MLflow reads them together with the question mark.
    values = {
        "runs": list(run_ids),
        "metric": final,
        "experiments": [experiment_id],
        "plot_metric_keys": [final, CURVES[0]],
        "plot_layout": {"autosize": True},
    }
    given = (f"{name}={quote(_compact(value), safe='')}" for name, value in values.items())
    return f"#/metric?{'&'.join(given)}&x_axis=step&{TRAINING}"


def experiment_tags(
    experiment_id: str, present: Mapping[str, str], report: StudyReport | None = None
) -> dict[str, str]:
    """The tags that MLflow's pages need, given those that are `present`; a new `report` is linked to.

    A description is written where there is none, and its line of links replaced where it is still there. All
    else in a description is people's own.
    """
    tags = {VIEW_TAG + TRIALS: _trials_view(), VIEW_TAG + ARMS: _arms_view()}
    note = present.get(NOTE_TAG)
    if note is None or (note.startswith(_EARLIER[0]) and note.endswith(_EARLIER[1])):
        tags[NOTE_TAG] = f"{_links(experiment_id, report)}\n\n{_ABOUT}"
    elif report is not None:
        line = _links(experiment_id, report)
        tags[NOTE_TAG] = _LINKS.sub(lambda _: line, note, count=1)
    return tags


def _links(experiment_id: str, report: StudyReport | None) -> str:
    """The first line: alone it is visible while the description is folded."""
    trials = f"[trials]({view_page(experiment_id, TRIALS)})"
    curves = f"[learning curves by arm]({view_page(experiment_id, ARMS, charts=True)})"
    views = f"**Views:** {trials} · {curves}"
    if report is None:
        return views
    return f"**Report:** [`{report.space}`]({run_page(experiment_id, report.run_id, REPORT)}) · {views}"


def _trials_view() -> str:
    """A row for each trial, those of an arm together."""
    return _view("Trials", runsHiddenMode="FIRST_20_RUNS", **_columns(list(COLUMN_WIDTHS), name=170))


def _arms_view() -> str:
    """Trials grouped by arm and cell: rows and curves are means over seeds."""
    keys = [("tag", "arm"), *(("param", name) for name in GROUPED_BY)]
    grouped = [{"mode": mode, "groupByData": name} for mode, name in keys]
    # A group's name begins with the arm; its other texts are empty.
    columns = [*(f"metrics.`{name}`" for name in ACCURACIES), "params.`seed`"]
    return _view(
        "Arms",
        runsHiddenMode="SHOW_ALL",
        # Only the first runs are loaded: by arm, they would be of one arm.
        orderByKey="attributes.start_time",
        orderByAsc=False,
        groupBy={"aggregateFunction": "average", "groupByKeys": grouped},
        **_columns(columns, name=250),
    )


def _columns(shown: list[str], name: int) -> dict[str, object]:
    """Which columns, in which order; `name`: pixels for the run's name, which always comes first."""
    fixed = {"attributes.`Run Name`": name, "runDateAndNestInfo": 110}
    return {
        "selectedColumns": shown,
        "columnOrder": [*fixed, *shown, "duration"],
        "columnWidths": fixed | {column: COLUMN_WIDTHS[column] for column in shown},
    }


def _view(name: str, **state: object) -> str:
    """A saved view in MLflow's format: all trials, by default sorted by arm, with our charts first."""
    charts = [
        *(_chart("LINE", "curves", metric) for metric in CURVES),
        *(_chart("BAR", "accuracy", metric) for metric in ACCURACIES),
    ]
    # MLflow puts charts of all other metrics into sections of these names.
    folded = ("final", "train", "Model metrics")
    sections = [
        _section("curves", "Learning curves", unfolded=True),
        _section("accuracy", "Accuracy after the last epoch", unfolded=True),
        *(_section(title, title, unfolded=False) for title in folded),
    ]
    shown = {
        "searchFilter": "tags.kind = 'trial'",
        "orderByKey": "tags.`arm`",
        "orderByAsc": True,
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "isAccordionReordered": True,
        "runListHidden": True,  # beside the charts, which a narrow window has no room for
    }
    return _compact({"name": name, "createdAt": 0, "state": _compact(shown | state)})


def _chart(kind: str, section: str, metric: str) -> dict[str, object]:
    # By default MLflow smooths a line, and then it leaves the band between its smallest and largest values.
    by_epoch = {"range": {}, "xAxisKey": "step", "lineSmoothness": 0, "useGlobalLineSmoothing": True}
    return {
        "uuid": f"{section}-{metric}",
        "type": kind,
        "metricSectionId": section,
        "metricKey": metric,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        **(by_epoch if kind == "LINE" else {}),
    }


def _section(uuid: str, title: str, *, unfolded: bool) -> dict[str, object]:
    return {"uuid": uuid, "name": title, "display": unfolded, "isReordered": False, "deleted": False}


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
