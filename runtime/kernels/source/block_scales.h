// The scales and minima of a matrix in blocks, for the instruction set `Set`. Each number of float16, and a product of one with
// a code, is a float32 number, so that results don't depend on how the scales are held.
#pragma once
#include "kernels.h"
#include "planes.h"

namespace {

constexpr int SUPER = 256;  // inputs of one factor

// The factors of codes of scales, or of minima, beside block `at`.
template <class Set>
inline __attribute__((always_inline)) typename Set::Floats factors(const BlockMatrix &w, size_t at, bool minima) {
    size_t index = at * w.block / SUPER;
    return Set::load_halves(w.factors + (w.minima ? 2 * index + minima : index) * 16);
}

// Of the 16 outputs of a tile, for one block; `at` counts blocks from tile to tile.
template <class Set>
inline __attribute__((always_inline)) typename Set::Floats scales(const BlockMatrix &w, size_t at) {
    if (w.scale_type == ScaleType::CODES) return Set::mul(factors<Set>(w, at, false), Set::load_codes((const int8_t *)w.scales + at * 16));
    return w.scale_type == ScaleType::FLOAT16 ? Set::load_halves((const uint16_t *)w.scales + at * 16) : Set::load((const float *)w.scales + at * 16);
}

// Minima, beside their scales.
template <class Set>
inline __attribute__((always_inline)) typename Set::Floats minima(const BlockMatrix &w, size_t at, typename Set::Floats scale) {
    if (w.scale_type == ScaleType::FLOAT32) return Set::load((const float *)w.minima + at * 16);
    typename Set::Floats lowest;
    if (w.scale_type == ScaleType::FLOAT16) lowest = Set::load_halves((const uint16_t *)w.minima + at * 16);
    else lowest = Set::mul(factors<Set>(w, at, true), Set::load_codes((const int8_t *)w.minima + at * 16));
    return Set::fma(Set::all(w.bits == 8 ? 16.0f : float(1 << (w.bits - 1))), scale, lowest);
}

// Bits of a code, or that they are looked up.
inline int form_of(const BlockMatrix &w) { return w.table ? LOOKED_UP : w.bits; }

// Bytes of a scale, and of a minimum.
inline size_t scale_bytes(const BlockMatrix &w) { return w.scale_type == ScaleType::FLOAT32 ? 4 : w.scale_type == ScaleType::FLOAT16 ? 2 : 1; }

}  // namespace
