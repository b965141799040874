"""What checks and packs a folder of images."""
