"""Files of weights, and what the weights mean."""
