"""Time series: windows and change-points as u, and how many independent rows a series is worth."""

from identica.series.autocorrelation import autocorrelation, autocorrelation_time, effective_sample_size
from identica.series.labels import segments

__all__ = ["autocorrelation", "autocorrelation_time", "effective_sample_size", "segments"]
