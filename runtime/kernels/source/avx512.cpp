// Kernels for AVX512 with VNNI, and with AMX for products of many rows.
#if defined(__x86_64__)
#include "target.h"

TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,prfchw,amx-tile,amx-int8")
#include "amx.h"
#include "amx_row_linear.h"
#include "attention.h"
#include "elementwise.h"
#include "experts.h"
#include "avx512.h"
#include "block_gather.h"
#include "block_linear.h"
#include "recurrence.h"
#include "row_linear.h"

extern const Kernels avx512_kernels = {
    "avx512-vnni", linear<Avx512>, linear_scratch<Avx512>, gather<Avx512>, attention<Avx512>, attention_scratch, swiglu<Avx512>, add_norm<Avx512>, add_layer_norm<Avx512>,
    row_linear<Avx512>, row_linear_scratch<Avx512>, causal_conv<Avx512>, linear_attention<Avx512>,
    experts<Avx512, linear<Avx512>>, experts_scratch<linear_scratch<Avx512>>, pointwise<Avx512>, softmax<Avx512>, row_sum<Avx512>, float_linear<Avx512>};
extern const Kernels amx_kernels = {"amx", linear_amx, linear_scratch_amx, gather<Avx512>, attention<Avx512>, attention_scratch, swiglu<Avx512>, add_norm<Avx512>, add_layer_norm<Avx512>,
    row_linear_amx, row_linear_scratch_amx, causal_conv<Avx512>, linear_attention<Avx512>,
    experts<Avx512, linear_amx>, experts_scratch<linear_scratch_amx>, pointwise<Avx512>, softmax<Avx512>, row_sum<Avx512>, float_linear<Avx512>};
TARGET_END
#endif
