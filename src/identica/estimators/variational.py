"""Estimators with an amortised posterior: what `IVAE` and `VAE` share."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from identica.compilation import compiled
from identica.conditionals import (
    CategoricalObservation,
    Conditional,
    ConstantPrior,
    ModulatedPrior,
    NetworkMap,
    Observation,
    Table,
)
from identica.conditionals.observations.masked import MaskedObservation, split_mask
from identica.conditionals.observations.options import ENCODINGS, REAL, check_values, observation_of
from identica.data import Dataset
from identica.errors import DataError
from identica.estimators.base import Problem, SourceEstimator
from identica.estimators.blocks import apply_in_blocks, precision_of, row_keys, with_model
from identica.estimators.exact import as_numpy
from identica.estimators.incomplete_rows import IncompleteRows
from identica.estimators.marginal_likelihood import MarginalLikelihood
from identica.estimators.orientation import Orientation
from identica.estimators.results import Posterior
from identica.expectations import sample_with_log_prob
from identica.families import GaussianLocationScale, GaussianScale
from identica.models import LatentVariableModel, VariationalModel
from identica.models.linear_gaussian import exact_encoder
from identica.models.marginal_posterior import log_weights_without_u, moments_without_u, samples_without_u
from identica.models.weighted_posterior import (
    weighted_moments,
    weighted_moments_without_u,
    weighted_samples,
    weighted_samples_without_u,
)
from identica.objectives.reductions import LogMeanExp, Mean
from identica.random import draw_seed, named_rng
from identica.typing import Array, FloatArray, IntArray, Key

_SCORE_SAMPLES = 64
_COLLAPSED = 0.01
"""A component of whose variance x explains less than this share has collapsed."""


class VariationalEstimator(IncompleteRows, MarginalLikelihood, SourceEstimator):
    """Base class of `IVAE` and `VAE`: x = f(z) plus noise, with an encoder; abstract."""

    model_: VariationalModel
    likelihood: Any
    noise: Any

    # Public -------------------------------------------------------------------------------------------

    def transform(self, X: Any, *, u: Any = None) -> FloatArray:
        """Posterior means of the sources.

        Parameters
        ----------
        X : array-like of shape (N, d)
        u : array-like, optional
            The auxiliary variable of the rows, which sharpens the estimate. Without it the result is
            E[z|x] = Σ_u p(u|x) E[z|x, u], in closed form; for a continuous u the sum runs over examples
            of u from the fitted rows.

        Returns
        -------
        array of shape (N, n_components), of the type of X
        """
        X, dtype = self._check_rows(X)
        return self._moments(X, u)[0].astype(dtype)

    def posterior(self, X: Any, *, u: Any = None) -> Posterior:
        """q(z|x, u) of rows: ``.mean``, ``.std`` and ``.sample(n, random_state)``.

        Means and standard deviations are in units of the sources. Samples have the correlations between
        components; without u the posterior is a mixture over the values of u. For `IVAE` with a nonlinear decoder both
        are of draws of q that the model itself weighs, p(x, z|u)/q(z|x, u), and so of its posterior p(z|x, u).
        """
        X, _ = self._check_rows(X)
        mean, variance = self._moments(X, u)
        encoded = self._encode_u(u, len(X))

        def draw(n: int, rng: np.random.Generator) -> FloatArray:
            keys = row_keys(int(rng.integers(2**31)), np.arange(len(X)))
            with precision_of(self.precision) as precision:
                x = self._model_input(X).astype(precision)
                z = apply_in_blocks(self._sampler(n), x, encoded, keys)
            return self._to_sources(np.moveaxis(z.astype(np.float64), 1, 0))

        return Posterior(mean, np.sqrt(variance), draw)

    def inverse_transform(self, S: Any) -> FloatArray:
        """E[x|z], in the user's units (N, d), of sources (N, n_components)."""
        check_is_fitted(self)
        S = np.asarray(S)
        if S.ndim != 2 or S.shape[1] != self.n_components_:
            raise DataError(f"S must have shape (n_samples, {self.n_components_}), got {S.shape}")
        with precision_of(self.precision) as precision:
            z = self._to_latents(S.astype(np.float64)).astype(precision)
            x = apply_in_blocks(with_model(_decoded, self.model_), z)
        return self._to_units(x.astype(np.float64))

    def score_samples(self, X: Any, y: Any = None, *, u: Any = None) -> FloatArray:
        """Lower bound of log p(x|u) of each row, nats (N,), by 64 importance samples.

        Without u it bounds log p(x), averaged over u. For a linear Gaussian model it is exact. The noise
        of a row depends on the row alone, so neither order nor subsets of rows change a value.
        """
        X, _ = self._check_rows(X)
        return self._bound(X, self._u_or_y(u, y), LogMeanExp(), _SCORE_SAMPLES)

    def sample(
        self, n_samples: int = 1, *, u: Any = None, random_state: Any = None
    ) -> tuple[FloatArray, FloatArray]:
        """Draw new observations, noise included, and their sources.

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
        seed = draw_seed(random_state)
        encoded = self._encode_u(u, len(u)) if u is not None else self._draw_u(n_samples, seed)
        n_rows = n_samples if encoded is None else len(encoded)
        with precision_of(self.precision):
            given = None if encoded is None else jnp.asarray(encoded)
            z, x = _drawn(self.model_, given, jax.random.key(seed), n_rows)
        return self._to_units(np.asarray(x, np.float64)), self._to_sources(np.asarray(z, np.float64))

    # What the base class asks for -----------------------------------------------------------------------

    def _model_input(self, X: FloatArray, *, grid: bool = False) -> FloatArray:
        if self._takes_unknown():
            return self._masked(X, grid=grid)
        if self.likelihood in REAL:
            return self.whitening_.standardize(X, grid=grid)
        # On the grid are rows to fit, whose categories no model has fixed yet.
        known = None if grid else self.model_.model.likelihood.observation  # type: ignore[attr-defined]
        check_values(self.likelihood, X, known)
        return X

    def _observation(self, problem: Problem) -> Observation:
        rows = [np.asarray(problem.data.x, np.float64)[: problem.n_rows]]
        if problem.held_out is not None:
            rows.append(np.asarray(problem.held_out.x, np.float64))
        if self._takes_unknown():
            complete = [values[:, : self.n_features_in_] for values in rows]
            return MaskedObservation(observation_of(self.likelihood, self.noise, *complete))
        return observation_of(self.likelihood, self.noise, *rows)

    def _encoding(self, observation: Observation) -> dict[str, Any]:
        """How the encoder's features take the columns in."""
        if self._takes_unknown():
            return {"encoding": "masked-squash" if self.likelihood == "student-t" else "masked", "sizes": ()}
        sizes = observation.sizes if isinstance(observation, CategoricalObservation) else ()
        return {"encoding": ENCODINGS.get(self.likelihood, "identity"), "sizes": sizes}

    def _find_gross_rows(self, X: FloatArray) -> IntArray:
        # Values of these are codes, and no code is far from another.
        coded = self.likelihood in ("bernoulli", "categorical")
        return np.zeros(0, dtype=np.int64) if coded else super()._find_gross_rows(X)

    def _adopt(self, system: VariationalModel, problem: Problem, X: FloatArray) -> None:
        prior = system.model.prior
        if isinstance(prior, ModulatedPrior) and isinstance(prior.parameters, Table):
            known = self.auxiliary_.n_segments  # type: ignore[union-attr]
            table = prior.parameters
            prior = ModulatedPrior(prior.family, Table(table.raw[:known], table.log_shares[:known]))
        exact = exact_encoder(system.model.likelihood) if _is_gaussian(prior) else None
        system = VariationalModel(
            LatentVariableModel(prior, system.model.likelihood), system.encoder if exact is None else exact
        )
        self.exact_ = exact is not None
        self.model_ = as_numpy(system)
        n = problem.n_rows
        x = np.asarray(problem.data.x)[:n]
        u = None if problem.data.u is None else np.asarray(problem.data.u)[:n]
        mean, variance = (
            m.astype(np.float64) for m in apply_in_blocks(with_model(_moments, self.model_), x, u)
        )
        standard = x[:, : X.shape[1]] if self._takes_unknown() else self.whitening_.standardize(X, grid=True)
        orientation = Orientation.from_rows(mean, standard)
        self.orientation_ = orientation.matrix()
        self._report_collapse(mean, variance, u if problem.discrete else None)

    def _report_collapse(self, mean: FloatArray, variance: FloatArray, codes: np.ndarray | None) -> None:
        """Find components of which x says nothing beyond u: their posterior is their prior."""
        within = mean - mean.mean(axis=0)
        if codes is not None:
            counts = np.bincount(codes)
            sums = np.stack([np.bincount(codes, weights=column) for column in mean.T], axis=1)
            within = mean - (sums / np.maximum(counts, 1)[:, None])[codes]
        explained = (within**2).mean(axis=0)
        share = explained / (explained + variance.mean(axis=0))
        weight, _ = self.orientation_
        order = np.abs(weight).argmax(axis=1)
        self.explained_shares_ = share[order]
        self.collapsed_components_ = np.flatnonzero(self.explained_shares_ < _COLLAPSED)
        if len(self.collapsed_components_):
            shown = ", ".join(str(i) for i in self.collapsed_components_)
            what = "within-segment variance" if codes is not None else "variance"
            tail = "; pooled scores only reflect u" if codes is not None else ""
            warnings.warn(
                f"{type(self).__name__}: the {what} of component(s) {shown} is about 0: posterior collapse"
                f"{tail}. Likely causes are more components than sources, or noise that drowns them; "
                "try a smaller n_components or more restarts",
                ConvergenceWarning,
                stacklevel=4,
            )

    # Pieces -------------------------------------------------------------------------------------------

    def _moments(self, X: FloatArray, u: Any) -> tuple[FloatArray, FloatArray]:
        """Posterior means and variances of the sources, float64."""
        encoded = self._encode_u(u, len(X))
        function = _moments if encoded is not None or not self._is_modulated() else _moments_alone
        with precision_of(self.precision) as precision:
            x = self._model_input(X).astype(precision)
            if self._weighs_draws():
                keys = row_keys(self.seed_, x)
                mean, variance = apply_in_blocks(with_model(_weighted, self.model_), x, encoded, keys)
            else:
                mean, variance = apply_in_blocks(with_model(function, self.model_), x, encoded)
        weight, _ = self.orientation_
        return self._to_sources(mean.astype(np.float64)), variance.astype(np.float64) @ (weight**2).T

    def _bound(self, X: FloatArray, u: Any, reduction: Mean | LogMeanExp, samples: int) -> FloatArray:
        encoded = self._encode_u(u, len(X))
        alone = encoded is None and self._is_modulated()
        function = _log_weights_alone if alone else row_bounds
        with precision_of(self.precision) as precision:
            x = self._model_input(X).astype(precision)
            keys = row_keys(self.seed_, x)
            rows = apply_in_blocks(with_model(function, self.model_, samples, reduction), x, encoded, keys)
        return rows.astype(np.float64) + self._log_volume(x)

    def _log_volume(self, x: FloatArray) -> float | FloatArray:
        """log|det| of the map from the user's units to what the model sees, of the entries that were seen.

        One for all rows, or one for each of the rows x, as the model sees them.
        """
        if self._takes_unknown():
            return -split_mask(x)[1].astype(np.float64) @ np.log(self.whitening_.scale)  # type: ignore[arg-type]
        return -float(np.log(self.whitening_.scale).sum()) if self.likelihood in REAL else 0.0

    def _weighs_draws(self) -> bool:
        """Whether posterior moments are taken of weighted draws of q, and not of q itself."""
        return False

    def _is_modulated(self) -> bool:
        return isinstance(self.model_.model.prior, ModulatedPrior)

    def _sampler(self, n: int) -> Any:
        def sampler(x: Any, u: Any, keys: Any) -> Any:
            if self._weighs_draws():
                return _weighted_draws(self.model_, x, u, keys, n)
            alone = u is None and self._is_modulated()
            return (_samples_alone if alone else _samples)(self.model_, x, u, keys, n)

        return sampler

    def _to_sources(self, z: FloatArray) -> FloatArray:
        weight, bias = self.orientation_
        return z @ weight.T + bias

    def _to_latents(self, S: FloatArray) -> FloatArray:
        weight, bias = self.orientation_
        return (S - bias) @ np.linalg.inv(weight).T

    def _to_units(self, x: FloatArray) -> FloatArray:
        x = x[:, : self.n_features_in_]  # without the mask of a draw
        return self.whitening_.inverse_standardize(x) if self.likelihood in REAL else x

    def _draw_u(self, n_samples: int, seed: int) -> np.ndarray | None:
        prior = self.model_.model.prior
        if not isinstance(prior, ModulatedPrior):
            return None
        rng = named_rng(seed, "u")
        if isinstance(prior.parameters, NetworkMap):
            examples = np.asarray(prior.parameters.examples)
            return examples[rng.integers(len(examples), size=n_samples)]
        shares = np.exp(np.asarray(prior.parameters.log_shares, np.float64))
        return rng.choice(len(shares), n_samples, p=shares / shares.sum()).astype(np.int32)


