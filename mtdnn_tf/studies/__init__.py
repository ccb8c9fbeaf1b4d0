"""Several runs as one piece of work: chains of stages, and comparisons of arms over tasks and seeds."""
