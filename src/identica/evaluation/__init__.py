"""Evaluation: matching (MCC), baselines and nulls."""
