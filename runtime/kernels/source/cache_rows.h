// How the numbers of a head lie in a cache, for the instruction set `Set`.
#pragma once
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels.h"

namespace {

// The key or the value of one head and one place.
struct CacheRow {
    void *at;
    size_t size;  // numbers, a multiple of 8
    CacheType type;

    // The numbers, where they lie there as they are; else null.
    float *floats() const { return type == CacheType::FLOAT32 ? (float *)at : nullptr; }

    // y = the numbers.
    template <class Set>
    void read(float *y) const {
        if (type == CacheType::FLOAT32) {
            memcpy(y, at, size * sizeof(float));
            return;
        }
        const uint16_t *halves = (const uint16_t *)at;
        size_t i = 0;
        for (; i + 16 <= size; i += 16) Set::store(y + i, Set::load_halves(halves + i));
        if (i == size) return;
        uint16_t last[16] = {};
        float numbers[16];
        memcpy(last, halves + i, 8 * sizeof *last);
        Set::store(numbers, Set::load_halves(last));
        memcpy(y + i, numbers, 8 * sizeof *numbers);
    }

    // Write x; false where a finite number becomes infinite.
    template <class Set>
    bool write(const float *x) const {
        if (type == CacheType::FLOAT32) {
            memcpy(at, x, size * sizeof(float));
            return true;
        }
        constexpr float BEYOND = 65520;  // the smallest number that is rounded to infinity
        bool fits = true;
        for (size_t i = 0; i < size; i++) fits &= !(fabsf(x[i]) >= BEYOND && fabsf(x[i]) <= FLT_MAX);
        uint16_t *halves = (uint16_t *)at;
        size_t i = 0;
        for (; i + 16 <= size; i += 16) Set::store_halves(halves + i, Set::load(x + i));
        if (i == size) return fits;
        float numbers[16] = {};
        uint16_t last[16];
        memcpy(numbers, x + i, 8 * sizeof *numbers);
        Set::store_halves(last, Set::load(numbers));
        memcpy(halves + i, last, 8 * sizeof *last);
        return fits;
    }
};

}  // namespace
