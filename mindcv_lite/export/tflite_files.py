"""TFLite files, for LiteRT on phones: the network of an ONNX graph, written by the schema of the package
ai-edge-litert. Images lie as (batch, height, width, channels) there, and so do weights."""

from typing import Any

import numpy as np

from mindcv_lite.export.onnx_files import Predict
from mindcv_lite.models.onnx_graph import INPUT, Graph, Node

# What gives a number for each number that comes in: the name there, and of what says more about it.
ELEMENTWISE = {
    "Add": ("ADD", "AddOptionsT"),
    "Sub": ("SUB", "SubOptionsT"),
    "Mul": ("MUL", "MulOptionsT"),
    "Div": ("DIV", "DivOptionsT"),
    "Relu": ("RELU", ""),
    "HardSwish": ("HARD_SWISH", "HardSwishOptionsT"),
    "Softmax": ("SOFTMAX", "SoftmaxOptionsT"),
}
ALIGNMENT = 16  # of the weights in the file, which LiteRT reads where they lie


def tflite_file(graph: Graph, images: np.ndarray, batch: int | None = None) -> bytes:
    """The content of a TFLite file that computes what `graph` does, a graph in float32.

    `images`: a batch like those it is to take, (batch, height, width, channels). `batch`: how many it takes at once;
    None: one, and any number where the program resizes the input.
    """
    return _Writer(graph, images, batch).content()


