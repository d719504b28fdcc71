// replay SET < cases > results: computes products and rows of tables with the kernels of an instruction set, for
// processors without Python, and for sanitizers; where 32 divides the outputs, with half of them as gates too. A case with blocks of 0 is a product with one scale a row, one
// with experts one of the rows of a mixture. Ends with 3 where this processor doesn't have the set.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

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

size_t bytes_of(ScaleType type) { return type == ScaleType::FLOAT32 ? 4 : type == ScaleType::FLOAT16 ? 2 : 1; }

// Factors of so many codes of a matrix, filler included.
size_t factors_of(ScaleType type, size_t codes, bool minima) { return type == ScaleType::CODES ? codes / 256 * (minima ? 2 : 1) : 0; }

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

// Experts of one shape, each in memory of its own.
struct Expert {
    Array<uint8_t> codes, scales, zeros, minima, table;
    Array<uint16_t> factors;
    Array<float> bias;
};

void expert_case(const Kernels *kernels, BlockMatrix shape, bool zeros, bool minima, bool table, bool bias, size_t tokens, size_t count) {
    auto of = read<int32_t>(3);  // choices, whether rows are apart, whether there are shares
    size_t tiles = (size_t(shape.outputs) + 15) / 16, scales = tiles * size_t(shape.inputs / shape.block) * 16, choices = size_t(of[0]);
    std::vector<Expert> experts(count);
    std::vector<BlockMatrix> matrices(count, shape);
    std::vector<const float *> biases(count);
    for (size_t e = 0; e < count; e++) {
        Expert &one = experts[e];
        auto type = ScaleType(read<int32_t>(1)[0]);
        size_t wide = bytes_of(type);
        one.codes = read<uint8_t>(scales * shape.block * shape.bits / 8);
        one.scales = read<uint8_t>(scales * wide);
        one.zeros = read<uint8_t>(zeros ? scales : 0);
        one.minima = read<uint8_t>(minima ? scales * wide : 0);
        one.factors = read<uint16_t>(factors_of(type, scales * shape.block, minima));
        one.table = read<uint8_t>(table ? 16 : 0);
        one.bias = read<float>(bias ? shape.outputs : 0);
        BlockMatrix &w = matrices[e];
        w.codes = one.codes.get(), w.scales = one.scales.get(), w.scale_type = type;
        w.zeros = zeros ? one.zeros.get() : nullptr, w.minima = minima ? one.minima.get() : nullptr, w.factors = one.factors.get();
        w.table = table ? one.table.get() : nullptr;
        biases[e] = bias ? one.bias.get() : nullptr;
    }
    auto starts = read<int64_t>(count + 1);
    auto order = read<int64_t>(tokens * choices);
    auto x = read<float>(tokens * (of[1] ? choices : 1) * shape.columns);
    auto shares = read<float>(of[2] ? tokens * choices : 0);
    size_t numbers = tokens * (of[2] ? 1 : choices) * shape.outputs;
    Array<float> y(new float[numbers]);
    ExpertCall call = {matrices.data(), biases.data(), starts.get(), order.get(), x.get(), of[2] ? shares.get() : nullptr, y.get(),
                       tokens, int32_t(count), of[0], of[1] != 0};
    void *scratch = aligned_alloc(64, (kernels->experts_scratch(&call) + 63) / 64 * 64);
    kernels->experts(&call, scratch, {nullptr, in_order});
    free(scratch);
    fwrite(y.get(), sizeof(float), numbers, stdout);
}

int main(int, char **arguments) {
    const Kernels *kernels = tfm_kernels(arguments[1]);
    if (!kernels) return 3;
    enum { OUTPUTS, COLUMNS, BLOCK, BITS, ZEROS, BIAS, ROWS, IDS, SCALES, MINIMA, EXPERTS, HEADER };
    int32_t of[HEADER];
    while (fread(of, sizeof of, 1, stdin) == 1) {
        if (of[BLOCK] == 0) {
            row_case(kernels, of[OUTPUTS], of[COLUMNS], of[ZEROS], of[BIAS], of[ROWS]);
            continue;
        }
        bool looked_up = of[BITS] == 9;
        int32_t bits = looked_up ? 4 : of[BITS];
        if (of[EXPERTS]) {
            int32_t inputs = (of[COLUMNS] + of[BLOCK] - 1) / of[BLOCK] * of[BLOCK];
            BlockMatrix shape = {nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, of[OUTPUTS], inputs, of[COLUMNS], of[BLOCK], bits, ScaleType::FLOAT32, false};
            expert_case(kernels, shape, of[ZEROS], of[MINIMA], looked_up, of[BIAS], of[ROWS], of[EXPERTS]);
            continue;
        }
        size_t tiles = (of[OUTPUTS] + 15) / 16, blocks = (of[COLUMNS] + of[BLOCK] - 1) / of[BLOCK], scales = tiles * blocks * 16;
        auto codes = read<uint8_t>(scales * of[BLOCK] * bits / 8);
        auto type = ScaleType(of[SCALES]);
        auto scale = read<uint8_t>(scales * bytes_of(type));
        auto zero = read<uint8_t>(of[ZEROS] ? scales : 0);
        auto minima = read<uint8_t>(of[MINIMA] ? scales * bytes_of(type) : 0);
        auto factors = read<uint16_t>(factors_of(type, scales * of[BLOCK], of[MINIMA]));
        auto table = read<uint8_t>(looked_up ? 16 : 0);
        auto bias = read<float>(of[BIAS] ? of[OUTPUTS] : 0);
        auto x = read<float>(size_t(of[ROWS]) * of[COLUMNS]);
        auto ids = read<int64_t>(of[IDS]);
        BlockMatrix w = {codes.get(), scale.get(), of[ZEROS] ? zero.get() : nullptr, of[MINIMA] ? minima.get() : nullptr, factors.get(),
                         looked_up ? table.get() : nullptr, of[OUTPUTS], int32_t(blocks * of[BLOCK]), of[COLUMNS], of[BLOCK], bits, type, false};
        size_t products = size_t(of[ROWS]) * of[OUTPUTS], gathered = size_t(of[IDS]) * of[COLUMNS];
        Array<float> y(new float[products]), rows(new float[gathered]);
        void *scratch = aligned_alloc(64, kernels->linear_scratch(&w, of[ROWS]));
        kernels->linear(&w, of[BIAS] ? bias.get() : nullptr, x.get(), of[ROWS], y.get(), scratch, {nullptr, in_order});
        free(scratch);
        if (!kernels->gather(&w, ids.get(), of[IDS], rows.get())) return 4;
        fwrite(y.get(), sizeof(float), products, stdout);
        fwrite(rows.get(), sizeof(float), gathered, stdout);
        if (of[OUTPUTS] % 32) continue;
        w.swiglu = true;
        Array<float> gated(new float[products / 2]);
        void *more = aligned_alloc(64, kernels->linear_scratch(&w, of[ROWS]));
        kernels->linear(&w, of[BIAS] ? bias.get() : nullptr, x.get(), of[ROWS], gated.get(), more, {nullptr, in_order});
        free(more);
        fwrite(gated.get(), sizeof(float), products / 2, stdout);
    }
}
