"""A flow on scores, and the classifier that learns its sources: a start for noisy models."""

import equinox as eqx
import jax

from identica.conditionals import Features
from identica.models.contrastive import SegmentClassifier
from identica.models.flow import FlowModel
from identica.typing import Array


class FlowTeacher(eqx.Module):
    """A flow of the n leading scores of x, as if there were no noise.

    Attributes
    ----------
    features : Features
        From x to scores; not trained.
    flow : FlowModel
        Of the leading scores.
    n_components : int
        Number n of scores and of sources.
    """

    features: Features
    flow: FlowModel
    n_components: int = eqx.field(static=True)

    def scores(self, x: Array) -> Array:
        """Leading scores (B, n) of rows x (B, d)."""
        return jax.lax.stop_gradient(self.features(x)[:, : self.n_components])

    def sources(self, x: Array) -> Array:
        """The flow's sources (B, n) of rows x (B, d)."""
        return self.flow.sources(self.scores(x))


class Pupil(eqx.Module):
    """A classifier whose features learn the sources of a teacher.

    Attributes
    ----------
    teacher : FlowTeacher
        Not trained.
    classifier : SegmentClassifier
    """

    teacher: FlowTeacher
    classifier: SegmentClassifier

    def error(self, x: Array) -> Array:
        """Squared distance of features and sources, summed over components, (B,)."""
        target = jax.lax.stop_gradient(self.teacher.sources(x))
        return ((self.classifier.encoder.mean(x) - target) ** 2).sum(-1)


class Contender(eqx.Module):
    """A classifier in training, and beside it one that a flow has taught, which waits for its turn.

    Attributes
    ----------
    classifier : SegmentClassifier
    taught : SegmentClassifier
        Not trained here.
    """

    classifier: SegmentClassifier
    taught: SegmentClassifier
