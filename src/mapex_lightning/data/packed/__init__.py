"""Packed stores: how tiles are laid down as plain arrays, and how batches come out of them."""
