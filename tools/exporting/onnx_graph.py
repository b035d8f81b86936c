"""Builds an ONNX graph operation by operation; values are known by their names."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Opset 17 is the first with layer normalisation; runtimes of 2022 and later read it.
OPSET, IR_VERSION = 17, 8
EPSILON = 1e-5

Params = Mapping[str, Any]


class Graph:
    """A graph under construction. Methods add nodes and return the name of what they compute.

    Sequences are [N, C, T] for convolutions and [N, T, C] for all else.
    """

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Adds an array that is part of the file."""
        name = f"constant_{len(self._constants)}"
        array = np.array(values, dtype, order="C")
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        """Adds a list of whole numbers, such as axes or a shape."""
        return self.constant(values, np.int64)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one output."""
        output = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def dense(self, x: str, params: Params) -> str:
        """Multiplies [..., C] by a dense layer's kernel."""
        y = self.op("MatMul", x, self.constant(params["kernel"]))
        return self.op("Add", y, self.constant(params["bias"])) if "bias" in params else y

    def conv(self, x: str, params: Params, dilation: int = 1, causal: bool = False) -> str:
        """Convolves [N, C, T] with a kernel [k, C, C'] to the same length."""
        kernel = np.transpose(params["kernel"], (2, 1, 0))
        reach = dilation * (kernel.shape[-1] - 1)
        pads = [reach, 0] if causal else [reach // 2, reach - reach // 2]
        inputs = [x, self.constant(kernel)]
        if "bias" in params:
            inputs.append(self.constant(params["bias"]))
        return self.op("Conv", *inputs, dilations=[dilation], pads=pads)

    def batch_norm(self, x: str, params: Params, statistics: Params) -> str:
        """Normalises [N, C, T] by running statistics."""
        arrays = (params["scale"], params["bias"], statistics["mean"], statistics["var"])
        return self.op("BatchNormalization", x, *map(self.constant, arrays), epsilon=EPSILON)

    def layer_norm(self, x: str, params: Params) -> str:
        """Normalises the channels of [N, T, C]."""
        scale, bias = self.constant(params["scale"]), self.constant(params["bias"])
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=EPSILON)

    def turned(self, x: str) -> str:
        """Swaps the last two axes of three."""
        return self.op("Transpose", x, perm=[0, 2, 1])

    def length(self, x: str, axis: int) -> str:
        """The size of an axis, as a list of one whole number."""
        return self.op("Gather", self.op("Shape", x), self.ints(axis))

    def ages(self, length: str) -> str:
        """How many snippets s lies before t: t - s [T, T]."""
        scalar = self.op("Squeeze", length, self.ints(0))
        zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
        places = self.op("Cast", self.op("Range", zero, scalar, one), to=TensorProto.FLOAT)
        column = self.op("Unsqueeze", places, self.ints(1))
        return self.op("Sub", column, self.op("Unsqueeze", places, self.ints(0)))

    def seen(self, ages: str, band: int) -> str:
        """1 where a snippet is one of the last `band`, else 0 [T, T]."""
        now = self.op("GreaterOrEqual", ages, self.constant(0.0))
        recent = self.op("Less", ages, self.constant(float(band)))
        return self.op("Cast", self.op("And", now, recent), to=TensorProto.FLOAT)

    def summed(self, x: str, axis: int) -> str:
        """The sum over an axis, which stays with size 1."""
        return self.op("ReduceSum", x, self.ints(axis), keepdims=1)

    def model(
        self,
        inputs: Mapping[str, Sequence[int]],
        result: str,
        output: str,
        notes: Mapping[str, str],
    ) -> onnx.ModelProto:
        """Returns the model.

        Args:
          inputs: axes of each input after its first, which is T and left open.
          result: what is returned, [T].
          output: its name.
          notes: the metadata.
        """
        self._nodes.append(helper.make_node("Identity", [result], [output]))

        def value(name: str, axes: Sequence[int | str]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)

        graph = helper.make_graph(
            self._nodes,
            "detector",
            [value(name, ["T", *axes]) for name, axes in inputs.items()],
            [value(output, ["T"])],
            self._constants,
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="gvvad-jax"
        )
        helper.set_model_props(model, dict(notes))
        onnx.checker.check_model(model)
        return model
