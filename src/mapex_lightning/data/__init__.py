"""Tiles and their labels: data sets, rasters and the transforms that all sensors undergo together."""
