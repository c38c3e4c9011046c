"""W-MSE (Ermolov et al. 2021): the distance of whitened embeddings.

Shapes: B images a batch, M dimensions of the embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Branches, Term, at_least_fp32, check_shapes
from trainables.trial import TrialConfig

EPS = 1e-6
"""Share of the identity in the covariance: small beside the variances of an untrained network's embeddings
(10^-3 to 10^-2), and all that is left of the covariance where the embeddings are equal."""


def wmse_loss(z1: Tensor, z2: Tensor, *, sub_batch: int | None = None) -> Tensor:
    """W-MSE, Ermolov et al. 2021: mean_b (2 - 2 cos(w1_b, w2_b)), where w are the whitened embeddings.

    Each view is whitened by itself, in sub-batches of consecutive images: w_b = L^-1 (z_b - mean), where L is
    the Cholesky factor of (1 - eps) * cov + eps * identity, eps is 1e-6, and cov divides by the images less
    one. The authors' code has eps = 0 by default. 2 - 2 cos is the squared distance of vectors of length 1.

    Whitening is computed in fp64, whatever the autocast: with eps the covariance then has a Cholesky factor
    even where all embeddings lie on a line, for variances up to 10^8. Where it has none the loss is NaN,
    which ends a trial.

    Args:
        z1: (B, M) embeddings of view 1; `z2` of view 2.
        sub_batch: images that are whitened together; None: the whole batch. The authors use twice M: with few
            more than M images, whitening makes any embeddings look alike.

    Returns:
        Scalar between 0 and 4, fp32 or the type of `z1` if that has more digits.

    Raises:
        ValueError: other shapes, no more images than dimensions, or a sub-batch that does not divide the
            batch or is not larger than M.
    """
    check_shapes("embeddings", z1, z2, images=2)
    size = _checked(sub_batch, *z1.shape)
    with torch.autocast(z1.device.type, enabled=False):
        loss = 2 - 2 * F.cosine_similarity(_whitened(z1, size), _whitened(z2, size), dim=1).mean()
    return loss.to(at_least_fp32(z1).dtype)


def _checked(sub_batch: int | None, batch: int, m: int) -> int:
    """The size of a sub-batch; ValueError if it cannot be one."""
    if batch <= m:
        raise ValueError(
            f"embeddings: got {batch} images of {m} dimensions; allowed: more images than dimensions"
        )
    size = batch if sub_batch is None else sub_batch
    if size <= m or batch % size:
        sizes = [str(count) for count in range(m + 1, batch + 1) if batch % count == 0]
        raise ValueError(
            f"sub_batch: got {size}; allowed: {', '.join(sizes)} for {batch} images of {m} dimensions"
        )
    return size


def _whitened(z: Tensor, size: int) -> Tensor:
    """(B, M) fp64: each sub-batch of `size` images with mean 0 and, up to eps, the identity as covariance."""
    batch, m = z.shape
    z = z.double().reshape(-1, size, m)
    z = z - z.mean(1, keepdim=True)
    identity = torch.eye(m, dtype=z.dtype, device=z.device)
    covariance = (1 - EPS) * (z.mT @ z / (size - 1)) + EPS * identity
    # `cholesky` would wait for a GPU to tell whether there is a factor.
    factor, failed = torch.linalg.cholesky_ex(covariance)
    white = torch.linalg.solve_triangular(factor, z.mT, upper=False).mT
    return white.masked_fill((failed != 0)[:, None, None], torch.nan).reshape(batch, m)


def _term(branches: Branches, config: TrialConfig) -> Tensor:
    return wmse_loss(*branches.need("z"), sub_batch=config.whitening_size)


TERM = Term(loss=_term, column="wmse")
