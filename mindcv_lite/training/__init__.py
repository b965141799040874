"""Training: loss, optimizer, schedule, the train step and the loop."""
