// Kernels for AVX2 with AVX-VNNI.
#if defined(__x86_64__)
#include "target.h"

TARGET("avx2,fma,f16c,avxvnni")
#include "attention.h"
#include "elementwise.h"
#include "experts.h"
#include "avx_vnni.h"
#include "block_gather.h"
#include "block_linear.h"
#include "recurrence.h"
#include "row_linear.h"

extern const Kernels avx_vnni_kernels = {
    "avx-vnni", linear<AvxVnni>, linear_scratch<AvxVnni>, gather<Avx2>, attention<Avx2>, attention_scratch, swiglu<Avx2>, add_norm<Avx2>, add_layer_norm<Avx2>,
    row_linear<AvxVnni>, row_linear_scratch<AvxVnni>, causal_conv<Avx2>, linear_attention<Avx2>,
    experts<Avx2, linear<AvxVnni>>, experts_scratch<linear_scratch<AvxVnni>>, pointwise<Avx2>, softmax<Avx2>, row_sum<Avx2>, float_linear<Avx2>};
TARGET_END
#endif
