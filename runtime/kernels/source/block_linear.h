// Products of float vectors with a matrix of codes in blocks, for the instruction set `Set`. A row's result depends on
// that row alone: its blocks are summed in order, each as an exact integer, whatever else is computed beside it.
#pragma once
#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "sizes.h"

namespace {

constexpr int TILE = 16;
constexpr size_t NEAR = 384 * 1024;  // bytes of codes of inputs that stay in a core's cache

// The rows of x as codes, in panels of R rows, with a scale and a sum for each block [blocks][R].
template <class Set>
struct Job {
    const BlockMatrix *w;
    const float *bias, *x;
    float *y;
    size_t rows, panels, chunks;
    typename Set::Four *codes;
    float *scales;
    int32_t *sums;
    uint8_t *wide;  // [chunks][TILE][inputs], for instruction sets that need 4 bits as 8

    int blocks() const { return w->inputs / w->block; }
    size_t tiles() const { return (size_t(w->outputs) + TILE - 1) / TILE; }
    size_t first(size_t panel) const { return Set::FIXED ? least(panel * Set::ROWS, rows) : rows * panel / panels; }
    // The place of a panel's codes: [inputs / 4][R] unless the instruction set wants whole rows of a block.
    size_t place(size_t R, size_t r, size_t c, size_t g) const {
        size_t fours = w->block / 4;
        return Set::FIXED ? (c * Set::ROWS + r) * fours + g : (c * fours + g) * R + r;
    }
};

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
            alignas(16) int8_t rounded[128] = {};
            bool finite = largest <= FLT_MAX, any = finite && factor <= FLT_MAX;
            job.sums[m0 * blocks + c * stride + r] = any ? Set::round(x, factor, block, rounded) : 0;
            job.scales[m0 * blocks + c * stride + r] = finite ? largest / 127 : NAN;
            for (int g = 0; g < block / 4; g++) codes[job.place(R, r, c, g)] = Set::four(rounded + g * 4);
        }
}

// Add the bias to a tile of R rows and write the outputs that are real.
template <class Set>
void finish(const Job<Set> &job, size_t t, size_t m0, size_t R, const typename Set::Floats *y) {
    size_t N = job.w->outputs, n = t * TILE, count = least(N - n, TILE);
    float bias[TILE] = {}, part[TILE];
    if (job.bias) memcpy(bias, job.bias + n, count * sizeof(float));
    float *out = job.y + m0 * N + n;
    for (size_t r = 0; r < R; r++, out += N) {
        typename Set::Floats sum = job.bias ? Set::add(y[r], Set::load(bias)) : y[r];
        if (count == TILE) Set::store(out, sum);
        else {
            Set::store(part, sum);
            memcpy(out, part, count * sizeof(float));
        }
    }
}

// One tile of outputs for R rows.
template <class Set, int R, int BITS>
void tile(const Job<Set> &job, size_t t, size_t m0) {
    constexpr int CHAINS = R >= 4 ? 1 : R >= 2 ? 2 : 4;  // independent sums, where rows alone don't fill the pipeline
    constexpr int STEP = TILE * 4 * BITS;                 // bytes of 32 inputs
    const BlockMatrix &w = *job.w;
    int blocks = job.blocks(), bytes = TILE * w.block * BITS / 8;
    const uint8_t *at = w.codes + t * blocks * bytes;
    const float *scale = w.scales + t * blocks * TILE;
    const uint8_t *zero = w.zeros ? w.zeros + t * blocks * TILE : nullptr;
    const typename Set::Four *x = job.codes + m0 * (w.inputs / 4);
    const float *scale_x = job.scales + m0 * blocks;
    const int32_t *sum = job.sums + m0 * blocks;
    typename Set::Floats y[R];
    for (int r = 0; r < R; r++) y[r] = Set::zero();
    for (int c = 0; c < blocks; c++, scale += TILE, scale_x += R, sum += R) {
        typename Set::Ints dot[R][CHAINS];
        // x . (w - zero) = x . w - zero * sum(x): the second part is where the sum begins.
        typename Set::Ints z = Set::all(1 << (BITS - 1));
        if (zero) z = Set::bytes(zero + c * TILE);
        if constexpr (BITS == 8 && Set::MIDDLE != 0) z = Set::add(z, Set::all(-Set::MIDDLE));
        for (int r = 0; r < R; r++) {
            dot[r][0] = Set::short_mul(z, Set::all(-sum[r]));  // 16 bits hold a sum of 128 codes
            for (int i = 1; i < CHAINS; i++) dot[r][i] = Set::ints();
        }
        for (const uint8_t *end = at + bytes; at < end;) {
            __builtin_prefetch(at + 4096), __builtin_prefetch(at + 4096 + 64);
#pragma GCC unroll 8
            for (int g = 0; g < 4; g++) {
                typename Set::Codes four;
                if constexpr (BITS == 8) four = Set::codes(at + g * TILE * 4);
                else if (g % 2 == 0) four = Set::low(at + g / 2 * TILE * 4);
                else four = Set::high(at + g / 2 * TILE * 4);
#pragma GCC unroll 16
                for (int r = 0; r < R; r++) dot[r][g % CHAINS] = Set::dot(dot[r][g % CHAINS], four, x[g * R + r]);
            }
            at += STEP / 2, x += 4 * R;
        }
        typename Set::Floats scale_w = Set::load(scale);
        for (int r = 0; r < R; r++) {
            for (int i = 1; i < CHAINS; i++) dot[r][0] = Set::add(dot[r][0], dot[r][i]);
            y[r] = Set::add(y[r], Set::mul(Set::mul(scale_w, Set::all(scale_x[r])), Set::floats(dot[r][0])));
        }
    }
    finish<Set>(job, t, m0, R, y);
}

