"""Losses, optimizers, the multi-task step, checkpoints."""
