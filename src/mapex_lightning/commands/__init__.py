"""Commands with a parser of their own, a file each: none needs a Trainer from the start."""
