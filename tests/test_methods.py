"""Terms as values: what a network gets for one, and what training does with it."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.catalogue import NEEDS, TERMS
from trainables.methods import barlow_twins, byol, term_of
from trainables.methods.barlow_twins import barlow_twins_loss
from trainables.methods.term import Branches, Term
from trainables.models import build
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
