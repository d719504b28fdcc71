// Kernels for NEON with dot products.
#if defined(__aarch64__)
#include "target.h"

TARGET("arch=armv8.2-a+dotprod")
#include "block_gather.h"
#include "block_linear.h"
#include "neon_dotprod.h"

extern const Kernels neon_dotprod_kernels = {"neon-dotprod", linear<NeonDotprod>, linear_scratch<NeonDotprod>, gather};
TARGET_END
#endif
