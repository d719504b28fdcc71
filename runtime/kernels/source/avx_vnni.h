// AVX-VNNI: AVX2 with exact products of bytes.
#pragma once
#include "avx2.h"

namespace {

struct AvxVnni : Avx2Bytes {
    static constexpr int ROWS = 4, MOST_BITS = 8, TABLE_BITS = 8;

    static Table table(const uint8_t *at) { return Avx2::table(at); }
    static Ints dot(Ints sum, Codes w, Four x) {
        __m256i four = _mm256_set1_epi32(x);
        return {_mm256_dpbusd_avx_epi32(sum.a, w.a, four), _mm256_dpbusd_avx_epi32(sum.b, w.b, four)};
    }
};

}  // namespace
