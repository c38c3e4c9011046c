"""The report: every printed number computed again, and studies that are not as they should be."""

import gc
import html.parser
import io
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from mlflow import MlflowClient
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from studies import ROOT
from synthetic import Made, config, fill, results

from analysis.render.files import invalidate
from analysis.report import main, render
from analysis.sections.caveats import provenance_section
from analysis.stats.published import THESIS
from analysis.trials import load
from search_spaces import Selection, select
from study.ledger.ledger import Ledger
from trainables.metrics import METRICS as METRICS_OF_TRIALS
from trainables.trial import TrialConfig

pytestmark = pytest.mark.usefixtures("without_pdfs")

SELECTORS = [
    *("--space", "ablations", "--only", "dataset=cifar10", "--seeds", "7"),
    *("--only", "arm=ce,siamese-0,siamese-0.001,siamese-0.01"),
]
Tables = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, without_pdfs: None) -> Path:
    """A ledger of 896 trials, and the report that the command line makes of it."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "runs").mkdir()
    shutil.copy(empty_store, folder / "runs/mlflow.db")
    selection = select(
        "ablations",
        only=["dataset=cifar10", "arm=ce,siamese-0,siamese-0.001,siamese-0.01"],
        seeds=7,
    )
    made = [Made(config=c, metrics=results(c, gain=0.05)) for c in selection.trials]
    fill(folder / "runs/mlflow.db", folder / "runs/mlartifacts", made)
    command = [
        *SELECTORS,
        "--experiment",
        "test",
        "--output",
        str(folder / "runs"),
        "--out",
        str(folder / "out"),
    ]
    assert main(command) == 0
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> pd.DataFrame:
    """All trials by MLflow's own client: one row a run, nothing of this project in between."""
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("test").experiment_id
    rows, token = [], None
    while True:
        page = client.search_runs([experiment], "tags.kind = 'trial'", max_results=500, page_token=token)
        for run in page:
            finals = {k.removeprefix("final/"): v for k, v in run.data.metrics.items()}
            rows.append({**run.data.params, **finals, "arm": run.data.tags["arm"], "run": run.info.run_id})
        token = page.token
        if not token:
            break
    table = pd.DataFrame(rows)
    return table.assign(seed=table["seed"].astype(int), cell=table["backbone"] + " " + table["augmentations"])


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """statsmodels' Holm collects garbage each time, among all that pandas and MLflow have made."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def tables(folder: Path) -> Tables:
    """The tables as people read them, from `tables.md`, by title."""
    return read_tables((folder / "out/tables/tables.md").read_text())


def read_tables(text: str) -> Tables:
    found = {}
    for block in re.split("^#+ ", text, flags=re.MULTILINE)[1:]:
        title, _, body = block.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("|")]
        if not lines:
            continue
        cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines if "|:-" not in line]
        table = pd.DataFrame([row[1:] for row in cells[1:]], [row[0] for row in cells[1:]], cells[0][1:])
        assert title not in found, f"two tables are called {title}"
        found[title] = table
    return found


ARMS = {"ce": "CE", "siamese-0": "γ = 0", "siamese-0.001": "γ = 10⁻³", "siamese-0.01": "γ = 10⁻²"}
BACKBONES = ("resnet18", "vgg16")
METRICS = {
    "train_aug_acc": "Train (augmented)",
    "train_acc": "Train (clean)",
    "val_acc": "Validation",
    "test_acc": "Test",
    "test_aug_acc": "Test (augmented)",
    "test_augcrop_acc": "Test (augmented and cropped)",
    "test_augfull_acc": "Test (all augmentations)",
}


def signed(value: float) -> str:
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "+0.0" if text == "−0.0" else text


def between(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}"


def spread(values: pd.Series) -> str:
    return f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f}"


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.4f}" if 0.0495 <= p < 0.0505 else f"{p:.3f}"


def wide(runs: pd.DataFrame, metric: str = "test_acc") -> pd.DataFrame:
    return runs.pivot(index="seed", columns="arm", values=metric)[list(ARMS)]  # noqa: PD010  # no trial twice


def label(augmentations: str) -> str:
    return "none (views alike)" if augmentations == "none" else augmentations


def family(values: pd.DataFrame, baseline: str) -> dict[str, dict[str, str]]:
    """The comparisons with one baseline by scipy and statsmodels: a row of text an arm."""
    arms = [arm for arm in values if arm != baseline and not (baseline == "siamese-0" and arm == "ce")]
    tests = [stats.ttest_rel(values[arm], values[baseline]) for arm in arms]
    adjusted = multipletests([test.pvalue for test in tests], method="holm")[1]
    differences = {arm: (values[arm] - values[baseline]).to_numpy() for arm in arms}
    flips = joint_flips(np.column_stack([*differences.values()]))
    found = {}
    for arm, test, p, flip in zip(arms, tests, adjusted, flips, strict=True):
        d = differences[arm]
        plain = test.confidence_interval(0.95)
        wider = test.confidence_interval(1 - 0.05 * test.pvalue / p)
        wins = int((d > 0).sum())
        found[f"{ARMS[arm]} − {ARMS[baseline]}"] = {
            "Difference": signed(d.mean()),
            "95 % interval": between(*plain),
            "Holm-adjusted": between(*wider),
            "Wins": f"{wins} of {len(d)}",
            "P(higher)": share(wins / len(d), *proportion_confint(wins, len(d), method="beta")),
            "p (t)": probability(test.pvalue),
            "p (Holm)": probability(p),
            "p (sign flips)": probability(flip),
        }
    return found


def joint_flips(d: np.ndarray) -> list[float]:
    """Step-down max-T: the |t| of every pattern, by scipy, for an arm and those with a smaller one."""
    observed = np.abs(stats.ttest_1samp(d, 0).statistic)
    patterns = np.array(list(product((1, -1), repeat=len(d))))
    t = np.abs(stats.ttest_1samp(patterns[:, :, None] * d, 0, axis=1).statistic)
    p = {}
    for arm in np.argsort(-observed):
        largest = t[:, observed <= observed[arm]].max(axis=1)
        p[arm] = max([np.mean(largest >= observed[arm] - 1e-9), *p.values()])
    return [p[arm] for arm in range(len(observed))]


def share(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def both_families(values: pd.DataFrame) -> dict[str, dict[str, str]]:
    return family(values, "ce") | family(values, "siamese-0")


def in_bold(values: pd.DataFrame) -> set[str]:
    """The highest mean, and any that is printed as the same."""
    printed = {arm: f"{100 * mean:.1f}" for arm, mean in values.mean().items()}
    return {arm for arm, text in printed.items() if text == printed[values.mean().idxmax()]}


def test_every_cell(tables: Tables, runs: pd.DataFrame) -> None:
    """32 tables of accuracies and 32 of differences, each entry."""
    for (backbone, augmentations), cell in runs.groupby(["backbone", "augmentations"]):
        title = f"cifar10 · {backbone} · {label(augmentations)}"
        table = tables[title]
        known = [m for m in METRICS if not (m == "test_augcrop_acc" and "rrc" in augmentations)]
        assert list(table.index) == [METRICS[name] for name in known]
        best = in_bold(wide(cell))
        for metric in known:
            for arm, name in ARMS.items():
                text = spread(cell.loc[cell["arm"] == arm, metric])
                expected = f"**{text}**" if metric == "test_acc" and arm in best else text
                assert table.loc[METRICS[metric], name] == expected, (title, metric, arm)
        assert tables[f"{title}: differences"].to_dict("index") == both_families(wide(cell))
    assert runs["cell"].nunique() == 32


def test_subsets_by_arm(tables: Tables, runs: pd.DataFrame) -> None:
    for backbone, group in runs.groupby("backbone"):
        table = tables[f"cifar10 · {backbone}: test accuracy by augmentations"]
        for augmentations, cell in group.groupby("augmentations"):
            best = in_bold(wide(cell))
            row = {ARMS[a]: spread(cell.loc[cell["arm"] == a, "test_acc"]) for a in ARMS}
            expected = {
                n: f"**{t}**" if a in best else t
                for (a, n), t in zip(ARMS.items(), row.values(), strict=True)
            }
            assert table.loc[label(augmentations)].to_dict() == expected
        first, second = (
            tables[f"cifar10 · {backbone}: differences to {arm} by augmentations"] for arm in ("CE", "γ = 0")
        )
        shown = first.join(second)
        for augmentations, cell in group.groupby("augmentations"):
            for pair, row in both_families(wide(cell)).items():
                claim = "*" if row["p (Holm)"] == "< 0.001" or float(row["p (Holm)"]) <= 0.05 else ""
                assert (
                    shown.loc[label(augmentations), pair]
                    == f"{row['Difference']} ({row['Holm-adjusted']}){claim}"
                )


def test_pooled(tables: Tables, runs: pd.DataFrame) -> None:
    """Mean over cells within each seed, then seeds are the replicates; beside it cells in general."""
    for title, group in [
        *((f"cifar10 · {b}: 16 subsets together", runs[runs["backbone"] == b]) for b in BACKBONES),
        ("32 cells together", runs),
    ]:
        by_seed = group.groupby(["seed", "arm"])["test_acc"].mean().unstack()[list(ARMS)]  # noqa: PD010
        expected = both_families(by_seed)
        values = group.set_index(["arm", "cell", "seed"])["test_acc"]
        for baseline, arm in [("ce", a) for a in list(ARMS)[1:]] + [("siamese-0", a) for a in list(ARMS)[2:]]:
            d = (values[arm] - values[baseline]).unstack()  # noqa: PD010
            row, name = expected[f"{ARMS[arm]} − {ARMS[baseline]}"], f"{ARMS[arm]} − {ARMS[baseline]}"
            higher = (d > 0).mean()
            p, n = higher.mean(), d.shape[1]
            effective = p * (1 - p) / (higher.var() / n)
            effective *= (stats.t.ppf(0.975, d.size - 1) / stats.t.ppf(0.975, n - 1)) ** 2
            effective = min(effective, d.size)
            row["P(higher)"] = share(p, *proportion_confint(p * effective, effective, method="beta"))
            of_cells, of_rest = n * d.mean(axis=1).var(), two_way(d)
            shown = tables[f"{title}: cells in general"].loc[name]
            assert shown["Difference"] == row["Difference"]
            assert shown["τ"] == f"{100 * np.sqrt(max(of_cells - of_rest, 0) / n):.1f}"
            assert shown["I²"] == f"{100 * max(1 - of_rest / of_cells, 0):.0f} %"
        assert tables[title].to_dict("index") == expected


def two_way(d: pd.DataFrame) -> float:
    """Mean square of what is left when rows and columns are centred."""
    rest = d.sub(d.mean(axis=1), axis=0) - d.mean(axis=0) + d.to_numpy().mean()
    return float((rest**2).to_numpy().sum() / ((d.shape[0] - 1) * (d.shape[1] - 1)))


def test_groups(tables: Tables, runs: pd.DataFrame) -> None:
    for backbone, group in runs.groupby("backbone"):
        by_seed = group.groupby(["seed", "arm"])["test_acc"].mean().unstack()  # noqa: PD010
        best = in_bold(by_seed[list(ARMS)])
        for arm, name in ARMS.items():
            text = spread(by_seed[arm])
            assert tables["Datasets and backbones"].loc[f"cifar10 · {backbone}", name] == (
                f"**{text}**" if arm in best else text
            )
        seeds = group["seed"].nunique()
        assert (
            tables["Datasets and backbones"].loc[f"cifar10 · {backbone}", "n"] == f"{seeds} of {seeds} seeds"
        )


def test_effects(tables: Tables, runs: pd.DataFrame) -> None:
    """By the formula of a linear model with sum coding within each seed; half and a quarter of ours."""
    names = ["rrc", "hflip", "grayscale", "solarize"]
    terms = [*names, *(f"{a}:{b}" for a, b in combinations(names, 2))]
    for backbone, group in runs.groupby("backbone"):
        table = tables[f"cifar10 · {backbone}: what each augmentation does"]
        values = group.pivot(index=["seed", "augmentations"], columns="arm", values="test_acc")  # noqa: PD010
        columns = {ARMS[arm]: values[arm] for arm in ARMS}
        for arm in ("siamese-0.001", "siamese-0.01"):
            columns[f"{ARMS[arm]} − γ = 0"] = values[arm] - values["siamese-0"]
        for title, column in columns.items():
            data = column.rename("y").reset_index()
            for name in names:
                data[name] = [1.0 if name in text.split("+") else -1.0 for text in data["augmentations"]]
            fits = [smf.ols(f"y ~ ({' + '.join(names)})**2", part).fit() for _, part in data.groupby("seed")]
            coefficients = pd.DataFrame([fit.params[terms] for fit in fits])
            tests = {term: stats.ttest_1samp(coefficients[term], 0) for term in terms}
            adjusted = multipletests([test.pvalue for test in tests.values()], method="holm")[1]
            for (term, test), p in zip(tests.items(), adjusted, strict=True):
                scale = 4 if ":" in term else 2
                interval = between(*(scale * end for end in test.confidence_interval(0.95)))
                claim = "*" if p <= 0.05 else ""
                expected = f"{signed(scale * coefficients[term].mean())} ({interval}){claim}"
                assert table.loc[term.replace(":", " × "), title] == expected, (backbone, title, term)


def test_selected(tables: Tables, runs: pd.DataFrame) -> None:
    """γ = 0 is a candidate; the interval is that of the jackknife over the whole choice."""
    candidates = ["siamese-0", "siamese-0.001", "siamese-0.01"]

    def worth(validation: pd.DataFrame, test: pd.DataFrame) -> tuple[list[str], float]:
        chosen = [validation[validation.index != seed].mean().idxmax() for seed in validation.index]
        return chosen, float(np.mean([test.loc[s, arm] for s, arm in zip(test.index, chosen, strict=True)]))

    for (backbone, augmentations), cell in runs.groupby(["backbone", "augmentations"]):
        validation, test = wide(cell, "val_acc")[candidates], wide(cell)[candidates]
        chosen, mean = worth(validation, test)
        without = [worth(validation.drop(index=s), test.drop(index=s))[1] for s in test.index]
        half = stats.t.ppf(0.975, 6) * np.sqrt(6 * np.var(without))
        row = tables["What a choice of γ is worth"].loc[f"cifar10 · {backbone} · {label(augmentations)}"]
        assert row["Selected"] == f"{100 * mean:.1f}"
        assert row["95 % interval"] == f"{100 * (mean - half):.1f} to {100 * (mean + half):.1f}"
        for arm in set(chosen):
            assert f"{ARMS[arm].removeprefix('γ = ')} ({chosen.count(arm)} of 7)" in row["γ (seeds)"]
        assert (row["n"], row["CE"]) == ("7", f"{100 * wide(cell)['ce'].mean():.1f}")
        assert row["γ = 0"] == f"{100 * test['siamese-0'].mean():.1f}"
        assert row["Best on test (optimistic)"] == f"{100 * test.mean().max():.1f}"
        assert row["γ (best)"] == ARMS[test.mean().idxmax()].removeprefix("γ = ")


def test_published(tables: Tables, runs: pd.DataFrame) -> None:
    skipped = sum(line.startswith("#") for line in THESIS.read_text().splitlines())
    thesis = pd.read_csv(THESIS, skiprows=skipped, dtype={"table": str})
    shown = 0
    for row in thesis.to_dict("records"):
        title = f"Table {row['table']} of thesis: cifar10 · {row['backbone']} · {row['augmentations']}"
        part = runs[
            (runs["dataset"] == row["dataset"])
            & (runs["backbone"] == row["backbone"])
            & (runs["augmentations"] == row["augmentations"])
            & (runs["arm"] == row["arm"])
        ]
        if part.empty:
            continue
        shown += 1
        values = 100 * part[row["metric"]]
        half = stats.t.ppf(0.975, 6) * values.std(ddof=1) * np.sqrt(1 + 1 / 7)
        low, high = values.mean() - half, values.mean() + half
        single = row["runs"] == 1
        theirs = f"{row['mean']:.1f}" + ("" if np.isnan(row["std"]) else f" ± {row['std']:.1f}")
        assert tables[title].loc[f"{METRICS[row['metric']]}, {ARMS[row['arm']]}"].tolist() == [
            theirs,
            spread(values / 100),
            "7",
            signed(values.mean() / 100 - row["mean"] / 100),
            f"{low:.1f} to {high:.1f}" if single else "–",
            ("yes" if low <= row["mean"] <= high else "no") if single else "–",
        ]
    assert shown == 8 * 9  # eight tables of CIFAR-10, three of the arms, three accuracies


def test_the_files_have_full_precision(folder: Path, runs: pd.DataFrame) -> None:
    summary = pd.read_csv(folder / "out/tables/summary.csv")
    assert len(summary) == 32 * 4 * summary["metric"].nunique()
    for row in summary[summary["n"] > 0].sample(200, random_state=0).to_dict("records"):
        part = runs[
            (runs["backbone"] == row["backbone"])
            & (runs["augmentations"] == row["augmentations"])
            & (runs["arm"] == row["arm"])
        ].sort_values("seed")
        values = part[row["metric"]].to_numpy()
        assert (row["mean"], row["std"]) == pytest.approx((values.mean(), values.std(ddof=1)), rel=1e-12)
        assert (row["n"], row["planned"]) == (7, 7)
        assert row["run_ids"].split() == list(part["run"])
    paired = pd.read_csv(folder / "out/tables/paired.csv")
    assert len(paired) == 32 * (3 + 2) * len(METRICS)
    assert (
        paired.loc[paired["metric"] != "test_acc", ["p_t", "p_holm", "p_sign_flip_joint"]]
        .isna()
        .all(axis=None)
    )
    assert (paired.loc[paired["metric"] == "test_acc", "p_floor"] == 2 / 2**7).all()


def test_html_and_markdown_hold_the_same_numbers(folder: Path, tables: Tables) -> None:
    page = (folder / "out/report.html").read_text()
    found = read_tables((folder / "out/report.md").read_text())
    for title, table in tables.items():
        pd.testing.assert_frame_equal(found[title], table)
        for entry in table.to_numpy().ravel():
            text = re.sub(r"\*\*(.+)\*\*", r"<strong>\1</strong>", entry).replace("< 0", "&lt; 0")
            text = re.sub(" (to|±) ", r"&nbsp;\1&nbsp;", text)
            assert f">{text}</td>" in page or f">{text}</a></td>" in page


def test_a_large_study_has_an_overview_with_figures_and_single_cells_as_tables(folder: Path) -> None:
    page = " ".join((folder / "out/report.html").read_text().split())
    assert "896 of 896 planned trials finished · 32 cells, 4 arms, 7 seeds" in page
    assert page.count("<details><summary>cifar10") == page.count("<details><summary>Diagnostics") == 32
    assert "With 32 cells this report leaves out figures of single cells" in page
    assert "of 32 cells without any true difference 1.6 would show one on average" in page
    assert len(page) < 15e6
    names = {path.stem for path in (folder / "out/figures").glob("*.pdf")}
    assert {"gamma", "effects-1", "forest-ce-0", "forest-siamese-0-1", "trade-offs", "cost"} <= names
    assert not any(name.startswith("accuracy") for name in names)


def test_diagnostics(tables: Tables, runs: pd.DataFrame) -> None:
    """Every metric that belongs there, by plain pandas; of z only where there is a term."""
    names = [name for name, metric in METRICS_OF_TRIALS.items() if metric.table == "diagnostics"]
    for (backbone, augmentations), cell in runs.groupby(["backbone", "augmentations"]):
        table = tables[f"cifar10 · {backbone} · {label(augmentations)}: diagnostics"]
        assert list(table.columns) == list(ARMS.values())
        shown = [name for name in names if name in cell and cell[name].notna().any()]
        assert len(shown) == len(table) == 15  # all but the validation images' calibration error
        for name, (title, row) in zip(shown, table.iterrows(), strict=True):
            percent = METRICS_OF_TRIALS[name].unit == "%"
            assert title == METRICS_OF_TRIALS[name].title + (" (%)" if percent else "")
            digits = 1 if percent or "rank" in name else 3
            found = cell.groupby("arm")[name].agg(["count", "mean", "std"]) * [
                1,
                *[100 if percent else 1] * 2,
            ]
            for arm, text in ARMS.items():
                count, mean, std = found.loc[arm]
                expected = f"{mean:.{digits}f} ± {std:.{digits}f}".replace("-", "−")
                assert row[text] == (expected if count else "–"), (backbone, augmentations, name, arm)
    assert "z_effective_rank" in shown


class Page(html.parser.HTMLParser):
    """Well-formed: every element is closed in order, ids are unique, what is linked to is there."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.sources: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.targets += [found["href"] or ""] if "href" in found else []
        self.sources += [found["src"] or ""] if "src" in found else []
        if tag == "img" and not found.get("alt"):
            self.faults.append("a picture without text")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing, line {self.getpos()[0]}")


