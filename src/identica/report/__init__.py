"""The HTML report: findings go in, sections come out."""
