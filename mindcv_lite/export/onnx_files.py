"""ONNX files: the only module that needs the packages onnx and onnxruntime."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from mindcv_lite.models.onnx_graph import DEFAULT_OPSET, INPUT, NUMBER_FORMATS, Graph, Node
from mindcv_lite.program import version_of

Predict = Callable[[np.ndarray], np.ndarray]  # images of a batch to logits or probabilities

CHUNK = 32  # images at once in a single layer

log = logging.getLogger(__name__)


def newest_opset() -> int:
    """The newest operator set that the installed onnx can write."""
    import onnx

    return onnx.defs.onnx_opset_version()


def onnx_file(graph: Graph, images: np.ndarray, metadata: Mapping[str, str], batch: int | None = None) -> bytes:
    """The content of an ONNX file, checked, with the shapes of all values in it.

    `images`: a batch like those it is to take. `batch`: how many it takes at once; None: any number. `metadata`: what
    onnxruntime gives back.
    """
    import onnx
    from onnx import helper, numpy_helper

    def batch_of(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [batch or "batch", *shape])

    nodes = [
        helper.make_node(node.operator, node.inputs, [node.output], node.output, **node.attributes)
        for node in graph.nodes
    ]
    given = batch_of(INPUT, helper.np_dtype_to_tensor_dtype(images.dtype), *graph.shape_of(images))
    output = batch_of(
        graph.nodes[-1].output, NUMBER_FORMATS[graph.precision], len(graph.constants["classifier.3.bias"])
    )
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    opsets = [helper.make_opsetid("", graph.opset)]
    model = helper.make_model(
        helper.make_graph(nodes, metadata["model"], [given], [output], constants),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),  # the oldest, which most programs read
        producer_name="mindcv_lite",
        producer_version=metadata["mindcv_lite"],
    )
    helper.set_model_props(model, dict(metadata))
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class NotRead(Exception):
    """onnxruntime does not read a file."""


def open_onnxruntime(content: bytes, threads: int = 0, optimised: bool = True) -> Predict:
    """What onnxruntime predicts for a batch of images, by the content of a file. Raises `NotRead`.

    `threads`: how many compute; 0: one for each core. `optimised`: False: what is rounded to int8 is computed with in
    float32.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Threads that wait for work would spin: twice the CPU time, and beside other work no sooner (onnxruntime 1.23.2).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.NotImplemented) as error:
        raise NotRead(str(error)) from None
    return partial(_predict, session)


def open_onnx(content: bytes, output: str = "", optimised: bool = True) -> Predict:
    """The same; by onnx's own reference where the file is too new for onnxruntime.

    `output`: what it computes on the way, float32, in place of its predictions.
    """
    if output:
        import onnx  # takes longer than what most calls do

        model = onnx.load_from_string(content)
        model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
        content = model.SerializeToString()
    try:
        return open_onnxruntime(content, optimised=optimised)
    except NotRead:
        import onnx
        from onnx.reference import ReferenceEvaluator

        model = onnx.load_from_string(content)
        opset, version = model.opset_import[0].version, version_of("onnxruntime")
        text = "onnxruntime %s does not read this file of operator set %d: onnx's own reference runs it"
        log.info(text, version, opset)
        return partial(_predict, ReferenceEvaluator(model))


def _predict(session: Any, images: np.ndarray) -> np.ndarray:
    (predictions,) = session.run(None, {INPUT: images})
    return np.asarray(predictions)


def compute_node(node: Node, weights: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """What a convolution or a dense layer gives for x (batch, channels, ...), float32, by onnxruntime."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    used = [numpy_helper.from_array(weights[name], name) for name in node.inputs[1:]]
    given = helper.make_tensor_value_info(node.inputs[0], TensorProto.FLOAT, None)
    output = helper.make_tensor_value_info(node.output, TensorProto.FLOAT, None)
    alone = helper.make_node(node.operator, node.inputs, [node.output], **node.attributes)
    opsets = [helper.make_opsetid("", DEFAULT_OPSET)]
    graph = helper.make_graph([alone], "layer", [given], [output], used)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    chunks = np.array_split(x, -(-len(x) // CHUNK))  # onnxruntime takes several times the memory of what it is given
    return np.concatenate([session.run(None, {node.inputs[0]: chunk})[0] for chunk in chunks])
