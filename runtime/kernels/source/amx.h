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

// What stands beside the products of a tile with a panel, block by block. It takes longer than the products: beside tile
// instructions 512 bits are multiplied or converted by one unit, not by two (measured on a Xeon with AMX).
struct Scales {
    const BlockMatrix &w;
    size_t at;  // the tile's next block
    const float *x;
    const int32_t *sums;
    const float *totals;

    // y += the products of the next block, [16][TILE], times their scales.
    template <bool CENTRED, bool MINIMA>
    inline __attribute__((always_inline)) void add(const int32_t *products, __m512 (&y)[16]) {
        __m512i z = CENTRED ? Amx::ints() : Amx::bytes(w.zeros + at * TILE);
        __m512 scale_w = scales<Amx>(w, at), minimum = MINIMA ? minima<Amx>(w, at, scale_w) : Amx::zero();
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) {
            __m512i dot = _mm512_load_si512(products + r * TILE);
            if constexpr (!CENTRED) dot = _mm512_dpwssd_epi32(dot, z, Amx::all(sums[r]));
            __m512 part = Amx::mul(Amx::mul(scale_w, Amx::all(x[r])), Amx::floats(dot));
            if constexpr (MINIMA) part = Amx::add(part, Amx::mul(minimum, Amx::all(totals[r])));
            y[r] = Amx::add(y[r], part);
        }
        at++, x += 16, sums += 16, totals += 16;
    }
};

// Bring memory near that is read soon.
void fetch(const void *at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)at + i);
}

// The codes of one tile of the result: of its gates, and of what they are for.
struct TileCodes {
    const uint8_t *at[2], *next[2];
    size_t share;  // bytes from `next` on that are fetched beside a block: a part of the next tile's
};

// Products of the next block with 16 rows, by the registers SUM, INPUT and WEIGHT; x and at go on to the one behind it.
#define PRODUCTS(SUM, INPUT, WEIGHT)                                         \
    do {                                                                     \
        _tile_zero(SUM);                                                     \
        for (int k = 0; k < BLOCK; k += 64) {                                \
            _tile_loadd(INPUT, x + k, BLOCK);                                \
            _tile_loadd(WEIGHT, at + TILE * k, 64);                          \
            if constexpr (CENTRED) _tile_dpbssd(SUM, INPUT, WEIGHT);         \
            else _tile_dpbsud(SUM, INPUT, WEIGHT);                           \
        }                                                                    \
        at += TILE * BLOCK, x += 16 * BLOCK;                                 \
        if (++ahead == blocks) {                                             \
            ahead = 0, ahead_half = halves - 1 - ahead_half;                 \
            at = codes.at[ahead_half], x -= ahead_half ? 16 * w.inputs : 0;  \
        }                                                                    \
    } while (0)

// Scales of the next block. Products of the one behind it, which are in register NEXT, are stored before, and those of the
// one behind that begin.
#define ADD_BLOCK(SUM, INPUT, WEIGHT, NEXT)                                  \
    do {                                                                     \
        fetch(codes.next[half], codes.share);                                \
        codes.next[half] += codes.share;                                     \
        if (left) {                                                          \
            PRODUCTS(SUM, INPUT, WEIGHT);                                    \
            left--;                                                          \
        }                                                                    \
        _tile_stored(NEXT, products[NEXT], 64);                              \
        scales.add<CENTRED, MINIMA>(products[SUM], y);                       \
    } while (0)

// One tile of outputs for some panels, one after the other. Zero points are taken off the codes already where they are `CENTRED`.
// Products run two blocks ahead, into the next panel too.
template <bool CENTRED, bool MINIMA, int BLOCK>
void multiply_panels(const Job<Amx> &job, size_t t, size_t p0, size_t panels, TileCodes codes) {
    const BlockMatrix &w = *job.w;
    size_t blocks = job.blocks(), halves = job.halves(w), left = panels * halves * blocks, ahead = 0, ahead_half = 0;
    const int8_t *x = (const int8_t *)(job.codes + job.first(p0) * (w.inputs / 4));
    const uint8_t *at = codes.at[0];
    alignas(64) int32_t products[2][16 * TILE];
    bool odd = false;  // whether the next block's products are in register 1
    PRODUCTS(0, 2, 4);
    if (--left) {
        PRODUCTS(1, 3, 5);
        left--;
    }
    _tile_stored(0, products[0], 64);
    for (size_t p = p0; p < p0 + panels; p++) {
        size_t m0 = job.first(p), end = job.first(p + 1);
        __m512 sums[2][16];
        for (size_t m = m0; m < end; m++) __builtin_prefetch(job.y + m * job.outputs + t * TILE, 1);  // another core may have them
        for (size_t half = 0; half < halves; half++) {
            Scales scales = {w, (t + half * job.tiles()) * blocks, job.scales + m0 * blocks, job.sums + m0 * blocks, job.totals + m0 * blocks};
            __m512 y[16];
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++) y[r] = Amx::zero();
            size_t c = odd;
            if (odd) ADD_BLOCK(1, 3, 5, 0);
            for (; c + 1 < blocks; c += 2) {
                ADD_BLOCK(0, 2, 4, 1);
                ADD_BLOCK(1, 3, 5, 0);
            }
            odd = c < blocks;
            if (odd) ADD_BLOCK(0, 2, 4, 1);
#pragma GCC unroll 16
            for (int r = 0; r < 16; r++) sums[half][r] = y[r];  // what is in memory, as `finish` wants it, would be so in the loop too
        }
        finish_halves(job, t, m0, end - m0, sums[0], sums[1]);
    }
}

