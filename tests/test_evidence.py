"""The study of docs/evidence: its protocol's sentences."""

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import choices
import numpy as np
import pages
import pandas as pd
import pytest
import render
import verdicts
from studies import ROOT
from synthetic import frame

from analysis.stats.published import THESIS
from analysis.trials import write
from search_spaces import select
from search_spaces.evidence import CHOSEN
from search_spaces.seeds import SeedPlan
from trainables.trial import TrialConfig

EVIDENCE = ROOT / "docs/evidence"
NUMBER = re.compile(r"[+−]?\d[\d,]*(?:\.\d+)?")


MEASURED = ("linear_probe_acc", "train_acc", "test_ece")
"""Metrics of the pages' tables beside test accuracy, which stands for them."""
Effect = Callable[[TrialConfig], float]


def study(effect: Effect) -> pd.DataFrame:
    """Four seeds of the space, with an arm's effect, the luck of the seed, and little else."""
    trials = select("evidence", seeds=4).trials
    luck = {trial: np.random.default_rng(trial.seed).normal(0, 0.02) for trial in trials}
    own = {trial: np.random.default_rng(int(trial.key, 16)).normal(0, 0.0005) for trial in trials}
    results = frame({trial: 0.5 + luck[trial] + own[trial] + effect(trial) for trial in trials})
    return results.assign(seed_plan=SeedPlan(low=3, high=8, margin=1, date="2026-11-26").to_json())


def effect(trial: TrialConfig) -> float:
    """An invented world.

    A second view helps as much as the same images on one view. Barlow Twins hurts at 10⁻²; SupCon helps with
    few labels. Without augmentations, two views differ from one by the step alone.
    """
    if not trial.augmentations:
        return 0.01 if trial.method == "siamese" else 0.0
    if trial.method == "ce":
        return 0.03 if trial.epochs in (40, 120) else 0.0
    term = {"supcon": 0.02 if trial.train_size == 1000 else 0.0, "barlow_twins": -0.02}
    return 0.03 + (term.get(trial.term or "", 0.0) if trial.gamma not in (None, 0.0, 0.001) else 0.0)


CELLS = verdicts.planned_cells(frame(dict.fromkeys(select("evidence").trials)))


def judged(trials: pd.DataFrame, low: float = 0.001) -> pd.DataFrame:
    """The script's comparisons, with intervals over new images that begin at `low`."""
    return verdicts.judged(trials).assign(both_low=low, both_high=0.1)


def said_in(found: pd.DataFrame) -> dict[str, list[str]]:
    return {title: [entry.text for entry in row] for title, row in verdicts.sentences(found, CELLS).rows}


def report_of(trials: pd.DataFrame, folder: Path) -> Path:
    """What a report of these trials has of them, in this folder."""
    (folder / "tables").mkdir(parents=True)
    costs = dict.fromkeys(["cpu_seconds", "train_seconds", "evaluate_seconds"], 60.0)
    write(
        trials.assign(**costs, attempts="1", **dict.fromkeys(MEASURED, trials["test_acc"])),
        folder / "trials.parquet",
    )
    images = judged(trials)[["cell", "arm_label", "baseline_label", "n", "both_low", "both_high"]]
    images.to_csv(folder / "tables/images.csv", index=False)
    return folder


