// AVX512 with VNNI: sixteen outputs are one register.
#pragma once
#include <immintrin.h>

#include <stdint.h>
#include <string.h>

namespace {

struct Avx512 {
    static constexpr int ROWS = 12;  // rows whose sums stay in registers beside one load of codes
    static constexpr int TILES = 2, TILE_ROWS = 10;  // tiles of outputs and rows whose sums do, where blocks have no scales
    static constexpr bool FIXED = false;
    static constexpr int FEWEST_BITS = 2, MOST_BITS = 8;  // of a matrix's codes
    static constexpr int MIDDLE = 0;  // what `codes` takes off codes of 8 bits
    static constexpr int TABLE_BITS = 8;  // of a code that is looked up, in products
    using Floats = __m512;
    using Ints = __m512i;
    using Codes = __m512i;  // four inputs of each output
    using Four = int32_t;   // four codes of one row
    using Table = __m512i;  // 16 codes of 8 bits

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
    // Codes of fewer bits: planes.h.
    static Codes plane(const uint8_t *at) { return codes(at); }
    static Codes half_plane(const uint8_t *at) {
        __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)at));
        return _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
    }
    // The bits of `mask` in each byte, from SHIFT higher places.
    template <int SHIFT>
    static Codes field(Codes x, int mask) {
        if constexpr (SHIFT >= 0) x = _mm512_srli_epi16(x, SHIFT);
        else x = _mm512_slli_epi16(x, -SHIFT);
        return _mm512_and_si512(x, _mm512_set1_epi8(char(mask)));
    }
    static Codes either(Codes x, Codes y) { return _mm512_or_si512(x, y); }
    static Table table(const uint8_t *at) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)at)); }
    // Codes of the table, whose places are the 4 bits from SHIFT on of each byte of a plane.
    template <int SHIFT>
    static Codes looked_up(Table table, const uint8_t *at) { return _mm512_shuffle_epi8(table, field<SHIFT>(plane(at), 15)); }
    static Ints dot(Ints sum, Codes w, Four x) { return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x)); }

    // For attention.
    static Floats load_halves(const uint16_t *at) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at)); }
    static Floats from_bytes(__m128i x) { return floats(_mm512_cvtepi8_epi32(x)); }
    static Floats load_codes(const int8_t *at) { return from_bytes(_mm_loadu_si128((const __m128i *)at)); }
    // Two codes of a byte, the first in the lower half, with 8 added.
    static Floats load_nibbles(const uint8_t *at) {
        __m128i x = _mm_loadl_epi64((const __m128i *)at), half = _mm_set1_epi8(15);
        x = _mm_unpacklo_epi8(_mm_and_si128(x, half), _mm_and_si128(_mm_srli_epi16(x, 4), half));
        return from_bytes(_mm_sub_epi8(x, _mm_set1_epi8(8)));
    }
    static void store_codes(int8_t *at, Floats x) { _mm_storeu_si128((__m128i *)at, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))); }
    static void store_halves(uint16_t *at, Floats x) {  // rounded to nearest, halves to even
        _mm256_storeu_si256((__m256i *)at, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static constexpr int QUERY_ROWS = 6, VECTORS = 4;  // rows and registers of columns whose sums stay in registers
    static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
    static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }  // b where one isn't a number
    static Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
    static float top(Floats x) { return _mm512_reduce_max_ps(x); }
    static Ints nearest(Floats x) { return _mm512_cvtps_epi32(x); }
    static Floats power(Ints n) { return _mm512_castsi512_ps(_mm512_slli_epi32(add(n, all(127)), 23)); }  // 2^n; n = -127: 0
    // columns[i * columns_stride + j] = rows[j * rows_stride + i] for 16 rows and columns.
    static void transpose(const float *rows, size_t rows_stride, float *columns, size_t columns_stride) {
        Floats a[16], b[16];
        for (int i = 0; i < 16; i++) a[i] = load(rows + i * rows_stride);
        for (int i = 0; i < 16; i += 2) b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
        for (int i = 0; i < 16; i += 4)
            for (int half = 0; half < 2; half++) {
                __m512d low = _mm512_castps_pd(b[i + half]), high = _mm512_castps_pd(b[i + 2 + half]);
                a[i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                a[i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
            }
        for (int i = 0; i < 4; i++) {
            Floats even = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88), odd = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd);
            Floats even8 = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88), odd8 = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
            store(columns + i * columns_stride, _mm512_shuffle_f32x4(even, even8, 0x88));
            store(columns + (4 + i) * columns_stride, _mm512_shuffle_f32x4(odd, odd8, 0x88));
            store(columns + (8 + i) * columns_stride, _mm512_shuffle_f32x4(even, even8, 0xdd));
            store(columns + (12 + i) * columns_stride, _mm512_shuffle_f32x4(odd, odd8, 0xdd));
        }
    }

    static int32_t largest_bits(const float *x, int block) {
        Ints most = ints();
        for (int i = 0; i < block; i += 16)
            most = _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x + i), all(0x7fffffff)));
        return _mm512_reduce_max_epi32(most);
    }
    // The nearest whole numbers, which fit 8 bits, also as bytes.
    static Ints round(Floats x, int8_t *codes) {
        Ints rounded = nearest(x);
        _mm_storeu_si128((__m128i *)codes, _mm512_cvtepi32_epi8(rounded));
        return rounded;
    }
    static int32_t sum(Ints x) { return _mm512_reduce_add_epi32(x); }
};

}  // namespace