#undef ADD_BLOCK
#undef PRODUCTS

// multiply_panels for a matrix.
template <bool CENTRED, bool MINIMA>
auto panels_of(int block) {
    return block == 16   ? multiply_panels<CENTRED, MINIMA, 16>
           : block == 32 ? multiply_panels<CENTRED, MINIMA, 32>
           : block == 64 ? multiply_panels<CENTRED, MINIMA, 64>
                         : multiply_panels<CENTRED, MINIMA, 128>;
}

// The codes of a tile as bytes with their zero points taken off. Those of 8 bits must not have any of their own: -255 .. 255
// doesn't fit a byte.
template <int BITS>
const uint8_t *centre(const BlockMatrix &w, const uint8_t *at, size_t t, uint8_t *wide) {
    const uint8_t *zero = w.zeros ? w.zeros + t * (w.inputs / w.block) * TILE : nullptr;
    __m512i z = _mm512_set1_epi8(char(1 << (code_bits<Amx>(BITS) - 1)));
    Amx::Table table = {};
    if constexpr (BITS == LOOKED_UP) table = Amx::table(w.table);
    for (int k = 0; k < w.inputs; k += 16, at += 32 * stored_bits(BITS)) {
        if (zero && k % w.block == 0) z = _mm512_mullo_epi32(Amx::bytes(zero + k / w.block * TILE), Amx::all(0x01010101));
        for (int g = 0; g < 4; g++) _mm512_storeu_si512(wide + (k + 4 * g) * TILE, _mm512_sub_epi8(four_codes<Amx, BITS>(at, g, table), z));
    }
    return wide;
}

// centre<BITS> for a matrix.
template <int BITS = Amx::FEWEST_BITS>
auto centre_of(int bits) {
    if constexpr (BITS < LOOKED_UP)
        if (bits > BITS) return centre_of<wider(BITS)>(bits);
    return &centre<BITS>;
}

template <>
void multiply(const Job<Amx> &job, const Part &part) {
    const BlockMatrix &w = *job.w;
    Shapes shapes(w.block);
    _tile_loadconfig(&shapes);
    size_t bytes = size_t(TILE) * w.inputs, stored = bytes * w.bits / 8, blocks = job.blocks(), halves = job.halves(w);
    bool centred = job.centred(w);
    auto multiply_some = (w.minima ? centred ? panels_of<true, true> : panels_of<false, true> : centred ? panels_of<true, false> : panels_of<false, false>)(w.block);
    for (size_t p0 = part.panel; p0 < part.panels_end; p0 += GROUP)
        for (size_t t = part.tile; t < part.tiles_end; t++) {
            size_t panels = least(GROUP, part.panels_end - p0);
            TileCodes tile = {{}, {}, round_up(stored / blocks / panels)};
            for (size_t half = 0; half < halves; half++) {
                size_t from = t + half * job.tiles(), at = (from + 1) * blocks * TILE;
                tile.at[half] = w.codes + from * stored, tile.next[half] = tile.at[half] + stored;
                fetch((const char *)w.scales + at * scale_bytes(w), blocks * TILE * scale_bytes(w));
                if (w.minima) fetch((const char *)w.minima + at * scale_bytes(w), blocks * TILE * scale_bytes(w));
                if (w.zeros) fetch(w.zeros + at, blocks * TILE);
                if (centred) tile.at[half] = centre_of(form_of(w))(w, tile.at[half], from, job.wide + (part.index * halves + half) * bytes);
            }
            multiply_some(job, t, p0, panels, tile);
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
