"""Linear tools of the field: whitening, principal components, joint diagonalisation."""

from identica.linear.joint_diagonalization import joint_diagonalize, within_segment_covariances

__all__ = ["joint_diagonalize", "within_segment_covariances"]
