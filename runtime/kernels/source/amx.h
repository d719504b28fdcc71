// AMX: sixteen rows times sixteen outputs by one instruction. The codes of a matrix lie as its tiles want them.
#pragma once
#include "avx512.h"
#include "block_linear.h"

namespace {

struct Amx : Avx512 {
    static constexpr int ROWS = 16, TILE_ROWS = 16;
    static constexpr bool FIXED = true;  // panels have room for 16 rows, however many are real
};

// Rows and bytes of a row of the registers 0, 1: sums, 2, 3: inputs, 4, 5: weights, for blocks of that length.
struct Shapes {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};

    explicit Shapes(int block) {
        int inputs = block < 64 ? block : 64;
        for (int i = 0; i < 2; i++) {
            rows[i] = 16, bytes[i] = 64;
            rows[2 + i] = 16, bytes[2 + i] = inputs;
            rows[4 + i] = inputs / 4, bytes[4 + i] = 64;
        }
    }
};

// Products of one block with 16 rows, [16][TILE], by the registers SUM, INPUT and WEIGHT.
#define PRODUCTS(SUM, INPUT, WEIGHT)                                  \
    do {                                                              \
        _tile_zero(SUM);                                              \
        for (int k = 0; k < block; k += 64, at += TILE * 64) {        \
            _tile_loadd(INPUT, x + k, block);                         \
            _tile_loadd(WEIGHT, at, 64);                              \
            if constexpr (CENTRED) _tile_dpbssd(SUM, INPUT, WEIGHT);  \
            else _tile_dpbsud(SUM, INPUT, WEIGHT);                    \
        }                                                             \
        at -= block < 64 ? TILE * (64 - block) : 0;                   \
        x += 16 * block;                                              \
        _tile_stored(SUM, products[SUM], 64);                         \
    } while (0)

// One tile of outputs for one panel; the codes at `at` have their zero points taken off where they are `CENTRED`.
template <bool CENTRED>
void panel_tile_amx(const Job<Amx> &job, const uint8_t *at, size_t t, size_t panel) {
    const BlockMatrix &w = *job.w;
    size_t m0 = job.first(panel);
    int blocks = job.blocks(), block = w.block;
    const int8_t *x = (const int8_t *)(job.codes + m0 * (w.inputs / 4));
    const uint8_t *zero = w.zeros ? w.zeros + t * blocks * TILE : nullptr;
    const float *scale_x = job.scales + m0 * blocks;
    const int32_t *sum = job.sums + m0 * blocks;
    alignas(64) int32_t products[2][16 * TILE];
    __m512 y[16];
    for (auto &one : y) one = Amx::zero();
    PRODUCTS(0, 2, 4);
    for (int c = 0; c < blocks; c++, scale_x += 16, sum += 16) {
        // The next block's products run beside this one's scales.
        if (c + 1 < blocks) {
            if (c % 2 == 0) PRODUCTS(1, 3, 5);
            else PRODUCTS(0, 2, 4);
        }
        __m512i z = CENTRED ? Amx::ints() : Amx::bytes(zero + c * TILE);
        __m512 scale_w = scales<Amx>(w, t * blocks + c);
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) {
            __m512i dot = _mm512_load_si512(products[c % 2] + r * TILE);
            if constexpr (!CENTRED) dot = Amx::add(dot, Amx::short_mul(z, Amx::all(-sum[r])));
            y[r] = Amx::add(y[r], Amx::mul(Amx::mul(scale_w, Amx::all(scale_x[r])), Amx::floats(dot)));
        }
    }
    finish<Amx>(w.outputs, job.bias, job.y, t, m0, job.first(panel + 1) - m0, y);
}

#undef PRODUCTS

// The codes of a tile as bytes with their zero points taken off. Those of 8 bits must not have any of their own: -255 .. 255
// doesn't fit a byte.
const uint8_t *centre(const BlockMatrix &w, const uint8_t *at, size_t t, uint8_t *wide) {
    const uint8_t *zero = w.zeros ? w.zeros + t * (w.inputs / w.block) * TILE : nullptr;
    __m512i z = _mm512_set1_epi8(w.bits == 8 ? -128 : 8);
    for (int k = 0; k < w.inputs; k += 8, at += 16 * w.bits) {
        if (zero && k % w.block == 0) z = _mm512_mullo_epi32(Amx::bytes(zero + k / w.block * TILE), Amx::all(0x01010101));
        _mm512_storeu_si512(wide + k * TILE, _mm512_sub_epi8(w.bits == 8 ? Amx::codes(at) : Amx::low(at), z));
        _mm512_storeu_si512(wide + (k + 4) * TILE, _mm512_sub_epi8(w.bits == 8 ? Amx::codes(at + 64) : Amx::high(at), z));
    }
    return wide;
}

template <>
void multiply(const Job<Amx> &job, const Part &part) {
    const BlockMatrix &w = *job.w;
    Shapes shapes(w.block);
    _tile_loadconfig(&shapes);
    size_t bytes = size_t(TILE) * w.inputs;
    for (size_t p0 = part.panel; p0 < part.panels_end; p0 += GROUP)
        for (size_t t = part.tile; t < part.tiles_end; t++) {
            const uint8_t *codes = w.codes + t * bytes * w.bits / 8;
            bool centred = job.centred(w);
            if (centred) codes = centre(w, codes, t, job.wide + part.index * bytes);
            for (size_t p = p0; p < p0 + GROUP && p < part.panels_end; p++) (centred ? panel_tile_amx<true> : panel_tile_amx<false>)(job, codes, t, p);
        }
    _tile_release();
}

// A few rows don't fill the tiles.
void linear_amx(const BlockMatrix *w, const float *bias, const float *x, size_t rows, float *y, void *scratch, Pool pool) {
    (rows < 16 ? linear<Avx512> : linear<Amx>)(w, bias, x, rows, y, scratch, pool);
}

size_t linear_scratch_amx(const BlockMatrix *w, size_t rows) {
    return rows < 16 ? linear_scratch<Avx512>(w, rows) : linear_scratch<Amx>(w, rows);
}

}  // namespace
