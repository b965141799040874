"""The commands of `python -m mindcv_lite COMMAND`: each module has a `main` that takes the command's arguments."""
