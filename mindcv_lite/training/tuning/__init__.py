"""The search for a way of fine-tuning that suits a set of images."""
