// Arithmetic of sizes.
#pragma once
#include <stddef.h>

namespace {

inline size_t round_up(size_t bytes) { return (bytes + 63) & ~size_t(63); }

inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

inline size_t most(size_t a, size_t b) { return a > b ? a : b; }

inline size_t over(size_t count, size_t size) { return (count + size - 1) / size; }

}  // namespace
