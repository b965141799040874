"""What MindSpore's CPU backend computes slowly or with much memory, in C++: most of a training step."""
