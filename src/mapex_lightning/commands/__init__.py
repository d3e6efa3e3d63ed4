"""Commands about checkpoints, a file each: without tiles they need neither data nor Trainer."""
