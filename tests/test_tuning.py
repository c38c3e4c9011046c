"""What a report says of values that were tried for each arm."""

from typing import Any

from synthetic import config, frame

from analysis.sections.caveats import fixed_section
from analysis.sections.tuning import tuning_section
from trainables.trial import TrialConfig

TUNED: dict[str, Any] = {"tuned": ("lr",)}


def tried(arm: str, by_step: dict[float, list[float]], **fields: Any) -> dict[TrialConfig, Any]:
    """Trials with a validation accuracy for each seed, and a test accuracy that nobody should look at."""
    return {
        config(arm, seed, lr=lr, **TUNED, **fields): {"val_acc": value, "test_acc": 0.99}
        for lr, values in by_step.items()
        for seed, value in enumerate(values)
    }


def test_each_arm_has_a_row_with_what_was_tried_and_the_best_on_validation_images() -> None:
    trials = frame(
        tried("ce", {0.1: [0.5], 0.03: [0.6], 0.01: [0.4]})
        | tried("0", {0.1: [0.7, 0.6, 0.65], 0.03: [0.6, 0.6, 0.6]})
        | tried("0.01", {0.03: [0.5]})
    )
    (table,) = tuning_section(trials).tables
    assert table.columns == ("lr 0.01", "lr 0.03", "lr 0.1")
    shown = {title: [f"*{e.text}*" if e.bold else e.text for e in entries] for title, entries in table.rows}
    assert shown == {
        "CE": ["40.0", "*60.0*", "50.0"],
        "γ = 0": ["–", "60.0 ± 0.0", "*65.0 ± 5.0*"],
        "γ = 10⁻²": ["–", "*50.0*", "–"],
    }
    assert not any("99" in entry.text for _, entries in table.rows for entry in entries)
    assert table.caption.startswith(
        "Accuracy on validation images after the last epoch, in %, of two seeds both, of more the mean ±"
        " standard deviation. Bold: the best of each row, of what most seeds finished with. –: not tried,"
    )
    (more,) = tuning_section(frame(tried("ce", {0.1: [0.5]}) | tried("0", {0.1: [0.7], 1.0: [0.8]}))).tables
    assert [title for title, _ in more.rows] == ["CE", "γ = 0"]


def test_a_try_that_failed_is_told_and_one_lucky_seed_is_not_the_best() -> None:
    trials = tried("ce", {0.1: [0.5, 0.6], 0.03: [0.7]}) | tried("0", {0.03: [0.6]})
    diverged = [config("0", 0, lr=0.1, **TUNED), config("0", 1, lr=0.03, **TUNED)]
    rows = frame(trials | {trial: {} for trial in diverged})
    rows.loc[rows["key"].isin([trial.key for trial in diverged]), "status"] = "FAILED"
    (table,) = tuning_section(rows).tables
    shown = {title: [f"*{e.text}*" if e.bold else e.text for e in entries] for title, entries in table.rows}
    assert shown == {"CE": ["70.0", "*50.0 / 60.0*"], "γ = 0": ["*60.0, 1 failed*", "failed"]}
    assert "failed: ended with an error" in table.caption


def test_one_value_for_each_arm_is_held_fixed() -> None:
    trials = tried("ce", {0.1: [0.5]}) | tried("0", {0.03: [0.6]}) | tried("0.01", {0.03: [0.6]})
    trials |= tried("ce", {0.2: [0.5]}, epochs=77) | tried("0", {0.03: [0.6]}, epochs=77)
    assert tuning_section(frame(trials)).is_empty
    section = fixed_section(list(trials), "Every trial")
    assert "lr" not in dict(section.facts)
    (tuned,) = (part for part in section.parts if part.paragraphs[0].startswith("These were chosen"))
    cell = "CE in digits · convnet · rrc+hflip · epochs"
    assert tuned.facts == (
        (
            "lr",
            f"0.1: {cell} 1000; 0.03: γ = 0, γ = 10⁻²; 0.2: {cell} 77",
        ),
    )
