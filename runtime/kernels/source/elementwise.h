// What stands between products: gates and norms, row by row, for the instruction set `Set`.
#pragma once
#include <math.h>
#include <string.h>

#include "exponential.h"
#include "gelu.h"
#include "kernels.h"
#include "partial.h"
#include "sizes.h"

namespace {

// f over 16 numbers at a time; the last ones are filled up with zeros.
template <class Set, class F>
void by_sixteen(size_t width, F f) {
    size_t i = 0;
    for (; i + 16 <= width; i += 16) f(i, size_t(16));
    if (i < width) f(i, width - i);
}

// Rows of a task, and what is done with some of them.
template <class Call>
struct Rows {
    const Call *call;
    void (*some)(const Call *call, size_t first, size_t end);
    size_t chunks;

    static void task(void *data, size_t chunk) {
        const Rows &rows = *(const Rows *)data;
        rows.some(rows.call, rows.call->rows * chunk / rows.chunks, rows.call->rows * (chunk + 1) / rows.chunks);
    }
};

template <class Call, void (*row)(const Call *call, size_t row)>
void one_by_one(const Call *call, size_t first, size_t end) {
    for (size_t r = first; r < end; r++) row(call, r);
}

// All rows, by several threads where waking them costs less than the work.
template <class Call>
void all_rows(const Call *call, void (*some)(const Call *, size_t, size_t), Pool pool) {
    Rows<Call> rows = {call, some, least(call->rows, call->rows * call->width < 16384 ? 1 : 8)};
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
    all_rows<SwigluCall>(call, one_by_one<SwigluCall, swiglu_row<Set>>, pool);
}

template <class Set>
typename Set::Floats sqrt(typename Set::Floats x) {
    float lanes[16];
    Set::store(lanes, x);
    for (float &lane : lanes) lane = sqrtf(lane);
    return Set::load(lanes);
}

template <class Set>
typename Set::Floats apply(Function function, typename Set::Floats x) {
    switch (function) {
    case Function::GELU: return gelu<Set>(x);
    case Function::GELU_TANH: return gelu_tanh<Set>(x);
    case Function::TANH: return tanh<Set>(x);
    case Function::SIGMOID: return sigmoid<Set>(x);
    case Function::SOFTPLUS: return softplus<Set>(x);
    case Function::EXP: return bounded_exp<Set>(x);
    case Function::SQRT: return sqrt<Set>(x);
    default: return silu<Set>(x);
    }
}

template <class Set>
void pointwise_row(const PointwiseCall *call, size_t row) {
    size_t at = row * call->width;
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        store_some<Set>(call->y + at + i, apply<Set>(call->function, load_some<Set>(call->x + at + i, count)), count);
    });
}

template <class Set>
void pointwise(const PointwiseCall *call, Pool pool) {
    all_rows<PointwiseCall>(call, one_by_one<PointwiseCall, pointwise_row<Set>>, pool);
}

// The sum of 16 lanes, in order.
template <class Set>
float total(typename Set::Floats x) {
    float lanes[16], total = 0;
    Set::store(lanes, x);
    for (float lane : lanes) total += lane;
    return total;
}

template <class Set>
void softmax_row(const RowCall *call, size_t row) {
    const float *x = call->x + row * call->width;
    float *y = call->y + row * call->width, largest = -INFINITY;
    for (size_t i = 0; i < call->width; i++)
        if (x[i] > largest) largest = x[i];
    typename Set::Floats sums = Set::zero(), less = Set::all(-largest);
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        store_some<Set>(y + i, exp<Set>(Set::add(load_some<Set>(x + i, count), less)), count);
        sums = Set::add(sums, load_some<Set>(y + i, count));  // with zeros behind the last one
    });
    typename Set::Floats all = Set::all(total<Set>(sums));
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        store_some<Set>(y + i, Set::div(load_some<Set>(y + i, count), all), count);
    });
}

template <class Set>
void softmax(const RowCall *call, Pool pool) {
    all_rows<RowCall>(call, one_by_one<RowCall, softmax_row<Set>>, pool);
}

template <class Set>
void row_sum_row(const RowCall *call, size_t row) {
    typename Set::Floats sums = Set::zero();
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        sums = Set::add(sums, load_some<Set>(call->x + row * call->width + i, count));
    });
    call->y[row] = total<Set>(sums);
}

template <class Set>
void row_sum(const RowCall *call, Pool pool) {
    all_rows<RowCall>(call, one_by_one<RowCall, row_sum_row<Set>>, pool);
}

