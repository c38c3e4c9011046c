"""What a report shows of images and classes: views, confusions, every seed, and colours of classes."""

import importlib.util
import io
import itertools
import tokenize
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from synthetic import config, frame
from test_embeddings import Kept, clusters

from analysis.plots import classes, confusions, embeddings, views
from analysis.plots.cache import FigureCache
from analysis.plots.kept import class_names, class_title, drawn_title, kept_arrays
from analysis.plots.views import Sample
from analysis.render.section import Section
from analysis.render.table import Table, Ui
from analysis.sections import generality
from analysis.sections.by_seed import seed_table
from analysis.sections.confusions import confusion_section, confusion_tables, read_confusions
from analysis.sections.views import view_figures
from analysis.stats.confusions import confusion_counts, most_confused, row_shares
from trainables.trial import TrialConfig

ANIMALS = ("cat", "dog", "frog")


@pytest.fixture
def ledger(tmp_path: Path) -> Kept:
    return Kept(uri="", experiment="", artifact_root=tmp_path)


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def keep(ledger: Kept, trial: TrialConfig, files: Mapping[str, bytes]) -> None:
    folder = ledger.artifact_root / f"run-{trial.key}"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def sample(shade: int, *, two: bool = True, images: int = 2) -> dict[str, object]:
    """The arrays of `views.npz`: black originals of 4 x 4 pixels, views of one shade."""
    shape = (images, 3, 4, 4)
    arrays: dict[str, object] = {"original": np.zeros(shape, np.uint8), "view1": np.full(shape, 9, np.uint8)}
    if two:
        arrays["view2"] = np.full(shape, shade, np.uint8)
    names = np.array([name.encode() for name in ANIMALS])
    return {**arrays, "labels": np.arange(images) % 3, "classes": names}


# Views


def drawn_texts(figure: "mpl.figure.Figure") -> list[str]:
    return [text.get_text() for text in figure.texts if text.get_text()]


def as_sample(arrays: dict[str, object], **changes: object) -> Sample:
    of = {**arrays, **changes}
    shown = tuple(of[name] for name in ("view1", "view2") if name in of)
    return Sample(original=of["original"], views=shown, labels=of["labels"])  # type: ignore[arg-type]


def test_arms_that_saw_the_same_share_their_rows() -> None:
    rounded = np.full((2, 3, 4, 4), 50, np.uint8)
    rounded[0, 0, 0, 0] += 1  # another processor
    samples = {
        "ce": as_sample(sample(0, two=False)),
        "siamese-0": as_sample(sample(50)),
        "siamese-0.001": as_sample(sample(50), view2=rounded),
        "siamese-0.01": as_sample(sample(52)),
    }
    groups = views.groups_of_arms(samples)
    assert [arms for arms, _ in groups] == [["ce"], ["siamese-0", "siamese-0.001"], ["siamese-0.01"]]
    figure = views.draw(samples, ANIMALS)
    assert figure
    unbroken = [text.replace("\u00a0", " ") for text in drawn_texts(figure)]
    assert unbroken == [
        *("cat", "dog", "original", "CE", "view"),
        *("γ = 0, 10⁻³", "view 1", "view 2", "γ = 10⁻²", "view 1", "view 2"),
    ]
    strips = [axes.images[0].get_array() for axes in figure.axes]
    assert [int(strip[0, 0, 0]) for strip in strips] == [0, 9, 9, 50, 9, 52]
    assert all(axes.images[0].get_interpolation() == "nearest" for axes in figure.axes)
    assert views.draw({}) is None


def test_other_images_stand_above_the_arms_that_saw_them() -> None:
    other = as_sample(sample(50), original=np.full((2, 3, 4, 4), 200, np.uint8), labels=np.array([-1, 2]))
    figure = views.draw({"siamese-0": as_sample(sample(50)), "siamese-0.1": other})
    assert figure
    texts = drawn_texts(figure)
    assert texts.count("original") == 2
    assert {"unlabelled", "2"} <= set(texts)


@pytest.mark.parametrize(
    ("arms", "title"),
    [
        (["ce"], "CE"),
        (["siamese-0", "siamese-0.001"], "γ = 0, 10⁻³"),
        (["siamese-0", "vicreg-0.1", "vicreg-1", "byol-1"], "γ = 0; VICReg, γ = 0.1, 1; BYOL, γ = 1"),
        (["ce", "siamese-0.01 views=asymmetric"], "CE; γ = 10⁻² (views=asymmetric)"),
    ],
)
def test_a_group_of_arms_says_once_what_they_have_in_common(arms: list[str], title: str) -> None:
    assert views.group_title(arms) == title


