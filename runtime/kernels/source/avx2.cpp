// Kernels for AVX2.
#if defined(__x86_64__)
#include "target.h"

TARGET("avx2,fma,f16c")
#include "attention.h"
#include "elementwise.h"
#include "experts.h"
#include "avx2.h"
#include "block_gather.h"
#include "block_linear.h"
#include "recurrence.h"
#include "row_linear.h"

namespace {

bool in_words(const BlockMatrix &w) { return w.table ? !Avx2Bytes::narrow(w.table) : w.bits == 8; }

void linear_avx2(const BlockMatrix *w, const float *bias, const float *x, size_t rows, float *y, void *scratch, Pool pool) {
    (in_words(*w) ? linear<Avx2Words> : linear<Avx2Bytes>)(w, bias, x, rows, y, scratch, pool);
}

size_t linear_scratch_avx2(const BlockMatrix *w, size_t rows) {
    return in_words(*w) ? linear_scratch<Avx2Words>(w, rows) : linear_scratch<Avx2Bytes>(w, rows);
}

}  // namespace

extern const Kernels avx2_kernels = {"avx2", linear_avx2, linear_scratch_avx2, gather<Avx2>, attention<Avx2>, attention_scratch, swiglu<Avx2>, add_norm<Avx2>, add_layer_norm<Avx2>,
    row_linear<Avx2Words>, row_linear_scratch<Avx2Words>, causal_conv<Avx2>, linear_attention<Avx2>,
    experts<Avx2, linear_avx2>, experts_scratch<linear_scratch_avx2>, pointwise<Avx2>, softmax<Avx2>, row_sum<Avx2>, float_linear<Avx2>};
TARGET_END
#endif
