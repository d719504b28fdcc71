// Products of float vectors with a matrix of codes in blocks, for the instruction set `Set`. A row's result depends on
// that row alone: its blocks are summed in order, each as an exact integer, whatever else is computed beside it.
#pragma once
#include <float.h>
#include <math.h>

#include "block_scales.h"
#include "exponential.h"
#include "panels.h"

namespace {

// The rows of x as codes, in panels of R rows, with a scale and sums for each block [blocks][R].
template <class Set>
struct Job : Panels<Set, Set::ROWS> {
    static constexpr size_t TILES = 1;
    const BlockMatrix *w;
    const float *bias, *x;
    float *y;
    float *scales;
    int32_t *sums;  // of a block's codes, times -1
    float *totals;  // of a block's numbers, where the matrix has minima
    uint8_t *wide;  // [CHUNKS][halves][TILE][inputs], of codes without their zero points
    float *floats;  // [CHUNKS][near tiles][halves][1 or 2][blocks][TILE]: scales and minima, where that pays

    Job(const BlockMatrix *w, const float *bias, const float *x, size_t rows, float *y, void *scratch)
        : Panels<Set, Set::ROWS>(rows, w->outputs / halves(*w), w->inputs, scratch), w(w), bias(bias), x(x), y(y) {
        size_t part = scales_bytes(*w, rows);
        char *at = (char *)scratch + this->bytes(rows, w->inputs);
        scales = (float *)at, sums = (int32_t *)(at + part), totals = (float *)(at + 2 * part), wide = (uint8_t *)(at + parts(*w) * part);
        floats = (float *)wide;
    }
    // How many numbers stand beside a block's codes.
    static size_t parts(const BlockMatrix &w) { return w.minima ? 3 : 2; }
    static size_t scales_bytes(const BlockMatrix &w, size_t rows) { return round_up(over(rows, Set::ROWS) * Set::ROWS * (w.inputs / w.block) * 4); }
    static size_t scratch(const BlockMatrix &w, size_t rows) {
        size_t wide = centred(w) ? CHUNKS * halves(w) * TILE * w.inputs : 0;
        size_t floats = has_floats(w, over(rows, Set::ROWS)) ? CHUNKS * near_floats(w) * 4 : 0;
        return Panels<Set, Set::ROWS>::bytes(rows, w.inputs) + parts(w) * scales_bytes(w, rows) + wide + floats;
    }
    // Numbers of a task's tiles, and of one tile.
    static size_t near_floats(const BlockMatrix &w) { return Job::near_tiles(w.inputs, TILES) * halves(w) * tile_floats(w); }
    static size_t tile_floats(const BlockMatrix &w) { return w.inputs / w.block * TILE * (w.minima ? 2 : 1); }
    float *near(const Part &part, size_t t, size_t half) const {
        size_t place = (t - part.tile) % this->near_tiles(w->inputs, TILES);
        return floats + part.index * near_floats(*w) + (place * halves(*w) + half) * tile_floats(*w);
    }
    // Whether scales and minima become floats once for all rows: beside products of few they do while codes come from memory.
    static bool has_floats(const BlockMatrix &w, size_t panels) { return !Set::FIXED && w.scale_type != ScaleType::FLOAT32 && panels > 1; }
    bool has_floats() const { return has_floats(*w, this->panels); }
    void prepare(const Part &part, size_t t, size_t end) const {
        if (!has_floats()) return;
        size_t count = blocks();
        for (; t < end; t++)
            for (size_t half = 0; half < halves(*w); half++) {
                float *scale = near(part, t, half), *minimum = scale + count * TILE;
                for (size_t c = 0; c < count; c++) {
                    size_t at = (t + half * this->tiles()) * count + c;
                    typename Set::Floats one = ::scales<Set>(*w, at);
                    Set::store(scale + c * TILE, one);
                    if (w->minima) Set::store(minimum + c * TILE, minima<Set>(*w, at, one));
                }
            }
    }
    // Whether zero points are taken off codes first, as one byte holds.
    static bool centred(const BlockMatrix &w) { return Set::FIXED && (w.bits < 8 || !w.zeros); }
    // Tiles of the matrix that make one of the result: gates and what they are for.
    static size_t halves(const BlockMatrix &w) { return w.swiglu ? 2 : 1; }
    int blocks() const { return w->inputs / w->block; }
    // Where a row's codes of a block begin in its panel, [inputs / 4][R] unless the instruction set wants whole rows of a block.
    size_t place(size_t R, size_t r, size_t c) const {
        size_t fours = w->block / 4;
        return Set::FIXED ? (c * Set::ROWS + r) * fours : c * fours * R + r;
    }
};

// The sum of a block's numbers, as kernels.h orders it.
template <class Set>
float total_of(const float *x, int block) {
    typename Set::Floats sum = Set::zero();
    for (int k = 0; k < block; k += 16) sum = Set::add(sum, Set::load(x + k));
    float lanes[16];
    Set::store(lanes, sum);
    for (int count = 8; count; count /= 2)
        for (int i = 0; i < count; i++) lanes[i] += lanes[i + count];
    return lanes[0];
}

// Codes of a panel's rows: code = rint(x * (127 / max|x|)), scale = max|x| / 127. Where 127 / max|x| isn't finite codes
// are 0, and where a number isn't finite the scale is NaN, so that the row's results are.
template <class Set>
void quantize(const Job<Set> &job, size_t panel) {
    size_t m0 = job.first(panel), R = job.first(panel + 1) - m0, blocks = job.blocks(), stride = Set::FIXED ? Set::ROWS : R;
    int columns = job.w->columns, block = job.w->block;
    typename Set::Four *codes = job.codes + m0 * (job.w->inputs / 4);
    for (size_t r = 0; r < R; r++)
        for (size_t c = 0; c < blocks; c++) {
            const float *x = job.x + (m0 + r) * columns + c * block;
            float filled[128];
            if (int((c + 1) * block) > columns) {
                int left = columns - int(c) * block;
                for (int k = 0; k < block; k++) filled[k] = k < left ? x[k] : 0;
                x = filled;
            }
            int32_t bits = Set::largest_bits(x, block);
            float largest;
            memcpy(&largest, &bits, sizeof largest);
            float factor = 127 / largest;
            bool finite = largest <= FLT_MAX, any = finite && factor <= FLT_MAX;
            typename Set::Four *place = codes + job.place(R, r, c);
            alignas(16) int8_t apart[128];
            int8_t *rounded = Set::FIXED ? (int8_t *)place : apart;
            int32_t sum = 0;
            if (any) sum = round<Set>(block, rounded, [=](int k) { return Set::mul(Set::load(x + k), Set::all(factor)); });
            else memset(rounded, 0, block);
            job.sums[m0 * blocks + c * stride + r] = -sum;
            job.scales[m0 * blocks + c * stride + r] = finite ? largest / 127 : NAN;
            if (job.w->minima) job.totals[m0 * blocks + c * stride + r] = total_of<Set>(x, block);
            if constexpr (!Set::FIXED)
                for (int g = 0; g < block / 4; g++) place[g * R] = Set::four(rounded + g * 4);
        }
    // Rows that aren't there are multiplied too: by subnormal numbers, which memory may hold, that takes ten times as long.
    if constexpr (Set::FIXED)
        for (size_t c = 0; c < blocks; c++)
            for (size_t r = R; r < stride; r++) {
                job.scales[m0 * blocks + c * stride + r] = 0;
                if (job.w->minima) job.totals[m0 * blocks + c * stride + r] = 0;
            }
}

// Write a tile of R rows: the sums of one tile of the matrix with their bias, or those of two as a gate and what it is for.
template <class Set>
inline __attribute__((always_inline)) void finish_halves(const Job<Set> &job, size_t t, size_t m0, size_t R, const typename Set::Floats *sums, const typename Set::Floats *more) {
    if (!job.w->swiglu) return finish<Set>(job.outputs, job.bias, job.y, t, m0, R, sums);
    size_t n = t * TILE, N = job.outputs;
    typename Set::Floats gate = bias_of<Set>(job.bias, n, TILE), up = bias_of<Set>(job.bias, N + n, TILE);
    for (size_t r = 0; r < R; r++)
        Set::store(job.y + (m0 + r) * N + n, Set::mul(silu<Set>(Set::add(sums[r], gate)), Set::add(more[r], up)));
}

// The sums for R rows of tile t of the result: of its gates, or of what they are for.
template <class Set, int R, int BITS>
void sum_tile(const Job<Set> &job, const Part &part, size_t t, size_t half, size_t m0, typename Set::Floats *sums) {
    constexpr int CHAINS = chains(R);
    const BlockMatrix &w = *job.w;
    size_t blocks = job.blocks(), bytes = TILE * w.block * stored_bits(BITS) / 8, tile = t + half * job.tiles();
    const uint8_t *at = w.codes + tile * blocks * bytes;
    const uint8_t *zero = w.zeros ? w.zeros + tile * blocks * TILE : nullptr;
    const typename Set::Four *x = job.codes + m0 * (w.inputs / 4);
    const float *scale_x = job.scales + m0 * blocks;
    const int32_t *sum = job.sums + m0 * blocks;
    const float *total = job.totals + m0 * blocks;
    const float *scale = job.has_floats() ? job.near(part, t, half) : nullptr, *minimum = scale + blocks * TILE;
    typename Set::Table table = {};
    if constexpr (BITS == LOOKED_UP) table = Set::table(w.table);
    typename Set::Floats y[R];
    for (int r = 0; r < R; r++) y[r] = Set::zero();
    for (size_t c = 0; c < blocks; c++, scale_x += R, sum += R, total += R) {
        typename Set::Ints dot[1][R][CHAINS];
        // x . (w - zero) = x . w - zero * sum(x): the second part is where the sum begins.
        typename Set::Ints z = Set::all(1 << (code_bits<Set>(BITS) - 1));
        if (zero) z = Set::bytes(zero + c * TILE);
        if constexpr (code_bits<Set>(BITS) == 8 && Set::MIDDLE != 0) z = Set::add(z, Set::all(-Set::MIDDLE));
        for (int r = 0; r < R; r++) {
            dot[0][r][0] = Set::short_mul(z, Set::all(sum[r]));  // 16 bits hold a sum of 128 codes
            for (int j = 1; j < CHAINS; j++) dot[0][r][j] = Set::ints();
        }
        add_dots<Set, 1, R, BITS, CHAINS>(dot, at, bytes, x, table);
        at += bytes, x += w.block / 4 * R;
        typename Set::Floats scale_w = scale ? Set::load(scale + c * TILE) : scales<Set>(w, tile * blocks + c), terms[R];
        for (int r = 0; r < R; r++) {
            for (int j = 1; j < CHAINS; j++) dot[0][r][0] = Set::add(dot[0][r][0], dot[0][r][j]);
            terms[r] = Set::mul(Set::mul(scale_w, Set::all(scale_x[r])), Set::floats(dot[0][r][0]));
        }
        if (w.minima) {
            typename Set::Floats lowest = scale ? Set::load(minimum + c * TILE) : minima<Set>(w, tile * blocks + c, scale_w);
            for (int r = 0; r < R; r++) terms[r] = Set::add(terms[r], Set::mul(lowest, Set::all(total[r])));
        }
        for (int r = 0; r < R; r++) y[r] = Set::add(y[r], terms[r]);
    }
    for (int r = 0; r < R; r++) sums[r] = y[r];
}

// One tile of outputs for R rows.
template <class Set, int R, int BITS>
void tile(const Job<Set> &job, const Part &part, size_t t, size_t m0) {
    typename Set::Floats sums[2][R];
    for (size_t half = 0; half < job.halves(*job.w); half++) sum_tile<Set, R, BITS>(job, part, t, half, m0, sums[half]);
    finish_halves(job, t, m0, R, sums[0], sums[1]);
}

// tile<Set, R, BITS> for R = 1 .. Set::ROWS.
template <class Set, int BITS, int R = Set::ROWS>
auto of_rows(size_t rows) -> void (*)(const Job<Set> &, const Part &, size_t, size_t) {
    if constexpr (R > 1)
        if (rows < R) return of_rows<Set, BITS, R - 1>(rows);
    return tile<Set, R, BITS>;
}

// of_rows<Set, BITS> for the widths of codes that the instruction set has, and those it looks up.
template <class Set, int BITS = Set::FEWEST_BITS>
auto of_bits(int bits, size_t rows) {
    constexpr int NEXT = BITS == Set::MOST_BITS ? LOOKED_UP : wider(BITS);
    if constexpr (BITS != LOOKED_UP)
        if (bits > BITS) return of_bits<Set, NEXT>(bits, rows);
    return of_rows<Set, BITS>(rows);
}

// One tile of outputs for one panel.
template <class Set>
void panel_tiles(const Job<Set> &job, const Part &part, size_t t, size_t, size_t panel) {
    size_t m0 = job.first(panel), R = job.first(panel + 1) - m0;
    of_bits<Set>(form_of(*job.w), R)(job, part, t, m0);
}

template <class Set>
size_t linear_scratch(const BlockMatrix *w, size_t rows) {
    return Job<Set>::scratch(*w, rows);
}

template <class Set>
void linear(const BlockMatrix *w, const float *bias, const float *x, size_t rows, float *y, void *scratch, Pool pool) {
    if (rows == 0) return;
    Job<Set> job(w, bias, x, rows, y, scratch);
    run_product(job, size_t(w->outputs) * w->inputs * w->bits / 8, pool);
}

}  // namespace