def test_the_report_says_which_arms_kept_no_views(ledger: Kept) -> None:
    arms = {arm: config(arm, 0) for arm in ("ce", "0", "0.01")}
    trials = frame(dict.fromkeys(arms.values(), 0.5))
    assert view_figures(trials, 0, ledger, FigureCache(ledger.artifact_root / "old")) == []
    keep(ledger, arms["ce"], {"views.npz": npz(**sample(0, two=False))})
    keep(ledger, arms["0"], {"views.npz": b"PK no zip"})
    (figure,) = view_figures(trials, 0, ledger, FigureCache(ledger.artifact_root / "new"))
    assert figure.caption.endswith(" Without γ = 0 and γ = 10⁻²: no views were kept.")
    assert figure.png.exists()


# Confusions


def test_counts_shares_and_the_most_frequent_by_hand() -> None:
    counts = confusion_counts(np.array([0, 0, 0, 1, 1, 3]), np.array([0, 1, 1, 1, 0, 3]), 4)
    np.testing.assert_array_equal(counts, [[1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    shares = row_shares(counts)
    np.testing.assert_allclose(shares[0], [1 / 3, 2 / 3, 0, 0])
    assert np.isnan(shares[2]).all()
    assert most_confused([shares, shares], 5) == [(0, 1), (1, 0)]
    assert most_confused([shares], 1) == [(0, 1)]
    with pytest.raises(ValueError, match=r"^classes: got 0 to 3; allowed: 0 to 2$"):
        confusion_counts(np.array([0, 3]), np.array([0, 0]), 3)
    with pytest.raises(ValueError, match=r"^predicted: got \(1,\); allowed: as many as labels, \(2,\)$"):
        confusion_counts(np.array([0, 3]), np.array([0]), 4)


LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
PREDICTED = {
    ("ce", 0): [0, 0, 1, 1, 1, 1, 2, 0],  # two of four cats are called dogs, one of two frogs a cat
    ("ce", 1): [0, 0, 0, 1, 1, 1, 2, 2],
    ("0", 0): [0, 0, 0, 0, 1, 1, 2, 0],
    ("0", 1): None,
}


@pytest.fixture
def confused(ledger: Kept) -> pd.DataFrame:
    trials = {(arm, seed): config(arm, seed) for arm, seed in PREDICTED}
    for of, predicted in PREDICTED.items():
        if predicted:
            content = npz(labels=LABELS, predicted=np.array(predicted))
            keep(ledger, trials[of], {"predictions.npz": content, "views.npz": npz(**sample(5))})
    found = frame(dict.fromkeys(trials.values(), 0.5))
    found["changed"] = [3, 1, 2, 0]
    return found


def test_confusions_are_the_mean_over_seeds(ledger: Kept, confused: pd.DataFrame) -> None:
    found = read_confusions(confused, ledger)
    assert (found.seeds, found.unread, found.names) == ({"ce": 2, "siamese-0": 1}, 1, ANIMALS)
    np.testing.assert_allclose(row_shares(found.counts["ce"])[0], [5 / 8, 3 / 8, 0])
    (table,) = confusion_tables(confused, 0, "digits", ledger)
    assert table.columns == ("CE", "γ = 0", "Images")
    texts = {title: [entry.text for entry in row] for title, row in table.rows}
    assert texts == {"frog → cat": ["25.0", "50.0", "2"], "cat → dog": ["37.5", "0.0", "4"]}
    assert table.title == "digits: most frequent confusions"
    assert table.caption.endswith("Without 1 trial whose predictions could not be read.")
    assert "n = 1–2 seeds" in table.caption


def test_the_section_has_both_and_is_read_once(ledger: Kept, confused: pd.DataFrame) -> None:
    cache = FigureCache(ledger.artifact_root / "figures")
    whole = confused[confused["run_id"] != f"run-{config('0', 1).key}"]
    (section,) = confusion_section(whole, 0, "digits", ledger, cache)
    assert (section.title, section.folded) == ("Confusion matrices", True)
    assert [len(part.figures) + len(part.tables) for part in section.parts] == [1, 1]
    for _, trial in whole.iterrows():
        (ledger.artifact_root / trial["run_id"] / "predictions.npz").unlink()
    again = FigureCache(ledger.artifact_root / "figures", known=cache.known, measured=cache.measured)
    (repeated,) = confusion_section(whole, 0, "digits", ledger, again)
    assert list(Section(parts=(repeated,)).all_tables()) == list(Section(parts=(section,)).all_tables())
    assert confusion_section(whole, 0, "digits", ledger, FigureCache(ledger.artifact_root / "none")) == ()


@pytest.mark.parametrize("error", [NotImplementedError("zip file version 21.0"), tokenize.TokenError("EOF")])
def test_whatever_a_wrong_byte_raises_is_damage(
    ledger: Kept, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As zipfile does for a version or a compression that it does not know, and NumPy for half a header."""
    trial = config("ce", 0)
    keep(ledger, trial, {"predictions.npz": npz(labels=[0])})
    damaged = pytest.raises(OSError, match=r"^predictions.npz of run run-\w+ is damaged: ")
    with damaged, kept_arrays(ledger, f"run-{trial.key}", "predictions.npz"):
        raise error

    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(np, "load", load)
    assert generality._read(ledger, f"run-{trial.key}") is None


def test_predictions_that_cannot_be_are_unread(ledger: Kept) -> None:
    trials = [config("ce", seed) for seed in range(4)]
    kinds = [{"labels": LABELS}, {"labels": LABELS, "predicted": LABELS[:2]}]
    kinds += [{"labels": LABELS, "predicted": LABELS * 10**6}, {"labels": LABELS, "predicted": LABELS - 5}]
    for trial, arrays in zip(trials, kinds, strict=True):
        keep(ledger, trial, {"predictions.npz": npz(**arrays)})
    found = read_confusions(frame(dict.fromkeys(trials, 0.5)), ledger)
    assert (found.counts, found.unread) == ({}, 4)


@pytest.mark.parametrize("count", [3, 10, 12, 100])
def test_matrices_have_numbers_for_few_classes_and_colour_alone_for_many(count: int) -> None:
    counts = np.eye(count, dtype=np.int64) * 299
    counts[0, 1:3] = [100, 1]
    counts[count - 1] = 0
    shares = row_shares(counts)
    figure = confusions.draw({"ce": shares, "siamese-0": shares, "siamese-0.1": shares}, ANIMALS)
    first = next(axes for axes in figure.axes if axes.get_title() == "CE")
    shown = [text.get_text() for text in first.texts]
    if count > confusions.NUMBERED:
        assert shown == []
    else:
        assert shown == ["75", "25", "<1", *["100"] * (count - 2), *["–"] * count]
    names = [text.get_text() for text in first.get_yticklabels()]
    assert names[:4] == (["0", "10", "20", "30"] if count == 100 else [*ANIMALS, "3"][:count])
    figure.draw_without_rendering()  # a warning, hence an error, where there is no room


# Names and colours of classes


def named(ledger: Kept, *names: bytes) -> tuple[str, ...]:
    trial = config("ce", 0)
    keep(ledger, trial, {"views.npz": npz(classes=np.array(names))})
    return class_names(frame({trial: 0.5}), ledger)


def test_names_of_classes_are_text_and_nothing_else(ledger: Kept) -> None:
    odd = "<b>|x|</b>\u202e\x1b[31m `rm` $a$".encode()
    assert named(ledger, b"cat", odd, b" ", "猫".encode(), b"a" * 300, b"\xff") == (
        *("cat", "b x /b 31m rm a", "2", "猫", "a" * 23 + "…", "\ufffd"),
    )
    assert [class_title(c, ("cat", "猫")) for c in range(3)] == ["cat", "1 (猫)", "2"]
    assert [drawn_title(c, ("cat", "猫")) for c in range(3)] == ["cat", "1", "2"]


def test_without_names_there_are_numbers(ledger: Kept) -> None:
    assert class_names(frame({config("ce", 0): 0.5}), ledger) == ()
    assert class_names(frame({config("ce", 0): None}), ledger) == ()
    trial = config("ce", 1)
    keep(ledger, trial, {"views.npz": npz(classes=np.arange(3))})
    assert class_names(frame({trial: 0.5}), ledger) == ()


@pytest.fixture(scope="module")
def vision() -> ModuleType:
    """`benchmarks/class_colours.py`, which is no part of a package."""
    path = Path(__file__).resolve().parents[1] / "benchmarks/class_colours.py"
    spec = importlib.util.spec_from_file_location("class_colours", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        # Of table 1 of Sharma, Wu & Dalal (2005).
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (61, -5, 29), 22.8977),
        ((50, 2.5, 0), (56, -27, -3), 31.9030),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_differences_of_colours_are_the_published_ones(
    one: tuple[float, ...], other: tuple[float, ...], expected: float, vision: ModuleType
) -> None:
    found = vision.ciede2000(np.array([one], float), np.array([other], float))
    assert found == pytest.approx(expected, abs=5e-5)


def test_colours_as_seen_by_hand(vision: ModuleType) -> None:
    lab = vision.as_seen(np.array([[1.0, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5]]), "normal")
    np.testing.assert_allclose(lab, [[100, 0, 0], [0, 0, 0], [53.39, 0, 0]], atol=0.02)
    for reader in vision.DEFICIENT:  # greys stay grey
        np.testing.assert_allclose(vision.as_seen(np.full((1, 3), 0.5), reader), [[53.39, 0, 0]], atol=0.05)


def test_classes_stay_apart_for_every_reader_and_in_grey(vision: ModuleType) -> None:
    ours = vision.least_differences(classes.CLASS_COLOURS)
    assert len(set(classes.CLASS_COLOURS)) == 10
    assert min(ours[reader] for reader in vision.READERS) >= 17.0
    assert ours["grey"] >= 2.9
    for name in ("petroff10", "tab10"):
        theirs = vision.least_differences(mpl.color_sequences[name])
        assert all(ours[reader] > theirs[reader] for reader in (*vision.READERS, "grey"))


def test_forty_classes_have_forty_looks_and_neighbours_differ_in_both() -> None:
    looks = [classes.look(c) for c in range(40)]
    assert len(set(looks)) == 40
    assert looks[0] == classes.look(40)
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in itertools.pairwise(looks[:10]))


def test_numbers_stand_at_the_median_and_cover_no_other() -> None:
    panel = clusters(classes=10, each=9)
    figure = embeddings.draw([panel], [f"name {c}" for c in range(10)])
    figure.draw_without_rendering()
    above = figure.axes[0]
    boxes = [text.get_window_extent() for text in above.texts]
    assert [text.get_text() for text in above.texts] == [str(c) for c in range(10)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{c} name {c}" for c in range(10)]
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    many = embeddings.draw([clusters(classes=25, each=4)])
    assert not many.axes[0].texts


def test_boxes_are_moved_apart_no_further_than_needed() -> None:
    centres = np.array([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9], [0.99, 0.2]])
    sizes = np.full((4, 2), [0.1, 0.2])
    places = classes.apart(centres, sizes)
    np.testing.assert_allclose(places[2:], [[0.1, 0.9], [0.95, 0.2]], atol=2e-4)  # within the panel
    gap = np.abs(places[0] - places[1])
    assert (gap >= sizes[0]).any()
    assert gap.max() < 0.11
    packed = classes.apart(np.full((20, 2), 0.5), np.full((20, 2), 0.08))
    i, j = np.triu_indices(20, 1)
    assert (np.abs(packed[i] - packed[j]) >= 0.08 - 1e-9).any(1).all()


# Every seed


def texts(table: Table) -> dict[str, list[str]]:
    return {title: [entry.text for entry in entries] for title, entries in table.rows}


def test_every_trial_stands_in_the_table_of_seeds_with_its_run() -> None:
    values = {
        config("ce", 0): 0.5,
        config("ce", 1): 0.625,
        config("0", 0): float("nan"),
        config("0", 2): None,
    }
    trials = frame(values)
    failed = trials["key"] == config("ce", 1).key
    trials.loc[failed, "status"] = "FAILED"
    table = seed_table(trials, 0)
    assert table.columns == ("CE", "γ = 0")
    assert texts(table) == {
        "seed 0": ["50.0", "not finite"],
        "seed 1": ["failed", "–"],
        "seed 2": ["–", "missing"],
    }
    first, second, third = (row for _, row in table.rows)
    assert first[0].runs == (f"run-{config('ce', 0).key}",)
    assert second[0].runs == (f"run-{config('ce', 1).key}",)
    assert third[1].runs == ()
    page = Ui(address="http://x", experiment_id="1").link(second[0].runs, "test_acc")
    assert page.startswith(f"http://x/#/experiments/1/runs/{second[0].runs[0]}?")
    assert table.caption.endswith(" 1 missing, 1 failed of 4 trials.")


def test_many_arms_turn_the_table_of_seeds_round() -> None:
    arms = [f"0.{i}" for i in range(1, 10)]
    table = seed_table(frame({config(arm, seed): 0.5 for arm in arms for seed in range(2)}), 0)
    assert table.columns == ("seed 0", "seed 1")
    assert len(table.rows) == 9
