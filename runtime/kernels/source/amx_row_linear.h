// Products of rows that have one scale each, over AMX: sums of 32 rows and 32 outputs stay in registers, so that each
// load of codes serves two products.
#pragma once
#include "amx.h"
#include "row_linear.h"

namespace {

// Rows and bytes of a row of the registers 0 .. 3: sums, 4, 5: inputs, 6, 7: weights, for so many inputs at a time.
struct RowShapes {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};

    explicit RowShapes(int step) {
        for (int i = 0; i < 4; i++) rows[i] = 16, bytes[i] = 64;
        for (int i = 4; i < 6; i++) rows[i] = 16, bytes[i] = uint16_t(step);
        for (int i = 6; i < 8; i++) rows[i] = uint8_t(step / 4), bytes[i] = 64;
    }
};

// Products of P panels with T tiles of outputs, [P][T][16][TILE].
template <int P, int T>
void multiply_tiles(const int8_t *x, const uint8_t *w, int inputs, int step, int32_t *products) {
    _tile_zero(0);
    if constexpr (T == 2) _tile_zero(1);
    if constexpr (P == 2) _tile_zero(2);
    if constexpr (P == 2 && T == 2) _tile_zero(3);
    const int8_t *x2 = x + 16 * inputs;
    const uint8_t *w2 = w + TILE * inputs;
    for (int k = 0; k < 16 * inputs; k += 16 * step) {
        _tile_loadd(4, x + k, step);
        _tile_loadd(6, w + k, 64);
        _tile_dpbsud(0, 4, 6);
        if constexpr (T == 2) _tile_loadd(7, w2 + k, 64);
        if constexpr (T == 2) _tile_dpbsud(1, 4, 7);
        if constexpr (P == 2) _tile_loadd(5, x2 + k, step);
        if constexpr (P == 2) _tile_dpbsud(2, 5, 6);
        if constexpr (P == 2 && T == 2) _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, products, 64);
    if constexpr (T == 2) _tile_stored(1, products + 16 * TILE, 64);
    if constexpr (P == 2) _tile_stored(2, products + T * 16 * TILE, 64);
    if constexpr (P == 2 && T == 2) _tile_stored(3, products + 3 * 16 * TILE, 64);
}

// The results of a tile from its products with a panel of R rows.
template <bool GELU>
void finish_tile(const RowJob<Amx> &job, size_t t, size_t m0, size_t R, const int32_t *products) {
    const RowLinearCall &call = job.call;
    __m512 scale = Amx::load(call.scales + t * TILE);
    for (size_t r = 0; r < R; r++) {
        __m512i dot = Amx::add(_mm512_load_si512(products + r * TILE), Amx::all(-128 * job.sums[m0 + r]));
        __m512 product = Amx::mul(Amx::mul(scale, Amx::all(job.scales[m0 + r])), Amx::floats(dot));
        product = Amx::add(product, Amx::zero());  // -0 becomes 0
        finish<Amx, GELU>(call.outputs, call.bias, call.y, t, m0 + r, 1, &product);
    }
}

template <>
void multiply(const RowJob<Amx> &job, const Part &part) {
    const RowLinearCall &call = job.call;
    size_t bytes = size_t(TILE) * call.inputs;
    alignas(64) int32_t products[4 * 16 * TILE];
    RowShapes shapes(job.step);
    _tile_loadconfig(&shapes);
    for (size_t p0 = part.panel; p0 < part.panels_end; p0 += GROUP)
        for (size_t t = part.tile; t < part.tiles_end; t += 2)
            for (size_t p = p0; p < p0 + GROUP && p < part.panels_end; p += 2) {
                size_t P = least(part.panels_end - p, 2), T = least(part.tiles_end - t, 2);
                auto of = P == 2 ? T == 2 ? multiply_tiles<2, 2> : multiply_tiles<2, 1> : T == 2 ? multiply_tiles<1, 2> : multiply_tiles<1, 1>;
                of((const int8_t *)job.codes + p * bytes, call.codes + t * bytes, call.inputs, job.step, products);
                for (size_t i = 0; i < P * T; i++) {
                    size_t m0 = job.first(p + i / T), R = job.first(p + i / T + 1) - m0;
                    (call.gelu ? finish_tile<true> : finish_tile<false>)(job, t + i % T, m0, R, products + i * 16 * TILE);
                }
            }
    _tile_release();
}

// A few rows don't fill the registers.
void row_linear_amx(const RowLinearCall *call, void *scratch, Pool pool) {
    (call->rows < 8 ? row_linear<Avx512> : row_linear<Amx>)(call, scratch, pool);
}

size_t row_linear_scratch_amx(const RowLinearCall *call) {
    return call->rows < 8 ? row_linear_scratch<Avx512>(call) : row_linear_scratch<Amx>(call);
}

}  // namespace
