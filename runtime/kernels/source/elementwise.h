// What stands between products: gates and norms, row by row, for the instruction set `Set`.
#pragma once
#include <math.h>
#include <string.h>

#include "exponential.h"
#include "kernels.h"
#include "sizes.h"

namespace {

// f over 16 numbers at a time; the last ones are filled up with zeros.
template <class Set, class F>
void by_sixteen(size_t width, F f) {
    size_t i = 0;
    for (; i + 16 <= width; i += 16) f(i, size_t(16));
    if (i < width) f(i, width - i);
}

template <class Set>
typename Set::Floats load_some(const float *at, size_t count) {
    if (count == 16) return Set::load(at);
    float part[16] = {};
    memcpy(part, at, count * sizeof(float));
    return Set::load(part);
}

template <class Set>
void store_some(float *at, typename Set::Floats x, size_t count) {
    if (count == 16) {
        Set::store(at, x);
        return;
    }
    float part[16];
    Set::store(part, x);
    memcpy(at, part, count * sizeof(float));
}

// Rows of a task, and what is done with a row.
template <class Call>
struct Rows {
    const Call *call;
    void (*row)(const Call *call, size_t row);
    size_t chunks;

    static void task(void *data, size_t chunk) {
        const Rows &rows = *(const Rows *)data;
        size_t end = rows.call->rows * (chunk + 1) / rows.chunks;
        for (size_t r = rows.call->rows * chunk / rows.chunks; r < end; r++) rows.row(rows.call, r);
    }
};

// All rows, by several threads where waking them costs less than the work.
template <class Call>
void all_rows(const Call *call, void (*row)(const Call *, size_t), Pool pool) {
    Rows<Call> rows = {call, row, least(call->rows, call->rows * call->width < 16384 ? 1 : 8)};
    if (rows.chunks == 1) Rows<Call>::task(&rows, 0);
    else pool.run(pool.owner, Rows<Call>::task, rows.chunks, &rows);
}

template <class Set>
void swiglu_row(const SwigluCall *call, size_t row) {
    const float *gate = call->x + row * 2 * call->width, *up = gate + call->width;
    float *y = call->y + row * call->width;
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        store_some<Set>(y + i, Set::mul(silu<Set>(load_some<Set>(gate + i, count)), load_some<Set>(up + i, count)), count);
    });
}

template <class Set>
void swiglu(const SwigluCall *call, Pool pool) {
    all_rows<SwigluCall>(call, swiglu_row<Set>, pool);
}

template <class Set>
void add_norm_row(const AddNormCall *call, size_t row) {
    size_t at = row * call->width;
    typename Set::Floats squares = Set::zero();
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        typename Set::Floats x = load_some<Set>(call->a + at + i, count);
        if (call->b) {
            x = Set::add(x, load_some<Set>(call->b + at + i, count));
            store_some<Set>(call->sum + at + i, x, count);
        }
        squares = Set::fma(x, x, squares);
    });
    float lanes[16], total = 0;
    Set::store(lanes, squares);
    for (float lane : lanes) total += lane;
    typename Set::Floats factor = Set::all(1 / sqrtf(total / float(call->width) + call->epsilon));
    const float *x = call->b ? call->sum : call->a;
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        typename Set::Floats normed = Set::mul(load_some<Set>(x + at + i, count), factor);
        store_some<Set>(call->y + at + i, Set::mul(normed, load_some<Set>(call->weight + i, count)), count);
    });
}

template <class Set>
void add_norm(const AddNormCall *call, Pool pool) {
    all_rows<AddNormCall>(call, add_norm_row<Set>, pool);
}

}  // namespace
