// Kernels for NEON with dot products.
#if defined(__aarch64__)
#include "target.h"

TARGET("arch=armv8.2-a+dotprod")
#include "attention.h"
#include "elementwise.h"
#include "experts.h"
#include "block_gather.h"
#include "block_linear.h"
#include "recurrence.h"
#include "row_linear.h"
#include "neon_dotprod.h"

extern const Kernels neon_dotprod_kernels = {
    "neon-dotprod", linear<NeonDotprod>, linear_scratch<NeonDotprod>, gather<Neon>, attention<Neon>, attention_scratch, swiglu<Neon>, add_norm<Neon>, add_layer_norm<Neon>,
    row_linear<NeonDotprod>, row_linear_scratch<NeonDotprod>, causal_conv<Neon>, linear_attention<Neon>,
    experts<Neon, linear<NeonDotprod>>, experts_scratch<linear_scratch<NeonDotprod>>, pointwise<Neon>, softmax<Neon>, row_sum<Neon>, float_linear<Neon>};
TARGET_END
#endif
