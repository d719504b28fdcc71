// AVX2: sixteen outputs are two registers. It can't multiply bytes exactly, so that codes are widened to 16 bits; its
// product of bytes stops at 2^15, which codes of 6 bits don't reach. AVX-VNNI has the exact one.
#pragma once
#include <immintrin.h>

#include <stdint.h>
#include <string.h>

namespace {

struct Avx2 {
    static constexpr bool FIXED = false;
    static constexpr int MIDDLE = 0, TILES = 1, TILE_ROWS = 4, FEWEST_BITS = 2, MOST_BITS = 8, TABLE_BITS = 8;
    struct Floats {
        __m256 a, b;
    };
    struct Ints {
        __m256i a, b;
    };
    using Table = __m256i;  // 16 codes of 8 bits, twice

    static Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static Floats load(const float *at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
    static void store(float *at, Floats x) { _mm256_storeu_ps(at, x.a), _mm256_storeu_ps(at + 8, x.b); }
    static Floats add(Floats x, Floats y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
    static Floats mul(Floats x, Floats y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
    static Floats all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static Floats floats(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

    static Ints ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static Ints add(Ints x, Ints y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
    static Ints all(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
    static Ints bytes(const uint8_t *at) {
        __m128i x = _mm_loadu_si128((const __m128i *)at);
        return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
    }
    static Ints short_mul(Ints x, Ints y) { return {_mm256_madd_epi16(x.a, y.a), _mm256_madd_epi16(x.b, y.b)}; }
    // The bits of `mask` in each byte, from SHIFT higher places.
    template <int SHIFT>
    static Ints field(Ints x, int mask) {
        return {and_all(shifted<SHIFT>(x.a), mask * 257), and_all(shifted<SHIFT>(x.b), mask * 257)};
    }
    static Table table(const uint8_t *at) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)at)); }

    // For attention.
    static Floats load_halves(const uint16_t *at) {
        const __m128i *both = (const __m128i *)at;
        return {_mm256_cvtph_ps(_mm_loadu_si128(both)), _mm256_cvtph_ps(_mm_loadu_si128(both + 1))};
    }
    static Floats from_bytes(__m128i x) {
        return floats({_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))});
    }
    static Floats load_codes(const int8_t *at) { return from_bytes(_mm_loadu_si128((const __m128i *)at)); }
    // Two codes of a byte, the first in the lower half, with 8 added.
    static Floats load_nibbles(const uint8_t *at) {
        __m128i x = _mm_loadl_epi64((const __m128i *)at), half = _mm_set1_epi8(15);
        x = _mm_unpacklo_epi8(_mm_and_si128(x, half), _mm_and_si128(_mm_srli_epi16(x, 4), half));
        return from_bytes(_mm_sub_epi8(x, _mm_set1_epi8(8)));
    }
    static void store_codes(int8_t *at, Floats x) {
        _mm_storeu_si128((__m128i *)at, narrow(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)));
    }
    static void store_halves(uint16_t *at, Floats x) {  // rounded to nearest, halves to even
        __m128i *both = (__m128i *)at;
        _mm_storeu_si128(both, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        _mm_storeu_si128(both + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static constexpr int QUERY_ROWS = 6, VECTORS = 1;
    static Floats fma(Floats x, Floats y, Floats z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
    static Floats div(Floats x, Floats y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
    static Floats max(Floats x, Floats y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
    static Floats min(Floats x, Floats y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
    static float top(Floats x) {
        __m256 eight = _mm256_max_ps(x.a, x.b);
        __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        four = _mm_max_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
    }
    static Ints nearest(Floats x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
    static Floats power(Ints n) {
        Ints biased = add(n, all(127));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(biased.a, 23)), _mm256_castsi256_ps(_mm256_slli_epi32(biased.b, 23))};
    }
    static void transpose(const float *rows, size_t rows_stride, float *columns, size_t columns_stride) {
        for (int i = 0; i < 16; i += 8)
            for (int j = 0; j < 16; j += 8) transpose8(rows + j * rows_stride + i, rows_stride, columns + i * columns_stride + j, columns_stride);
    }

    static int32_t largest_bits(const float *x, int block) {
        __m256i most = _mm256_setzero_si256(), magnitude = _mm256_set1_epi32(0x7fffffff);
        for (int i = 0; i < block; i += 8)
            most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(x + i)), magnitude));
        __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
        four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
        return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
    }
    static Ints round(Floats x, int8_t *codes) {
        Ints rounded = nearest(x);
        _mm_storeu_si128((__m128i *)codes, narrow(rounded.a, rounded.b));
        return rounded;
    }
    static int32_t sum(Ints x) {
        __m256i eight = _mm256_add_epi32(x.a, x.b);
        __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
        four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
        return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
    }

protected:
    // Sixteen integers as bytes. Packing goes by halves of a register: 0 .. 3 and 8 .. 11 come first.
    static __m128i narrow(__m256i a, __m256i b) {
        __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    }
    static void transpose8(const float *rows, size_t rows_stride, float *columns, size_t columns_stride) {
        __m256 a[8], b[8];
        for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(rows + i * rows_stride);
        for (int i = 0; i < 8; i += 2) b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
        for (int i = 0; i < 8; i += 4)
            for (int half = 0; half < 2; half++) {
                a[i + 2 * half] = _mm256_shuffle_ps(b[i + half], b[i + 2 + half], 0x44);
                a[i + 2 * half + 1] = _mm256_shuffle_ps(b[i + half], b[i + 2 + half], 0xee);
            }
        for (int i = 0; i < 4; i++) {
            _mm256_storeu_ps(columns + i * columns_stride, _mm256_permute2f128_ps(a[i], a[4 + i], 0x20));
            _mm256_storeu_ps(columns + (4 + i) * columns_stride, _mm256_permute2f128_ps(a[i], a[4 + i], 0x31));
        }
    }
    static Ints load_bytes(const uint8_t *at) {
        const __m256i *both = (const __m256i *)at;
        return {_mm256_loadu_si256(both), _mm256_loadu_si256(both + 1)};
    }
    // Codes of the table, whose places are the 4 bits from SHIFT on of each byte of a plane.
    template <int SHIFT>
    static Ints of_table(Table table, const uint8_t *at) {
        Ints places = field<SHIFT>(load_bytes(at), 15);
        return {_mm256_shuffle_epi8(table, places.a), _mm256_shuffle_epi8(table, places.b)};
    }
    // sum + products at once: GCC would compute the products of several steps first, more than there are registers.
    static Ints added(Ints sum, Ints products) {
        sum = add(sum, products);
        __asm__("" : "+x"(sum.a), "+x"(sum.b));
        return sum;
    }
    template <int SHIFT>
    static __m256i shifted(__m256i x) {
        if constexpr (SHIFT >= 0) return _mm256_srli_epi16(x, SHIFT);
        else return _mm256_slli_epi16(x, -SHIFT);
    }
    static __m256i and_all(__m256i x, int mask) { return _mm256_and_si256(x, _mm256_set1_epi16(int16_t(mask))); }
};

// Codes of 8 bits, as words: the first and third of four inputs, the second and fourth.
struct Avx2Words : Avx2 {
    static constexpr int ROWS = 4, FEWEST_BITS = 8;
    struct Codes {
        Ints even, odd;
    };
    struct Four {
        int32_t even, odd;
    };

    static Four four(const int8_t *codes) {
        int16_t words[4] = {codes[0], codes[2], codes[1], codes[3]};
        Four x;
        memcpy(&x, words, sizeof x);
        return x;
    }
    static Codes codes(const uint8_t *at) { return words(load_bytes(at)); }
    template <int SHIFT>
    static Codes looked_up(Table table, const uint8_t *at) { return words(of_table<SHIFT>(table, at)); }
    static Ints dot(Ints sum, Codes w, Four x) {
        return added(added(sum, short_mul(w.even, all(x.even))), short_mul(w.odd, all(x.odd)));
    }

private:
    static Codes words(Ints x) { return {{and_all(x.a, 255), and_all(x.b, 255)}, {_mm256_srli_epi16(x.a, 8), _mm256_srli_epi16(x.b, 8)}}; }
};

// Codes of up to 6 bits, as bytes: a product of two pairs is at most 2 * 63 * 127.
struct Avx2Bytes : Avx2 {
    static constexpr int ROWS = 4, MOST_BITS = 6, TABLE_BITS = 6;
    using Codes = Ints;
    using Four = int32_t;

    static Four four(const int8_t *codes) {
        Four x;
        memcpy(&x, codes, sizeof x);
        return x;
    }
    static Codes codes(const uint8_t *at) { return load_bytes(at); }
    static Codes plane(const uint8_t *at) { return load_bytes(at); }
    // Whether 6 bits hold the codes of a table, counted from their middle.
    static bool narrow(const uint8_t *table) {
        for (int i = 0; i < 16; i++)
            if (table[i] < 128 - 32 || table[i] >= 128 + 32) return false;
        return true;
    }
    static Table table(const uint8_t *at) { return _mm256_sub_epi8(Avx2::table(at), _mm256_set1_epi8(128 - 32)); }
    template <int SHIFT>
    static Codes looked_up(Table table, const uint8_t *at) { return of_table<SHIFT>(table, at); }
    static Codes half_plane(const uint8_t *at) {
        __m256i x = _mm256_loadu_si256((const __m256i *)at);
        return {x, _mm256_srli_epi16(x, 4)};
    }
    static Codes either(Codes x, Codes y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
    static Ints dot(Ints sum, Codes w, Four x) {
        __m256i four = _mm256_set1_epi32(x), ones = _mm256_set1_epi16(1);
        Ints pairs = {_mm256_maddubs_epi16(w.a, four), _mm256_maddubs_epi16(w.b, four)};
        return added(sum, {_mm256_madd_epi16(pairs.a, ones), _mm256_madd_epi16(pairs.b, ones)});
    }
};

}  // namespace
