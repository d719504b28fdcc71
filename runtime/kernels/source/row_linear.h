// Products of float vectors, of which each is rounded to codes with one scale, with a matrix of codes with one scale for
// each output, for the instruction set `Set`.
#pragma once
#include <float.h>
#include <math.h>

#include "panels.h"

namespace {

template <class Set>
struct RowJob : Panels<Set, Set::TILE_ROWS> {
    using Base = Panels<Set, Set::TILE_ROWS>;
    static constexpr size_t TILES = Set::TILES;
    const RowLinearCall &call;
    float *scales;
    int32_t *sums;   // of a row's codes
    float *vectors;  // [panels][inputs]: a row whose codes are computed
    int step;        // inputs whose codes lie together

    RowJob(const RowLinearCall &call, void *scratch)
        : Base(call.rows, call.outputs, call.inputs, scratch), call(call), step(Set::FIXED ? divisor(call.inputs) : call.inputs) {
        char *at = (char *)scratch + this->bytes(call.rows, call.inputs);
        scales = (float *)at, sums = (int32_t *)at + call.rows, vectors = (float *)(at + round_up(call.rows * 8));
    }
    static size_t scratch(const RowLinearCall &call) {
        return Base::bytes(call.rows, call.inputs) + round_up(call.rows * 8) + over(call.rows, Base::ROWS) * call.inputs * 4;
    }
    // The largest of 64, 48, 32 and 16 that divides the inputs.
    static int divisor(int inputs) {
        int step = 64;
        while (inputs % step) step -= 16;
        return step;
    }
};

// x / scale, for scales of at least 2^-90 and to be rounded to a whole number. With the reciprocal, rounded once, the
// quotient is off by less than two units in the last place; what is left of x, which is exact, corrects it (Markstein
// 1990). It then is x / scale rounded once, unless that is within 2^-23 units of the middle between two floats, and the
// whole number is another one only where one of these floats is a half. There are 1,424 pairs of mantissas whose
// quotient is as near to such a middle, or twice as far, and none is rounded wrongly: test_row_linear.py tries them all.
template <class Set>
typename Set::Floats divided(typename Set::Floats x, typename Set::Floats scale, typename Set::Floats reciprocal) {
    typename Set::Floats less = Set::mul(scale, Set::all(-1.0f)), y = Set::mul(x, reciprocal);
    return Set::fma(Set::fma(less, y, x), reciprocal, y);
}

// Codes of sixteen numbers at a time, for row r of a panel of R, and their sum. A panel is [inputs / 4][R], or
// [inputs / step][ROWS][step] where the instruction set wants whole rows.
template <class Set, class F>
int32_t row_codes(const RowJob<Set> &job, typename Set::Four *panel, size_t r, size_t R, F scaled) {
    int inputs = job.call.inputs, step = job.step;
    typename Set::Ints sum = Set::ints();
    if constexpr (Set::FIXED) {
        int8_t *codes = (int8_t *)panel + r * step;
        for (int from = 0; from < inputs; from += step, codes += RowJob<Set>::ROWS * step)
            for (int k = 0; k < step; k += 16) sum = Set::add(sum, Set::round(scaled(from + k), codes + k));
    } else {
        alignas(16) int8_t rounded[16];
        typename Set::Four *codes = panel + r;
        for (int k = 0; k < inputs; k += 16, codes += 4 * R) {
            sum = Set::add(sum, Set::round(scaled(k), rounded));
            for (int g = 0; g < 4; g++) codes[g * R] = Set::four(rounded + g * 4);
        }
    }
    return Set::sum(sum);
}

// Codes of a panel's rows. Where a number isn't finite the scale is NaN, so that the row's results are.
template <class Set>
void quantize(const RowJob<Set> &job, size_t panel) {
    const RowLinearCall &call = job.call;
    size_t m0 = job.first(panel), R = job.first(panel + 1) - m0, columns = call.columns, inputs = call.inputs;
    float *filled = job.vectors + panel * inputs;
    for (size_t r = 0; r < R; r++) {
        const float *x = call.x + (m0 + r) * columns;
        if (call.factors || columns < inputs) {
            memset(filled + columns, 0, (inputs - columns) * sizeof(float));
            if (call.factors)
                for (size_t k = 0; k < columns; k++) filled[k] = x[k] * call.factors[k];
            else memcpy(filled, x, columns * sizeof(float));
            x = filled;
        }
        int32_t bits = Set::largest_bits(x, call.inputs);
        float largest;
        memcpy(&largest, &bits, sizeof largest);
        bool finite = largest <= FLT_MAX;
        if (!finite) x = (float *)memset(filled, 0, inputs * sizeof(float));
        float scale = (largest > 1e-30f ? largest : 1e-30f) / 127;
        typename Set::Floats one = Set::all(scale), reciprocal = Set::all(1 / scale);
        auto exactly = [=](int k) { return Set::div(Set::load(x + k), one); };
        auto fast = [=](int k) { return divided<Set>(Set::load(x + k), one, reciprocal); };
        typename Set::Four *codes = job.codes + m0 * (inputs / 4);
        job.scales[m0 + r] = finite ? scale : NAN;
        if (finite && scale > 1e-26f) job.sums[m0 + r] = row_codes(job, codes, r, R, fast);
        else job.sums[m0 + r] = row_codes(job, codes, r, R, exactly);
    }
}

// T tiles of outputs for R rows.
template <class Set, bool GELU, int T, int R>
void row_tiles(const RowJob<Set> &job, size_t t, size_t m0) {
    constexpr int CHAINS = chains(R * T);
    const RowLinearCall &call = job.call;
    size_t bytes = size_t(TILE) * call.inputs;
    typename Set::Ints dot[T][R][CHAINS];
#pragma GCC unroll 4
    for (int i = 0; i < T; i++)
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            dot[i][r][0] = Set::all((Set::MIDDLE - 128) * job.sums[m0 + r]);
            for (int j = 1; j < CHAINS; j++) dot[i][r][j] = Set::ints();
        }
    add_dots<Set, T, R, 8, CHAINS>(dot, call.codes + t * bytes, bytes, job.codes + m0 * (call.inputs / 4));
#pragma GCC unroll 4
    for (int i = 0; i < T; i++) {
        typename Set::Floats y[R], scale = Set::load(call.scales + (t + i) * TILE);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            for (int j = 1; j < CHAINS; j++) dot[i][r][0] = Set::add(dot[i][r][0], dot[i][r][j]);
            typename Set::Floats product = Set::mul(Set::mul(scale, Set::all(job.scales[m0 + r])), Set::floats(dot[i][r][0]));
            y[r] = Set::add(product, Set::zero());  // -0 becomes 0
        }
        finish<Set, GELU>(call.outputs, call.bias, call.y, t + i, m0, R, y);
    }
}

