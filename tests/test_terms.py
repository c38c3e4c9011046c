"""The losses of the consistency terms against loops over images, written from the formulas, and lightly.

Every loss and gradient is compared three times: in fp64, in fp32, and with bf16 inputs under autocast, where
they are to be those of the same numbers in fp32.
"""

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss, VICRegLoss, WMSELoss
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor

from trainables.methods import wmse
from trainables.methods.barlow_twins import EPS as BARLOW_TWINS_EPS
from trainables.methods.barlow_twins import barlow_twins_loss
from trainables.methods.byol import byol_loss, ema_momentum
from trainables.methods.fixmatch import fixmatch_loss
from trainables.methods.kl import kl_loss
from trainables.methods.mixed_barlow_twins import mixed_barlow_twins_loss
from trainables.methods.mse import mse_loss
from trainables.methods.ntxent import ntxent_loss
from trainables.methods.simsiam import simsiam_loss
from trainables.methods.supcon import supcon_loss
from trainables.methods.vicreg import vicreg_loss
from trainables.methods.wmse import wmse_loss

Loss = Callable[..., Tensor]


def views(count: int, batch: int, m: int) -> list[Tensor]:
    """(B, M) each, fp64: they agree in part, with means other than 0 and deviations other than 1."""
    g = torch.Generator().manual_seed(100 * batch + m)
    common, *noises = torch.randn(1 + count, batch, m, generator=g, dtype=torch.float64)
    return [1.5 * (common + 0.5 * noise) + 0.5 for noise in noises]


# The formulas, one image and one dimension after the other. PyTorch only differentiates them.


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()


