// How the numbers of a head lie in a cache, for the instruction set `Set`.
#pragma once
#include <math.h>
#include <string.h>

#include "kernels.h"

namespace {

// The key or the value of one head and one place.
struct CacheRow {
    void *at;
    size_t size;  // numbers, a multiple of 8
    CacheType type;
    const float *scale;  // of codes

    // The numbers, where they lie there as they are; else null.
    float *floats() const { return type == CacheType::FLOAT32 ? (float *)at : nullptr; }

    // y = the numbers.
    template <class Set>
    void read(float *y) const {
        if (type == CacheType::FLOAT32) {
            memcpy(y, at, size * sizeof(float));
            return;
        }
        size_t i = 0;
        for (; i + 16 <= size; i += 16) Set::store(y + i, load<Set>(i));
        if (i == size) return;
        char bytes[32] = {};
        float scales[16] = {}, numbers[16];
        Set::store(numbers, last(i, bytes, scales).template load<Set>(0));
        memcpy(y + i, numbers, 8 * sizeof *numbers);
    }

    // Write x; false where a number can't be held.
    template <class Set>
    bool write(const float *x) const {
        if (type == CacheType::FLOAT32) {
            memcpy(at, x, size * sizeof(float));
            return true;
        }
        bool fits = all_fit(x);
        size_t i = 0;
        for (; i + 16 <= size; i += 16) store<Set>(i, Set::load(x + i));
        if (i == size) return fits;
        char bytes[32] = {};
        float scales[16] = {}, numbers[16] = {};
        memcpy(numbers, x + i, 8 * sizeof *numbers);
        last(i, bytes, scales).template store<Set>(0, Set::load(numbers));
        memcpy(byte(i), bytes, bytes_of(type, 8));
        return fits;
    }

private:
    char *byte(size_t i) const { return (char *)at + bytes_of(type, i); }

    // The last eight numbers as a row of sixteen, in memory for these and their scales.
    CacheRow last(size_t from, char *bytes, float *scales) const {
        memcpy(bytes, byte(from), bytes_of(type, 8));
        if (scale) memcpy(scales, scale + from, 8 * sizeof *scales);
        return {bytes, 16, type, scales};
    }

    // By the bits of numbers without their sign: those of BEYOND, 65520, are the first that float16 rounds to infinity.
    bool all_fit(const float *x) const {
        constexpr uint32_t BEYOND = 0x477ff000, INFINITE = 0x7f800000;
        bool half = type == CacheType::FLOAT16;
        uint32_t from = half ? BEYOND : INFINITE, until = half ? INFINITE : 1u << 31, unfit = 0;
        for (size_t i = 0; i < size; i++) {
            uint32_t bits;
            memcpy(&bits, x + i, sizeof bits);
            unfit |= ((bits & 0x7fffffff) - from) < (until - from);
        }
        return !unfit;
    }

    // Sixteen numbers, as they are read and written where they aren't float32.
    template <class Set>
    typename Set::Floats load(size_t i) const {
        if (type == CacheType::FLOAT16) return Set::load_halves((const uint16_t *)byte(i));
        bool packed = type == CacheType::INT4;
        return Set::mul(packed ? Set::load_nibbles((const uint8_t *)byte(i)) : Set::load_codes((const int8_t *)byte(i)), Set::load(scale + i));
    }
    template <class Set>
    void store(size_t i, typename Set::Floats x) const {
        if (type == CacheType::FLOAT16) {
            Set::store_halves((uint16_t *)byte(i), x);
            return;
        }
        float divisors[16];
        for (int j = 0; j < 16; j++) divisors[j] = scale[i + j] == 0 ? INFINITY : scale[i + j];
        typename Set::Floats ratio = Set::div(x, Set::load(divisors));
        float top = type == CacheType::INT4 ? 8 : 128;
        int8_t codes[16];
        Set::store_codes(codes, Set::min(Set::max(ratio, Set::all(-top)), Set::all(top - 1)));
        char *to = byte(i);
        if (type == CacheType::INT8) memcpy(to, codes, sizeof codes);
        else for (int j = 0; j < 8; j++) to[j] = char((codes[2 * j] + 8) | (codes[2 * j + 1] + 8) << 4);
    }
};

}  // namespace
