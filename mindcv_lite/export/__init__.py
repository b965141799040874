"""The trained network for other programs: ONNX and MINDIR files, and whether they compute what MindSpore does."""
