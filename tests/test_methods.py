"""Terms as values: what a network gets for one, and what training does with it."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import step as step_module
from trainables import train as train_module
from trainables.augment import policies
from trainables.catalogue import NEEDS, TERMS
from trainables.evaluator import Evaluator
from trainables.methods import barlow_twins, byol, term_of
from trainables.methods.barlow_twins import barlow_twins_loss
from trainables.methods.mixed_barlow_twins import mixed_barlow_twins_loss
from trainables.methods.term import Branches, Term
from trainables.models import Mixing, build
from trainables.storage.checkpoints import Checkpoints
from trainables.storage.filesystem import Storage
from trainables.train import train
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]
MOMENTUM = 0.75


def test_every_term_has_a_title_and_a_loss() -> None:
    columns = set()
    for name, about in TERMS.items():
        term = importlib.import_module(f"trainables.methods.{name}").TERM
        assert isinstance(term, Term)
        assert about.title
        assert set(about.needs) <= set(NEEDS)
        assert (term.target_momentum is not None) == ("target_z" in about.needs)
        columns.add(term.column)
    assert len(columns) == len(TERMS)


def test_a_trial_without_a_weight_has_no_term(tiny: Tiny) -> None:
    assert term_of(tiny(method="ce")) is term_of(tiny(gamma=0)) is None
    assert term_of(tiny()) is barlow_twins.TERM


def test_barlow_twins_takes_its_fields_from_the_config(tiny: Tiny) -> None:
    z1, z2 = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    branches = Branches(torch.zeros(6), (z1, z2), (z1, z2), (z1, z2))
    found = barlow_twins.TERM.loss(branches, tiny(lambd=0.3, center=False))
    assert found == barlow_twins_loss(z1, z2, lambd=0.3, center=False)
    with pytest.raises(ValueError, match=r"^z: got none; required by this term$"):
        barlow_twins.TERM.loss(branches._replace(z=None), tiny())


def test_backbone_and_classifier_start_alike_whatever_the_term_needs(
    tiny: Tiny,
) -> None:
    before = build(tiny(), 10)
    assert before.predictor is before.target is None
    net = build(tiny(term="byol"), 10)
    for name, weights in before.state_dict().items():
        assert torch.equal(net.state_dict()[name], weights), name
    for part in ("backbone", "projector"):
        for ours, theirs in zip(
            getattr(net, part).parameters(), getattr(net.target, part).parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
            assert not theirs.requires_grad
    # The predictor has a random stream of its own.
    assert not torch.equal(net.predictor[0].weight[:, :8], net.projector[0].weight[:, :8])


def test_the_target_follows_by_its_momentum(tiny: Tiny) -> None:
    net = build(tiny(term="byol"), 10)
    before = [weight.clone() for weight in net.target.parameters()]
    with torch.no_grad():
        for weight in (*net.backbone.parameters(), *net.projector.parameters()):
            weight.add_(1)
    net.move_target(MOMENTUM)
    for now, then in zip(net.target.parameters(), before, strict=True):
        torch.testing.assert_close(now, then + (1 - MOMENTUM))


@pytest.mark.parametrize(
    "fields",
    [
        {"term": "simsiam", "projector": "mlp_bn"},
        {"term": "byol"},
        {"term": "byol", "projector": "mlp_bn", "precision": "bf16"},
        {"term": "mixed_barlow_twins"},
        {"method": "unsupervised", "term": "vicreg", "val_fraction": 0.1},
        {"method": "fixmatch", "gamma": 1.0, "fixmatch_threshold": 0.1},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_trials_resume_after_every_epoch_bit_for_bit(
    tiny: Tiny, fields: dict[str, Any], data_dir: Path, tmp_path: Path
) -> None:
    config: TrialConfig = tiny(epochs=3, **fields)
    whole = train(config, data_dir)
    column = f"train/{config.method if config.method == 'fixmatch' else config.term}"
    assert all(row[column] != 0 for row in whole.history)

    class Killed(BaseException):
        """What ends a trial."""

    def killed_after(epoch: int) -> Callable[[dict[str, float]], None]:
        def report(row: dict[str, float]) -> None:
            if row["epoch"] == epoch:
                raise Killed

        return report

    storage = Storage(tmp_path)
    for epoch in (1, 2):
        states = Checkpoints(storage, config.key)
        with pytest.raises(Killed):
            train(config, data_dir, checkpoints=states, on_epoch=killed_after(epoch))
    resumed = train(config, data_dir, checkpoints=Checkpoints(storage, config.key))

    def untimed(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if "second" not in name and name != "timestamp"}

    assert [untimed(dict(row)) for row in resumed.history] == [untimed(dict(row)) for row in whole.history]
    assert untimed(dict(resumed.metrics)) == untimed(dict(whole.metrics))


def test_a_value_of_another_name_is_no_term() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        byol.TERM.column = "other"  # type: ignore[misc]


def test_without_labels_the_classifier_is_the_linear_probe(
    tiny: Tiny, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: TrialConfig = tiny(method="unsupervised", term="vicreg", epochs=2)
    initial = build(config, 10)
    trained: list[dict[str, torch.Tensor]] = []
    fit = train_module.fit_classifier

    def fitted(evaluator: Evaluator, *images: Any) -> None:
        trained.append({name: value.clone() for name, value in evaluator.net.state_dict().items()})
        fit(evaluator, *images)

    monkeypatch.setattr(train_module, "fit_classifier", fitted)
    result = train(config, data_dir)
    changed = {
        name for name, value in initial.state_dict().items() if not torch.equal(value, trained[0][name])
    }
    assert {name.partition(".")[0] for name in changed} == {"backbone", "projector"}
    # Its scores are computed in fp32 here, and by the probe itself in the same order: ties apart, the same.
    assert result.metrics["test_acc"] == pytest.approx(result.metrics["linear_probe_acc"], abs=0.005)
    assert result.metrics["test_acc"] > 0.2
    for row in result.history:
        assert not {"train/ce", "train/acc", "val/acc"} & row.keys()
        assert row["train/loss"] == pytest.approx(config.gamma * row["train/vicreg"])


def test_fixmatch_has_a_weak_and_a_strong_view(tiny: Tiny) -> None:
    fields = {"method": "fixmatch", "gamma": 1.0, "augmentations": ("rrc", "hflip", "grayscale", "solarize")}
    weak, strong = policies(tiny(**fields))
    assert weak.transforms == ("rrc", "hflip")
    assert strong.transforms == fields["augmentations"]
    assert (strong.p["grayscale"], strong.p["solarize"], strong.p["hflip"]) == (1.0, 1.0, 0.5)


def test_fixmatch_learns_labels_from_its_weak_view_alone(tiny: Tiny) -> None:
    config: TrialConfig = tiny(method="fixmatch", gamma=0.5, fixmatch_threshold=0.0)
    net = build(config, 10).train()
    views = list(torch.rand(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    targets = torch.tensor([0, 1, 2, -1, -1, -1])
    loss, (y1, y2) = step_module.forward(
        config, term_of(config), net, views=views, targets=targets, mixing=None
    )
    expected = torch.nn.functional.cross_entropy(y1[:3], targets[:3])
    pseudo = torch.nn.functional.cross_entropy(y2, y1.argmax(1))
    torch.testing.assert_close(loss.ce, expected)
    torch.testing.assert_close(loss.total, expected + 0.5 * pseudo)


def test_mixed_images_are_a_third_view_with_its_own_batch_statistics(tiny: Tiny) -> None:
    """In double precision: the network sees them as if in a batch by themselves."""
    config: TrialConfig = tiny(term="mixed_barlow_twins", projector="mlp_bn")
    net = build(config, 10).double().train()
    x1, x2 = torch.rand(2, 8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixing = Mixing.sample(8, torch.Generator().manual_seed(1))
    loss, _ = step_module.forward(
        config, term_of(config), net, views=[x1, x2], targets=torch.arange(8), mixing=mixing
    )
    mixed = mixing.alpha * x1 + (1 - mixing.alpha) * x2[mixing.order]
    z1, z2, zm = (net.embedding(net.features(x)) for x in (x1, x2, mixed))
    expected = mixed_barlow_twins_loss(
        z1, z2, zm, mixing.alpha, mixing.order, lambd=config.lambd, weight=config.mix_weight
    )
    torch.testing.assert_close(loss.term, expected)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_leaves_what_is_evaluated_as_the_control_has_it(tiny: Tiny, term: str) -> None:
    """Whatever a term looks at, the statistics that images are evaluated with are those of the two views."""
    views = list(torch.rand(2, 25, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    nets = []
    for fields in ({"gamma": 0.0}, {"gamma": 1e-12, "term": term, "projector": "mlp_bn", "embedding_dim": 8}):
        config: TrialConfig = tiny(**fields)
        net = build(config, 10).train()
        mixing = step_module.mixing(config, 25, 1, 0)
        step_module.forward(
            config, term_of(config), net, views=views, targets=torch.arange(25) % 10, mixing=mixing
        )
        nets.append(net)
    control, net = nets
    for name, value in control.backbone.state_dict().items():
        torch.testing.assert_close(net.backbone.state_dict()[name], value, msg=name)
    if "mixed" in TERMS[term].needs:
        assert all(norm.num_batches_tracked == 2 for norm in net.projector if hasattr(norm, "running_mean"))


def test_batch_norm_meets_both_views_of_fixmatch_together(tiny: Tiny) -> None:
    config: TrialConfig = tiny(method="fixmatch", gamma=1.0)
    net, expected = build(config, 10).train(), build(config, 10).train()
    views = list(torch.rand(2, 25, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    step_module.forward(config, term_of(config), net, views=views, targets=torch.arange(25) % 10, mixing=None)
    expected.features(torch.cat(views))
    for name, value in expected.backbone.state_dict().items():
        torch.testing.assert_close(net.backbone.state_dict()[name], value, msg=name)
