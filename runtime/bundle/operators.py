"""List the operators that a bundle's graph may use, by operator set. An export writes no other operators, and
the runtime refuses all others.

All of them compute tensors of numbers from tensors of numbers. No operator contains a graph, such as the
body of a loop. No operator uses random numbers or reads anything but its inputs.
"""

from __future__ import annotations

STANDARD = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention BitShift BitwiseAnd BitwiseNot
    BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Compress Concat Constant ConstantOfShape Conv Cos
    Cosh CumProd CumSum DequantizeLinear Div DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike
    Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual HardSigmoid HardSwish
    Hardmax Identity IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LSTM LpNormalization MatMul MatMulInteger Max Mean Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad
    Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape RotaryEmbedding Round
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
    Split Sqrt Squeeze Sub Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu
    Unsqueeze Where Xor
"""
# ONNX Runtime's own.
MICROSOFT = """
    FusedMatMul GatherBlockQuantized GroupQueryAttention LinearAttention MatMulIntegerToFloat MatMulNBits
    MultiHeadAttention
"""
OPERATORS = {"": frozenset(STANDARD.split()), "com.microsoft": frozenset(MICROSOFT.split())}