// row_tiles<Set, GELU, T, R> for R = 1 .. Set::TILE_ROWS.
template <class Set, bool GELU, int T, int R = Set::TILE_ROWS>
auto row_tiles_of(size_t rows) -> void (*)(const RowJob<Set> &, size_t, size_t) {
    if constexpr (R > 1)
        if (rows < R) return row_tiles_of<Set, GELU, T, R - 1>(rows);
    return row_tiles<Set, GELU, T, R>;
}

template <class Set>
void panel_tiles(const RowJob<Set> &job, const Part &, size_t t, size_t count, size_t panel) {
    size_t m0 = job.first(panel), R = job.first(panel + 1) - m0;
    auto of = job.call.gelu ? row_tiles_of<Set, true, Set::TILES> : row_tiles_of<Set, false, Set::TILES>;
    if (count < Set::TILES) of = job.call.gelu ? row_tiles_of<Set, true, 1> : row_tiles_of<Set, false, 1>;
    of(R)(job, t, m0);
}

template <class Set>
size_t row_linear_scratch(const RowLinearCall *call) {
    return RowJob<Set>::scratch(*call);
}

template <class Set>
void row_linear(const RowLinearCall *call, void *scratch, Pool pool) {
    if (call->rows == 0) return;
    RowJob<Set> job(*call, scratch);
    run_product(job, size_t(call->outputs) * call->inputs, pool);
}

}  // namespace
