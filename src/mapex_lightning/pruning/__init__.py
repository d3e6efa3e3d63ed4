"""Pruning: a pure function from a checkpoint to a smaller one."""

from mapex_lightning.pruning.apply import count_bytes, count_parameters, is_parameter, prune
from mapex_lightning.pruning.choice import COVERAGE, Census, Kept, Policy, census_of, choose, cover, mass, sealing, sets
from mapex_lightning.pruning.report import Report

__all__ = [
    "COVERAGE",
    "Census",
    "Kept",
    "Policy",
    "Report",
    "census_of",
    "choose",
    "count_bytes",
    "count_parameters",
    "cover",
    "is_parameter",
    "mass",
    "prune",
    "sealing",
    "sets",
]
