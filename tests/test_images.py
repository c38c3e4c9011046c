"""Differences over seeds and test images: the variance components, and what a report makes of predictions."""

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm
from synthetic import Made, config, fill, results

from analysis.plots.cache import FigureCache
from analysis.sections.generality import generality_tables, over_images
from analysis.stats.images import crossed
from analysis.stats.results import Results
from analysis.trials import load
from search_spaces import Selection
from study.ledger.artifacts import Artifacts
from study.ledger.ledger import Ledger
from trainables.trial import TrialConfig


def test_by_hand() -> None:
    """Means of rows 1, 0 and of columns 1, 0.5, 0, each residual 0 or ±1/2 around 1/2."""
    found = crossed(np.array([[1, 1, 1], [1, 0, -1]]))
    assert (found.delta, found.seeds, found.images) == (0.5, 2, 3)
    seed = 1.5  # 3 * (1/4 + 1/4); image: 2 * (1/4 + 1/4) / 2; residual: 4 * (1/2)² / 2, and so both are 1/2
    assert found.error_seeds == pytest.approx(np.sqrt(seed / 6))
    assert found.error_images == 0
    assert found.error == pytest.approx(found.error_seeds)
    assert found.df == pytest.approx(1.0)


def binary(seeds: int, images: int, *, random: np.random.Generator, sd: float = 0.1) -> np.ndarray:
    """Differences in correctness of two arms that are equally good: 0 over all seeds and images there are."""
    latent = (
        sd * random.normal(size=(seeds, 1))
        + 0.8 * random.normal(size=(1, images))
        + random.normal(size=(seeds, images))
    )
    return np.sign(latent) * (np.abs(latent) > 1.5)


@pytest.mark.parametrize(("seeds", "sd"), [(2, 0.5), (5, 0.5), (8, 0.0)])
def test_against_an_analysis_of_variance(seeds: int, sd: float) -> None:
    x = binary(seeds, 40, random=np.random.default_rng(seeds), sd=sd)
    data = pd.DataFrame([(x[s, i], s, i) for s in range(seeds) for i in range(40)], columns=["x", "s", "i"])
    table = anova_lm(smf.ols("x ~ C(s) + C(i)", data).fit())
    seed, image, residual = table["sum_sq"] / table["df"]
    found = crossed(x)
    assert found.delta == pytest.approx(x.mean())
    assert found.error_seeds**2 == pytest.approx(seed / x.size)
    assert found.error_images**2 == pytest.approx(max(image - residual, 0) / x.size)
    assert (seed > residual) == (
        found.error**2 == pytest.approx(found.error_seeds**2 + found.error_images**2)
    )
    parts = max(seed - residual, 0) + max(image - residual, 0) + residual
    assert found.error**2 == pytest.approx(parts / x.size)
    # Satterthwaite, of the mean squares that are left in the sum.
    left = [(seed, 0), (image, 1), (-residual, 2)] if seed > residual else [(image, 1)]
    assert image > residual
    df = parts**2 / sum(square**2 / table["df"].iloc[place] for square, place in left)
    assert found.df == pytest.approx(df)
    low, high = found.over_both()
    half = stats.t.ppf(0.975, df) * np.sqrt(parts / x.size)
    plain = stats.ttest_1samp(x.mean(axis=1), 0).confidence_interval()
    assert found.over_seeds() == pytest.approx(tuple(plain))
    assert (low, high) == pytest.approx((min(x.mean() - half, plain.low), max(x.mean() + half, plain.high)))


def test_without_spread_there_is_no_interval() -> None:
    found = crossed(np.zeros((3, 5)))
    assert np.isnan([*found.over_seeds(), *found.over_both(), found.df]).all()
    alike = crossed(np.tile([1, 0, 0, 0], (3, 1)))  # every seed errs on the same image
    assert np.isnan(alike.over_seeds()).all()
    assert alike.over_both() == pytest.approx(stats.ttest_1samp([1, 0, 0, 0], 0).confidence_interval())
    for shape in ((1, 5), (5, 1)):
        with pytest.raises(
            ValueError, match=r"differences: got \d x \d; allowed: at least two seeds x two im"
        ):
            crossed(np.zeros(shape))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_covers_what_new_seeds_on_new_images_would_show(seeds: int) -> None:
    """1,500 studies of 200 images: of the intervals over seeds alone, fewer hold the truth the more seeds."""
    random, covered = np.random.default_rng(seeds), np.zeros(2)
    for _ in range(1500):
        found = crossed(binary(seeds, 200, random=random))
        covered += [low <= 0 <= high for low, high in (found.over_both(), found.over_seeds())]
    both, alone = covered / 1500
    assert 0.935 <= both <= 0.99
    assert alone < {3: 0.95, 5: 0.92, 10: 0.85}[seeds]


