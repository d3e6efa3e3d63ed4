"""The commands that need no Trainer of their own, a file each."""
