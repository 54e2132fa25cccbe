"""Conditionals: a context (u, z, or x and u) goes in, a distribution comes out."""
