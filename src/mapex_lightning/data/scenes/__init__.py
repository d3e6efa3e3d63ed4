"""Whole scenes: the rasters that hold a sensor's bands, read on any grid and cut into tiles."""
