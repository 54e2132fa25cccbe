"""Estimators whose model is a flow: transform is exact, and so is the likelihood."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata
from sklearn.utils.validation import check_array, check_is_fitted

from identica.compilation import compiled
from identica.conditionals import ModulatedPrior, Table
from identica.errors import DataError, DataWarning
from identica.estimators.base import Problem, SourceEstimator
from identica.estimators.blocks import apply_in_blocks, precision_of
from identica.estimators.flow_stages import GROWTH_ROWS
from identica.estimators.orientation import Orientation
from identica.estimators.results import LogLikelihood, Posterior
from identica.estimators.validation import check_count
from identica.models.flow import FlowModel
from identica.networks.invertible import AffineMap
from identica.objectives.exact_likelihood import segment_prior
from identica.random import draw_seed, named_rng
from identica.typing import FloatArray, IntArray

JUDGED_ROWS, FEWEST_JUDGED, _PERMUTATIONS = 4096, 50, 50
"""Held-out rows on which the effect of u is judged, at most and at least, and permutations of u."""

CLEAR_EFFECT = 4.0
"""Standard deviations over permutations of u beyond which its effect on a source is clear.

Held-out rows have chosen among restarts and weights, so that chance alone reaches beyond the usual two.
"""


class ExactEstimator(SourceEstimator):
    """Base class of `FlowICA` and `LinearICA`: x = f(z) without noise; abstract."""

    model_: FlowModel

    def transform(self, X: Any, *, u: Any = None) -> FloatArray:
        """Sources of rows: the exact inverse of the mixing. u changes nothing and may be left out.

        Parameters
        ----------
        X : array-like of shape (N, d)
        u : ignored
            There is no noise, hence no uncertainty that u could reduce.

        Returns
        -------
        array of shape (N, n_components), of the type of X
        """
        X, dtype = self._check_rows(X)
        with precision_of(self.precision) as precision:
            latents = apply_in_blocks(_sources_of(self.model_), self._model_input(X).astype(precision))
        return latents[:, : self.n_components_].astype(dtype)

    def inverse_transform(self, S: Any) -> FloatArray:
        """Observations (N, d), in the user's units, from sources (N, n_components)."""
        check_is_fitted(self)
        S = check_array(S, dtype=[np.float64, np.float32], input_name="S")  # pyright: ignore[reportArgumentType]
        if S.shape[1] != self.n_components_:
            raise DataError(f"S must have shape (n_samples, {self.n_components_}), got {S.shape}")
        # Directions of noise, if the model has any, are put at their means, which the orientation makes 0.
        S = np.pad(S, [(0, 0), (0, self.model_.n_components - self.n_components_)])
        with precision_of(self.precision) as precision:
            scores = apply_in_blocks(_scores_of(self.model_), S.astype(precision))
        return self.whitening_.inverse(scores.astype(np.float64))

    def posterior(self, X: Any, *, u: Any = None) -> Posterior:
        """A point: the sources, with standard deviation 0 (the model has no noise)."""
        mean = self.transform(X, u=u)
        return Posterior(mean, np.zeros_like(mean))

    def score_samples(self, X: Any, y: Any = None, *, u: Any = None) -> FloatArray:
        """Exact log p(x|u) of each row, nats (N,); log p(x), averaged over u, if u is not given."""
        X, _ = self._check_rows(X)
        encoded = self._encode_u(self._u_or_y(u, y), len(X))
        with precision_of(self.precision) as precision:
            log_p = apply_in_blocks(_density_of(self.model_), self._model_input(X).astype(precision), encoded)
        return log_p.astype(np.float64) + self.whitening_.log_density_of_the_rest(X)

    def log_likelihood(self, X: Any, y: Any = None, *, u: Any = None, method: str = "auto") -> LogLikelihood:
        """Mean log p(x|u) of rows with its standard error, nats per row; exact."""
        if method not in ("auto", "exact"):
            raise ValueError(f"method must be 'auto' or 'exact' for {type(self).__name__}, got {method!r}")
        return LogLikelihood.from_rows(self.score_samples(X, y, u=u), "exact")

    def sample(
        self, n_samples: int = 1, *, u: Any = None, random_state: Any = None
    ) -> tuple[FloatArray, FloatArray]:
        """Draw new observations and their sources.

        Parameters
        ----------
        n_samples : int
            Number of rows; ignored if u is given.
        u : array-like, optional
            One row per draw. Without it, values of u are drawn as often as they occurred in the fit.
        random_state : int, None or RandomState

        Returns
        -------
        X : array of shape (n_samples, d)
        S : array of shape (n_samples, n_components)
        """
        check_is_fitted(self)
        check_count("n_samples", n_samples)
        seed = draw_seed(random_state)
        encoded = self._encode_u(u, len(u)) if u is not None else self._draw_u(n_samples, seed)
        with precision_of(self.precision):
            z, scores = _draw(self.model_, jnp.asarray(encoded), jax.random.key(seed))
        z = np.asarray(z, np.float64)[:, : self.n_components_]
        return self.whitening_.inverse(np.asarray(scores, np.float64)), z

    def _draw_u(self, n_samples: int, seed: int) -> np.ndarray:
        rng = named_rng(seed, "u")
        parameters = getattr(self.model_.prior, "parameters", None)
        if isinstance(parameters, Table):
            shares = np.exp(np.asarray(parameters.log_shares, np.float64))
            return rng.choice(len(shares), n_samples, p=shares / shares.sum()).astype(np.int32)
        if parameters is not None:
            return np.asarray(parameters.examples)[rng.integers(len(parameters.examples), size=n_samples)]
        return np.zeros(n_samples, np.int32)

    def _model_input(self, X: FloatArray, *, grid: bool = False) -> FloatArray:
        return self.whitening_.scores(X, grid=grid)

    def _adopt(self, system: FlowModel, problem: Problem, X: FloatArray) -> None:
        data = problem.data
        if problem.discrete:
            prior = _segment_prior(system, data, problem.n_segments)
            known = self.auxiliary_.n_segments  # type: ignore[union-attr]
            table: Any = prior.parameters  # of padded segments: see Problem.n_segments
            table = Table(table.raw[:known], table.log_shares[:known])
            prior = ModulatedPrior(prior.family, table)
            system = FlowModel(system.demixer, system.family, prior)
        elif isinstance(system.prior, ModulatedPrior) and problem.encoder is not None:
            # Rows without u are averaged over values of u that occurred, not over padding.
            own = eqx.tree_at(
                lambda p: p.parameters.examples, system.prior, data.u[: min(problem.n_rows, GROWTH_ROWS)]
            )
            system = FlowModel(system.demixer, system.family, own)
        dtype, n = data.x.dtype, system.n_components

        def oriented(weight: FloatArray, bias: FloatArray) -> FlowModel:
            orientation = AffineMap(weight.astype(dtype), bias.astype(dtype))  # type: ignore[arg-type]
            return as_numpy(FlowModel(system.demixer, system.family, system.prior, orientation))

        # Turned by the identity, latents come from the code that `transform` runs, which is then compiled.
        latents = _sources_of(oriented(np.eye(n), np.zeros(n)))
        n_held_out = min(len(self.held_out_rows_), JUDGED_ROWS)
        rows = [np.asarray(data.x)[: problem.n_rows]]
        if problem.held_out is not None:
            rows.append(np.asarray(problem.held_out.x[:n_held_out]))
        z = apply_in_blocks(latents, np.concatenate(rows))
        z, held_out = z[: problem.n_rows].astype(np.float64), z[problem.n_rows :]
        orientation = Orientation.from_rows(z, self.whitening_.standardize(X, grid=True))
        effect = None
        # States that were inferred from the rows themselves would have an effect on anything.
        known = problem.encoder is not None and n_held_out >= FEWEST_JUDGED
        if known and isinstance(system.prior, ModulatedPrior):
            u = np.asarray(problem.held_out.u[:n_held_out])  # type: ignore[union-attr]
            effect = effect_of_u(system.prior, held_out, u, named_rng(self.seed_, "shuffled u"))
        system, order = self._separate(system, problem, z, held_out, effect, orientation.order)
        orientation = orientation.reordered(order)
        self.model_ = oriented(*orientation.matrix())
        self.effect_of_u_ = None if effect is None else effect[:, order[: self.n_components_]]
        if self.effect_of_u_ is not None:
            self._warn_without_effect(*self.effect_of_u_)

    def _separate(
        self,
        system: FlowModel,
        problem: Problem,
        z: FloatArray,
        held_out: Any,
        effect: FloatArray | None,
        order: IntArray,
    ) -> tuple[FlowModel, IntArray]:
        """The model and the order of its latents, sources first; here all latents are sources."""
        return system, order

    def _warn_without_effect(self, effect: FloatArray, noise: FloatArray) -> None:
        if clear_effects(effect, noise).any():
            return
        warnings.warn(
            "u tells nothing about the sources of held-out rows: no source's distribution differs between "
            f"values of u by more than by chance (largest distance {max(0.0, effect.max()):.3f} of 1). No nonlinear "
            "mixture can be undone without such differences, and these sources are one of endlessly many "
            "solutions. Try another u, such as conditions, recordings or shorter stretches of time",
            DataWarning,
            stacklevel=4,
        )


