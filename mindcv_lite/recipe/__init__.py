"""Every choice of a run: its keys, their values and rules, and how they are read."""
