"""Where Lightning lives: the modules that wrap the encoder for pre-training, pruning and fine-tuning."""
