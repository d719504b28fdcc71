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

// Products of a block with 16 rows, by the registers SUM, INPUT and WEIGHT; x and at go to the next block.
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
    } while (0)

// What stands beside the products of a tile with a panel, block by block.
struct Scales {
    const BlockMatrix &w;
    size_t at;  // the tile's first block
    const float *x;
    const int32_t *sums;
    const float *totals;

    // y += the products of block c, [16][TILE], times their scales.
    template <bool CENTRED>
    inline __attribute__((always_inline)) void add(size_t c, const int32_t *products, __m512 (&y)[16]) const {
        __m512i z = CENTRED ? Amx::ints() : Amx::bytes(w.zeros + (at + c) * TILE);
        __m512 scale_w = scales<Amx>(w, at + c), part[16];
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) {
            __m512i dot = _mm512_load_si512(products + r * TILE);
            if constexpr (!CENTRED) dot = _mm512_dpwssd_epi32(dot, z, Amx::all(sums[c * 16 + r]));
            part[r] = Amx::mul(Amx::mul(scale_w, Amx::all(x[c * 16 + r])), Amx::floats(dot));
        }
        if (w.minima) {
            __m512 minimum = minima<Amx>(w, at + c, scale_w);
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++) part[r] = Amx::add(part[r], Amx::mul(minimum, Amx::all(totals[c * 16 + r])));
        }
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) y[r] = Amx::add(y[r], part[r]);
    }
};

// Bring memory near that is read soon.
void fetch(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)at + i);
}

// The sums of one tile of the matrix for one panel; the codes at `at` have their zero points taken off where they are `CENTRED`. Beside
// the scales of a block the products of the next but one run: those of the next one are stored before they are read.
// `share` bytes a block are fetched from `next` on: a part of the next tile's codes.
template <bool CENTRED>
void sum_panel_tile(const Job<Amx> &job, const uint8_t *at, size_t t, size_t panel, const uint8_t *next, size_t share, __m512 *sums) {
    const BlockMatrix &w = *job.w;
    size_t m0 = job.first(panel);
    int blocks = job.blocks(), block = w.block;
    const int8_t *x = (const int8_t *)(job.codes + m0 * (w.inputs / 4));
    const Scales scales = {w, t * blocks, job.scales + m0 * blocks, job.sums + m0 * blocks, job.totals + m0 * blocks};
    alignas(64) int32_t products[2][16 * TILE];
    __m512 y[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; r++) y[r] = Amx::zero();
    PRODUCTS(0, 2, 4);
    if (blocks > 1) PRODUCTS(1, 3, 5);
    _tile_stored(0, products[0], 64);
    for (int c = 0; c < blocks; c += 2, next += 2 * share) {
        fetch(next, share);
        if (c + 2 < blocks) PRODUCTS(0, 2, 4);
        if (c + 1 < blocks) _tile_stored(1, products[1], 64);
        scales.add<CENTRED>(c, products[0], y);
        if (c + 1 == blocks) break;
        fetch(next + share, share);
        if (c + 3 < blocks) PRODUCTS(1, 3, 5);
        if (c + 2 < blocks) _tile_stored(0, products[0], 64);
        scales.add<CENTRED>(c + 1, products[1], y);
    }
#pragma GCC unroll 16
    for (int r = 0; r < 16; r++) sums[r] = y[r];  // what is in memory, as `finish` wants it, would be so in the loop too
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
    size_t bytes = size_t(TILE) * w.inputs, stored = bytes * w.bits / 8, blocks = job.blocks(), halves = job.halves(w);
    bool centred = job.centred(w);
    for (size_t p0 = part.panel; p0 < part.panels_end; p0 += GROUP)
        for (size_t t = part.tile; t < part.tiles_end; t++) {
            size_t panels = least(GROUP, part.panels_end - p0), share = round_up(stored / blocks / panels);
            const uint8_t *codes[2], *next[2];
            for (size_t half = 0; half < halves; half++) {
                size_t from = t + half * job.tiles(), at = (from + 1) * blocks * TILE;
                codes[half] = w.codes + from * stored, next[half] = codes[half] + stored;
                fetch((const char *)w.scales + at * (w.half_scales ? 2 : 4), blocks * TILE * (w.half_scales ? 2 : 4));
                if (w.minima) fetch((const char *)w.minima + at * (w.half_scales ? 2 : 4), blocks * TILE * (w.half_scales ? 2 : 4));
                if (w.zeros) fetch(w.zeros + at, blocks * TILE);
                if (centred) codes[half] = centre(w, codes[half], from, job.wide + (part.index * halves + half) * bytes);
            }
            for (size_t p = p0; p < p0 + panels; p++) {
                size_t m0 = job.first(p), end = job.first(p + 1);
                __m512 sums[2][16];
                for (size_t m = m0; m < end; m++) __builtin_prefetch(job.y + m * job.outputs + t * TILE, 1);  // another core may have them
                for (size_t half = 0; half < halves; half++) {
                    (centred ? sum_panel_tile<true> : sum_panel_tile<false>)(job, codes[half], t + half * job.tiles(), p, next[half], share, sums[half]);
                    next[half] += share * blocks;
                }
                finish_halves(job, t, m0, end - m0, sums[0], sums[1]);
            }
        }
    _tile_release();
}

// Rows whose sums fit AVX512's registers are faster there.
bool are_few(size_t rows) { return rows <= Avx512::ROWS; }

void linear_amx(const BlockMatrix *w, const float *bias, const float *x, size_t rows, float *y, void *scratch, Pool pool) {
    (are_few(rows) ? linear<Avx512> : linear<Amx>)(w, bias, x, rows, y, scratch, pool);
}

size_t linear_scratch_amx(const BlockMatrix *w, size_t rows) {
    return are_few(rows) ? linear_scratch<Avx512>(w, rows) : linear_scratch<Amx>(w, rows);
}

}  // namespace
