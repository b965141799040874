"""ONNX files: the only module that needs the packages onnx and onnxruntime."""

from collections.abc import Mapping

import numpy as np

from mindcv_lite.export.onnx_graph import INPUT, Graph

# The first operator set that has HardSwish is 14. This one came with ONNX 1.12 in 2022, as did its file format;
# onnxruntime reads both since 1.12.
OPSET, IR_VERSION = 17, 8


def onnx_file(graph: Graph, images: np.ndarray, metadata: Mapping[str, str]) -> bytes:
    """The content of an ONNX file, checked, with the shapes of all values in it.

    `images`: a batch like those it is to take; the number of them is free. `metadata`: what onnxruntime gives back.
    """
    import onnx
    from onnx import helper, numpy_helper

    def batch_of(name: str, like: np.ndarray) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(like.dtype)
        return helper.make_tensor_value_info(name, kind, ["batch", *like.shape[1:]])

    nodes = [
        helper.make_node(node.operator, node.inputs, [node.output], node.output, **node.attributes)
        for node in graph.nodes
    ]
    output = batch_of(graph.nodes[-1].output, graph.constants["classifier.3.bias"][None])
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, metadata["model"], [batch_of(INPUT, images)], [output], constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mindcv_lite",
        producer_version=metadata["mindcv_lite"],
    )
    helper.set_model_props(model, dict(metadata))
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def run_onnx(content: bytes, images: np.ndarray) -> np.ndarray:
    """What onnxruntime predicts for `images`, by the content of a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (predictions,) = session.run(None, {INPUT: images})
    return np.asarray(predictions)
