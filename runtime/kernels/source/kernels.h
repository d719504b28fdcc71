// What the kernels compute, as plain C functions. The specification is refimpl/ops/quant.py: `linear_blocks` and `rows`
// have the same bits.
#pragma once
#include <stddef.h>
#include <stdint.h>

// A matrix [outputs, inputs] of codes with one scale for `block` neighbouring inputs: w = scale * (code - zero).
// Outputs are cut into tiles of 16, the last one filled up; within a tile, four inputs of each output lie side by side.
//   codes   8 bits: u8 [tiles][inputs / 4][16][4]
//           4 bits: u8 [tiles][inputs / 8][16][4], inputs k .. k + 3 in the low halves, k + 4 .. k + 7 in the high ones
//   scales  float32 [tiles][blocks][16]
//   zeros   u8 [tiles][blocks][16], or null: all are 2^(bits - 1)
// `inputs` is a multiple of `block`, which is 16, 32, 64 or 128. `columns` of them are real: the rest is filler.
struct BlockMatrix {
    const uint8_t *codes;
    const float *scales;
    const uint8_t *zeros;
    int32_t outputs, inputs, columns, block, bits;
};

// Runs task(data, 0), ..., task(data, count - 1), in any order, on as many threads as it has.
struct Pool {
    const void *owner;
    void (*run)(const void *owner, void (*task)(void *data, size_t index), size_t count, void *data);
};

// The kernels of one instruction set.
struct Kernels {
    const char *name;
    // y[m, n] = bias[n] + sum over blocks c, in their order, of
    //     (scale_w[n, c] * scale_x[m, c]) * (codes_x[m, c] . (codes_w[n, c] - zero[n, c]))
    // for x [rows, columns], whose blocks are rounded to codes first; y [rows, outputs]. Products of codes are exact
    // integers, each multiplication and addition of floats is rounded once, the sum begins at 0 and the bias, which
    // may be null, comes last. `scratch` has linear_scratch(w, rows) bytes and is aligned to 64.
    void (*linear)(const BlockMatrix *w, const float *bias, const float *x, size_t rows, float *y, void *scratch, Pool pool);
    size_t (*linear_scratch)(const BlockMatrix *w, size_t rows);
    // y[m] = row ids[m] of the matrix [columns]; false where an id isn't a row.
    bool (*gather)(const BlockMatrix *w, const int64_t *ids, size_t count, float *y);
};

extern "C" {
// The kernels of an instruction set, null where this processor or this library doesn't have it.
__attribute__((visibility("default"))) const Kernels *tfm_kernels(const char *instruction_set);
// Choose an instruction set, for sessions that register the operators afterwards; false where tfm_kernels has none.
__attribute__((visibility("default"))) bool tfm_use(const char *instruction_set);
// The name of the chosen instruction set, else of the fastest that this processor and this library have, or null.
__attribute__((visibility("default"))) const char *tfm_instruction_set(void);
}