def test_the_protocols_sentences(tmp_path: Path) -> None:
    trials = study(effect)
    found = judged(trials)
    assert found.groupby("place").size().tolist() == [20, 20, 17, 20]
    assert found.groupby("family").size().to_dict() == {"ce": 27, "control": 23, "twice": 27}
    said = said_in(found)
    (supcon,) = (title for title in said if title.startswith("SupCon"))
    (kl,) = (title for title in said if title.startswith("Symmetric KL"))
    small, steps = (
        "smaller than 1 point",
        "helps at equal epochs; without any second view, γ = 0 − CE is +1.0",
    )
    assert [text.partition(" (")[0] for text in said["A second view"]] == [steps, steps, "–", steps, "no"]
    assert said["Barlow Twins, γ = 10⁻³"] == [*[small] * 4, "no"]
    assert said["Barlow Twins, γ = 10⁻²"][:4] == ["hurts", "hurts", small, "hurts"]
    assert said["Barlow Twins, γ = 10⁻²"][4].startswith("hurts (p ")
    assert said[supcon][:4] == [small, small, small, "helps"]
    assert said[supcon][4].startswith("helps (p ")
    assert said[kl] == [small, small, "–", small, "no"]
    assert said["Barlow Twins, γ = 10⁻³ − CE, the thesis's comparison"][0] == "higher"
    between = verdicts.contrasts(trials)
    assert len(between) == 9
    bare = trials.loc[(trials["augmentations"] == "none") & (trials["epochs"] == 20), "cell"].iloc[0]
    differing = between.loc[
        between["direction"].isin({"higher", "lower"}), ["cell", "arm_label", "direction"]
    ]
    assert differing.to_numpy().tolist() == [
        [bare, "siamese-0", "lower"],
        [bare, "siamese-0.01 term=barlow_twins", "higher"],
    ]
    report = report_of(trials, tmp_path / "report")
    verdicts.main(report)
    page = (report / "verdicts.md").read_text(encoding="utf-8")
    claims = found["direction"].isin({"higher", "lower"}).sum() + 2
    assert f"Claimed are {claims} of 86 comparisons and contrasts, in " in page
    assert " of 13 families. If nothing differed, at most 0.65 families would have a claim" in page
    assert len(pd.read_csv(report / "verdicts.csv")) == 77
    images = pd.read_csv(report / "tables/images.csv")
    images.assign(n=3).to_csv(report / "tables/images.csv", index=False)
    with pytest.raises(ValueError, match=r"images\.csv has other seeds than trials\.parquet"):
        verdicts.main(report)


def test_a_claim_says_when_it_is_small_and_when_new_images_could_undo_it() -> None:
    trials = study(lambda trial: 0.005 if trial.method == "siamese" else 0.0)
    found = judged(trials)
    row = "Barlow Twins, γ = 10⁻³ − CE, the thesis's comparison"
    assert said_in(found)[row][0] == "higher, by less than 1 point"
    found = judged(trials, low=-0.001)
    assert said_in(found)[row][0] == "higher, by less than 1 point; not shown for new test images"
    assert "; not shown for new test images; without any second view" in said_in(found)["A second view"][0]
    found = judged(trials, low=np.nan)
    assert said_in(found)[row][0].endswith("; for new test images not known")


def test_opposite_claims_are_no_claim_in_at_least_one_cell() -> None:
    def mixed(trial: TrialConfig) -> float:
        if trial.method == "ce":
            return 0.05 if trial.epochs in (40, 120) else 0.0
        return 0.02 + (0.02 if trial.train_size == 1000 else -0.02) * (trial.term == "vicreg")

    said = said_in(judged(study(mixed)))
    worse = "helps at equal epochs, worse than the same images on one view"
    assert said["A second view"][0].startswith(worse)
    assert said["A second view"][4] == "no"
    (vicreg,) = (title for title in said if title.startswith("VICReg"))
    assert said[vicreg][:4] == ["hurts", "hurts", "hurts", "helps"]
    assert all(f"{word} (p " in said[vicreg][4] for word in ("helps", "hurts"))


def test_what_is_missing_is_no_claim() -> None:
    trials = study(effect)
    twice = trials["epochs"].isin([40, 120]) & (trials["seed"] > 0)
    partial = trials.assign(status=trials["status"].mask(twice, "MISSING"))
    said = said_in(judged(partial.assign(test_acc=trials["test_acc"].mask(twice))))
    assert said["A second view"][0].startswith("helps at equal epochs; without")
    assert said["A second view"][4] == "no"
    lost = trials["train_size"] == 1000
    gone = trials.assign(
        status=trials["status"].mask(lost, "MISSING"), test_acc=trials["test_acc"].mask(lost)
    )
    found = judged(gone)
    assert set(found["place"]) == {0, 1, 2}
    assert said_in(found)["Barlow Twins, γ = 10⁻²"][3] == "–"
    titles = {cell: str(place) for cell, place in verdicts.places_of(gone).items()}
    table = verdicts.contrast_table(verdicts.contrasts(gone), titles)
    assert sum("–" in [entry.text for entry in row] for _, row in table.rows) == 3
    failed = judged(gone.assign(status=trials["status"].mask(lost, "FAILED")))
    assert set(failed["place"]) == {0, 1, 2}
    with pytest.raises(ValueError, match=r"planned with None seeds; allowed: 3\.\.8 with a margin of 1"):
        verdicts.judged(trials.assign(seed_plan=None))


