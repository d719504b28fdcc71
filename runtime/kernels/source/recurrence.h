// Layers that keep a state: the convolution over the last inputs, and linear attention with decay, for the instruction
// set `Set`.
#pragma once
#include <math.h>
#include <string.h>

#include "elementwise.h"
#include "exponential.h"
#include "kernels.h"
#include "partial.h"
#include "shares.h"
#include "sizes.h"

namespace {

struct ConvTask {
    static constexpr size_t CHANNELS = 256;  // that are read side by side
    const CausalConvCall *call;
    Shares shares;  // of so many channels each, row by row of the batch
};

// Some channels of one row of the batch.
template <class Set>
void convolve_channels(const CausalConvCall *call, size_t row, size_t channel, size_t width) {
    size_t channels = size_t(call->channels), before = size_t(call->length) - 1, tokens = size_t(call->tokens);
    float *tail = call->tail + row * before * channels + channel, *y = call->y + row * tokens * channels + channel;
    const float *x = call->x + row * tokens * channels + channel, *kernel = call->kernel + channel;
    if (call->past[row] == 0)
        for (size_t i = 0; i < before; i++) memset(tail + i * channels, 0, width * sizeof(float));
    auto input = [&](size_t i) { return i < before ? tail + i * channels : x + (i - before) * channels; };
    for (size_t t = 0; t < tokens; t++)
        by_sixteen<Set>(width, [&](size_t i, size_t count) {
            typename Set::Floats sum = Set::mul(load_some<Set>(kernel + i, count), load_some<Set>(input(t) + i, count));
            for (size_t j = 1; j <= before; j++)
                sum = Set::fma(load_some<Set>(kernel + j * channels + i, count), load_some<Set>(input(t + j) + i, count), sum);
            if (call->bias) sum = Set::add(sum, load_some<Set>(call->bias + channel + i, count));
            store_some<Set>(y + t * channels + i, call->silu ? silu<Set>(sum) : sum, count);
        });
    // From the front: an input that is moved lies behind its new place.
    for (size_t i = 0; i < before; i++) memmove(tail + i * channels, input(size_t(call->lengths[row]) + i), width * sizeof(float));
}

template <class Set>
void convolve_task(void *data, size_t index) {
    const ConvTask &task = *(const ConvTask *)data;
    size_t channels = size_t(task.call->channels), parts = over(channels, ConvTask::CHANNELS);
    for (size_t i = task.shares.begin(index); i < task.shares.end(index); i++) {
        size_t channel = i % parts * ConvTask::CHANNELS;
        convolve_channels<Set>(task.call, i / parts, channel, least(ConvTask::CHANNELS, channels - channel));
    }
}

template <class Set>
bool causal_conv(const CausalConvCall *call, Pool pool) {
    for (int32_t row = 0; row < call->batch; row++)
        if (call->lengths[row] < 0 || call->lengths[row] > call->tokens) return false;
    size_t batch = size_t(call->batch), channels = size_t(call->channels), parts = over(channels, ConvTask::CHANNELS);
    ConvTask task = {call, Shares(batch * parts, batch * channels * size_t(call->tokens))};
    task.shares.run(pool, convolve_task<Set>, &task);
    return true;
}

template <class Set>
typename Set::Floats negative(typename Set::Floats x) { return Set::mul(x, Set::all(-1.0f)); }

// A head's key, query and decay at one token; `decayed` is the key times the decay.
struct HeadStep {
    float key[LinearAttentionCall::MOST_KEYS], query[LinearAttentionCall::MOST_KEYS];
    float decay[LinearAttentionCall::MOST_KEYS], decayed[LinearAttentionCall::MOST_KEYS];
};

// to = from * factor, where `unit` is 0, or (from / sqrt(the sum of its squares + unit)) * factor.
template <class Set>
void scaled(const float *from, size_t size, float unit, float factor, float *to) {
    typename Set::Floats squares = Set::zero();
    for (size_t i = 0; unit > 0 && i < size; i += 16) {
        typename Set::Floats x = load_some<Set>(from + i, least(16, size - i));
        squares = Set::fma(x, x, squares);
    }
    typename Set::Floats length = Set::all(unit > 0 ? 1 / sqrtf(total<Set>(squares) + unit) : 1);
    for (size_t i = 0; i < size; i += 16) {
        typename Set::Floats x = load_some<Set>(from + i, least(16, size - i));
        Set::store(to + i, Set::mul(Set::mul(x, length), Set::all(factor)));
    }
}

// -e^a of the numbers of a head, from the i-th on.
template <class Set>
typename Set::Floats rates(const LinearAttentionCall *call, size_t head, size_t i) {
    size_t size = size_t(call->key_size);
    return negative<Set>(bounded_exp<Set>(
        call->by_key ? load_some<Set>(call->a_log + head * size + i, least(16, size - i)) : Set::all(call->a_log[head])));
}

template <class Set>
void prepare(const LinearAttentionCall *call, size_t at, size_t head, HeadStep *step) {
    size_t size = size_t(call->key_size), key_head = head / size_t(call->heads / call->key_heads);
    scaled<Set>(call->k + at * call->k_stride + key_head * size, size, call->unit, 1, step->key);
    scaled<Set>(call->q + at * call->q_stride + key_head * size, size, call->unit, call->scale, step->query);
    typename Set::Floats decay = Set::zero(), time = Set::all(call->step[at * size_t(call->heads) + head]);
    for (size_t i = 0; i < size; i += 16) {
        if (i == 0 || call->by_key) decay = exp<Set>(Set::mul(rates<Set>(call, head, i), time));
        Set::store(step->decay + i, decay);
        Set::store(step->decayed + i, Set::mul(decay, Set::load(step->key + i)));
    }
}

// All tokens of a head, in N vectors of columns of its state, of which the last one has `last` columns.
template <class Set, int N>
void attend_columns(const LinearAttentionCall *call, size_t row, size_t head, size_t column, size_t last) {
    size_t heads = size_t(call->heads), keys = size_t(call->key_size), values = size_t(call->value_size), tokens = size_t(call->tokens);
    float *state = call->state + (row * heads + head) * keys * values + column;
    auto count = [&](int n) { return n == N - 1 ? last : size_t(16); };
    HeadStep step;
    for (size_t at = row * tokens; at < (row + 1) * tokens; at++) {
        prepare<Set>(call, at, head, &step);
        const float *v = call->v + at * call->v_stride + head * values + column;
        typename Set::Floats value[N], y[N];
        for (int n = 0; n < N; n++) value[n] = load_some<Set>(v + 16 * n, count(n)), y[n] = Set::zero();
        if (call->beta) {
            typename Set::Floats known[N], beta = Set::all(call->beta[at * heads + head]);
            for (int n = 0; n < N; n++) known[n] = Set::zero();
            for (size_t k = 0; k < keys; k++)
                for (int n = 0; n < N; n++)
                    known[n] = Set::fma(Set::all(step.decayed[k]), load_some<Set>(state + k * values + 16 * n, count(n)), known[n]);
            for (int n = 0; n < N; n++) value[n] = Set::mul(beta, Set::add(value[n], negative<Set>(known[n])));
        }
        for (size_t k = 0; k < keys; k++)
            for (int n = 0; n < N; n++) {
                float *place = state + k * values + 16 * n;
                typename Set::Floats kept = Set::mul(Set::all(step.decay[k]), load_some<Set>(place, count(n)));
                typename Set::Floats next = Set::fma(Set::all(step.key[k]), value[n], kept);
                store_some<Set>(place, next, count(n));
                y[n] = Set::fma(Set::all(step.query[k]), next, y[n]);
            }
        for (int n = 0; n < N; n++) store_some<Set>(call->y + (at * heads + head) * values + column + 16 * n, y[n], count(n));
    }
}

template <class Set>
void attend_head(const LinearAttentionCall *call, size_t row, size_t head) {
    size_t values = size_t(call->value_size), column = 0;
    for (; column + 64 <= values; column += 64) attend_columns<Set, 4>(call, row, head, column, 16);
    for (; column < values; column += 16) attend_columns<Set, 1>(call, row, head, column, least(16, values - column));
}

// All tokens of sixteen heads or fewer, each with one value, and with the keys of the same head.
template <class Set>
void attend_channels(const LinearAttentionCall *call, size_t row, size_t head, size_t count) {
    size_t heads = size_t(call->heads), keys = size_t(call->key_size), tokens = size_t(call->tokens), wide = over(keys, 16) * 16;
    float *state = call->state + (row * heads + head) * keys, rate[16 * LinearAttentionCall::MOST_KEYS], part[256] = {}, turned[256];
    float key[LinearAttentionCall::MOST_KEYS], query[LinearAttentionCall::MOST_KEYS];
    for (size_t c = 0; c < count; c++)
        for (size_t i = 0; i < keys; i += 16) Set::store(rate + c * wide + i, rates<Set>(call, head + c, i));
    for (size_t at = row * tokens; at < (row + 1) * tokens; at++) {
        scaled<Set>(call->k + at * call->k_stride, keys, 0, 1, key);
        scaled<Set>(call->q + at * call->q_stride, keys, 0, call->scale, query);
        for (size_t c = 0; c < count; c++) {
            typename Set::Floats value = Set::all(call->v[at * call->v_stride + head + c]), lanes = Set::zero();
            typename Set::Floats time = Set::all(call->step[at * heads + head + c]);
            for (size_t i = 0; i < keys; i += 16) {
                float *place = state + c * keys + i;
                typename Set::Floats decay = exp<Set>(Set::mul(Set::load(rate + c * wide + i), time));
                typename Set::Floats kept = Set::mul(decay, load_some<Set>(place, least(16, keys - i)));
                typename Set::Floats next = Set::fma(Set::load(key + i), value, kept);
                store_some<Set>(place, next, least(16, keys - i));
                lanes = Set::fma(Set::load(query + i), next, lanes);
            }
            Set::store(part + 16 * c, lanes);
        }
        Set::transpose(part, 16, turned, 16);
        typename Set::Floats y = Set::zero();
        for (int lane = 0; lane < 16; lane++) y = Set::add(y, Set::load(turned + 16 * lane));
        store_some<Set>(call->y + at * heads + head, y, count);
    }
}

struct RecurrenceTask {
    const LinearAttentionCall *call;
    bool channels;
    size_t units;   // of a row of the batch: heads, or sixteen of them
    Shares shares;  // of the units of all rows
};

template <class Set>
void recurrence_task(void *data, size_t index) {
    const RecurrenceTask &task = *(const RecurrenceTask *)data;
    const LinearAttentionCall *call = task.call;
    size_t heads = size_t(call->heads), numbers = size_t(call->key_size) * size_t(call->value_size);
    for (size_t i = task.shares.begin(index); i < task.shares.end(index); i++) {
        size_t row = i / task.units, head = i % task.units * (task.channels ? 16 : 1), count = task.channels ? least(16, heads - head) : 1;
        if (call->past[row] == 0) memset(call->state + (row * heads + head) * numbers, 0, count * numbers * sizeof(float));
        if (task.channels) attend_channels<Set>(call, row, head, count);
        else attend_head<Set>(call, row, head);
    }
}

template <class Set>
void linear_attention(const LinearAttentionCall *call, Pool pool) {
    bool channels = call->value_size == 1 && call->key_heads == 1 && !call->beta && call->unit == 0;
    size_t units = channels ? over(size_t(call->heads), 16) : size_t(call->heads), all = size_t(call->batch) * units;
    size_t work = size_t(call->batch) * size_t(call->tokens) * size_t(call->heads) * size_t(call->key_size) * size_t(call->value_size);
    RecurrenceTask task = {call, channels, units, Shares(all, work)};
    task.shares.run(pool, recurrence_task<Set>, &task);
}

}  // namespace
