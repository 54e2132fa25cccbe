"""The scikit-learn classes, one per file."""