def squared_distances(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean over images and dimensions."""
    batch, m = z1.shape
    return sum((z1[b, i] - z2[b, i]) ** 2 for b in range(batch) for i in range(m)) / (batch * m)


def covariances(z: Tensor) -> list[list[Tensor]]:
    batch, m = z.shape
    means = [sum(z[b, i] for b in range(batch)) / batch for i in range(m)]

    def covariance(i: int, j: int) -> Tensor:
        return sum((z[b, i] - means[i]) * (z[b, j] - means[j]) for b in range(batch)) / (batch - 1)

    return [[covariance(i, j) for j in range(m)] for i in range(m)]


def vicreg_by_loops(
    z1: Tensor, z2: Tensor, *, invariance: float = 25, variance: float = 25, covariance: float = 1
) -> Tensor:
    m = z1.shape[1]
    loss = invariance * squared_distances(z1, z2)
    for c in (covariances(z1), covariances(z2)):
        for i in range(m):
            loss = loss + variance * torch.relu(1 - (c[i][i] + 1e-4).sqrt()) / (2 * m)
            for j in range(m):
                if j != i:
                    loss = loss + covariance * c[i][j] ** 2 / m
    return loss


def supcon_by_loops(z1: Tensor, z2: Tensor, targets: Tensor, *, temperature: float = 0.1) -> Tensor:
    batch, classes = len(z1), targets.tolist()
    both = [*z1, *z2]
    loss = torch.zeros((), dtype=z1.dtype)
    for v, view in enumerate(both):
        others = [a for a in range(2 * batch) if a != v]
        positives = [
            p for p in others if p % batch == v % batch or classes[p % batch] == classes[v % batch] != -1
        ]
        total = sum((cosine(view, both[a]) / temperature).exp() for a in others)
        for p in positives:
            loss = loss - ((cosine(view, both[p]) / temperature).exp() / total).log() / len(positives)
    return loss / (2 * batch)


def ntxent_by_loops(z1: Tensor, z2: Tensor, *, temperature: float = 0.5) -> Tensor:
    batch = len(z1)
    both = [*z1, *z2]
    loss = torch.zeros((), dtype=z1.dtype)
    for v, view in enumerate(both):
        total = sum((cosine(view, other) / temperature).exp() for a, other in enumerate(both) if a != v)
        loss = loss - ((cosine(view, both[(v + batch) % (2 * batch)]) / temperature).exp() / total).log()
    return loss / (2 * batch)


def simsiam_by_loops(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    z1, z2 = z1.detach(), z2.detach()
    return -sum((cosine(p1[b], z2[b]) + cosine(p2[b], z1[b])) / 2 for b in range(len(p1))) / len(p1)


def byol_by_loops(p1: Tensor, p2: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    def distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a / (a * a).sum().sqrt() - b / (b * b).sum().sqrt()) ** 2).sum()

    t1, t2 = t1.detach(), t2.detach()
    return sum(distance(p1[b], t2[b]) + distance(p2[b], t1[b]) for b in range(len(p1))) / len(p1)


def whitened_by_loops(z: Tensor) -> list[Tensor]:
    """Cholesky's factor of the covariance row by row, then forward substitution for each image."""
    batch, m = z.shape
    means = [sum(z[b, i] for b in range(batch)) / batch for i in range(m)]
    cov = covariances(z)
    factor: list[list[Tensor]] = []
    for i in range(m):
        row: list[Tensor] = []
        for j in range(i):
            rest = (1 - wmse.EPS) * cov[i][j] - sum(row[k] * factor[j][k] for k in range(j))
            row.append(rest / factor[j][j])
        factor.append([*row, ((1 - wmse.EPS) * cov[i][i] + wmse.EPS - sum(x * x for x in row)).sqrt()])
    images = []
    for b in range(batch):
        w: list[Tensor] = []
        for i in range(m):
            w.append((z[b, i] - means[i] - sum(factor[i][k] * w[k] for k in range(i))) / factor[i][i])
        images.append(torch.stack(w))
    return images


def wmse_by_loops(z1: Tensor, z2: Tensor, *, sub_batch: int | None = None) -> Tensor:
    batch = len(z1)
    loss = torch.zeros((), dtype=z1.dtype)
    for start in range(0, batch, sub_batch or batch):
        some = slice(start, start + (sub_batch or batch))
        for w1, w2 in zip(whitened_by_loops(z1[some]), whitened_by_loops(z2[some]), strict=True):
            loss = loss + 2 - 2 * cosine(w1, w2)
    return loss / batch


def probabilities(logits: Tensor) -> list[Tensor]:
    total = sum(logit.exp() for logit in logits)
    return [logit.exp() / total for logit in logits]


def kl_by_loops(logits1: Tensor, logits2: Tensor) -> Tensor:
    loss = torch.zeros((), dtype=logits1.dtype)
    for b in range(len(logits1)):
        for p, q in zip(probabilities(logits1[b]), probabilities(logits2[b]), strict=True):
            loss = loss + (p * (p / q).log() + q * (q / p).log()) / 2
    return loss / len(logits1)


def fixmatch_by_loops(weak: Tensor, strong: Tensor, *, threshold: float = 0.95) -> Tensor:
    loss = (0 * strong).sum()
    for b in range(len(weak)):
        p = [float(share) for share in probabilities(weak[b].detach())]
        if max(p) >= threshold:
            loss = loss - probabilities(strong[b])[p.index(max(p))].log()
    return loss / len(weak)


def correlations(z1: Tensor, z2: Tensor, *, center: bool) -> list[list[Tensor]]:
    batch, m = z1.shape

    def columns(z: Tensor) -> list[list[Tensor]]:
        result = []
        for i in range(m):
            mean = sum(z[b, i] for b in range(batch)) / batch if center else 0
            square = sum((z[b, i] - mean) ** 2 for b in range(batch))
            length = (square + batch * BARLOW_TWINS_EPS).sqrt() if center else square.sqrt()
            result.append([(z[b, i] - mean) / length for b in range(batch)])
        return result

    columns1, columns2 = columns(z1), columns(z2)
    return [[sum(x * y for x, y in zip(a, b, strict=True)) for b in columns2] for a in columns1]


def mixed_by_loops(
    z1: Tensor,
    z2: Tensor,
    mixed: Tensor,
    alpha: float,
    order: Tensor,
    *,
    lambd: float,
    weight: float,
    center: bool,
) -> Tensor:
    m = z1.shape[1]
    c = correlations(z1, z2, center=center)
    loss = sum((1 - c[i][i]) ** 2 for i in range(m))
    loss = loss + lambd * sum(c[i][j] ** 2 for i in range(m) for j in range(m) if i != j)
    shuffled = torch.stack([z2[b] for b in order.tolist()])
    for z in (z1, z2):
        found = correlations(mixed, z, center=center)
        of_first, of_second = correlations(z1, z, center=center), correlations(shuffled, z, center=center)
        for i in range(m):
            for j in range(m):
                expected = alpha * of_first[i][j] + (1 - alpha) * of_second[i][j]
                loss = loss + weight * lambd * (found[i][j] - expected) ** 2
    return loss


class Case(NamedTuple):
    """A loss and its formula at one shape, with `inputs` that require gradients, in fp64."""

    name: str
    loss: Loss
    formula: Loss
    inputs: list[Tensor]

    def __repr__(self) -> str:
        return f"{self.name} {tuple(self.inputs[0].shape)}"


def cases() -> Iterator[Case]:
    """Every term at four shapes or more; fields that are not the defaults at some of them."""
    for batch, m in [(2, 1), (2, 3), (5, 4), (7, 2)]:
        pair, three, four = (views(count, batch, m) for count in (2, 3, 4))
        yield Case("mse", mse_loss, squared_distances, pair)
        yield Case("vicreg", vicreg_loss, vicreg_by_loops, pair)
        yield Case("ntxent", ntxent_loss, ntxent_by_loops, pair)
        yield Case("simsiam", simsiam_loss, simsiam_by_loops, four)
        yield Case("byol", byol_loss, byol_by_loops, four)
        weights = {"invariance": 3.0, "variance": 0.7, "covariance": 2.0}
        small = [0.3 * z for z in pair]  # deviations below 1 as well as above
        yield Case(
            "vicreg weights", partial(vicreg_loss, **weights), partial(vicreg_by_loops, **weights), small
        )
        warm = {"temperature": 0.2}
        yield Case("ntxent 0.2", partial(ntxent_loss, **warm), partial(ntxent_by_loops, **warm), pair)
        targets = torch.tensor([1, 0, 1, -1, 1, -1, 0])[:batch]
        for fields in ({}, {"temperature": 0.7}):
            ours, theirs = partial(supcon_loss, targets=targets), partial(supcon_by_loops, targets=targets)
            yield Case(f"supcon {fields}", partial(ours, **fields), partial(theirs, **fields), pair)
        order = torch.tensor([4, 0, 6, 1, 2, 5, 3])
        fields = {"alpha": 0.3, "order": order[order < batch], "lambd": 0.2, "weight": 3.0}
        for center in (True, False):
            ours, theirs = (
                partial(f, **fields, center=center) for f in (mixed_barlow_twins_loss, mixed_by_loops)
            )
            yield Case(f"mixed_barlow_twins center={center}", ours, theirs, three)
    for batch, m, sub_batch in [(2, 1, None), (5, 3, None), (9, 2, 3), (8, 3, 4), (7, 4, 7)]:
        ours, theirs = (partial(f, sub_batch=sub_batch) for f in (wmse_loss, wmse_by_loops))
        yield Case(f"wmse {sub_batch}", ours, theirs, views(2, batch, m))
    for batch, k in [(1, 3), (2, 2), (5, 4), (7, 3)]:
        yield Case("kl", kl_loss, kl_by_loops, views(2, batch, k))
        sharp = [4 * z for z in views(2, batch, k)]
        yield Case("fixmatch", fixmatch_loss, fixmatch_by_loops, sharp)
        sure = {"threshold": 0.8}
        yield Case("fixmatch 0.8", partial(fixmatch_loss, **sure), partial(fixmatch_by_loops, **sure), sharp)


CASES = list(cases())


def with_gradients(loss: Loss, inputs: list[Tensor], *, autocast: bool = False) -> list[Tensor]:
    """The loss, then its gradient by each input; zeros where it does not depend on one."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(*leaves)
    # As in training, the backward pass is outside of autocast.
    gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return [value.detach(), *gradients]


def assert_agree(ours: Loss, theirs: Loss, inputs: list[Tensor]) -> None:
    """In fp64, in fp32, and of bf16 under autocast; `theirs` is computed once, in fp64."""
    half = [x.bfloat16() for x in inputs]  # so that all types hold the same numbers
    expected = with_gradients(theirs, [x.double() for x in half])

    double = with_gradients(ours, [x.double() for x in half])
    torch.testing.assert_close(double, expected, rtol=1e-9, atol=1e-9)  # of the same type

    single = with_gradients(ours, [x.float() for x in half])
    for found, exact in zip(single, expected, strict=True):
        tolerance = 1e-5 * max(1, exact.abs().max().item())
        torch.testing.assert_close(found, exact.float(), rtol=1e-4, atol=tolerance)

    value, *gradients = with_gradients(ours, half, autocast=True)
    assert value.dtype == torch.float32
    assert torch.equal(value, single[0])
    for gradient, in_fp32 in zip(gradients, single[1:], strict=True):
        assert torch.equal(gradient, in_fp32.bfloat16())


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_loss_and_gradient_are_those_of_the_formula(case: Case) -> None:
    assert_agree(case.loss, case.formula, case.inputs)


def test_the_cases_meet_every_branch_of_the_formulas() -> None:
    """Deviations below and above 1, images with and without a confident prediction."""
    deviations = torch.cat(
        [z.std(0) for case in CASES if case.name.startswith("vicreg") for z in case.inputs]
    )
    assert deviations.min() < 1 < deviations.max()
    for name, threshold in (("fixmatch", 0.95), ("fixmatch 0.8", 0.8)):
        weak = torch.cat([case.inputs[0].softmax(1).amax(1) for case in CASES if case.name == name])
        assert weak.min() < threshold < weak.max()


# lightly's losses; those of terms with a stop-gradient get their targets detached, as its users do.
NEGATIVE_COSINE = NegativeCosineSimilarity()


def lightlys_simsiam(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    return (NEGATIVE_COSINE(p1, z2.detach()) + NEGATIVE_COSINE(p2, z1.detach())) / 2


def lightlys_byol(p1: Tensor, p2: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    return (2 + 2 * NEGATIVE_COSINE(p1, t2.detach())) + (2 + 2 * NEGATIVE_COSINE(p2, t1.detach()))


@pytest.mark.parametrize(("batch", "m"), [(2, 1), (3, 5), (16, 8), (33, 17)])
@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [
        (vicreg_loss, VICRegLoss(), 2),
        (
            partial(vicreg_loss, invariance=2, variance=3, covariance=5),
            VICRegLoss(lambda_param=2, mu_param=3, nu_param=5),
            2,
        ),
        (ntxent_loss, NTXentLoss(), 2),
        (partial(ntxent_loss, temperature=0.1), NTXentLoss(temperature=0.1), 2),
        (simsiam_loss, lightlys_simsiam, 4),
        (byol_loss, lightlys_byol, 4),
    ],
    ids=["vicreg", "vicreg weights", "ntxent", "ntxent 0.1", "simsiam", "byol"],
)
def test_loss_and_gradient_are_lightlys(ours: Loss, theirs: Loss, count: int, batch: int, m: int) -> None:
    assert_agree(ours, theirs, views(count, batch, m))


@pytest.mark.parametrize(
    ("batch", "m", "sub_batch"), [(4, 1, None), (9, 4, None), (32, 8, 16), (33, 5, 11), (64, 16, 32)]
)
@pytest.mark.parametrize("eps", [wmse.EPS, 0])
def test_whitening_is_lightlys(
    eps: float, batch: int, m: int, sub_batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # lightly draws its sub-batches, ours are consecutive.
    monkeypatch.setattr(torch, "randperm", torch.arange)
    theirs = WMSELoss(embedding_dim=m, eps=eps, w_size=sub_batch or batch, track_running_stats=False)
    monkeypatch.setattr(wmse, "EPS", eps)

    def lightlys(z1: Tensor, z2: Tensor) -> Tensor:
        return theirs(torch.cat([z1, z2]))

    assert_agree(partial(wmse_loss, sub_batch=sub_batch), lightlys, views(2, batch, m))


@pytest.mark.parametrize("base", [0.0, 0.9, 0.99, 0.996, 1.0])
def test_the_momentum_follows_lightlys_schedule(base: float) -> None:
    steps = 7
    for step in range(steps):
        expected = cosine_schedule(step, steps, base, 1.0)
        assert ema_momentum(base, step / (steps - 1)) == pytest.approx(expected, rel=1e-12)
    assert ema_momentum(base, 0) == pytest.approx(base, abs=1e-15)
    assert ema_momentum(base, 1) == 1


def test_losses_that_one_can_see() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    apart = torch.eye(4, dtype=torch.float64)
    classes = torch.tensor([0, 0, 1, 1])
    assert mse_loss(same, same - 2) == 4
    assert vicreg_loss(same, same).item() == pytest.approx(25 * 0.99)  # 1 - sqrt(eps), no covariance
    assert ntxent_loss(same, same).item() == pytest.approx(math.log(7))
    assert supcon_loss(same, same, classes).item() == pytest.approx(math.log(7))
    # Of the 7 others one is alike: e^2 of e^2 + 6.
    assert ntxent_loss(apart, apart).item() == pytest.approx(math.log(1 + 6 * math.exp(-2)))
    # Each view has three positives, one at cosine 1 and two at 0.
    expected = math.log(math.exp(2) + 6) - 2 / 3
    assert supcon_loss(apart, apart, classes, temperature=0.5).item() == pytest.approx(expected)
    assert simsiam_loss(same, same, 2 * same, -same).item() == pytest.approx(0)
    assert simsiam_loss(same, same, -same, -same).item() == pytest.approx(1)
    assert byol_loss(same, same, 2 * same, 3 * same).item() == pytest.approx(0, abs=1e-12)
    assert byol_loss(same, same, -same, -same).item() == pytest.approx(8)
    half, quarter = (torch.tensor([[math.log(p), math.log(1 - p)]]) for p in (0.5, 0.25))
    both_ways = 0.25 * math.log(0.75 / 0.25)  # (0.5 - 0.25) (log 0.5/0.25 - log 0.5/0.75)
    assert kl_loss(half, quarter).item() == pytest.approx(both_ways / 2, rel=1e-5)


def test_images_without_a_label_have_their_own_view_as_positive() -> None:
    z1, z2 = views(2, 6, 4)
    unlabelled = torch.full((6,), -1)
    expected = ntxent_loss(z1, z2, temperature=0.1)
    assert supcon_loss(z1, z2, unlabelled).item() == pytest.approx(expected.item(), rel=1e-12)
    # One class each is the same; and an image of no class stays a negative of the others.
    assert supcon_loss(z1, z2, torch.arange(6)).item() == pytest.approx(expected.item(), rel=1e-12)
    # They are negatives of the others: the loss moves their embeddings, too.
    some = torch.tensor([0, 0, 0, 0, -1, -1])
    (gradient,) = torch.autograd.grad(supcon_loss(z1.requires_grad_(), z2, some), z1)
    assert gradient[4:].abs().min() > 0


def test_fixmatch_trains_the_strong_view_where_the_weak_one_is_confident() -> None:
    weak = torch.tensor([[3.0, 0], [0, 1], [0, 3]], requires_grad=True)  # 0.953, 0.731, 0.953
    strong = torch.tensor([[0.0, 0], [5, 0], [0, 2]], requires_grad=True)
    loss = fixmatch_loss(weak, strong)
    loss.backward()
    expected = (math.log(2) + math.log(1 + math.exp(-2))) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert weak.grad is None
    assert torch.equal(strong.grad[1], torch.zeros(2))
    assert strong.grad[[0, 2]].abs().min() > 0
    assert fixmatch_loss(weak, strong, threshold=0.96) == 0
    even = torch.zeros(1, 2)
    assert fixmatch_loss(even, even, threshold=0.5).item() == pytest.approx(math.log(2))  # >=, not >


@pytest.mark.parametrize("center", [True, False])
def test_mixed_embeddings_as_they_should_be_leave_barlow_twins(center: bool) -> None:
    z1, z2 = views(2, 6, 3)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    expected = barlow_twins_loss(z1, z2, lambd=0.2, center=center).item()
    for mixed, alpha in ((z1, 1.0), (z2[order], 0.0)):
        loss = mixed_barlow_twins_loss(z1, z2, mixed, alpha, order, lambd=0.2, weight=9, center=center)
        assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss = mixed_barlow_twins_loss(z1, z2, z2, 0.0, order, lambd=0.2, weight=9, center=center)
    assert loss.item() > expected + 0.1


def test_mixed_barlow_twins_has_the_defaults_of_its_authors() -> None:
    three, order = views(3, 5, 4), torch.tensor([1, 2, 3, 4, 0])
    loss = mixed_barlow_twins_loss(*three, 0.4, order)
    expected = mixed_by_loops(*three, 0.4, order, lambd=0.0078125, weight=4, center=True)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_views_may_change_places() -> None:
    z1, z2, p1, p2 = views(4, 8, 3)
    targets = torch.tensor([0, 1, 2, 0, 1, -1, -1, 0])
    labelled = partial(supcon_loss, targets=targets)
    for loss in (mse_loss, vicreg_loss, ntxent_loss, labelled, kl_loss, wmse_loss):
        assert loss(z1, z2).item() == pytest.approx(loss(z2, z1).item(), rel=1e-12)
    for loss in (simsiam_loss, byol_loss):
        assert loss(p1, p2, z1, z2).item() == pytest.approx(loss(p2, p1, z2, z1).item(), rel=1e-12)


@pytest.mark.parametrize("loss", [simsiam_loss, byol_loss])
def test_no_gradient_flows_into_targets(loss: Loss) -> None:
    inputs = [z.requires_grad_() for z in views(4, 4, 3)]
    loss(*inputs).backward()
    assert [x.grad is None for x in inputs] == [False, False, True, True]


def test_each_sub_batch_is_whitened() -> None:
    z = 3 * views(1, 12, 3)[0] + 5
    for part in wmse._whitened(z, 6).split(6):
        torch.testing.assert_close(part.T.cov(), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-4)
        torch.testing.assert_close(part.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)


def degenerate() -> dict[str, list[Tensor]]:
    """Embeddings or logits of 8 images in 3 dimensions, fp32, four of each kind."""
    usual = [z.float() for z in views(4, 8, 3)]
    one_zero = [z.clone() for z in usual]
    for z in one_zero:
        z[2] = 0
    return {
        "zeros": [torch.zeros(8, 3)] * 4,
        "one image zero": one_zero,
        "views equal": [usual[0]] * 4,
        "images equal": [usual[0][:1].expand(8, 3)] * 4,
        "on a line": [1000 * z[:, :1].expand(8, 3) for z in usual],
        "a dimension constant": [z * torch.tensor([1.0, 0, 1]) for z in usual],
        "large": [1e4 * z for z in usual],
        "small": [1e-10 * z for z in usual],
    }


@pytest.mark.parametrize("kind", degenerate())
def test_losses_and_gradients_stay_finite(kind: str) -> None:
    inputs = degenerate()[kind]
    targets, order = torch.tensor([0, 0, 1, 1, -1, -1, 2, 0]), torch.arange(8).flip(0)

    def mixed(center: bool) -> Loss:
        return lambda z1, z2, m: mixed_barlow_twins_loss(z1, z2, m, 0.3, order, center=center)

    losses: list[tuple[Loss, int]] = [
        *((loss, 2) for loss in (mse_loss, vicreg_loss, ntxent_loss, wmse_loss, kl_loss, fixmatch_loss)),
        (partial(supcon_loss, targets=targets), 2),
        (partial(wmse_loss, sub_batch=4), 2),
        *((loss, 4) for loss in (simsiam_loss, byol_loss)),
        *((mixed(center), 3) for center in (True, False)),
    ]
    for loss, count in losses:
        for found in with_gradients(loss, inputs[:count]):
            assert found.isfinite().all(), loss


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_embeddings_that_cannot_be_whitened_give_nan(value: float) -> None:
    """No exception, which would wait for a GPU: a trial ends when it reads that its loss is not finite."""
    z1, z2 = (z.float() for z in views(2, 8, 3))
    z1[:, :2] = value * z1[:, :1]
    assert wmse_loss(z1, z2).isnan()


Z = torch.ones(4, 3)
ORDER = torch.arange(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (
                partial(loss, Z, Z[:, :2]),
                "embeddings: got shapes (4, 3) and (4, 2); allowed: (B, M) twice",
            )
            for loss in (mse_loss, vicreg_loss, ntxent_loss, wmse_loss)
        ),
        *(
            (partial(loss, Z[:1], Z[:1]), "embeddings: got a batch of 1; allowed: at least 2 images")
            for loss in (vicreg_loss, ntxent_loss, wmse_loss)
        ),
        *(
            (partial(loss, Z, Z[:, :2]), "logits: got shapes (4, 3) and (4, 2); allowed: (B, K) twice")
            for loss in (kl_loss, fixmatch_loss)
        ),
        *(
            (partial(loss, Z[:0], Z[:0]), "logits: got a batch of 0; allowed: at least 1 image")
            for loss in (kl_loss, fixmatch_loss)
        ),
        (partial(mse_loss, Z[0], Z[0]), "embeddings: got shapes (3,) and (3,); allowed: (B, M) twice"),
        (partial(mse_loss, Z[:0], Z[:0]), "embeddings: got a batch of 0; allowed: at least 1 image"),
        (
            partial(simsiam_loss, Z, Z, Z, Z[:3]),
            "predictions and embeddings: got shapes (4, 3), (4, 3), (4, 3) and (3, 3);"
            " allowed: (B, M) 4 times",
        ),
        (
            partial(byol_loss, Z, Z, Z[:, :1], Z),
            "predictions and targets: got shapes (4, 3), (4, 3), (4, 1) and (4, 3); allowed: (B, M) 4 times",
        ),
        (
            partial(mixed_barlow_twins_loss, Z, Z, Z[:2], 0.5, ORDER),
            "embeddings: got shapes (4, 3), (4, 3) and (2, 3); allowed: (B, M) 3 times",
        ),
        (
            partial(mixed_barlow_twins_loss, Z, Z, Z, 1.5, ORDER),
            "alpha: got 1.5; allowed: >= 0.0 and <= 1.0",
        ),
        (
            partial(mixed_barlow_twins_loss, Z, Z, Z, 0.5, ORDER[:3]),
            "order: got shape (3,); allowed: (4,)",
        ),
        (partial(ntxent_loss, Z, Z, temperature=0), "temperature: got 0; allowed: > 0.0"),
        (partial(supcon_loss, Z, Z, ORDER, temperature=-1.0), "temperature: got -1.0; allowed: > 0.0"),
        (partial(supcon_loss, Z, Z, ORDER[:3]), "targets: got shape (3,); allowed: (4,)"),
        (partial(fixmatch_loss, Z, Z, threshold=95), "threshold: got 95; allowed: >= 0.0 and <= 1.0"),
        (partial(ema_momentum, 1.1, 0.5), "base: got 1.1; allowed: >= 0.0 and <= 1.0"),
        (partial(ema_momentum, 0.9, -0.5), "done: got -0.5; allowed: >= 0.0 and <= 1.0"),
        (
            partial(wmse_loss, Z[:3], Z[:3]),
            "embeddings: got 3 images of 3 dimensions; allowed: more images than dimensions",
        ),
        *(
            (
                partial(wmse_loss, torch.ones(12, 3), torch.ones(12, 3), sub_batch=size),
                f"sub_batch: got {size}; allowed: 4, 6, 12 for 12 images of 3 dimensions",
            )
            for size in (3, 5, 0, -4, 24)
        ),
    ],
)
def test_what_no_loss_can_be_computed_of_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