ARMS, IMAGES = ("ce", "0", "0.01"), 60


def predictions(trial: TrialConfig, correct: np.ndarray) -> Made:
    """A finished trial whose predictions are right on these images."""
    labels = np.arange(IMAGES) % 10
    buffer = io.BytesIO()
    np.savez(buffer, labels=labels, predicted=np.where(correct, labels, (labels + 1) % 10))
    metrics = {**results(trial), "test_acc": float(correct.mean())}
    return Made(config=trial, metrics=metrics, artifacts={"predictions.npz": buffer.getvalue()})


@pytest.fixture
def study(tmp_path: Path, empty_store: Path) -> tuple[Ledger, Selection, dict[tuple[str, int], np.ndarray]]:
    """Three arms with four seeds; the third arm with γ > 0 lacks one, which costs all arms that seed."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    random = np.random.default_rng(0)
    image = random.normal(size=IMAGES)
    trials = {(arm, seed): config(arm, seed) for arm in ARMS for seed in range(4)}
    correct = {
        place: image + 0.3 * i + random.normal(size=IMAGES) > -0.5 for i, place in enumerate(sorted(trials))
    }
    made = [predictions(trials[place], right) for place, right in correct.items() if place != ("0.01", 2)]
    fill(tmp_path / "mlflow.db", tmp_path / "artifacts", made)
    ledger = Ledger(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path)
    return ledger, Selection(space="test", trials=tuple(trials.values()), steps=()), correct


def test_a_report_has_both_intervals_of_each_comparison(
    study: tuple[Ledger, Selection, dict[tuple[str, int], np.ndarray]],
) -> None:
    ledger, selection, correct = study
    trials = load(selection, ledger.trials())
    frame = over_images(trials, ledger)
    rows = frame.set_index(["arm_label", "baseline_label"])
    assert list(rows.index) == [("siamese-0", "ce"), ("siamese-0.01", "ce"), ("siamese-0.01", "siamese-0")]
    names = {"ce": "ce", "siamese-0": "0", "siamese-0.01": "0.01"}
    for (arm, baseline), row in rows.iterrows():
        x = np.array([correct[names[arm], s] * 1.0 - correct[names[baseline], s] for s in (0, 1, 3)])
        assert (row["n"], row["images"], row["unread"]) == (3, IMAGES, 0)
        expected = crossed(x)
        assert (row["delta"], row["error"]) == pytest.approx((expected.delta, expected.error))
        assert (row["both_low"], row["both_high"]) == pytest.approx(expected.over_both())
        plain = stats.ttest_1samp(x.mean(axis=1), 0).confidence_interval()
        assert (row["seeds_low"], row["seeds_high"]) == pytest.approx(tuple(plain))
    results = Results(trials, frame)
    (table,) = generality_tables(results, 0, "a cell")
    low, high = 100 * rows.iloc[0][["both_low", "both_high"]]
    texts = [entry.text.replace("−", "-") for entry in table.rows[0][1]]
    assert texts[2] == f"{low:+.1f} to {high:+.1f}"
    assert "n = 3, 60 test images." in table.caption
    assert "No interval speaks for other training images" in table.caption
    drawn = Results(trials.assign(data_seed=0), frame)
    assert "Each seed has its own choice" in generality_tables(drawn, 0, "a cell")[0].caption
    folds = Results(trials.assign(fold="seed"), frame)
    assert "Each seed trains on its own predefined fold" in generality_tables(folds, 0, "a cell")[0].caption
    compared = results.compared[results.compared["metric"] == "test_acc"]
    assert frame["delta"].to_numpy() == pytest.approx(compared["delta"].to_numpy())


def test_predictions_are_read_once_and_again_where_they_could_not_be(
    study: tuple[Ledger, Selection, dict[tuple[str, int], np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger, selection, _ = study
    trials = load(selection, ledger.trials())
    (run,) = trials.loc[(trials["arm"] == "siamese-0.01") & (trials["seed"] == 1), "run_id"]
    (kept,) = tmp_path.rglob(f"{run}/artifacts/predictions.npz")
    whole = kept.read_bytes()
    kept.write_bytes(b"PK no zip")
    cache = FigureCache(tmp_path)
    frame = over_images(trials, ledger, cache)
    (table,) = generality_tables(Results(trials, frame), 0, "a cell")
    assert frame["unread"].tolist() == [0, 1, 1]
    assert [row[0].text == "–" for _, row in table.rows] == [False, True, True]
    assert table.caption.endswith("–: predictions could not be read.")
    kept.write_bytes(whole)
    again = over_images(trials, ledger, cache)
    assert again["delta"].notna().all()
    monkeypatch.setattr(Artifacts, "path", None)
    pd.testing.assert_frame_equal(over_images(trials, ledger, cache), again)
    cache.prune()
    assert list(cache.measured) == ["over-images-0"]
