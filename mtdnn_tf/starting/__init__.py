"""From a user's files to a task file that runs: read, guess, hold out, write. Needs no TensorFlow."""
