// GELU and its approximation by tanh, for the instruction set `Set`.
#pragma once
#include "exponential.h"

namespace {

// x * (1/2 + z P(2 z^2 / 5.5^2 - 1)) with z = x, but within -5.5 .. 5.5; the factor isn't below 0. The polynomial lies within
// 1e-8 of the normal distribution's integral. Within 3 * 2^-24 * |x|, and x or 0 beyond 5.5.
template <class Set>
inline __attribute__((always_inline)) typename Set::Floats gelu(typename Set::Floats x) {
    constexpr float P[] = {0.1285519301891327f,     -0.06417233496904373f,   0.04773762822151184f,   -0.03879278525710106f,
                           0.032070260494947433f,   -0.026048259809613228f,  0.020364567637443542f,  -0.014999077655375004f,
                           0.010227825492620468f,   -0.006819910369813442f,  0.0046217842027544975f, -0.002418649150058627f,
                           0.0007201037951745093f,  -0.000529132317751646f,  0.0006315598729997873f, -0.00023641764710191637f};
    typename Set::Floats z = Set::min(Set::all(5.5f), Set::max(Set::all(-5.5f), x));
    typename Set::Floats t = Set::fma(Set::mul(z, z), Set::all(0.06611569970846176f), Set::all(-1.0f)), sum = Set::all(P[15]);
#pragma GCC unroll 16
    for (int i = 14; i >= 0; i--) sum = Set::fma(sum, t, Set::all(P[i]));
    return Set::mul(x, Set::max(Set::zero(), Set::fma(z, sum, Set::all(0.5f))));
}

// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) as x / (1 + e^-z) with z = x * (1.59576912 + 0.0713548163 x^2).
// Within 4 * 2^-24 * |x|.
template <class Set>
inline __attribute__((always_inline)) typename Set::Floats gelu_tanh(typename Set::Floats x) {
    typename Set::Floats less = Set::mul(x, Set::all(-1.0f));
    typename Set::Floats z = Set::mul(less, Set::fma(Set::mul(x, x), Set::all(0.0713548163f), Set::all(1.59576912f)));
    return Set::div(x, Set::add(Set::all(1.0f), bounded_exp<Set>(z)));
}

}  // namespace
