"""Expectations: how an average over q becomes finitely many nodes, and how gradients pass through it."""
