"""Writes foreign.onnx, a model as other tools make them: float N×3×4×4 in, the mean of each channel out, no manifest.

    python3 export/tests/data/foreign_model.py export/tests/data/foreign.onnx      # needs onnx
"""

import sys

from onnx import TensorProto, helper, save

graph = helper.make_graph(
    [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["pooled"], axis=1),
    ],
    "foreign",
    [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, 4, 4])],
    [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["batch", 3])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
save(model, sys.argv[1])
