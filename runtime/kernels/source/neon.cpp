// Kernels for NEON.
#if defined(__aarch64__)
#include "attention.h"
#include "elementwise.h"
#include "experts.h"
#include "block_gather.h"
#include "block_linear.h"
#include "recurrence.h"
#include "row_linear.h"
#include "neon.h"

extern const Kernels neon_kernels = {"neon", linear<Neon>, linear_scratch<Neon>, gather<Neon>, attention<Neon>, attention_scratch, swiglu<Neon>, add_norm<Neon>, add_layer_norm<Neon>,
    row_linear<Neon>, row_linear_scratch<Neon>, causal_conv<Neon>, linear_attention<Neon>,
    experts<Neon, linear<Neon>>, experts_scratch<linear_scratch<Neon>>, pointwise<Neon>, softmax<Neon>, row_sum<Neon>, float_linear<Neon>};
#endif
