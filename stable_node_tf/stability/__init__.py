"""Mathematics of stability on tensors: knows neither Keras nor solvers."""
