// TARGET("a,b") ... TARGET_END: the code between may use these instructions. What else a file defines must have internal
// linkage: the linker would take one file's copy of a template for all.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define TFM_PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define TARGET(names) TFM_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define TARGET_END TFM_PRAGMA(clang attribute pop)
#else
#define TARGET(names) _Pragma("GCC push_options") TFM_PRAGMA(GCC target(names))
#define TARGET_END _Pragma("GCC pop_options")
#endif
