"""The two stories, `train.py` and `validate.py` beside the package, as modules: a wheel has them, too."""
