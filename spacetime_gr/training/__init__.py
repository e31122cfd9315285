"""Training: configuration, loop, callbacks and checkpoints."""
