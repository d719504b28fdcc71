// NEON with the dot product of signed bytes.
#pragma once
#include "neon.h"

namespace {

struct NeonDotprod : Neon {
    static Ints dot(Ints sum, Codes w, Four x) {
        int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(x));
        return each<Ints>([=](int i) { return vdotq_s32(sum.of[i], vreinterpretq_s8_u8(w.of[i]), four); });
    }
};

}  // namespace