def open_tflite(content: bytes) -> Predict:
    """What LiteRT predicts for a batch of images, by the content of a file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_content=content)

    def predict(images: np.ndarray) -> np.ndarray:
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return predict


class _Writer:
    """Goes along the nodes of a graph, and knows the shape of all that has been computed."""

    def __init__(self, graph: Graph, images: np.ndarray, batch: int | None):
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.graph, self.batch = graph, batch
        self.tensors: list[Any] = []
        self.indices: dict[str, int] = {}  # of tensors, by the names of the graph
        self.buffers: list[Any] = [self.schema.BufferT()]  # the first is empty, for all that is computed
        self.operators: list[Any] = []
        self.codes: list[int] = []  # the kinds of operators
        self._tensor(INPUT, images.shape[1:], images.dtype)

    # ------------------------------------------------------------------------------------------------- along the nodes

    def content(self) -> bytes:
        for node in self.graph.nodes:
            known = self._elementwise if node.operator in ELEMENTWISE else getattr(self, f"_{node.operator.lower()}")
            known(node)
        return self._packed(self.graph.nodes[-1].output)

    def _transpose(self, node: Node) -> None:
        self.indices[node.output] = self.indices[node.inputs[0]]  # images lie here as they come

    def _cast(self, node: Node) -> None:
        types = self.schema.TensorType
        options = self.schema.CastOptionsT(inDataType=types.UINT8, outDataType=types.FLOAT32)
        self._operator("CAST", node.output, node.inputs[:1], self._shape(node.inputs[0]), options)

    def _elementwise(self, node: Node) -> None:
        kind, described = ELEMENTWISE[node.operator]
        for name in node.inputs[1:]:
            if name in self.graph.constants:  # of a channel each
                self._constant(name, self.graph.constants[name].reshape(-1))
        options = getattr(self.schema, described)() if described else None
        if options and node.operator == "Softmax":
            options.beta = 1.0
        self._operator(kind, node.output, node.inputs, self._shape(node.inputs[0]), options)

    def _conv(self, node: Node) -> None:
        x, weight, bias = node.inputs
        kernels = self.graph.constants[weight]  # (out, in / group, k, k)
        is_depthwise = node.attributes["group"] > 1
        self._constant(weight, kernels.transpose(1, 2, 3, 0) if is_depthwise else kernels.transpose(0, 2, 3, 1))
        self._constant(bias, self.graph.constants[bias])
        (stride, _), (kernel, _), pads = (node.attributes[name] for name in ("strides", "kernel_shape", "pads"))
        height, width, _ = self._shape(x)
        sides = [
            (side + before + after - kernel) // stride + 1
            for side, before, after in zip((height, width), pads[:2], pads[2:], strict=True)
        ]
        options = {"padding": self.schema.Padding.VALID, "strideH": stride, "strideW": stride}
        options |= {"dilationHFactor": 1, "dilationWFactor": 1}
        if pads == _same_pads((height, width), kernel, stride):
            options["padding"] = self.schema.Padding.SAME
        else:
            x = self._padded(node.output, x, pads)
        if is_depthwise:
            kind, described = "DEPTHWISE_CONV_2D", self.schema.DepthwiseConv2DOptionsT(**options, depthMultiplier=1)
        else:
            kind, described = "CONV_2D", self.schema.Conv2DOptionsT(**options)
        self._operator(kind, node.output, (x, weight, bias), (*sides, len(kernels)), described)

    def _padded(self, name: str, x: str, pads: list[int]) -> str:
        top, left, bottom, right = pads
        height, width, channels = self._shape(x)
        around = self._constant(f"{name}.pads", np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
        shape = height + top + bottom, width + left + right, channels
        return self._operator("PAD", f"{name}.padded", (x, around), shape, self.schema.PadOptionsT())

    def _gemm(self, node: Node) -> None:
        for name in node.inputs[1:]:
            self._constant(name, self.graph.constants[name])
        outputs = len(self.graph.constants[node.inputs[2]])
        self._operator("FULLY_CONNECTED", node.output, node.inputs, (outputs,), self.schema.FullyConnectedOptionsT())

    def _hardsigmoid(self, node: Node) -> None:
        """As TFLite has none: min(max(x + 3, 0), 6) / 6."""
        shape, relu6 = self._shape(node.inputs[0]), self.schema.ActivationFunctionType.RELU6
        three = self._constant("three", np.array([3], np.float32))
        sixth = self._constant("sixth", np.array([1 / 6], np.float32))
        options = self.schema.AddOptionsT(fusedActivationFunction=relu6)
        x = self._operator("ADD", f"{node.output}.relu6", (node.inputs[0], three), shape, options)
        self._operator("MUL", node.output, (x, sixth), shape, self.schema.MulOptionsT())

    def _globalaveragepool(self, node: Node) -> None:
        channels, axes = self._shape(node.inputs[0])[-1], self._constant("height_width", np.array([1, 2], np.int32))
        options = self.schema.ReducerOptionsT(keepDims=True)
        self._operator("MEAN", node.output, (node.inputs[0], axes), (1, 1, channels), options)

    def _flatten(self, node: Node) -> None:
        channels = self._shape(node.inputs[0])[-1]
        shape = self._constant(f"{node.output}.shape", np.array([-1, channels], np.int32))
        self._operator("RESHAPE", node.output, (node.inputs[0], shape), (channels,), self.schema.ReshapeOptionsT())

    # ------------------------------------------------------------------------------------------------- the file's parts

    def _shape(self, name: str) -> tuple[int, ...]:
        """Without the batch."""
        return tuple(self.tensors[self.indices[name]].shape[1:])

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: np.dtype | type = np.float32) -> None:
        tensor = self.schema.TensorT(name=name, type=self._type(dtype), shape=[self.batch or 1, *shape])
        if self.batch is None:
            tensor.shapeSignature = [-1, *shape]
        self._append(name, tensor)

    def _constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.indices:
            data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
            tensor = self.schema.TensorT(name=name, type=self._type(value.dtype), shape=list(value.shape))
            tensor.buffer = len(self.buffers)
            self.buffers.append(_aligned(self.schema)(data=data))
            self._append(name, tensor)
        return name

    def _append(self, name: str, tensor: Any) -> None:
        self.indices[name] = len(self.tensors)
        tensor.quantization = self.schema.QuantizationParametersT()
        self.tensors.append(tensor)

    def _type(self, dtype: np.dtype | type) -> int:
        return getattr(self.schema.TensorType, np.dtype(dtype).name.upper())

    def _operator(
        self, kind: str, output: str, inputs: tuple[str, ...], shape: tuple[int, ...], options: Any = None
    ) -> str:
        """`shape`: of the output, without the batch."""
        code = getattr(self.schema.BuiltinOperator, kind)
        if code not in self.codes:
            self.codes.append(code)
        operator = self.schema.OperatorT(
            opcodeIndex=self.codes.index(code), inputs=[self.indices[name] for name in inputs]
        )
        self._tensor(output, shape)
        operator.outputs = [self.indices[output]]
        if options:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.operators.append(operator)
        return output

    def _packed(self, output: str) -> bytes:
        import flatbuffers

        schema, ends = self.schema, [self.indices[INPUT], self.indices[output]]
        maps = [
            schema.TensorMapT(name=name, tensorIndex=index) for name, index in zip((INPUT, output), ends, strict=True)
        ]
        model = schema.ModelT(
            version=3,
            description="mindcv_lite",
            buffers=self.buffers,
            operatorCodes=[
                schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=1)
                for code in self.codes
            ],
            subgraphs=[schema.SubGraphT(self.tensors, ends[:1], ends[1:], self.operators, "main")],
            signatureDefs=[schema.SignatureDefT(maps[:1], maps[1:], "serving_default", 0)],
        )
        builder = flatbuffers.Builder(sum(len(buffer.data) for buffer in self.buffers[1:]) + 1_000_000)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _same_pads(size: tuple[int, int], kernel: int, stride: int) -> list[int]:
    """TFLite's SAME: top, left, bottom, right."""
    totals = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in size]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def _aligned(schema: Any) -> type:
    """A buffer that begins where LiteRT may read floats; the schema's own begins anywhere."""

    class AlignedBuffer(schema.BufferT):
        def Pack(self, builder: Any) -> int:
            builder.StartVector(1, len(self.data), ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data.tobytes()
            data = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    return AlignedBuffer