def checked(page: str) -> Page:
    """The page, after a look for what no browser complains about."""
    parser = Page()
    parser.feed(page)
    assert page.lstrip().startswith("<!doctype html>")
    assert parser.faults == []
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert {t.removeprefix("#") for t in parser.targets if t.startswith("#")} <= set(parser.ids)
    assert all(source.startswith("data:image/png;base64,") for source in parser.sources)
    assert "<script" not in page
    return parser


def test_the_page_is_whole_and_self_contained(folder: Path) -> None:
    page = checked((folder / "out/report.html").read_text())
    assert len(page.sources) > 5
    for source in re.findall(r"!\[.*?\]\((.+?)\)", (folder / "out/report.md").read_text()):
        assert (folder / "out" / source).exists()


def studied(
    tmp_path: Path, empty_store: Path, made: Iterable[Made], planned: Iterable[TrialConfig]
) -> Callable[..., str]:
    """Render a study that is not as it should be; gives the text of its report."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    fill(tmp_path / "mlflow.db", tmp_path / "artifacts", made)
    ledger = Ledger(
        uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path / "artifacts"
    )
    selection = Selection(space="test", trials=tuple(planned), steps=("a test",))

    def rendered(**options: object) -> str:
        trials = load(selection, ledger.trials())
        render(selection, trials, ledger, tmp_path / "out", force=True, **options)  # type: ignore[arg-type]
        page = (tmp_path / "out/report.html").read_text()
        checked(page)
        return " ".join(page.split())

    return rendered


def arms(*names: str, seeds: int = 3, **fields: object) -> list[TrialConfig]:
    return [config(arm, seed, **fields) for seed in range(seeds) for arm in names]


def done(configs: Iterable[TrialConfig]) -> list[Made]:
    return [Made(config=c, metrics=results(c)) for c in configs]


@pytest.mark.parametrize(("seeds", "text"), [(1, "1 seed"), (2, "2 seeds")])
def test_few_seeds(tmp_path: Path, empty_store: Path, seeds: int, text: str) -> None:
    configs = arms("ce", "0", "0.01", seeds=seeds)
    page = studied(tmp_path, empty_store, done(configs), configs)()
    assert f"Against CE nothing can be shown with {text}; it takes 3." in page
    assert "higher test accuracy" not in page
    assert "±" not in page.split('id="cells"')[1].split("<figure")[0]


def test_a_failed_and_a_missing_trial_are_told_first(tmp_path: Path, empty_store: Path) -> None:
    configs = arms("ce", "0.01")
    made = [
        *done(configs[:3]),
        Made(config=configs[3], status="FAILED", tags={"failure": "loss is nan <b>at</b> epoch 2"}),
    ]
    page = studied(tmp_path, empty_store, made, configs)()
    first = page[: page.index('<ul class="findings">')]
    assert "This study is incomplete: 3 of 6 trials have no result" in first
    assert "(1 failed, 2 not started)" in first
    assert "loss is nan &lt;b&gt;at&lt;/b&gt; epoch 2" in page
    assert "(1 of 3)" in page
    assert "(2 of 3)" in page
    assert "Left out, as not every arm has them: seed 1." in page
    markdown = (tmp_path / "out/report.md").read_text()
    assert markdown.startswith(
        "# Does a second view with Barlow Twins improve test accuracy?\n\n**Not known yet: 1 seed against CE;"
        " a claim takes 3.**\n\n**This study is incomplete: 3 of 6 trials have no result"
    )
    assert r": loss is nan \<b\>at\</b\> epoch 2" in markdown
    for text in (page, markdown):  # of those that were not started no reason is known
        assert ": nan\n" not in text
        assert ": nan<" not in text


def test_an_arm_without_any_result(tmp_path: Path, empty_store: Path) -> None:
    configs = arms("ce", "0", "0.01")
    page = studied(tmp_path, empty_store, done(c for c in configs if c.arm != "siamese-0"), configs)()
    assert "– (0 of 3)" in page
    assert "2 against CE" in page  # the family does not shrink because trials are missing
    assert re.search(r"γ = 10⁻² − γ = 0</th>(<td>–</td>)+</tr>", page)
    assert "γ = 0 cannot be compared with CE: results are missing." in page
    assert "Nothing can be compared with γ = 0: results are missing." in page


def test_an_arm_whose_results_are_no_numbers(tmp_path: Path, empty_store: Path) -> None:
    configs = arms("ce", "0", "0.01")
    made = [
        Made(
            config=c,
            # Squares of the largest numbers overflow; MLflow stores infinity as one of them.
            metrics={
                **results(c),
                **({"test_acc": [float("nan"), 1e308, -1e200][c.seed]} if c.gamma else {}),
            },
            tags={"host": "\x1b[31m<b>"},
        )
        for c in configs
    ]
    page = studied(tmp_path, empty_store, made, configs)()
    assert "\ufffd[31m&lt;b&gt;" in page
    assert "\x1b" not in page
    assert "3 finished trials without a finite test accuracy." in page
    assert "incomplete" not in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", page).lower())


def test_what_is_no_better_than_guessing_is_said(tmp_path: Path, empty_store: Path) -> None:
    """100 test images, 40 of the most frequent class: up to 0.4 + 3 x 0.049 could be a guess."""
    kept = io.BytesIO()
    np.savez(kept, labels=np.repeat([0, 1, 2], [40, 30, 30]), predicted=np.zeros(100, int))
    configs = arms("ce", "0", "0.01")
    accuracies = {"ce": 0.41, "siamese-0": 0.54, "siamese-0.01": 0.56}
    made = [
        Made(
            config=c,
            metrics={"test_acc": accuracies[c.arm] + 0.001 * c.seed},
            artifacts={"predictions.npz": kept.getvalue()},
        )
        for c in configs
    ]
    page = studied(tmp_path, empty_store, made, configs)()
    said = "not clearly above guessing, which gets 40.0 % of these 100 test images right."
    assert f"CE and γ = 0 are {said}" in page


def test_nothing_at_all(tmp_path: Path, empty_store: Path) -> None:
    configs = arms("ce", "0.01")
    page = studied(tmp_path, empty_store, [], configs)()
    assert "6 of 6 trials have no result" in page
    assert "nothing is compared" in page
    assert "<figure" not in page


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_hardly_anything_of_many_kinds_of_cells(tmp_path: Path, empty_store: Path, share: float) -> None:
    """The space `controls` where nothing, or one trial in ten, is finished."""
    configs = select("controls", seeds=1).trials
    some = [c for i, c in enumerate(configs) if i % 10 < 10 * share]
    page = studied(tmp_path, empty_store, done(some), configs)()
    assert f"{len(configs) - len(some)} of {len(configs)} trials have no result" in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", page).lower())


def test_a_cell_of_one_arm(tmp_path: Path, empty_store: Path) -> None:
    configs = arms("ce")
    page = studied(tmp_path, empty_store, done(configs), configs)()
    assert "nothing is compared" in page
    assert "γ = 10" not in page.split('id="cells"')[1].split('id="fixed"')[0]


def test_artifacts_that_are_damaged_cost_their_figures_alone(tmp_path: Path, empty_store: Path) -> None:
    configs = arms("ce", "0.01")
    junk = {"embeddings.npz": b"PK no zip", "history.parquet": b"no parquet"}
    made = [Made(config=c, metrics=results(c), artifacts=junk) for c in configs]
    page = studied(tmp_path, empty_store, made, configs)()
    assert "6 of 6 planned trials finished" in page
    assert {path.stem for path in (tmp_path / "out/figures").iterdir()} == {
        *("differences", "accuracy-0", "trade-offs", "cost")
    }


def test_curves_that_lack_a_trial_say_so_and_are_drawn_anew_when_it_is_back(
    tmp_path: Path, empty_store: Path
) -> None:
    configs = arms("ce", "0.01")
    curve = pd.DataFrame({"epoch": [1, 2], "train/acc": [0.5, 0.6], "train/ce": [1.0, 0.9]})
    made = [
        Made(config=c, metrics=results(c), artifacts={"history.parquet": curve.to_parquet()}) for c in configs
    ]
    rendered = studied(tmp_path, empty_store, made, configs)
    kept = next(tmp_path.rglob("history.parquet"))
    away = kept.rename(kept.with_suffix(".away"))
    lacking = "Without 1 trial whose history could not be read."
    page = rendered()
    assert "mean over the finished seeds of each arm, n = 3; the band" in page
    assert lacking in page
    assert lacking in rendered()
    away.rename(kept)
    assert lacking not in rendered()


def test_what_goes_with_the_dataset_is_named_and_not_called_fixed(tmp_path: Path, empty_store: Path) -> None:
    configs = [
        config(
            arm,
            0,
            dataset=dataset,
            unlabeled_size=size,
            batch_size=batch,
            augmentations=("grayscale",),
            views="asymmetric",
            backbone=backbone,
        )
        for dataset, size in (("stl10", 5000), ("digits", 0))
        for backbone, batch in (("vgg16", 512), ("resnet18", 128))
        for arm in ("ce", "0.01")
    ]
    page = studied(tmp_path, empty_store, done(configs), configs)()
    facts = dict(re.findall(r'<tr><th scope="row">([^<]*)</th><td>([^<]*)</td></tr>', page))
    assert facts["batch_size"] == "512 with vgg16, 128 with resnet18"
    assert facts["unlabeled_size (two views)"] == "5000 with stl10, 0 with digits"
    assert facts["views (two views, with grayscale or solarize)"] == "asymmetric"
    assert facts["lambd (Barlow Twins or Mixed Barlow Twins, γ &gt; 0)"] == "0.0051"
    assert "Arms of two views: views asymmetric, unlabeled_size 5000." in page
    text = (tmp_path / "out/report.md").read_text()
    assert "- batch_size: 512 with vgg16, 128 with resnet18" in text
    assert "- experiment: test" in text


def test_what_a_reader_should_know_of_how_it_ran(tmp_path: Path, empty_store: Path) -> None:
    configs = arms("ce", "0.01")
    changed = {"git.dirty": "true", "source.kept": "code-0.patch"}
    tags = [
        {"device": "gpu one", "gpus.kernels": "tf32", **changed},
        {"attempts": "3"},
        {"git.commit": "1" * 40},
    ]
    made = [
        Made(config=c, metrics=results(c), tags=t) for c, t in zip(configs, [*tags, {}, {}, {}], strict=True)
    ]
    page = studied(tmp_path, empty_store, made, configs)()
    assert "ran on different kinds of devices (cpu test, gpu one): digits · convnet · rrc+hflip." in page
    assert "ran on different kernels (deterministic, tf32): digits · convnet · rrc+hflip." in page
    kept = "they are kept by the run “code”: code-0.patch."
    assert f"1 of 6 trials ran from a working tree with uncommitted changes; {kept}" in page
    assert "1 of 6 trials were started more than once: interrupted and resumed, or retried." in page
    assert "Trials ran with 2 commits: 000000000000, 111111111111." in page


def test_links_lead_to_the_metric_of_the_runs(tmp_path: Path, empty_store: Path) -> None:
    configs = arms("ce", "0.01")
    rendered = studied(tmp_path, empty_store, done(configs), configs)
    assert not [t for t in checked(rendered()).targets if not t.startswith("#")]
    links = [t for t in checked(rendered(ui="http://127.0.0.1:5000/")).targets if not t.startswith("#")]
    assert links
    several = [link for link in links if link.startswith("http://127.0.0.1:5000/#/metric?runs=%5B%22")]
    single = [link for link in links if link not in several]
    assert len(single) == len(configs)  # of every seed's table
    assert all(
        re.fullmatch(r"http://127\.0\.0\.1:5000/#/experiments/1/runs/\w{32}\?\S+", link) for link in single
    )
    # A number leads to its own metric.
    metrics = {re.search("&metric=%22final%2F([a-z_]+)%22&", link)[1] for link in several}
    assert {"test_acc", "train_acc", "test_ece", "effective_rank"} <= metrics
    # The address stays, also where nothing else is known of the last report; `none` removes it.
    invalidate(tmp_path / "out")
    assert [t for t in checked(rendered()).targets if not t.startswith("#")] == links
    assert not [t for t in checked(rendered(ui="none")).targets if not t.startswith("#")]
    assert not [t for t in checked(rendered()).targets if not t.startswith("#")]
    (tmp_path / "out/.rendered").write_text('{"ui": "javascript:alert(1)"}')
    assert "javascript" not in rendered()


def test_figures_are_drawn_once_and_removed_when_they_are_of_an_earlier_selection(
    tmp_path: Path, empty_store: Path
) -> None:
    configs = arms("ce", "0", "0.01")
    rendered = studied(tmp_path, empty_store, done(configs), configs)
    rendered()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/figures").iterdir()}
    rendered()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/figures").iterdir()} == before
    names = {path.stem for path in before}
    assert names == {"differences", "accuracy-0", "gamma", "trade-offs", "cost"}
    ledger = Ledger(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path)
    fewer = Selection(space="test", trials=tuple(c for c in configs if not c.gamma), steps=("fewer",))
    render(fewer, load(fewer, ledger.trials()), ledger, tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out/figures").iterdir()} == {
        *("differences", "accuracy-0", "trade-offs", "cost")
    }


def test_a_figure_that_somebody_else_wrote_is_drawn_again(tmp_path: Path, empty_store: Path) -> None:
    """`analysis/embeddings.py` for other cells, or a report of others that was interrupted."""
    rendered = studied(tmp_path, empty_store, done(arms("ce", "0.01")), arms("ce", "0.01"))
    rendered()
    figure = tmp_path / "out/figures/accuracy-0.png"
    before = figure.read_bytes()
    figure.write_bytes((tmp_path / "out/figures/cost.png").read_bytes())
    rendered()
    assert figure.read_bytes() == before


def test_nothing_is_rendered_where_nothing_has_changed(tmp_path: Path, empty_store: Path) -> None:
    configs = arms("ce", "0.01")
    studied(tmp_path, empty_store, done(configs), configs)()
    ledger = Ledger(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path)
    selection = Selection(space="test", trials=tuple(configs), steps=("a test",))
    trials = load(selection, ledger.trials())
    assert render(selection, trials, ledger, tmp_path / "out").files == ()
    invalidate(tmp_path / "out")
    assert render(selection, trials, ledger, tmp_path / "out").files
    (tmp_path / "out/.rendered").write_text("damaged")
    assert render(selection, trials, ledger, tmp_path / "out").files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--ui", "javascript:alert(1)"],
            "--ui: got 'javascript:alert(1)'; allowed: an address that begins with",
        ),
        (["--published", "nowhere.csv"], "--published: nowhere.csv cannot be read"),
        (["--experiment", "other"], "--experiment: no experiment 'other'"),
        (["--space", "ablation"], "unknown space 'ablation' (did you mean 'ablations'?)"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    space = [] if "--space" in arguments else ["--space", "quickstart"]
    given = [*space, "--experiment", "test", "--output", str(folder / "runs"), *arguments]
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last


def test_passwords_of_addresses_are_not_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report says by which command it was made."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "x", "--tracking-uri", "http://me:secret@here"])
    section = provenance_section(
        Selection(space="test", trials=(config("ce", 0),), steps=()),
        pd.read_parquet(folder / "out/trials.parquet"),
        "test",
    )
    told = dict(section.facts)
    assert "secret" not in told["report"]
    assert "http://me:***@here" in told["report"]


def test_a_report_does_not_tell_where_the_project_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["python", str(ROOT / "analysis/report.py"), "--output", "/elsewhere"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    section = provenance_section(
        Selection(space="test", trials=(config("ce", 0),), steps=()),
        pd.read_parquet(folder / "out/trials.parquet"),
        "test",
    )
    assert dict(section.facts)["report"].endswith(" UTC by python analysis/report.py --output /elsewhere")
