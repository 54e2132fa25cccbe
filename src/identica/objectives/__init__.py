"""Objectives: what is minimised, in nats per observation."""
