// Up to sixteen numbers in memory, for the instruction set `Set`.
#pragma once
#include <stddef.h>
#include <string.h>

namespace {

// With zeros behind them.
template <class Set>
typename Set::Floats load_some(const float *at, size_t count) {
    if (count == 16) return Set::load(at);
    float part[16] = {};
    memcpy(part, at, count * sizeof(float));
    return Set::load(part);
}

template <class Set>
void store_some(float *at, typename Set::Floats x, size_t count) {
    if (count == 16) {
        Set::store(at, x);
        return;
    }
    float part[16];
    Set::store(part, x);
    memcpy(at, part, count * sizeof(float));
}

}  // namespace