def _is_gaussian(prior: Conditional) -> bool:
    """Whether p(z|u) is Gaussian, so that with a linear Gaussian decoder the posterior is, too."""
    families = (GaussianLocationScale, GaussianScale)
    return isinstance(prior, ConstantPrior) or (
        isinstance(prior, ModulatedPrior) and isinstance(prior.family, families)
    )


@compiled
def _moments(model: VariationalModel, x: Array, u: Array | None) -> tuple[Array, Array]:
    q = model.posterior(x, u)
    return q.mean, q.variance  # type: ignore[return-value]


@compiled
def _moments_alone(model: VariationalModel, x: Array, u: None) -> tuple[Array, Array]:
    return moments_without_u(model, x)


@compiled
def _weighted(model: VariationalModel, x: Array, u: Array | None, keys: Array) -> tuple[Array, Array]:
    if u is None:
        return weighted_moments_without_u(model, x, jax.random.wrap_key_data(keys))
    return weighted_moments(model, x, u)


@compiled
def _weighted_draws(model: VariationalModel, x: Array, u: Array | None, keys: Array, count: int) -> Array:
    if u is None:
        return weighted_samples_without_u(model, x, jax.random.wrap_key_data(keys), count)
    return weighted_samples(model, x, u, jax.random.wrap_key_data(keys), count)


