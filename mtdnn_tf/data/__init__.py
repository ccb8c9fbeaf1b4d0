"""From sources to mixed minibatches: rows, tokens, batches, mixing."""
