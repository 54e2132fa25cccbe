"""Exponential families from four primitives; density, moments, Fisher information and KL are derived."""
