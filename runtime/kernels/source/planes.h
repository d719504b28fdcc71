// The codes of a step, 16 inputs of 16 outputs, in 32 bytes for each of their bits: code j = 0 .. 63 of four g = 0 .. 3.
//   8 bits  byte g * 64 + j
//   4       two codes a byte: g even in the low half of byte g / 2 * 64 + j, g odd in the high one
//   2       four codes a byte: bits 2 g and 2 g + 1 of byte j
//   1       eight codes a byte: bit g + 4 * (j / 32) of byte j % 32
// 5 and 6 bits are the low 4 of each code and then the rest. Looked-up codes are of 8 bits: the 4 that are stored say which of a table's 16.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace {

constexpr int LOOKED_UP = 9;  // instead of a number of bits: codes of a table

// The next width of codes.
constexpr int wider(int bits) { return bits == 2 ? 4 : bits == 6 ? 8 : bits + 1; }

// Bits of a code in memory, and of what it stands for in products.
constexpr int stored_bits(int bits) { return bits == LOOKED_UP ? 4 : bits; }
template <class Set>
constexpr int code_bits(int bits) { return bits == LOOKED_UP ? Set::TABLE_BITS : bits; }

// Bits of a code in the first plane, of fewer than 8.
constexpr int low_bits(int bits) { return bits == 2 ? 2 : 4; }

// The codes of four G, for the instruction set `Set`; `table` is of those that are looked up.
template <class Set, int BITS, int G>
inline __attribute__((always_inline)) typename Set::Codes four_codes(const uint8_t *at, typename Set::Table table) {
    if constexpr (BITS == 8) {
        return Set::codes(at + G * 64);
    } else if constexpr (BITS == LOOKED_UP) {
        return Set::template looked_up<G % 2 * 4>(table, at + G / 2 * 64);
    } else {
        constexpr int LOW = low_bits(BITS), REST = BITS - LOW;
        typename Set::Codes low;
        if constexpr (LOW == 4) low = Set::template field<G % 2 * 4>(Set::plane(at + G / 2 * 64), 15);
        else low = Set::template field<G * 2>(Set::plane(at), 3);
        if constexpr (REST == 2) low = Set::either(low, Set::template field<G * 2 - LOW>(Set::plane(at + 32 * LOW), 3 << LOW));
        if constexpr (REST == 1) low = Set::either(low, Set::template field<G - LOW>(Set::half_plane(at + 32 * LOW), 1 << LOW));
        return low;
    }
}

template <class Set, int BITS>
inline __attribute__((always_inline)) typename Set::Codes four_codes(const uint8_t *at, int g, typename Set::Table table) {
    return g == 0   ? four_codes<Set, BITS, 0>(at, table)
           : g == 1 ? four_codes<Set, BITS, 1>(at, table)
           : g == 2 ? four_codes<Set, BITS, 2>(at, table)
                    : four_codes<Set, BITS, 3>(at, table);
}

// One code.
inline int code_at(const uint8_t *at, int bits, int g, int j) {
    if (bits == 8) return at[g * 64 + j];
    int low = low_bits(bits), rest = bits - low, code = low == 4 ? at[g / 2 * 64 + j] >> (g % 2 * 4) & 15 : at[j] >> (g * 2) & 3;
    at += 32 * low;
    if (rest == 2) code |= (at[j] >> (g * 2) & 3) << low;
    if (rest == 1) code |= (at[j % 32] >> (g + j / 32 * 4) & 1) << low;
    return code;
}

}  // namespace
