// Products of rows with a few of many matrices each, for the instruction set `Set`, by its products with one.
#pragma once
#include <string.h>

#include "kernels.h"
#include "partial.h"
#include "shares.h"
#include "sizes.h"

namespace {

using Linear = decltype(Kernels::linear);
using LinearScratch = decltype(Kernels::linear_scratch);

// The rows of one expert: those of x side by side, and their products.
struct ExpertRows {
    const ExpertCall *call;
    const int64_t *choices;
    size_t count, columns, outputs;
    float *x, *products;

    static size_t outputs_of(const BlockMatrix &w) { return w.outputs / (w.swiglu ? 2 : 1); }
    size_t token(size_t r) const { return size_t(choices[r]) / size_t(call->choices); }
    const float *from(size_t r) const { return call->x + (call->apart ? size_t(choices[r]) : token(r)) * columns; }
};

struct ExpertTask {
    const ExpertRows *rows;
    Shares shares;
};

inline void take_rows(void *data, size_t index) {
    const ExpertTask &task = *(const ExpertTask *)data;
    const ExpertRows &rows = *task.rows;
    for (size_t r = task.shares.begin(index); r < task.shares.end(index); r++)
        memcpy(rows.x + r * rows.columns, rows.from(r), rows.columns * sizeof(float));
}

inline void put_rows(void *data, size_t index) {
    const ExpertTask &task = *(const ExpertTask *)data;
    const ExpertRows &rows = *task.rows;
    for (size_t r = task.shares.begin(index); r < task.shares.end(index); r++)
        memcpy(rows.call->y + size_t(rows.choices[r]) * rows.outputs, rows.products + r * rows.outputs, rows.outputs * sizeof(float));
}

// Sixteen outputs of all rows at a time, for an expert may be chosen twice.
template <class Set>
void add_rows(void *data, size_t index) {
    const ExpertTask &task = *(const ExpertTask *)data;
    const ExpertRows &rows = *task.rows;
    for (size_t r = 0; r < rows.count; r++) {
        typename Set::Floats share = Set::all(rows.call->shares[rows.choices[r]]);
        float *y = rows.call->y + rows.token(r) * rows.outputs;
        for (size_t i = task.shares.begin(index); i < task.shares.end(index); i++) {
            size_t at = 16 * i, count = least(16, rows.outputs - at);
            typename Set::Floats part = Set::mul(share, load_some<Set>(rows.products + r * rows.outputs + at, count));
            store_some<Set>(y + at, Set::add(load_some<Set>(y + at, count), part), count);
        }
    }
}

// The rows of the expert that has most of them.
inline size_t most_rows(const ExpertCall &call) {
    size_t rows = 0;
    for (int32_t e = 0; e < call.count; e++) rows = most(rows, size_t(call.starts[e + 1] - call.starts[e]));
    return rows;
}

template <LinearScratch SCRATCH>
size_t experts_scratch(const ExpertCall *call) {
    size_t products = 0, rows = most_rows(*call);
    for (int32_t e = 0; e < call->count; e++) {
        size_t count = size_t(call->starts[e + 1] - call->starts[e]);
        if (!count) continue;
        const BlockMatrix &w = call->experts[e];
        size_t around = round_up(rows * size_t(w.columns) * 4) + round_up(rows * ExpertRows::outputs_of(w) * 4);
        products = most(products, around + SCRATCH(&w, count));
    }
    return products;
}

template <class Set, Linear LINEAR>
void experts(const ExpertCall *call, void *scratch, Pool pool) {
    size_t most_count = most_rows(*call);
    bool begun = false;
    for (int32_t e = 0; e < call->count; e++) {
        size_t count = size_t(call->starts[e + 1] - call->starts[e]);
        if (!count) continue;
        const BlockMatrix &w = call->experts[e];
        ExpertRows rows = {call, call->order + call->starts[e], count, size_t(w.columns), ExpertRows::outputs_of(w), nullptr, nullptr};
        rows.x = (float *)scratch;
        rows.products = (float *)((char *)scratch + round_up(most_count * rows.columns * 4));
        void *rest = (char *)rows.products + round_up(most_count * rows.outputs * 4);
        if (call->shares && !begun) memset(call->y, 0, call->tokens * rows.outputs * sizeof(float));
        begun = true;
        // A row alone is read where it lies, and written where it belongs.
        const float *x = count == 1 ? rows.from(0) : rows.x;
        float *y = count == 1 && !call->shares ? call->y + size_t(rows.choices[0]) * rows.outputs : rows.products;
        if (count > 1) {
            ExpertTask take = {&rows, Shares(count, count * rows.columns)};
            take.shares.run(pool, take_rows, &take);
        }
        LINEAR(&w, call->biases ? call->biases[e] : nullptr, x, count, y, rest, pool);
        if (call->shares) {
            ExpertTask add = {&rows, Shares(over(rows.outputs, 16), count * rows.outputs)};
            add.shares.run(pool, add_rows<Set>, &add);
        } else if (count > 1) {
            ExpertTask put = {&rows, Shares(count, count * rows.outputs)};
            put.shares.run(pool, put_rows, &put);
        }
    }
}

}  // namespace
