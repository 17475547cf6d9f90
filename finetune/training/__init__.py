"""One classifier learns one fold: batches, steps, evaluations, and the state between them."""