// tile<Set, R, BITS> for R = 1 .. Set::ROWS.
template <class Set, int BITS, int R = Set::ROWS>
auto of_rows(size_t rows) -> void (*)(const Job<Set> &, size_t, size_t) {
    if constexpr (R > 1)
        if (rows < R) return of_rows<Set, BITS, R - 1>(rows);
    return tile<Set, R, BITS>;
}

// One tile of outputs for one panel.
template <class Set>
void panel_tile(const Job<Set> &job, size_t t, size_t panel) {
    size_t m0 = job.first(panel), R = job.first(panel + 1) - m0;
    if constexpr (Set::BITS != 0) of_rows<Set, Set::BITS>(R)(job, t, m0);
    else (job.w->bits == 8 ? of_rows<Set, 8> : of_rows<Set, 4>)(R)(job, t, m0);
}

// All panels for a chunk of the tiles, as many panels at a time as the cache holds.
template <class Set>
void multiply(const Job<Set> &job, size_t chunk) {
    size_t t0 = job.tiles() * chunk / job.chunks, t1 = job.tiles() * (chunk + 1) / job.chunks;
    size_t together = NEAR / (sizeof(typename Set::Four) / 4 * Set::ROWS * job.w->inputs);
    if (together == 0) together = 1;
    for (size_t p0 = 0; p0 < job.panels; p0 += together)
        for (size_t t = t0; t < t1; t++)
            for (size_t p = p0; p < p0 + together && p < job.panels; p++) panel_tile(job, t, p);
}

template <class Set>
void quantize_task(void *data, size_t panel) {
    quantize(*(const Job<Set> *)data, panel);
}

template <class Set>
void multiply_task(void *data, size_t chunk) {
    multiply(*(const Job<Set> *)data, chunk);
}

constexpr size_t CHUNKS = 32;

// Where a job's parts lie in its scratch memory.
template <class Set>
struct Scratch {
    size_t codes, scales, wide;

    Scratch(const BlockMatrix &w, size_t rows) {
        size_t room = (rows + Set::ROWS - 1) / Set::ROWS * Set::ROWS;
        codes = round_up(room * w.inputs / 4 * sizeof(typename Set::Four));
        scales = round_up(room * (w.inputs / w.block) * 4);
        wide = Set::FIXED && w.bits == 4 ? CHUNKS * TILE * w.inputs : 0;
    }
    size_t bytes() const { return codes + 2 * scales + wide; }
};

template <class Set>
size_t linear_scratch(const BlockMatrix *w, size_t rows) {
    return Scratch<Set>(*w, rows).bytes();
}

template <class Set>
void linear(const BlockMatrix *w, const float *bias, const float *x, size_t rows, float *y, void *memory, Pool pool) {
    if (rows == 0) return;
    Scratch<Set> scratch(*w, rows);
    char *codes = (char *)memory, *scales = codes + scratch.codes, *sums = scales + scratch.scales, *wide = sums + scratch.scales;
    size_t panels = (rows + Set::ROWS - 1) / Set::ROWS;
    Job<Set> job = {w, bias, x, y, rows, panels, 1, (typename Set::Four *)codes, (float *)scales, (int32_t *)sums, (uint8_t *)wide};
    if (panels < 4)
        for (size_t p = 0; p < panels; p++) quantize(job, p);
    else
        pool.run(pool.owner, quantize_task<Set>, panels, &job);
    // Few chunks where reading the matrix is all there is to do: each costs a wake-up.
    size_t bytes = size_t(w->outputs) * w->inputs * w->bits / 8;
    job.chunks = least(rows >= 8 ? 16 : bytes > (8u << 20) ? CHUNKS : bytes > (1u << 20) ? 4 : 2, job.tiles());
    pool.run(pool.owner, multiply_task<Set>, job.chunks, &job);
}

}  // namespace
