"""From class folders to batches: which photos, in which order, on which rank, transformed how."""
