"""Scores of estimated components against known ones."""

from identica.evaluation.matching import Matching, amari_distance, linear_r2, match_components, mcc

__all__ = ["Matching", "amari_distance", "linear_r2", "match_components", "mcc"]
