"""Rows as a fitted latent-variable model sees them, and log p(x|u) of them by every method there is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from identica.conditionals import Decoder, ModulatedPrior
from identica.errors import DataError
from identica.estimators.blocks import apply_in_blocks, precision_of, row_keys
from identica.estimators.results import Kind
from identica.estimators.validation import check_count
from identica.evaluation.annealed import Annealing, annealed, reverse_annealed
from identica.evaluation.importance import Weighed, evidence_lower_bound, importance
from identica.evaluation.quadrature import gauss_hermite, quasi_monte_carlo
from identica.evaluation.target import PROPOSALS, RowLaw
from identica.models.linear_gaussian import exact_log_marginal
from identica.random import draw_seed, named_key, named_rng
from identica.typing import FloatArray

OPTIONS: dict[str, tuple[str, ...]] = {
    "auto": ("n_samples", "proposal"),
    "exact": (),
    "gauss-hermite": ("n_nodes",),
    "qmc": ("n_samples", "proposal"),
    "importance": ("n_samples", "proposal"),
    "iwae": ("n_samples",),
    "elbo": ("n_samples",),
    "ais": ("n_temperatures", "n_chains", "proposal"),
    "sandwich": ("n_temperatures", "n_chains", "proposal"),
}
"""Methods, and the options that each of them has."""

_MOST_GRID_DIMENSIONS = 3
_NODES = {1: 40, 2: 20, 3: 12}
_SAMPLES = {"importance": 512, "iwae": 512, "elbo": 64, "qmc": 512}
_CAREFUL_SAMPLES = 5000
_QMC_DIMENSIONS = 8
"""Up to so many components a gap is measured by quasi-Monte Carlo points, beyond by importance samples."""

_FEW_ROWS, _ROWS = 16, 64


class Evaluator:
    """Rows of a fitted estimator, and compiled functions applied to them block by block.

    Parameters
    ----------
    estimator : VariationalEstimator
    X : (N, d)
        Checked rows, in the user's units.
    u : array-like or None
    random_state : int, None or RandomState
        None takes the seed of the fit.
    """

    def __init__(self, estimator: Any, X: FloatArray, u: Any, random_state: Any):
        self.estimator, self.system = estimator, estimator.model_
        self.seed = estimator.seed_ if random_state is None else draw_seed(random_state)
        self.modulated = isinstance(self.system.model.prior, ModulatedPrior)
        self.u = estimator._encode_u(u, len(X)) if self.modulated else None
        self.x = estimator._model_input(X)
        self.volume = estimator._log_volume(self.x)

    @property
    def without_u(self) -> bool:
        """Whether the prior is a mixture over values of u, which these rows do not have."""
        return self.modulated and self.u is None

    def estimate(self, method: str, options: dict[str, Any], name: str = "rows") -> tuple[Weighed, Kind]:
        """log p of each row in the user's units, and on which side of the truth it lies.

        Raises
        ------
        DataError
            If the model does not admit the method.
        """
        if method in ("auto", "exact"):
            exact = self._exact()
            if exact is not None:
                return exact, "exact"
            if method == "exact":
                raise DataError(
                    "method='exact' needs a linear Gaussian model (hidden_sizes=(), likelihood='gaussian', a "
                    "Gaussian prior); use method='importance' for a lower bound"
                )
            method = "importance"
        if method == "gauss-hermite":
            return self._grid(options.get("n_nodes")), "unsigned"
        if method in ("ais", "sandwich"):
            return self.rows(annealed, annealing_of(options), name=name), "lower"
        count = check_count("n_samples", options.get("n_samples", _SAMPLES[method]))
        if method == "elbo":
            return self.rows(evidence_lower_bound, count, name=name), "lower"
        if method == "qmc":
            points = self.rows(quasi_monte_carlo, count, options.get("proposal", "laplace"), name=name)
            return points, "lower"
        return self.rows(importance, count, options.get("proposal", "encoder"), name=name), "lower"

    def best_estimate(self, name: str) -> tuple[Weighed, Kind]:
        """log p by the method that is most to be trusted here and takes seconds, not minutes."""
        exact = self._exact()
        if exact is not None:
            return exact, "exact"
        if self.estimator.n_components_ <= _QMC_DIMENSIONS and self._has_network():
            return self.estimate("qmc", {}, name)
        return self.estimate("importance", {"n_samples": _CAREFUL_SAMPLES}, name)

    def reverse(self, z: np.ndarray, options: dict[str, Any]) -> Weighed:
        """Upper bounds of rows that were drawn from latents z (N, n)."""
        annealing = annealing_of(options)
        return self.rows(
            lambda system, x, u, keys, z: reverse_annealed(system, x, u, keys, z, annealing),
            name="backwards",
            more=(z,),
        )

    def simulated(self, n_rows: int) -> tuple["Evaluator", np.ndarray]:
        """As many rows drawn by the model itself, for values of u of these rows, and their latents."""
        n_rows = min(n_rows, len(self.x))
        chosen = np.sort(named_rng(self.seed, "simulated").choice(len(self.x), n_rows, replace=False))
        given = None if self.u is None else self.u[chosen]
        drawn = self.estimator._draw_u(n_rows, self.seed) if self.without_u else given
        with precision_of(self.estimator.precision):
            z, x = self.system.model.sample(
                None if drawn is None else jnp.asarray(drawn),
                key=named_key(self.seed, "simulated"),
                n_rows=n_rows,
            )
        twin = object.__new__(Evaluator)
        rows = np.asarray(x, np.float64)
        volume = self.estimator._log_volume(rows)
        twin.__dict__ = {**self.__dict__, "x": rows, "u": given, "volume": volume}
        return twin, np.asarray(z)

    def is_diagonal(self) -> bool:
        """Whether components are independent under the encoder's posterior."""
        with precision_of(self.estimator.precision) as precision:
            x = jnp.asarray(self.x[:1].astype(precision))
            given = self.system.posterior(x, None if self.u is None else jnp.asarray(self.u[:1]))
        return RowLaw(given).is_gaussian()

    def rows(self, function: Any, *options: Any, name: str = "rows", more: Any = ()) -> Weighed:
        """Estimates of `blocks`, in the user's units."""
        weighed: Weighed = self.blocks(function, *options, name=name, more=more)
        return weighed._replace(value=weighed.value + self.volume)

    def blocks(self, function: Any, *options: Any, name: str, more: tuple[np.ndarray, ...] = ()) -> Any:
        """``function(system, x, u, keys, *more, *options)`` of all rows, in float64.

        Keys depend on what a row holds and not on its place; ``name`` tells uses of randomness apart.
        """
        with precision_of(self.estimator.precision) as precision:
            x = self.x.astype(precision)
            keys = row_keys(self.seed, x) if name == "rows" else row_keys(_seed_of(self.seed, name), x)
            # Few rows in a large block would be padding for the most part, and these functions are slow.
            size = _FEW_ROWS if len(x) <= _FEW_ROWS else _ROWS if len(x) <= 16 * _ROWS else None
            call = lambda x, u, keys, *more: function(self.system, x, u, keys, *more, *options)
            result = apply_in_blocks(call, x, self.u, keys, *more, size=size)
        return jax.tree.map(lambda a: a if a.dtype == bool else a.astype(np.float64), result)

    def _exact(self) -> Weighed | None:
        with precision_of(self.estimator.precision):
            rows = exact_log_marginal(self.system.model, self.x, self.u)
        if rows is None:
            return None
        missing = np.full(len(rows), np.nan)
        return Weighed(rows + self.volume, np.zeros(len(rows)), missing, missing)  # type: ignore[arg-type]

    def _grid(self, n_nodes: int | None) -> Weighed:
        n = self.estimator.n_components_
        if n > _MOST_GRID_DIMENSIONS or not self._has_network():
            raise DataError(
                f"method='gauss-hermite' needs a decoder network and at most {_MOST_GRID_DIMENSIONS} components, "
                f"this model has {n}; use method='qmc', 'importance' or 'ais'"
            )
        return self.rows(gauss_hermite, check_count("n_nodes", _NODES[n] if n_nodes is None else n_nodes))

    def _has_network(self) -> bool:
        return isinstance(self.system.model.likelihood, Decoder)


def annealing_of(options: dict[str, Any]) -> Annealing:
    """The annealing that options name."""
    numbers = {name: options[name] for name in ("n_temperatures", "n_chains") if name in options}
    return Annealing(**numbers, start=options.get("proposal", "encoder"))


def checked_options(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, if the method has them.

    Raises
    ------
    ValueError
        If the method or the proposal is none of those that exist.
    DataError
        If the method has no such option.
    """
    if method not in OPTIONS:
        raise ValueError(f"method must be one of {', '.join(OPTIONS)}, got {method!r}")
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in OPTIONS[method]:
            known = ", ".join(OPTIONS[method]) or "none"
            raise DataError(f"{name} has no meaning for method={method!r}, whose options are: {known}")
    if given.get("proposal", PROPOSALS[0]) not in PROPOSALS:
        raise ValueError(f"proposal must be one of {', '.join(PROPOSALS)}, got {given['proposal']!r}")
    return given


def _seed_of(seed: int, name: str) -> int:
    return int(named_rng(seed, name).integers(2**31))
