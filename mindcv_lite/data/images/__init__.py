"""One encoded image: what it is, and whether it decodes."""
