// The scales and minima of a matrix in blocks, for the instruction set `Set`. Each float16 number is a float32 number, so that results
// don't depend on which of them holds the scales.
#pragma once
#include "kernels.h"

namespace {

// Of the 16 outputs of a tile, for one block; `at` counts blocks from tile to tile.
template <class Set>
inline __attribute__((always_inline)) typename Set::Floats scales(const BlockMatrix &w, size_t at) {
    return w.half_scales ? Set::load_halves((const uint16_t *)w.scales + at * 16) : Set::load((const float *)w.scales + at * 16);
}

// Minima, beside their scales.
template <class Set>
inline __attribute__((always_inline)) typename Set::Floats minima(const BlockMatrix &w, size_t at, typename Set::Floats scale) {
    if (!w.half_scales) return Set::load((const float *)w.minima + at * 16);
    return Set::fma(Set::all(w.bits == 4 ? 8.0f : 16.0f), scale, Set::load_halves((const uint16_t *)w.minima + at * 16));
}

}  // namespace
