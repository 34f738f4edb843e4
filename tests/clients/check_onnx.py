"""Checks ONNX models by the format's own tools: every node against its operator's schema, every shape inferred anew.

    python3 tests/clients/check_onnx.py MODEL...      # needs onnx
"""

import sys

import onnx

for path in sys.argv[1:]:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    known = {value.name for value in inferred.graph.value_info} | {value.name for value in inferred.graph.output}
    without = [name for node in inferred.graph.node for name in node.output if name not in known]
    assert not without, f"{path}: no shape could be inferred for {without}"
    keys = [entry.key for entry in model.metadata_props]
    assert keys == ["moco.encoder"], f"{path}: metadata {keys}"
    opset = model.opset_import[0].version
    print(f"checked: opset {opset}, file format {model.ir_version}, {len(model.graph.node)} nodes, onnx {onnx.__version__}")
