"""From class folders to batches: which images, in which order, on which rank, transformed how."""
