"""A training run: its state and steps, its memory and processes, and how it listens to itself and chooses."""
