"""What the plan says of a selection."""

import pytest

from search_spaces import Selection, select
from study.planning.plan import Plan, describe, make_plan


def planned(space: str, **selection: object) -> list[str]:
    chosen = select(space, **selection)  # type: ignore[arg-type]
    plan = Plan(selection=chosen, done=(), stale=(), failed=(), half_done=(), new=chosen.trials, records={})
    return describe(plan)


@pytest.mark.parametrize(
    ("arms", "seeds", "floor", "enough"),
    [  # m * 2 / 2**n <= 0.05 needs n = 6, 7, 7, 8 for m = 1 ... 4
        (1, 1, "1", 6),
        (1, 5, "0.062", 6),
        (1, 6, "0.031", None),
        (2, 6, "0.062", 7),
        (3, 3, "0.75", 7),
        (3, 7, "0.047", None),
        (4, 5, "0.25", 8),
        (4, 8, "0.031", None),
    ],
)
def test_smallest_p(arms: int, seeds: int, floor: str, enough: int | None) -> None:
    names = ["ce", "siamese-0", "siamese-0.0001", "siamese-0.001", "siamese-0.01"][: arms + 1]
    lines = planned("thesis", seeds=seeds, only=[f"arm={','.join(names)}"])
    expected = "1 seed allows" if seeds == 1 else f"{seeds} seeds allow"
    expected += f" an exact sign-flip p of {floor} at best"
    expected += f" after Holm over {arms} comparisons" if arms > 1 else ""
    expected += f"; {enough} seeds allow 0.05" if enough else ""
    assert [line for line in lines if "sign-flip" in line] == [expected]


def test_no_p_where_nothing_is_compared() -> None:
    assert not any("sign-flip" in line for line in planned("quickstart", only=["arm=ce"]))
    assert not any("sign-flip" in line for line in planned("quickstart", only=["arm=siamese-0"]))


def test_smallest_p_counts_the_families_of_the_report() -> None:
    """Without `ce` two γ > 0 against γ = 0; in `controls` two arms of two views against each `ce`."""
    told = [line for line in planned("quickstart", only=["method=siamese"]) if "sign-flip" in line]
    assert told == [
        "3 seeds allow an exact sign-flip p of 0.5 at best after Holm over 2 comparisons; 7 seeds allow 0.05"
    ]
    told = [line for line in planned("controls", only=["augmentations=rrc"]) if "sign-flip" in line]
    assert told == ["5 seeds allow an exact sign-flip p of 0.062 at best; 6 seeds allow 0.05"]
    told = [line for line in planned("controls", only=["augmentations=grayscale"]) if "sign-flip" in line]
    assert told == [
        "5 seeds allow an exact sign-flip p of 0.12 at best after Holm over 2 comparisons; 7 seeds allow 0.05"
    ]


def test_smallest_p_is_of_one_family_and_not_of_two() -> None:
    """Three comparisons of eight seeds in one cell, one of five in another: the larger family's own seeds."""
    three = "arm=ce,siamese-0.0001,siamese-0.001,siamese-0.01"
    large = select("thesis", seeds=8, only=["augmentations=rrc", three]).trials
    small = select("thesis", seeds=5, only=["augmentations=hflip", "arm=ce,siamese-0.01"]).trials
    selection = Selection(space="test", trials=(*large, *small), steps=())
    (told,) = [line for line in describe(make_plan(selection, {}, {})) if "sign-flip" in line]
    assert told == "8 seeds allow an exact sign-flip p of 0.023 at best after Holm over 3 comparisons"


def test_smallest_p_above_sixteen_seeds_is_of_random_patterns() -> None:
    told = [line for line in planned("quickstart", seeds=20) if "sign-flip" in line]
    assert told == ["20 seeds allow a sign-flip p of 6e-05 at best after Holm over 3 comparisons"]


def test_cells_that_differ_in_augmentations_alone_are_one_line() -> None:
    lines = planned("ablations")
    assert lines[:2] == ["space ablations: 1600 trials", "64 cells:"]
    assert [line.partition(":")[0] for line in lines if line.startswith("  ")] == [
        f"  {dataset}/{backbone}/{{16 subsets}}"
        for dataset in ("cifar10", "stl10")
        for backbone in ("resnet18", "vgg16")
    ]
    few = planned("ablations", only=["dataset=stl10", "backbone=vgg16", "augmentations=rrc,none"], seeds=3)
    arms = "ce, siamese-0, siamese-0.0001, siamese-0.001, siamese-0.01"
    settings = f"{arms} x seeds 0-2, 1000 epochs, unlabeled_size 5000"
    assert few[-3] == f"  stl10/vgg16/{{none, rrc}}: {settings}: each 15 planned, 15 to run"


def test_each_cell_has_its_counts() -> None:
    chosen = select("ablations", only=["dataset=stl10", "backbone=vgg16", "arm=ce"], seeds=2)
    of = {str(trial.augmentations): trial for trial in chosen.trials if trial.seed == 0}
    first, second, third, fourth = list(of.values())[:4]
    plan = Plan(
        selection=chosen,
        done=(first,),
        stale=(fourth,),
        failed=(second,),
        half_done=(third,),
        new=tuple(t for t in chosen.trials if t not in {first, second, third, fourth}),
        records={},
    )
    counts = [line.rpartition(": ")[2] for line in describe(plan) if line.startswith("  ")]
    assert counts == [
        "2 planned, 1 done, 1 to run",
        "2 planned, 1 failed, 1 to run",
        "2 planned, 1 half-done, 2 to run",
        "2 planned, 1 stale, 1 to run",
        "each 2 planned, 2 to run",
    ]
    again = [line.rpartition(": ")[2] for line in describe(plan, retry_failed=True) if line.startswith("  ")]
    assert again[1] == "2 planned, 1 failed, 2 to run"


def test_a_line_says_what_all_arms_share_and_what_tells_them_apart() -> None:
    thesis = "\n".join(planned("thesis"))
    assert thesis.count("views asymmetric") == 4
    assert thesis.count("unlabeled_size 5000") == 2
    controls = "\n".join(planned("controls"))
    assert "siamese-0 views=asymmetric, siamese-0 views=symmetric" in controls
    assert "ce x seeds 0-4, 2000 epochs" in controls
    gaps = planned("quickstart", seeds=6, only=["seed=0,2,3,5"])
    assert any("x seeds 0, 2-3, 5, 60 epochs" in line for line in gaps)
