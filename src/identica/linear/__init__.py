"""Linear tools of the field: whitening, principal components, joint diagonalisation."""
