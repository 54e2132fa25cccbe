"""Exponential families for the distribution of one component given the auxiliary variable."""

from identica.families.base import ExponentialFamily, Family
from identica.families.distribution import FamilyDistribution, as_distribution
from identica.families.gaussian_location_scale import GaussianLocationScale
from identica.families.gaussian_scale import GaussianScale
from identica.families.general import General, RadialBaseMeasure
from identica.families.generalized_gaussian import GeneralizedGaussian
from identica.families.laplace_scale import LaplaceScale
from identica.families.learned_base import LearnedBase
from identica.families.power_location_scale import PowerLocationScale
from identica.families.shaped_location_scale import ShapedLocationScale

__all__ = [
    "ExponentialFamily",
    "Family",
    "FamilyDistribution",
    "GaussianLocationScale",
    "GaussianScale",
    "General",
    "GeneralizedGaussian",
    "LaplaceScale",
    "LearnedBase",
    "PowerLocationScale",
    "RadialBaseMeasure",
    "ShapedLocationScale",
    "as_distribution",
]
