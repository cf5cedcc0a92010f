"""Training of heads: one loop for all of them, with its schedule, optimiser, state, log and curves."""
