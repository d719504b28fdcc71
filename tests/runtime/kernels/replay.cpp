// replay SET < cases > results: computes products and rows of tables with the kernels of an instruction set, for
// processors without Python, and for sanitizers; where 32 divides the outputs, with half of them as gates too. A case with blocks of 0 is a product with one scale a row. Ends with 3 where this processor doesn't have the set.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>

#include "kernels.h"

template <class T>
using Array = std::unique_ptr<T[]>;

// Exactly as much memory as there are numbers: a sanitizer sees the first one that is read behind them.
template <class T>
Array<T> read(size_t count) {
    Array<T> numbers(new T[count]);
    if (fread(numbers.get(), sizeof(T), count, stdin) != count) exit(2);
    return numbers;
}

void in_order(const void *, void (*task)(void *, size_t), size_t count, void *data) {
    for (size_t i = 0; i < count; i++) task(data, i);
}

// The product, and GELU of it.
void row_case(const Kernels *kernels, size_t outputs, size_t columns, bool factors, bool bias, size_t rows) {
    size_t tiles = (outputs + 15) / 16, inputs = (columns + 15) / 16 * 16;
    auto codes = read<uint8_t>(tiles * inputs * 16);
    auto scale = read<float>(tiles * 16);
    auto factor = read<float>(factors ? columns : 0);
    auto added = read<float>(bias ? outputs : 0);
    auto x = read<float>(rows * columns);
    Array<float> y(new float[rows * outputs]);
    for (bool gelu : {false, true}) {
        RowLinearCall call = {codes.get(), scale.get(), factors ? factor.get() : nullptr, bias ? added.get() : nullptr, x.get(), y.get(),
                              rows, int32_t(outputs), int32_t(inputs), int32_t(columns), gelu};
        void *scratch = aligned_alloc(64, (kernels->row_linear_scratch(&call) + 63) / 64 * 64);
        kernels->row_linear(&call, scratch, {nullptr, in_order});
        free(scratch);
        fwrite(y.get(), sizeof(float), rows * outputs, stdout);
    }
}

int main(int, char **arguments) {
    const Kernels *kernels = tfm_kernels(arguments[1]);
    if (!kernels) return 3;
    enum { OUTPUTS, COLUMNS, BLOCK, BITS, ZEROS, BIAS, ROWS, IDS, HALVES, MINIMA, HEADER };
    int32_t of[HEADER];
    while (fread(of, sizeof of, 1, stdin) == 1) {
        if (of[BLOCK] == 0) {
            row_case(kernels, of[OUTPUTS], of[COLUMNS], of[ZEROS], of[BIAS], of[ROWS]);
            continue;
        }
        size_t tiles = (of[OUTPUTS] + 15) / 16, blocks = (of[COLUMNS] + of[BLOCK] - 1) / of[BLOCK], scales = tiles * blocks * 16;
        auto codes = read<uint8_t>(scales * of[BLOCK] * of[BITS] / 8);
        auto scale = read<uint8_t>(scales * (of[HALVES] ? 2 : 4));
        auto zero = read<uint8_t>(of[ZEROS] ? scales : 0);
        auto minima = read<uint8_t>(of[MINIMA] ? scales * (of[HALVES] ? 2 : 4) : 0);
        auto bias = read<float>(of[BIAS] ? of[OUTPUTS] : 0);
        auto x = read<float>(size_t(of[ROWS]) * of[COLUMNS]);
        auto ids = read<int64_t>(of[IDS]);
        BlockMatrix w = {codes.get(), scale.get(), of[ZEROS] ? zero.get() : nullptr, of[MINIMA] ? minima.get() : nullptr,
                         of[OUTPUTS], int32_t(blocks * of[BLOCK]), of[COLUMNS], of[BLOCK], of[BITS], of[HALVES] != 0};
        size_t products = size_t(of[ROWS]) * of[OUTPUTS], looked_up = size_t(of[IDS]) * of[COLUMNS];
        Array<float> y(new float[products]), rows(new float[looked_up]);
        void *scratch = aligned_alloc(64, kernels->linear_scratch(&w, of[ROWS]));
        kernels->linear(&w, of[BIAS] ? bias.get() : nullptr, x.get(), of[ROWS], y.get(), scratch, {nullptr, in_order});
        free(scratch);
        if (!kernels->gather(&w, ids.get(), of[IDS], rows.get())) return 4;
        fwrite(y.get(), sizeof(float), products, stdout);
        fwrite(rows.get(), sizeof(float), looked_up, stdout);
        if (of[OUTPUTS] % 32) continue;
        w.swiglu = true;
        Array<float> gated(new float[products / 2]);
        void *more = aligned_alloc(64, kernels->linear_scratch(&w, of[ROWS]));
        kernels->linear(&w, of[BIAS] ? bias.get() : nullptr, x.get(), of[ROWS], gated.get(), more, {nullptr, in_order});
        free(more);
        fwrite(gated.get(), sizeof(float), products / 2, stdout);
    }
}
