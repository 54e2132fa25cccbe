"""What contrastive methods assume, checked on rows: contexts matter; the past is not Gaussian."""

import numpy as np
from scipy.stats import norm, rankdata

from identica.compilation import compiled
from identica.data import Dataset
from identica.models import ContrastiveModel
from identica.objectives.contrastive import ContrastiveCrossEntropy
from identica.typing import Array, FloatArray

_JUDGED_ROWS, _FEWEST_JUDGED, _PERMUTATIONS = 2048, 50, 100

CLEAR = 4.0
"""Standard deviations by chance beyond which an effect is clear.

Held-out rows have chosen among restarts and weights, so that chance alone reaches beyond the usual two.
"""


def is_clear(effect: float, noise: float) -> bool:
    """Whether an effect is there beyond doubt."""
    return effect > CLEAR * noise


def context_effect(
    model: ContrastiveModel,
    objective: ContrastiveCrossEntropy,
    held_out: Dataset,
    rng: np.random.Generator,
) -> tuple[float, float] | None:
    """How much better held-out rows go with their own contexts than with each other's.

    Of two contexts, its own and that of another row, the critic prefers a row's own with probability
    (1 + D)/2. If contexts say nothing about x, own and permuted ones are exchangeable, however the critic
    was fitted, and D is 0 but for chance (a permutation test; Fisher, 1935).

    Returns
    -------
    (D, its standard deviation over permutations), or None with fewer than 50 rows.
    """
    if held_out.weight is not None:
        real = np.flatnonzero(np.asarray(held_out.weight) > 0)
        held_out = Dataset(held_out.x[real], held_out.u[real])
    part = held_out.head(_JUDGED_ROWS)
    if part.n_rows < _FEWEST_JUDGED:
        return None
    log_odds, own = (np.asarray(a) for a in _log_odds(model, objective, part))
    rows = np.arange(len(own))
    # Of each row with the contexts of all rows, so that common contexts count as often as they occur.
    ranks = rankdata(log_odds[:, own], axis=1)
    advantage = lambda order: 2 * float(ranks[rows, order].mean() - 0.5) / len(rows) - 1
    permuted = [advantage(rng.permutation(len(rows))) for _ in range(_PERMUTATIONS)]
    return advantage(rows) - float(np.mean(permuted)), float(np.std(permuted, ddof=1))


def departure_from_gaussian(now: FloatArray, before: FloatArray) -> FloatArray:
    """How far the law of a component and its past is from Gaussian, in standard deviations by chance.

    Both are mapped to normal scores first, so that monotone curves do not matter. Where (now, before)
    are then jointly Gaussian, the residual e of one given the other is normal and independent of it: its
    kurtosis is 3, and e² does not go with before². For such sources, permutation-contrastive learning
    resolves the mixture only up to a linear map (Hyvärinen and Morioka, 2017, Definition 2).

    Parameters
    ----------
    now, before : (N, n)

    Returns
    -------
    (n,) array
        The larger of the two z-values of each component.
    """
    N = len(now)
    one, other = (norm.ppf((rankdata(v, axis=0) - 0.5) / N) for v in (now, before))
    one, other = one / one.std(0), other / other.std(0)
    slope = (one * other).mean(0)
    residual = one - slope * other
    residual = residual / residual.std(0)
    kurtosis = ((residual**4).mean(0) - 3) / np.sqrt(24 / N)
    squares = ((residual**2 - 1) * (other**2 - 1)).mean(0) / (2 / np.sqrt(N))
    return np.maximum(np.abs(kurtosis), np.abs(squares))


@compiled
def _log_odds(
    model: ContrastiveModel, objective: ContrastiveCrossEntropy, data: Dataset
) -> tuple[Array, Array]:
    return objective.log_odds(model, data)
