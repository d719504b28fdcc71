// AVX512 with VNNI: sixteen outputs are one register.
#pragma once
#include <immintrin.h>

#include <stdint.h>
#include <string.h>

namespace {

struct Avx512 {
    static constexpr int ROWS = 12;  // rows whose sums stay in registers beside one load of codes
    static constexpr bool FIXED = false;
    static constexpr int BITS = 0;    // of a matrix's codes; 0: 8 or 4
    static constexpr int MIDDLE = 0;  // what `codes` takes off codes of 8 bits
    using Floats = __m512;
    using Ints = __m512i;
    using Codes = __m512i;  // four inputs of each output
    using Four = int32_t;   // four codes of one row

    static Floats zero() { return _mm512_setzero_ps(); }
    static Floats load(const float *at) { return _mm512_loadu_ps(at); }
    static void store(float *at, Floats x) { _mm512_storeu_ps(at, x); }
    static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static Floats all(float x) { return _mm512_set1_ps(x); }
    static Floats floats(Ints x) { return _mm512_cvtepi32_ps(x); }

    static Ints ints() { return _mm512_setzero_si512(); }
    static Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
    static Ints bytes(const uint8_t *at) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)at)); }
    static Ints all(int32_t x) { return _mm512_set1_epi32(x); }
    static Ints short_mul(Ints a, Ints b) { return _mm512_madd_epi16(a, b); }  // of numbers of 16 bits

    static Four four(const int8_t *codes) {
        Four x;
        memcpy(&x, codes, sizeof x);
        return x;
    }
    static Codes codes(const uint8_t *at) { return _mm512_loadu_si512(at); }
    // Codes of 4 bits.
    static Codes low(const uint8_t *at) { return _mm512_and_si512(codes(at), _mm512_set1_epi8(15)); }
    static Codes high(const uint8_t *at) { return _mm512_and_si512(_mm512_srli_epi16(codes(at), 4), _mm512_set1_epi8(15)); }
    static Ints dot(Ints sum, Codes w, Four x) { return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x)); }

    static int32_t largest_bits(const float *x, int block) {
        Ints most = ints();
        for (int i = 0; i < block; i += 16)
            most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), all(0x7fffffff)));
        return _mm512_reduce_max_epi32(most);
    }
    static int32_t round(const float *x, float factor, int block, int8_t *codes) {
        Ints sum = ints();
        for (int i = 0; i < block; i += 16) {
            Ints code = _mm512_cvtps_epi32(mul(load(x + i), all(factor)));
            sum = add(sum, code);
            _mm_storeu_si128((__m128i *)(codes + i), _mm512_cvtepi32_epi8(code));
        }
        return _mm512_reduce_add_epi32(sum);
    }
};

}  // namespace
