"""The classifier of drawings (nsfwjs, MobileNet V2 "mid", MIT) as one ONNX file, weights in uint8.

    npm pack nsfwjs@4.3.0 && tar xzf nsfwjs-4.3.0.tgz      (no install: its peers are 335 MB)
    pip install onnx
    python recipes/safety/convert_drawings.py package src/kleinod/safety/models/drawings.onnx

The package holds JavaScript modules, so Node prints them as JSON. tensorflow.js stores a weight as
q * scale + min with min a multiple of scale: that is ONNX's DequantizeLinear to the bit.
"""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_PRINT = """
const folder = process.argv[1] + "/dist/models/mobilenet_v2_mid/";
const shards = ["group1-shard1of2.min.js", "group1-shard2of2.min.js"];
const parts = shards.map(s => require(folder + s));
console.log(JSON.stringify([require(folder + "model.min.js"), parts]));
"""
CLASSES = ("drawing", "hentai", "neutral", "porn", "sexy")


def main(package: str, target: str) -> None:
    """Convert and write."""
    folder = str(Path(package).absolute())
    printed = subprocess.run(["node", "-e", _PRINT, folder], check=True, capture_output=True)
    model, shards = json.loads(printed.stdout)
    data = b"".join(base64.b64decode(shard) for shard in shards)
    graph = Graph(model["weightsManifest"][0]["weights"], data)
    for node in model["modelTopology"]["node"]:
        graph.add(node)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph.model(), target)


class Graph:
    """Nodes of TensorFlow's kind (NHWC) made ONNX's (NCHW)."""

    def __init__(self, weights: list[dict[str, Any]], data: bytes) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.stored: dict[str, tuple[np.ndarray, float, int]] = {}
        self.constants: dict[str, float] = {}
        offset = 0
        for weight in weights:
            count = int(np.prod(weight["shape"]))
            quantization = weight.get("quantization")
            if quantization is None:
                width = 4
                kind = "<i4" if weight["dtype"] == "int32" else "<f4"
                values = np.frombuffer(data, kind, count, offset)
                self.constants[weight["name"]] = float(values[0])
            else:
                width = 1
                values = np.frombuffer(data, np.uint8, count, offset).reshape(weight["shape"])
                scale = quantization["scale"]
                self.stored[weight["name"]] = values, scale, round(-quantization["min"] / scale)
            offset += count * width
        assert offset == len(data)

    def add(self, node: dict[str, Any]) -> None:
        """One node of the source."""
        kind, name, inputs = node["op"], node["name"], node.get("input", [])
        if kind in ("Const", "Placeholder"):
            return
        simple = {"AddV2": "Add", "Identity": "Identity", "Mul": "Mul", "Sub": "Sub"}
        if kind in simple:
            self._node(simple[kind], [self._operand(one) for one in inputs], name)
        elif kind == "Softmax":
            self._node(kind, inputs, name, axis=-1)
        elif kind == "AvgPool":
            self._node("GlobalAveragePool", inputs, name)
        elif kind == "Squeeze":
            self._node("Flatten", inputs, name)
        elif kind == "_FusedMatMul":
            self._node("Gemm", [inputs[0], *map(self._weight, inputs[1:])], name)
        else:
            self._convolution(node)

    def _convolution(self, node: dict[str, Any]) -> None:
        is_depthwise = node["op"] == "FusedDepthwiseConv2dNative"
        assert is_depthwise or node["op"] == "_FusedConv2D", node["op"]
        attributes = node["attr"]
        strides = [int(one) for one in attributes["strides"]["list"]["i"][1:3]]
        assert base64.b64decode(attributes["padding"]["s"]) == b"SAME"
        fused = [base64.b64decode(one) for one in attributes["fused_ops"]["list"]["s"]]
        source, weight, bias = node["input"]
        shape = self.stored[weight][0].shape
        axes = (2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1)
        name = node["name"]
        inner = f"{name}/inner" if b"Relu6" in fused else name
        self._node(
            "Conv",
            [source, self._weight(weight, axes), self._weight(bias)],
            inner,
            strides=strides,
            auto_pad="SAME_UPPER",
            group=shape[2] if is_depthwise else 1,
        )
        if b"Relu6" in fused:
            limits = [self._number(0.0), self._number(6.0)]
            self._node("Clip", [inner, *limits], name)

    def _weight(self, name: str, axes: tuple[int, ...] | None = None) -> str:
        values, scale, zero = self.stored[name]
        values = values if axes is None else values.transpose(axes)
        if values.ndim == 1:  # biases are small, and their range need not hold 0
            floats = ((values.astype(np.float64) - zero) * scale).astype(np.float32)
            self.initializers.append(numpy_helper.from_array(floats, name))
            return name
        assert 0 <= zero <= 255
        parts = (values, np.float32(scale), np.uint8(zero))
        for suffix, part in zip(("q", "s", "z"), parts, strict=True):
            array = np.ascontiguousarray(part).reshape(np.shape(part))
            self.initializers.append(numpy_helper.from_array(array, f"{name}/{suffix}"))
        self._node("DequantizeLinear", [f"{name}/{suffix}" for suffix in "qsz"], f"{name}/float")
        return f"{name}/float"

    def _operand(self, name: str) -> str:
        if name in self.constants:
            return self._number(self.constants[name])
        if name in self.stored:
            values, scale, zero = self.stored[name]
            return self._number((float(values.reshape(-1)[0]) - zero) * scale)
        return name

    def _number(self, value: float) -> str:
        name = f"number/{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.float32(value).reshape(()), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:  # noqa: ANN401
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def model(self) -> onnx.ModelProto:
        """Input "input" (b, 3, 224, 224) from 0 to 1, output "Identity" (b, 5): see CLASSES."""
        one = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["b", 3, 224, 224])
        out = helper.make_tensor_value_info("Identity", TensorProto.FLOAT, ["b", len(CLASSES)])
        graph = helper.make_graph(self.nodes, "nsfwjs-mobilenet-v2-mid", [one], [out])
        graph.initializer.extend(self.initializers)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(made)
        return made


if __name__ == "__main__":
    main(*sys.argv[1:])
