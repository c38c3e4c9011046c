"""What the plan says of a selection."""

import pytest

from search_spaces import Selection, select
from study.planning.plan import Plan, describe, make_plan


def planned(space: str, **selection: object) -> list[str]:
    chosen = select(space, **selection)  # type: ignore[arg-type]
    plan = Plan(selection=chosen, done=(), stale=(), failed=(), half_done=(), new=chosen.trials, records={})
    return describe(plan)


@pytest.mark.parametrize("arms", [1, 3, 4])
@pytest.mark.parametrize(
    ("seeds", "floor"), [(1, "1"), (3, "0.25"), (5, "0.062"), (6, "0.031"), (8, "0.0078")]
)
def test_smallest_p(arms: int, seeds: int, floor: str) -> None:
    """2 / 2ⁿ of joint sign flips, whatever the number of arms: at most 0.05 from six seeds on."""
    names = ["ce", "siamese-0", "siamese-0.0001", "siamese-0.001", "siamese-0.01"][: arms + 1]
    lines = planned("thesis", seeds=seeds, only=[f"arm={','.join(names)}"])
    expected = "1 seed allows" if seeds == 1 else f"{seeds} seeds allow"
    expected += f" an exact sign-flip p of {floor} at best, for any number of arms"
    expected += "; 6 seeds allow 0.05" if seeds < 6 else ""
    assert [line for line in lines if "sign-flip" in line] == [expected]


def test_no_p_where_nothing_is_compared() -> None:
    assert not any("sign-flip" in line for line in planned("quickstart", only=["arm=ce"]))
    assert not any("sign-flip" in line for line in planned("quickstart", only=["arm=siamese-0"]))


def test_smallest_p_is_that_of_the_family_with_fewest_seeds() -> None:
    """Three comparisons of eight seeds in one cell, one of five in another."""
    three = "arm=ce,siamese-0.0001,siamese-0.001,siamese-0.01"
    large = select("thesis", seeds=8, only=["augmentations=rrc", three]).trials
    small = select("thesis", seeds=5, only=["augmentations=hflip", "arm=ce,siamese-0.01"]).trials
    told = []
    for trials in (large, (*large, *small)):
        plan = make_plan(Selection(space="test", trials=trials, steps=()), {}, {})
        told += [line for line in describe(plan) if "sign-flip" in line]
    assert told == [
        "8 seeds allow an exact sign-flip p of 0.0078 at best, for any number of arms",
        "5 seeds allow an exact sign-flip p of 0.062 at best, for any number of arms; 6 seeds allow 0.05",
    ]


def test_a_control_that_is_another_cell_is_a_family_too() -> None:
    """`ce` for twice the epochs has three seeds where the others have six."""
    trials = select("controls", seeds=6, only=["augmentations=rrc"]).trials
    few = tuple(trial for trial in trials if trial.epochs == 1000 or trial.seed < 3)
    (told,) = [
        line
        for line in describe(make_plan(Selection(space="test", trials=few, steps=()), {}, {}))
        if "sign-flip" in line
    ]
    assert told.startswith("3 seeds allow an exact sign-flip p of 0.25 at best")


def test_smallest_p_above_sixteen_seeds_is_of_random_patterns() -> None:
    told = [line for line in planned("quickstart", seeds=20) if "sign-flip" in line]
    assert told == ["20 seeds allow a sign-flip p of 2e-05 at best, for any number of arms"]


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