def test_a_verdict_that_depends_on_a_failed_trial_is_undecided() -> None:
    trials = study(effect)
    failed = (trials["arm"] == "ce") & (trials["seed"] == 0) & (trials["epochs"] == 60)
    trials.loc[failed, ["status", "test_acc"]] = "FAILED", np.nan
    found = verdicts.judged(trials)
    found = found.assign(kind=found["arm"].str.partition("-")[0])
    said = found.set_index(["place", "kind", "baseline_label"])["direction"].groupby(level=[0, 1, 2]).first()
    assert said[(0, "siamese", "ce")] == "higher"
    assert said[(3, "siamese", "ce")] == "undecided"  # 10 % of one seed widens the interval
    assert said[(3, "supcon", "siamese-0")] == "higher"  # without the seed and with it
    assert found.loc[(found["place"] == 3) & (found["baseline_label"] == "ce"), "p_said"].min() == 1.0


@pytest.mark.parametrize(
    ("equal", "twice", "said"),
    [
        ("higher", "higher", "helps"),
        ("higher", "undecided", "helps at equal epochs"),
        ("higher", "lower", "helps at equal epochs, worse than the same images on one view"),
        ("lower", "lower", "hurts"),
        ("lower", "smaller than 1 point", "hurts at equal epochs"),
        ("lower", "higher", "hurts at equal epochs"),
        ("undecided", "higher", "undecided"),
        ("undecided", "lower", "undecided at equal epochs, worse than the same images on one view"),
        ("smaller than 1 point", "smaller than 1 point", "smaller than 1 point"),
    ],
)
def test_what_is_said_of_a_second_view(equal: str, twice: str, said: str) -> None:
    assert verdicts.second_view(equal, twice) == said


def test_what_was_chosen_is_what_the_rule_takes_from_the_tries_that_are_shipped(tmp_path: Path) -> None:
    trials = pd.read_parquet(EVIDENCE / "tuning/trials.parquet")
    assert set(trials["key"]) == {trial.key for trial in select("evidence_tuning").trials}
    table = choices.tries(trials)
    assert choices.chosen(table) == CHOSEN
    assert len(table) == 36
    # The two best of each arm with the first seed were repeated with the second.
    ordered = table.sort_values(["first", "lr", "gamma"], ascending=[False, True, True])
    for arm, part in ordered.groupby("arm"):
        best = part.head(2)
        assert best["second"].notna().all(), arm
        assert part["second"].notna().sum() == 2
    write(trials, tmp_path / "trials.parquet")
    choices.main(tmp_path)
    for name in ("tries.csv", "tries.md"):
        assert (tmp_path / name).read_bytes() == (EVIDENCE / "tuning" / name).read_bytes()


def test_of_equal_tries_the_smaller_learning_rate_is_chosen_then_the_smaller_weight() -> None:
    trials = pd.read_parquet(EVIDENCE / "tuning/trials.parquet")
    equal = choices.tries(trials.assign(val_acc=0.5, status="FINISHED"))
    assert choices.chosen(equal)["ce"] == {"lr": 0.01}
    assert choices.chosen(equal)["supcon"] == {"gamma": 0.1, "lr": 0.01}
    without = trials.assign(val_acc=trials["val_acc"].mask(trials["term"] == "kl"))
    assert "kl" not in choices.chosen(choices.tries(without))


def shipped_trials() -> dict[str, dict[str, Any]]:
    """The lines of the archive's `trials.jsonl`, by key."""
    with zipfile.ZipFile(EVIDENCE / "study.zip") as archive:
        rows = [json.loads(line) for line in archive.read("trials.jsonl").splitlines()]
    return {row["key"]: row for row in rows}


def test_the_archive_has_the_tries_and_trials_of_the_study_alone() -> None:
    shipped = shipped_trials()
    tries = {trial.key for trial in select("evidence_tuning").trials}
    own = {trial.key for trial in select("evidence", seeds=8).trials}
    assert tries <= shipped.keys() <= tries | own
    table = pd.read_parquet(EVIDENCE / "tuning/trials.parquet").set_index("key")
    for key, row in table.iterrows():
        assert shipped[str(key)]["status"] == row["status"]
        if row["status"] == "FINISHED":
            assert shipped[str(key)]["metrics"]["val_acc"] == row["val_acc"]


def test_the_protocol_precedes_the_first_trial() -> None:
    """Its first commit is cbdfd23; its amendments and what was chosen precede the study with 4792d59."""
    began: dict[int, list[int]] = {}
    for row in shipped_trials().values():
        began.setdefault(int(row["params"]["seed"]), []).append(row["started"])
    tuning = min(start for seed, starts in began.items() if seed >= 1000 for start in starts)
    study = min(start for seed, starts in began.items() if seed < 1000 for start in starts)
    assert tuning > datetime(2026, 11, 26, 4, 32, 7, tzinfo=UTC).timestamp() * 1000
    assert (
        study > datetime(2026, 11, 26, 8, 36, 23, tzinfo=UTC).timestamp() * 1000
    )  # 4792d59: what was chosen


