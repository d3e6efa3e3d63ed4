"""Exports: what a checkpoint computes, or what it is, in forms that programs without mapex can use."""

from mapex_lightning.export.card import write_weights
from mapex_lightning.export.graphs import FORMS, LIMIT, Export, write_graph
from mapex_lightning.export.program import Program, program_of

__all__ = ["FORMS", "LIMIT", "Export", "Program", "program_of", "write_graph", "write_weights"]