def as_numpy(model: Any) -> Any:
    """The model with NumPy leaves, which pickle and fork safely."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf, model)


def clear_effects(effect: FloatArray, noise: FloatArray) -> np.ndarray:
    """Which sources u acts on beyond doubt (n,): all, if it is their sum only that is clear.

    Few held-out rows may show that u acts without showing where.
    """
    clear = effect > CLEAR_EFFECT * noise
    together = effect.sum() > CLEAR_EFFECT * np.sqrt((noise**2).sum())
    return np.ones_like(clear) if together and not clear.any() else clear


def effect_of_u(prior: ModulatedPrior, z: Any, u: np.ndarray, rng: np.random.Generator) -> FloatArray:
    """How much the densities p(z_i|u) differ between values of u, on rows that were not fitted.

    For each row, its own u and permuted ones are ranked by log p(z_i|u). Over two rows drawn at random
    the own u wins by P = (1 + D)/2, D being the total variation distance between their densities, so the
    mean rank estimates the mean D: 0 where u says nothing, 1 where densities do not overlap. If u is
    independent of z_i, own and permuted values are exchangeable (Fisher, 1935), however well or badly the
    prior was fitted. Likelihoods themselves would not do: one far row outweighs all others.

    Parameters
    ----------
    prior : ModulatedPrior
    z : (N, n)
        Latents of held-out rows.
    u : (N,) or (N, m)
        Their auxiliary variable, encoded.
    rng : numpy.random.Generator

    Returns
    -------
    (2, n) array
        The estimate of D for each latent, and its standard deviation over permutations.
    """
    orders = np.stack([np.arange(len(z)), *(rng.permutation(len(z)) for _ in range(_PERMUTATIONS))])
    log_p = apply_in_blocks(
        lambda z, u: _log_prior(prior, z, u), np.tile(z, (len(orders), 1)), u[orders.ravel()]
    )
    ranks = rankdata(log_p.reshape(*orders.shape, -1), axis=0).mean(axis=1)
    own, *permuted = 2 * (ranks - 1) / _PERMUTATIONS - 1
    return np.stack([own, np.std(permuted, axis=0, ddof=1)])


_segment_prior = compiled(segment_prior)


@compiled
def _log_prior(prior: ModulatedPrior, z: Any, u: Any) -> Any:
    return prior.family.log_prob(z, prior.natural(u))


@compiled
def _sources(model: FlowModel, x: Any) -> Any:
    return model.sources(x)


@compiled
def _scores(model: FlowModel, z: Any) -> Any:
    return model.scores(z)


@compiled
def _density(model: FlowModel, x: Any, u: Any) -> Any:
    return model.log_marginal(x, u)


@compiled
def _draw(model: FlowModel, u: Any, key: Any) -> Any:
    return model.sample(u, key=key)


def _sources_of(model: FlowModel) -> Any:
    # Without the prior, so that models that differ in segments only share compiled code.
    bare = FlowModel(model.demixer, model.family, None, model.orientation)
    return lambda x: _sources(bare, x)


def _scores_of(model: FlowModel) -> Any:
    return lambda z: _scores(model, z)


def _density_of(model: FlowModel) -> Any:
    return lambda x, u: _density(model, x, u)