def test_the_parts_of_the_pages(tmp_path: Path) -> None:
    trials = study(effect)
    texts = pages.parts(report_of(trials, tmp_path / "report"))
    headline = texts["headline"].splitlines()
    assert headline[0] == (
        "**In 20 epochs on 5,000 labelled photographs, a second view helps at equal epochs. (Without any"
        " second view, γ = 0 − CE is +1.0 (+0.7 to +1.3).) Beyond it, Barlow Twins at γ = 10⁻³ makes a"
        " difference smaller than 1 point and Barlow Twins at γ = 10⁻² hurts.**"
    )
    assert headline[-1] == f"Decided are 20 of the 20 comparisons in this cell and 77 of all 77. {JOINTLY}"
    rows = [line.strip("| ").split(" | ") for line in headline[4:-2]]
    titles = ["γ = 0 − CE", "γ = 0 − CE (epochs=40)", *(f"Barlow Twins, γ = 10⁻{k} − γ = 0" for k in "³²")]
    assert [row[0] for row in rows] == titles
    assert [row[-1] for row in rows] == ["higher", "smaller than 1 point", "smaller than 1 point", "lower"]
    cell = trials[trials["cell"] == trials["cell"].iloc[0]]
    of = {str(arm): part["test_acc"].tolist() for arm, part in cell.groupby("arm_label")}
    assert rows[0][1:4] == ["4", pages.spread_text(of["siamese-0"]), pages.spread_text(of["ce"])]
    twice = trials[(trials["epochs"] == 40) & (trials["augmentations"] == "rrc+hflip")]["test_acc"]
    assert rows[1][3] == pages.spread_text(twice.tolist())
    assert texts["progress"].startswith("140 trials have ended, none failed. They took 2.3 hours of CPU time")
    results = texts["results"]
    assert results.startswith("Trials: 140 finished. Claimed are ")
    assert results.count("\n## ") == 7
    # Invented: 10⁻² hurts and SupCon helps; what else has two views is as good, but for luck.
    assert re.search(r"the higher test accuracy in \d+ of 84 pairs with an arm of two views", results)
    assert f"| CE | 83.17 | {pages.spread_text(of['ce'])} | 82.78 ± 0.26 | " in results
    page = "a\n<!-- study: headline -->\nold\n<!-- end -->\nb\n<!-- study: progress -->\n<!-- end -->\n"
    full = pages.filled(page, texts)
    assert full == page.replace("old", texts["headline"]).replace(
        "progress -->\n", f"progress -->\n{texts['progress']}\n"
    )
    assert pages.filled(full, texts) == full
    assert pages.filled(full, {"headline": "old", "progress": ""}) == page
    with pytest.raises(ValueError, match="headline is no part; allowed: results"):
        pages.filled(page, {"results": ""})


JOINTLY = "Each interval excludes 0 where its adjusted p is below 0.05; they do not hold jointly."


def test_the_page_says_how_many_comparisons_are_open() -> None:
    found = judged(study(effect))
    first = found.index[found["place"] == pages.PRIMARY][0]
    found.loc[first, "direction"] = "undecided"
    assert pages.decided(found) == (
        "Decided are 19 of the 20 comparisons in this cell and 76 of all 77. The study goes on: cells with"
        f" open ones get more seeds, 8 at most. Verdicts hold at every look. {JOINTLY}"
    )
    found.loc[first, "n"] = 8
    assert pages.decided(found).endswith(f"76 of all 77. {JOINTLY}")