// Many rows read a copy of each piece of w, as w's own rows may be so far apart that they displace each other in the cache.
template <class Set>
void float_linear_rows(const FloatLinearCall *call, size_t first, size_t end) {
    constexpr size_t DEPTH = 128, MANY = 4;
    alignas(64) float piece[DEPTH * 64];
    size_t n = 0;
    for (; n + 64 <= call->width; n += 64) {
        for (size_t at = 0; at == 0 || at < call->depth; at += DEPTH) {
            size_t depth = least(call->depth - at, DEPTH), stride = call->width;
            const float *w = call->w + at * stride + n;
            if (end - first >= MANY) {
                for (size_t k = 0; k < depth; k++) memcpy(piece + k * 64, w + k * stride, 64 * sizeof *w);
                w = piece, stride = 64;
            }
            for (size_t row = first; row < end; row++) {  // four sums of sixteen, which don't wait for each other
                const float *x = call->x + row * call->depth + at;
                float *y = call->y + row * call->width + n;
                typename Set::Floats a = Set::zero(), b = a, c = a, d = a;
                if (at) a = Set::load(y), b = Set::load(y + 16), c = Set::load(y + 32), d = Set::load(y + 48);
                for (size_t k = 0; k < depth; k++) {
                    const float *of = w + k * stride;
                    typename Set::Floats one = Set::all(x[k]);
                    a = Set::fma(one, Set::load(of), a), b = Set::fma(one, Set::load(of + 16), b);
                    c = Set::fma(one, Set::load(of + 32), c), d = Set::fma(one, Set::load(of + 48), d);
                }
                Set::store(y, a), Set::store(y + 16, b), Set::store(y + 32, c), Set::store(y + 48, d);
            }
        }
    }
    by_sixteen<Set>(call->width - n, [&](size_t i, size_t count) {
        for (size_t row = first; row < end; row++) {
            const float *x = call->x + row * call->depth;
            typename Set::Floats sum = Set::zero();
            for (size_t k = 0; k < call->depth; k++) {
                sum = Set::fma(Set::all(x[k]), load_some<Set>(call->w + k * call->width + n + i, count), sum);
            }
            store_some<Set>(call->y + row * call->width + n + i, sum, count);
        }
    });
}

template <class Set>
void float_linear(const FloatLinearCall *call, Pool pool) {
    all_rows<FloatLinearCall>(call, float_linear_rows<Set>, pool);
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
    typename Set::Floats factor = Set::all(1 / sqrtf(total<Set>(squares) / float(call->width) + call->epsilon));
    const float *x = call->b ? call->sum : call->a;
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        typename Set::Floats normed = Set::mul(load_some<Set>(x + at + i, count), factor);
        if (call->weight) normed = Set::mul(normed, load_some<Set>(call->weight + i, count));
        store_some<Set>(call->y + at + i, normed, count);
    });
}

template <class Set>
void add_norm(const AddNormCall *call, Pool pool) {
    all_rows<AddNormCall>(call, one_by_one<AddNormCall, add_norm_row<Set>>, pool);
}

template <class Set>
void add_layer_norm_row(const AddNormCall *call, size_t row) {
    size_t at = row * call->width;
    float *sum = (call->sum ? call->sum : call->y) + at, *y = call->y + at, width = float(call->width);
    const float *x = call->b ? sum : call->a + at;
    typename Set::Floats sums = Set::zero(), squares = Set::zero();
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        typename Set::Floats one = load_some<Set>(call->a + at + i, count);
        if (call->b) {
            one = Set::add(one, load_some<Set>(call->b + at + i, count));
            store_some<Set>(sum + i, one, count);
        }
        sums = Set::add(sums, one);
    });
    typename Set::Floats less = Set::all(-(total<Set>(sums) / width));
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        store_some<Set>(y + i, Set::add(load_some<Set>(x + i, count), less), count);
        typename Set::Floats centred = load_some<Set>(y + i, count);  // with zeros behind the last one
        squares = Set::fma(centred, centred, squares);
    });
    typename Set::Floats factor = Set::all(1 / sqrtf(total<Set>(squares) / width + call->epsilon));
    by_sixteen<Set>(call->width, [&](size_t i, size_t count) {
        typename Set::Floats normed = Set::mul(load_some<Set>(y + i, count), factor);
        if (call->weight) normed = Set::mul(normed, load_some<Set>(call->weight + i, count));
        store_some<Set>(y + i, call->bias ? Set::add(normed, load_some<Set>(call->bias + i, count)) : normed, count);
    });
}

template <class Set>
void add_layer_norm(const AddNormCall *call, Pool pool) {
    all_rows<AddNormCall>(call, one_by_one<AddNormCall, add_layer_norm_row<Set>>, pool);
}

}  // namespace
