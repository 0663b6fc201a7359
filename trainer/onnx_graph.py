"""An ONNX graph that is put together node by node."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import ConfigError

OPSET = 17
IR_VERSION = 8


class Graph:
    """Nodes, and the weights [out, in] that some of them read; names of values are made here."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """ConfigError where the package onnx is missing."""
        try:
            onnx: Any = importlib.import_module("onnx")
            importlib.import_module("onnx.numpy_helper")
        except ImportError as exc:
            raise ConfigError(
                f"the tower is exported by the package onnx: {exc}",
                "pip install onnx, or leave the tower out: --no-tower",
            ) from exc
        self.weights = weights
        self.float: int = onnx.TensorProto.FLOAT
        self.double: int = onnx.TensorProto.DOUBLE
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._initializers: dict[str, Any] = {}

    def add_input(self, name: str, dtype: int, columns: int) -> None:
        """Declares an input [B, columns]."""
        make = self._onnx.helper.make_tensor_value_info
        self._inputs.append(make(name, dtype, ["batch", columns]))

    def node(self, kind: str, inputs: Sequence[str], out: str | None = None, **options: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        name = out or f"{kind.lower()}.{len(self._nodes)}"
        make = self._onnx.helper.make_node
        self._nodes.append(make(kind, list(inputs), [name], name=name, **options))
        return name

    def linear(self, layer: str, x: str) -> str:
        """Adds a layer of the weights: x W^T, and + b where the layer has a bias."""
        names = [f"{layer}.{part}" for part in ("weight", "bias")]
        known = [self._hold(name, self.weights[name]) for name in names if name in self.weights]
        return self.node("Gemm", [x, *known], transB=1)

    def constant(self, array: NDArray[Any]) -> str:
        """Returns the name of an array of the graph; equal arrays are held once."""
        text = f"{array.dtype.str[1:]}:{list(array.shape)}:{array.tobytes().hex()}"
        return self._hold(text if len(text) < 64 else f"constant.{len(self._initializers)}", array)

    def doubles(self, values: Sequence[float]) -> str:
        """Returns the name of a constant double [n]."""
        return self.constant(np.array(values, np.float64))

    def booleans(self, values: Sequence[bool]) -> str:
        """Returns the name of a constant bool [n]."""
        return self.constant(np.array(values, np.bool_))

    def integers(self, values: Sequence[int]) -> str:
        """Returns the name of a constant int64 [n]."""
        return self.constant(np.array(values, np.int64))

    def columns(self, x: str, first: int, end: int) -> str:
        """Returns the name of columns [first, end) of a matrix."""
        ends = [self.integers([number]) for number in (first, end, 1)]
        return self.node("Slice", [x, *ends])

    def serialize(self, outputs: Mapping[str, int]) -> bytes:
        """Returns the file of the graph; `outputs` [B] have these types.

        Two calls give the same bytes, in any process.
        """
        helper = self._onnx.helper
        graph = helper.make_graph(
            self._nodes,
            "tower",
            self._inputs,
            [
                helper.make_tensor_value_info(name, kind, ["batch"])
                for name, kind in outputs.items()
            ],
            list(self._initializers.values()),
        )
        model = helper.make_model(
            graph,
            producer_name="muxtable",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        self._onnx.checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def _hold(self, name: str, array: NDArray[Any]) -> str:
        if name not in self._initializers:
            self._initializers[name] = self._onnx.numpy_helper.from_array(
                np.ascontiguousarray(array), name
            )
        return name