@compiled
def _samples(model: VariationalModel, x: Array, u: Array | None, keys: Array, count: int) -> Array:
    def one(row: Dataset, key: Array) -> Array:
        q = model.posterior(row.x[None], None if row.u is None else row.u[None])
        return sample_with_log_prob(q, jax.random.wrap_key_data(key), count)[0][:, 0]

    return jax.vmap(one)(Dataset(x, u), keys)


@compiled
def _samples_alone(model: VariationalModel, x: Array, u: None, keys: Array, count: int) -> Array:
    return samples_without_u(model, x, jax.random.wrap_key_data(keys), count)


@compiled
def row_bounds(
    model: VariationalModel, x: Array, u: Array | None, keys: Array, count: int, reduction: Mean | LogMeanExp
) -> Array:
    """The bound of each row (B,) by so many draws of q, nats; few rows at a time."""

    def one(row: tuple[Dataset, Array]) -> Array:
        data, key = row
        x, u = data.x[None], None if data.u is None else data.u[None]
        z, log_q = sample_with_log_prob(model.posterior(x, u), jax.random.wrap_key_data(key), count)
        return reduction(model.model.log_joint(z, x, u) - log_q)[0]

    return jax.lax.map(one, (Dataset(x, u), keys), batch_size=64)


@compiled
def _log_weights_alone(
    model: VariationalModel, x: Array, u: None, keys: Array, count: int, reduction: Mean | LogMeanExp
) -> Array:
    weights = log_weights_without_u(model, x, jax.random.wrap_key_data(keys), count)
    return reduction(weights.T)


@compiled
def _decoded(model: VariationalModel, z: Array) -> Array:
    return model.model.likelihood.mean(z)  # type: ignore[attr-defined]


@compiled
def _drawn(model: VariationalModel, u: Array | None, key: Key, n_rows: int) -> tuple[Array, Array]:
    return model.model.sample(None if u is None else jnp.asarray(u), key=key, n_rows=n_rows)
