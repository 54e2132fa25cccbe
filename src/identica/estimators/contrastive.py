"""What `TCL`, `PCL` and `GCL` share: features trained to tell each row's own context, then unmixed linearly."""

import warnings
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.conditionals import Table
from identica.data import Dataset
from identica.errors import DataError, DataWarning
from identica.estimators.base import Problem
from identica.estimators.blocks import precision_of
from identica.estimators.contrast_checks import context_effect, is_clear
from identica.estimators.contrast_stages import BLOCK, ContrastPlan
from identica.estimators.deterministic import Absent, DeterministicEstimator
from identica.estimators.validation import check_count, check_sizes
from identica.models import ContrastiveModel
from identica.networks.multilayer_perceptron import ACTIVATIONS
from identica.objectives.contrastive import ContrastiveCrossEntropy, Pairing
from identica.random import named_rng
from identica.training import Stage
from identica.typing import Array, FloatArray


class ContrastiveEstimator(DeterministicEstimator):
    """Base class of `TCL`, `PCL` and `GCL`; abstract.

    There is no density of x, so that neither likelihoods nor draws nor a way back from sources to x exist.
    """

    model_: ContrastiveModel
    hidden_sizes: Any
    activation: Any
    n_restarts: Any

    _NO_DENSITY = "contrastive learning models no density of X; FlowICA and IVAE do"
    log_likelihood = Absent(_NO_DENSITY)  # type: ignore[assignment]
    score_samples = Absent("the score of a row depends on the rows it is compared with; use score")  # type: ignore[assignment]
    posterior = Absent(_NO_DENSITY)
    sample = Absent(_NO_DENSITY)
    inverse_transform = Absent(
        "contrastive learning finds features of X and no way back; FlowICA and IVAE do"
    )

    _context = "its value of u"
    _violated = ""

    def transform(self, X: Any, *, u: Any = None) -> FloatArray:
        """Sources of rows: their features, unmixed. u changes nothing and may be left out.

        Parameters
        ----------
        X : array-like of shape (N, d)
        u : ignored

        Returns
        -------
        array of shape (N, n_components), of the type of X
        """
        X, dtype = self._check_rows(X)
        return self._sources(X).astype(dtype)

    def score(self, X: Any, y: Any = None, *, u: Any = None, sample_weight: Any = None) -> float:
        """Minus the contrastive cross-entropy of rows, nats per row; higher is better.

        The mean log probability that the model gives to a row's own context among those it is compared
        with. It compares fits of one method on the same rows, and is no log-likelihood of X.
        """
        X, _ = self._check_rows(X)
        encoded = self._encode_u(self._choose_u(u, y), len(X))
        return float(np.average(-self._cross_entropies(X, encoded), weights=sample_weight))

    # What a method adds -------------------------------------------------------------------------------

    def _plan(self, problem: Problem) -> ContrastPlan:
        raise NotImplementedError

    def build(self, problem: Problem) -> list[Stage]:
        """Contrastive training of the features, then the linear map to sources."""
        if self.activation not in list(ACTIVATIONS):
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        check_sizes(self.hidden_sizes)
        check_count("n_restarts", self.n_restarts)
        return self._plan(problem).stages()

    # Pieces -------------------------------------------------------------------------------------------

    def _adopt(self, system: ContrastiveModel, problem: Problem, X: FloatArray) -> None:
        parameters = system.critic.parameters
        if isinstance(parameters, Table) and system.quantizer is None:
            known = self.auxiliary_.n_segments  # type: ignore[union-attr]
            table = Table(parameters.raw[:known], parameters.log_shares[:known])
            system = eqx.tree_at(lambda s: s.critic.parameters, system, table)
        self._orient(system, np.asarray(problem.data.x).dtype, X)
        self.context_effect_ = None
        self._check_assumption(problem)

    def _check_assumption(self, problem: Problem) -> None:
        """Warn where held-out rows contradict what the method rests on."""
        if problem.held_out is None:
            return
        objective = ContrastiveCrossEntropy(self._pairing())
        self.context_effect_ = context_effect(
            self.model_, objective, problem.held_out, named_rng(self.seed_, "permuted contexts")
        )
        if self._contexts_do_not_matter():
            effect, noise = self.context_effect_  # type: ignore[misc]
            warnings.warn(
                f"{type(self).__name__}: held-out rows are matched with {self._context} no better than with that "
                f"of other rows (advantage {effect:+.3f} ± {noise:.3f} of 1). {self._violated}",
                DataWarning,
                stacklevel=5,
            )

    def _contexts_do_not_matter(self) -> bool:
        return self.context_effect_ is not None and not is_clear(*self.context_effect_)

    def _pairing(self) -> Pairing:
        raise NotImplementedError

    def _cross_entropies(self, X: FloatArray, context: np.ndarray | None) -> FloatArray:
        """Cross-entropy of each row, in an order that does not depend on how rows are arranged in time."""
        if len(X) < 2:
            raise DataError("a contrastive score compares rows; pass at least two")
        order = named_rng(self.seed_, "score").permutation(len(X))
        objective = ContrastiveCrossEntropy(self._pairing())
        with precision_of(self.precision) as precision:
            x = self._model_input(X).astype(precision)[order]
            data = Dataset(jnp.asarray(x), None if context is None else jnp.asarray(context[order]))
            rows = np.asarray(_rows(self.model_, objective, data, BLOCK), np.float64)
        values = np.empty(len(X))
        values[order] = rows
        return values


@compiled
def _rows(model: ContrastiveModel, objective: ContrastiveCrossEntropy, data: Dataset, block: int) -> Array:
    return objective.rows(model, data, block)
