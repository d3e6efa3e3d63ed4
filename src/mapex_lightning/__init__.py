"""Mixture-of-experts vision transformers for multi-sensor satellite tiles, prunable to the sensors of a task."""

__version__ = "0.1.0"
