"""The encoder and what hangs on it: plain torch modules, usable without Lightning."""
