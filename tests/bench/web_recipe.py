"""A model as transformers.js' own conversion makes it, for web.mjs to hold ours against.

    python prepare.py transformers MODEL.gguf HF_DIR
    python web_recipe.py HF_DIR text-generation-with-past OUT

In an environment with optimum, optimum-onnx, transformers < 4.58, onnxslim and onnxruntime. OUT then has
model.onnx and model_quantized.onnx.

Source: scripts/convert.py and scripts/quantize.py of transformers.js, their default `q8`: optimum's export,
onnxslim, then ONNX Runtime's dynamic quantizer over all operators that have integers, weights int8, inputs
uint8. A decoder's weights have one scale a matrix, an encoder's and a T5's one a column, in 7 bits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnxslim  # pyright: ignore[reportMissingImports]
from onnxruntime.quantization import QuantizationMode, QuantType
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.registry import IntegerOpsRegistry
from optimum.exporters.onnx import main_export  # pyright: ignore[reportMissingImports]


def convert(source: str, task: str, out: Path) -> None:
    """Export, simplify, and quantize each graph of the model."""
    main_export(model_name_or_path=source, output=out, task=task, do_validation=False)
    columns = not task.startswith("text-generation")
    for path in [path for path in out.glob("*.onnx") if not path.stem.endswith("_quantized")]:
        onnx.save(onnxslim.slim(str(path)), path)
        quantizer = ONNXQuantizer(
            onnx.load(path),
            per_channel=columns,
            reduce_range=columns,
            mode=QuantizationMode.IntegerOps,
            static=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=None,
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=list(IntegerOpsRegistry),
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
        onnx.save(quantizer.model.model, path.with_name(f"{path.stem}_quantized.onnx"))


if __name__ == "__main__":
    convert(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
