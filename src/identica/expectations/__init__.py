"""Expectations: how an average over q becomes finitely many nodes, and how gradients pass through it."""

from identica.expectations.pathwise import Pathwise, sample_with_log_prob

__all__ = ["Pathwise", "sample_with_log_prob"]