def test_nothing_is_said_before_each_cell_has_three_seeds(tmp_path: Path) -> None:
    trials = study(effect)
    late = (trials["train_size"] == 1000) & (trials["seed"] > 1)
    missing: dict[str, Any] = {"status": "MISSING", "test_acc": np.nan}
    partial = trials.assign(**{name: trials[name].mask(late, value) for name, value in missing.items()})
    texts = pages.parts(report_of(partial, tmp_path / "report"))
    assert texts["headline"] == pages.UNDER_WAY
    assert texts["progress"].startswith("122 trials have ended")
    assert texts["results"] == ""


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("helps", "it helps"),
        ("hurts, by less than 1 point", "it hurts, by less than 1 point"),
        ("helps; not shown for new test images", "it helps, not shown for new test images"),
        ("undecided", "whether it helps is undecided"),
        ("smaller than 1 point", "it makes a difference smaller than 1 point"),
    ],
)
def test_a_part_of_a_sentence(said: str, sentence: str) -> None:
    assert pages.clause("it", said) == sentence


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the archive gives, by the command that the page names."""
    folder = tmp_path_factory.mktemp("evidence")
    render.main(folder)
    return folder


ANEW = re.compile(r"\b[0-9a-f]{32}\b|\b\d{4}-\d\d-\d\d \d\d:\d\d UTC")
"""The id of a run, which is another one in each ledger, and when a report was rendered."""


def test_the_archive_renders_to_what_is_shipped(rendered: Path) -> None:
    shipped = shipped_trials()
    trials = pd.read_parquet(rendered / "report/trials.parquet").set_index("key")
    finished = {key for key, row in shipped.items() if row["status"] == "FINISHED"}
    assert set(trials.index[trials["status"] == "FINISHED"]) == finished & set(trials.index)
    for key in finished & set(trials.index):
        assert trials.loc[key, "test_acc"] == shipped[key]["metrics"]["test_acc"]
    for folder in ["tuning", *(["report"] if (EVIDENCE / "report").exists() else [])]:
        files, known = (
            {path.relative_to(root) for path in (root / folder).rglob("*") if path.is_file()}
            for root in (rendered, EVIDENCE)
        )
        assert files == known
        for name in files:
            new, old = rendered / name, EVIDENCE / name
            if name.suffix == ".parquet":
                hidden = ["run_id", "changed"]
                left, right = (pd.read_parquet(path).drop(columns=hidden) for path in (new, old))
                pd.testing.assert_frame_equal(left, right)
            elif name.suffix in {".csv", ".md", ".tex"}:
                assert ANEW.sub("", new.read_text()) == ANEW.sub("", old.read_text()), name


def test_the_pages_have_the_numbers_of_the_shipped_report() -> None:
    texts: Mapping[str, str] = {"headline": pages.UNDER_WAY, "progress": "", "results": ""}
    if (EVIDENCE / "report").exists():
        texts = pages.parts(EVIDENCE / "report")
    for page in pages.PAGES:
        text = page.read_text(encoding="utf-8")
        assert pages.filled(text, texts) == text


def test_what_the_page_says_in_words() -> None:
    """The answers to objections, computed from the shipped trials."""
    trials, found = verdicts.read(EVIDENCE / "report")
    own = pages.placed(trials)
    ratios, widths = [], []
    for place in range(len(pages.TITLES)):
        seconds = pages.values_of(own, place, "cpu_seconds").mean()
        two_views = seconds.index.difference([pages.CE, pages.TWICE])
        ratios += (seconds[pages.TWICE] / seconds[two_views]).tolist()
    for row in found.to_dict("records"):
        accuracies = pages.values_of(own, row["place"], "test_acc")
        baseline = pages.TWICE if row["family"] == "twice" else row["baseline_label"]
        spread = (accuracies[row["arm_label"]] - accuracies[baseline]).std()
        widths.append((row["delta_high_holm"] - row["delta_low_holm"]) / 2 / spread)
    assert 1 / 1.2 < min(ratios) < max(ratios) < 1.2  # "up to a fifth"
    assert (round(min(widths)), round(max(widths))) == (5, 14)
    assert set(own.loc[own["place"] == pages.PRIMARY, "attempts"].astype(int)) == {1}
    fitted = pages.values_of(own, verdicts.NO_VIEWS, "train_acc")
    assert fitted.min(axis=None) > 0.999
    for place in (0, 1):
        means = [pages.values_of(own, place, metric).mean() for metric in ("train_acc", "test_acc")]
        assert [each.idxmax() for each in means] == [pages.TWICE] * 2
        assert means[0].corr(means[1]) > 0.9
    tries = pd.read_parquet(EVIDENCE / "tuning/trials.parquet")
    by_test = choices.tries(tries.assign(val_acc=tries["test_acc"]))
    assert choices.chosen(by_test) == CHOSEN


def test_every_number_of_the_page_is_in_what_is_shipped() -> None:
    page = (EVIDENCE / "README.md").read_text(encoding="utf-8")
    sources = [EVIDENCE / "protocol.md", *EVIDENCE.glob("*/*.md"), THESIS]
    known = {number for path in sources for number in NUMBER.findall(path.read_text(encoding="utf-8"))}
    said = [number for number in NUMBER.findall(page) if "." in number]
    assert said
    assert [number for number in said if number not in known] == []
