// Attention of new tokens over a cache of keys and values, for the instruction set `Set`. A token's result depends on
// that token and on the keys that it sees, whatever else is computed beside it: kernels.h says in which order.
#pragma once
#include <float.h>
#include <math.h>
#include <string.h>

#include "cache_rows.h"
#include "exponential.h"
#include "kernels.h"
#include "sizes.h"

namespace {

constexpr int KEYS = 64;        // keys of a block
constexpr int SEGMENT = 512;    // keys of a segment, which threads can share where queries are few
constexpr size_t QUERIES = 96;  // query rows that read a block of keys while it is near
constexpr float HIDDEN = -1e30f;  // a bias that hides a key
constexpr size_t WORKERS = 32;  // tasks, and pieces of memory for blocks

// Numbers in rows that lie `stride` apart.
struct Grid {
    float *at;
    size_t stride;

    float *row(size_t r) const { return at + r * stride; }
};

// c[r] += a[r, k] * b[k] for k = from .. to - 1, in this order and rounded once each: R rows, V registers of columns. A
// `FRESH` c begins at 0, whatever is there.
template <class Set, bool FRESH, int R, int V>
void products(Grid a, Grid b, Grid c, int from, int to) {
    typename Set::Floats sum[R][V], x[V];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) sum[r][v] = FRESH ? Set::zero() : Set::load(c.row(r) + v * 16);
    for (int k = from; k < to; k++) {
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) x[v] = Set::load(b.row(k) + v * 16);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            typename Set::Floats w = Set::all(a.row(r)[k]);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) sum[r][v] = Set::fma(w, x[v], sum[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) Set::store(c.row(r) + v * 16, sum[r][v]);
}

// The same for any number of columns that is a multiple of 16, and 1 .. R rows.
template <class Set, bool FRESH = false, int R = Set::QUERY_ROWS>
void add_products(int rows, Grid a, Grid b, Grid c, int from, int to, size_t columns) {
    if constexpr (R > 1)
        if (rows < R) return add_products<Set, FRESH, R - 1>(rows, a, b, c, from, to, columns);
    size_t column = 0, wide = Set::VECTORS * 16;
    for (; column + wide <= columns; column += wide)
        products<Set, FRESH, R, Set::VECTORS>(a, {b.at + column, b.stride}, {c.at + column, c.stride}, from, to);
    if constexpr (Set::VECTORS > 2)
        for (; column + 32 <= columns; column += 32)
            products<Set, FRESH, R, 2>(a, {b.at + column, b.stride}, {c.at + column, c.stride}, from, to);
    for (; column < columns; column += 16)
        products<Set, FRESH, R, 1>(a, {b.at + column, b.stride}, {c.at + column, c.stride}, from, to);
}

// What a query row has seen: the largest score, the sums of weights in 16 lanes, and the sum of weighted values.
struct Seen {
    float *largest, *lanes, *values;

    explicit Seen(float *at) : largest(at), lanes(at + 16), values(at + 32) {}
    static size_t floats(size_t width) { return 32 + width; }
    void begin(float logit, float weight, size_t width) {
        memset(largest, 0, floats(width) * sizeof(float));
        *largest = logit, *lanes = weight;
    }
};

// One call, cut into items of work: query rows of one key head, token by token, all heads of its group side by side.
struct Attend {
    const AttentionCall &call;
    size_t group, width, rows, pairs, segments = 0, chunks, items, workers;
    bool apart = false;  // whether each segment is an item
    bool too_large = false;  // whether a key or value is; any thread may set it
    uint32_t used = 0;       // pieces of memory, by bits
    float *memory;

    Attend(const AttentionCall &call, void *scratch) : call(call), memory((float *)scratch) {
        group = call.heads / call.kv_heads;
        width = over(call.head_size, 16) * 16;
        rows = call.tokens * group;
        pairs = size_t(call.batch) * call.kv_heads;
        for (int b = 0; b < call.batch; b++)
            segments = most(segments, over(end(b, call.tokens - 1), SEGMENT) - begin(b) / SEGMENT);
        chunks = most(most(over(rows, QUERIES), least(rows / (QUERIES / 4), over(16, pairs))), 1);
        apart = chunks == 1 && segments > 1 && pairs < 16;
        items = pairs * (apart ? segments : chunks);
        workers = least(items, WORKERS);
    }

    // The position of the cache's first place, and of a token.
    int64_t origin(size_t b) const { return call.lengths ? 0 : position(b, 0) - (call.last[b] + 1 - call.tokens); }
    int64_t position(size_t b, size_t t) const {
        if (call.lengths) return int64_t(t);
        return (call.positions ? call.positions[b * call.tokens] : call.last[b] + 1 - call.tokens) + int64_t(t);
    }
    // The first position that a token sees, and that any does; the one behind the last that it sees.
    int64_t begin(size_t b, size_t t = 0) const {
        int64_t window = call.window ? position(b, t) + 1 - call.window : 0;
        return window > origin(b) ? window : origin(b);
    }
    int64_t end(size_t b, size_t t) const {
        int64_t behind = position(b, t) + 1;
        return !call.lengths ? behind : call.causal && behind < call.lengths[b] ? behind : call.lengths[b];
    }
    // What is added to the scores of a token, by keys, or null.
    const float *bias(size_t b, size_t head, size_t t) const {
        return call.bias ? call.bias + b * call.bias_batch + head * call.bias_head + t * call.capacity : nullptr;
    }
    // Where a head's key and value of that position are: in the cache, or in the tokens where there is none.
    CacheRow key(size_t b, size_t g, int64_t position) const {
        return call.lengths ? place(call.k, call.k_stride, b, g, position) : place(call.keys, call.k_scale, b, g, position);
    }
    CacheRow value(size_t b, size_t g, int64_t position) const {
        return call.lengths ? place(call.v, call.v_stride, b, g, position) : place(call.values, call.v_scale, b, g, position);
    }
    CacheRow place(const void *tokens, size_t stride, size_t b, size_t g, int64_t position) const {
        size_t size = call.head_size, at = size_t(position);
        size_t row = call.by_head ? ((b * call.kv_heads + g) * call.capacity + at) * size : (b * call.capacity + at) * stride + g * size;
        return {(char *)tokens + bytes_of(call.cache, row), size, call.cache, nullptr};
    }
    CacheRow place(void *cache, const float *scale, size_t b, size_t g, int64_t position) const {
        size_t row = (b * call.kv_heads + g) * call.capacity + size_t(position - origin(b)), size = call.head_size;
        return {(char *)cache + row * bytes_of(call.cache, size), size, call.cache, scale ? scale + g * size : nullptr};
    }
    size_t state() const { return Seen::floats(width); }
    size_t queries() const { return over(rows, chunks); }
    // A piece of memory: queries, a block of keys turned, sixteen keys, a block of values, scores, two states a query.
    size_t near() const { return queries() * (width + 2 * state()) + (2 * KEYS + 16) * width + KEYS * 8; }
    size_t floats() const { return workers * near() + (apart ? items * queries() * state() : 0); }
    float *partial(size_t item) const { return memory + workers * near() + item * queries() * state(); }
};

// A piece of a call's memory while a task runs: the first that is free, since what was used last is near.
struct Piece {
    Attend &job;
    uint32_t bit;
    float *at;

    explicit Piece(Attend &job) : job(job) {
        uint32_t used = __atomic_load_n(&job.used, __ATOMIC_RELAXED);
        do bit = ~used & (used + 1);
        while (!__atomic_compare_exchange_n(&job.used, &used, used | bit, true, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
        at = job.memory + size_t(__builtin_ctz(bit)) * job.near();
    }
    ~Piece() { __atomic_fetch_and(&job.used, ~bit, __ATOMIC_RELEASE); }
};

// Pair j of x is (x[j * STEP], x[j * STEP + other]).
template <int STEP>
void rotate_pairs(const float *x, const float *cos, const float *sin, int pairs, int other, float *__restrict y) {
    for (int j = 0; j < pairs; j++) {
        float a = x[j * STEP], b = x[j * STEP + other];
        y[j * STEP] = a * cos[j] - b * sin[j];
        y[j * STEP + other] = b * cos[j] + a * sin[j];
    }
}

// y = the numbers of a head at a position, rotated.
void rotate(const AttentionCall &call, const float *x, int64_t position, float *y) {
    int pairs = call.pairs;
    const float *cos = call.cos + position * pairs, *sin = call.sin + position * pairs;
    if (call.interleaved) rotate_pairs<2>(x, cos, sin, pairs, 1, y);
    else rotate_pairs<1>(x, cos, sin, pairs, pairs, y);
    memcpy(y + 2 * pairs, x + 2 * pairs, (call.head_size - 2 * pairs) * sizeof(float));
}

// Write the new key and value of a token and a head into the cache; false where one is too large for it. `rotated` has
// room for a head.
template <class Set>
bool append(const Attend &job, size_t b, size_t t, size_t g, float *rotated) {
    const AttentionCall &call = job.call;
    size_t token = b * call.tokens + t, size = call.head_size;
    int64_t position = job.position(b, t);
    rotate(call, (const float *)call.k + token * call.k_stride + g * size, position, rotated);
    bool key = job.key(b, g, position).write<Set>(rotated);
    return job.value(b, g, position).write<Set>((const float *)call.v + token * call.v_stride + g * size) && key;
}

// One item's rows and memory.
template <class Set>
struct Item {
    const Attend &job;
    size_t b, g, row, count;
    int64_t end;  // of what the last row sees
    Grid q, turned, sixteen, copied, scores, part, total;

    Item(const Attend &job, float *at, size_t b, size_t g, size_t chunk) : job(job), b(b), g(g) {
        size_t width = job.width, queries = job.queries();
        row = job.rows * chunk / job.chunks;
        count = job.rows * (chunk + 1) / job.chunks - row;
        end = job.end(b, token(count - 1));
        auto take = [&](size_t rows, size_t stride) {
            Grid grid = {at, stride};
            at += rows * stride;
            return grid;
        };
        turned = take(width, KEYS), sixteen = take(16, width), copied = take(KEYS, width), scores = take(8, KEYS);
        q = take(queries, width), part = take(queries, job.state()), total = take(queries, job.state());
    }

    size_t token(size_t r) const { return (row + r) / job.group; }
    size_t head(size_t r) const { return g * job.group + (row + r) % job.group; }
    int64_t position(size_t r) const { return job.position(b, token(r)); }

    void read_queries() {
        const AttentionCall &call = job.call;
        for (size_t r = 0; r < count; r++) {
            rotate(call, call.q + (b * call.tokens + token(r)) * call.q_stride + head(r) * call.head_size, position(r), q.row(r));
            for (int d = 0; d < call.head_size; d++) q.row(r)[d] *= call.scale;
        }
    }

    // Keys of the positions first .. end - 1 as columns of `turned`, column 0 at `block`; zeros where there is none.
    void turn_keys(int64_t block, int64_t first, int64_t end) {
        size_t size = job.call.head_size;
        auto key = [&](int64_t position) { return job.key(b, g, position); };
        for (int i = 0; i < KEYS && block + i < end; i += 16) {
            int64_t from = block + i;
            Grid rows = sixteen;
            bool whole = from >= first && from + 16 <= end && size == job.width;
            if (whole && key(from).floats()) rows = {key(from).floats(), job.call.lengths ? job.call.k_stride : size};
            else {
                if (!whole) memset(rows.at, 0, 16 * rows.stride * sizeof(float));
                for (int j = 0; j < 16; j++)
                    if (from + j >= first && from + j < end) key(from + j).template read<Set>(rows.row(j));
            }
            for (size_t d = 0; d < size; d += 16) Set::transpose(rows.at + d, rows.stride, turned.row(d) + i, KEYS);
        }
    }

    // Values with row 0 at `block`, as many columns as registers have.
    Grid values(int64_t block, int64_t first, int64_t end) {
        size_t size = job.call.head_size;
        auto value = [&](int64_t position) { return job.value(b, g, position); };
        bool whole = first == block && size == job.width;
        if (whole && value(first).floats()) return {value(first).floats(), job.call.lengths ? job.call.v_stride : size};
        for (int64_t p = first; p < end; p++) value(p).template read<Set>(copied.row(p - block));
        return copied;
    }

    // The scores of a row, as many as registers have, become weights; those outside low .. high - 1 become 0. `bias` has a number
    // for each of these columns, or is null.
    void weigh(float *scores, int columns, int low, int high, const float *bias, Seen seen) {
        typename Set::Floats cap = Set::all(job.call.softcap), largest = Set::all(*seen.largest);
        if (job.call.softcap)
            for (int i = 0; i < columns; i += 16) Set::store(scores + i, Set::mul(cap, tanh<Set>(Set::div(Set::load(scores + i), cap))));
        if (bias)
            for (int i = low; i < high; i++) scores[i] = bias[i] <= HIDDEN ? -INFINITY : scores[i] + bias[i];
        for (int i = 0; i < low; i++) scores[i] = -INFINITY;
        for (int i = high; i < columns; i++) scores[i] = -INFINITY;
        for (int i = 0; i < columns; i += 16) largest = Set::max(largest, Set::load(scores + i));
        largest = Set::max(largest, Set::all(-FLT_MAX));  // a row whose only score is NaN has seen a key too
        float before = *seen.largest, now = *seen.largest = Set::top(largest);
        if (now != before && before != -INFINITY) {  // before the first key sums are 0
            typename Set::Floats factor = exp<Set>(Set::all(before - now));
            for (size_t i = 0; i < 16 + job.width; i += 16) Set::store(seen.lanes + i, Set::mul(Set::load(seen.lanes + i), factor));
        }
        typename Set::Floats lanes = Set::load(seen.lanes);
        for (int i = 0; i < columns; i += 16) {
            typename Set::Floats weight = exp<Set>(Set::add(Set::load(scores + i), Set::all(-now)));
            lanes = Set::add(lanes, weight);
            Set::store(scores + i, weight);
        }
        Set::store(seen.lanes, lanes);
    }

    // Rows r .. r + n - 1, at most Set::QUERY_ROWS, take up the keys of a block.
    void see(size_t r, int n, int64_t block, Grid values) {
        int low[Set::QUERY_ROWS], high[Set::QUERY_ROWS], from = 0, to = KEYS;
        for (int i = 0; i < n; i++) {
            int64_t first = job.begin(b, token(r + i)) - block, end = job.end(b, token(r + i)) - block;
            low[i] = int(first < 0 ? 0 : first < KEYS ? first : KEYS);
            high[i] = int(end < 0 ? 0 : end < KEYS ? end : KEYS);
            from = low[i] > from ? low[i] : from;
            to = high[i] < to ? high[i] : to;
        }
        if (high[n - 1] == 0 || low[0] == KEYS) return;
        int columns = (high[n - 1] + 15) / 16 * 16;
        add_products<Set, true>(n, {q.row(r), q.stride}, turned, scores, 0, job.call.head_size, columns);
        for (int i = 0; i < n; i++)
            if (low[i] < high[i]) {
                const float *bias = job.bias(b, head(r + i), token(r + i));
                weigh(scores.row(i), columns, low[i], high[i], bias ? bias + block : nullptr, Seen(part.row(r + i)));
            }
        // What all rows see they take up together, the rest one by one: a key that isn't seen isn't mixed in, not even
        // with weight 0.
        bool together = from < to;
        auto one = [&](int i, int from, int to) {
            if (from < to) add_products<Set, false, 1>(1, {scores.row(i), KEYS}, values, {part.row(r + i) + 32, part.stride}, from, to, job.width);
        };
        for (int i = 0; i < n; i++) one(i, low[i], together ? from : high[i]);
        if (!together) return;
        add_products<Set>(n, scores, values, {part.row(r) + 32, part.stride}, from, to, job.width);
        for (int i = 0; i < n; i++) one(i, to, high[i]);
    }

    // Fill `part` with what the rows see in the segment that begins at `segment`.
    void attend(int64_t segment) {
        for (size_t r = 0; r < count; r++) Seen(part.row(r)).begin(-INFINITY, 0, job.width);
        int64_t begin = job.begin(b, token(0));
        for (int64_t block = segment; block < segment + SEGMENT && block < end; block += KEYS) {
            if (block + KEYS <= begin) continue;
            int64_t first = block > begin ? block : begin, until = block + KEYS < end ? block + KEYS : end;
            turn_keys(block, first, until);
            Grid v = values(block, first, until);
            for (size_t r = 0; r < count; r += Set::QUERY_ROWS) see(r, int(least(count - r, Set::QUERY_ROWS)), block, v);
        }
    }

    void begin_total() {
        const float *sinks = job.call.sinks;
        for (size_t r = 0; r < count; r++) Seen(total.row(r)).begin(sinks ? sinks[head(r)] : -INFINITY, sinks != nullptr, job.width);
    }

    // Add `part` to `total`.
    void take_up(Grid part) {
        for (size_t r = 0; r < count; r++) {
            Seen sum(total.row(r)), more(part.row(r));
            if (*more.largest == -INFINITY) continue;
            float largest = *more.largest > *sum.largest ? *more.largest : *sum.largest;
            typename Set::Floats f = exp<Set>(Set::all(*more.largest - largest)), g = exp<Set>(Set::all(*sum.largest - largest));
            for (size_t i = 0; i < 16 + job.width; i += 16)
                Set::store(sum.lanes + i, Set::fma(Set::load(more.lanes + i), f, Set::mul(Set::load(sum.lanes + i), g)));
            *sum.largest = largest;
        }
    }

    void write() {
        size_t size = job.call.head_size;
        for (size_t r = 0; r < count; r++) {
            Seen sum(total.row(r));
            float weight = 0;
            for (int i = 0; i < 16; i++) weight += sum.lanes[i];
            float factor = weight == 0 ? 0 : 1 / weight;  // a text without tokens gives 0
            for (size_t d = 0; d < size; d++) sum.values[d] *= factor;
            memcpy(job.call.y + ((b * job.call.tokens + token(r)) * job.call.heads + head(r)) * size, sum.values, size * sizeof(float));
        }
    }
};

// All segments of a chunk of rows, or one segment of all rows.
template <class Set>
void attend_item(const Attend &job, float *memory, size_t i) {
    size_t pair = i % job.pairs, b = pair / job.call.kv_heads, g = pair % job.call.kv_heads, place = i / job.pairs;
    Item<Set> item(job, memory, b, g, job.apart ? 0 : job.chunks - 1 - place);  // those that see most begin
    item.read_queries();
    int64_t segment = job.begin(b, item.token(0)) / SEGMENT * SEGMENT;
    if (job.apart) {
        item.part.at = job.partial(i);
        item.attend(segment + int64_t(place) * SEGMENT);
        return;
    }
    item.begin_total();
    for (; segment < item.end; segment += SEGMENT) {
        item.attend(segment);
        item.take_up(item.part);
    }
    item.write();
}

template <class Set>
void attend_task(void *data, size_t worker) {
    Piece piece(*(Attend *)data);
    for (size_t i = worker; i < piece.job.items; i += piece.job.workers) attend_item<Set>(piece.job, piece.at, i);
}

// The new tokens of some heads of some rows.
template <class Set>
void append_task(void *data, size_t worker) {
    Attend &job = *(Attend *)data;
    Piece piece(job);
    size_t heads = job.call.kv_heads;
    bool fits = true;
    for (size_t i = worker; i < job.pairs; i += job.workers)
        for (size_t t = 0; t < size_t(job.call.tokens); t++)
            fits &= append<Set>(job, i / heads, t, i % heads, piece.at);
    if (!fits) __atomic_store_n(&job.too_large, true, __ATOMIC_RELAXED);
}

// Whether sizes fit each other, and all places and positions are in the cache and the tables.
bool fits(const AttentionCall &c) {
    if (c.batch < 0 || c.tokens < 0 || c.kv_heads < 1 || c.heads < 1 || c.heads % c.kv_heads || c.window < 0) return false;
    if (c.head_size < 8 || c.head_size % 8 || c.pairs < 0 || 2 * c.pairs > c.head_size) return false;
    if (c.cache < CacheType::FLOAT32 || c.cache > CacheType::INT4) return false;
    if (has_codes(c.cache) && !(c.k_scale && c.v_scale)) return false;
    for (int b = 0; b < c.batch && c.lengths; b++)
        if (c.lengths[b] < 0 || c.lengths[b] > c.capacity) return false;
    if (c.lengths) return !c.pairs && !c.window && !has_codes(c.cache);
    if (c.bias || c.causal || c.by_head) return false;
    for (int b = 0; b < c.batch && c.tokens; b++) {
        int64_t past = int64_t(c.last[b]) + 1 - c.tokens;
        const int64_t *position = c.positions ? c.positions + size_t(b) * c.tokens : nullptr;
        int64_t first = position ? position[0] : past;
        if (past < 0 || c.last[b] >= c.capacity || first < past || first >= int64_t(1) << 31) return false;
        if (c.pairs && first + c.tokens > c.table) return false;
        for (int t = 0; position && t < c.tokens; t++)
            if (position[t] != first + t) return false;
    }
    return true;
}

size_t attention_scratch(const AttentionCall *call) {
    return fits(*call) && call->batch && call->tokens ? Attend(*call, nullptr).floats() * sizeof(float) : 0;
}

template <class Set>
Attended attention(const AttentionCall *call, void *scratch, Pool pool) {
    if (!fits(*call)) return Attended::MISFIT;
    if (call->batch == 0 || call->tokens == 0) return Attended::DONE;
    Attend job(*call, scratch);
    size_t new_heads = call->lengths || !call->k ? 0 : job.pairs;  // of whole texts nothing is kept
    if (new_heads * call->tokens <= 64)
        for (size_t i = 0; i < least(new_heads, job.workers); i++) append_task<Set>(&job, i);
    else
        pool.run(pool.owner, append_task<Set>, job.workers, &job);
    if (job.too_large) return Attended::TOO_LARGE;
    pool.run(pool.owner, attend_task<Set>, job.workers, &job);
    for (size_t pair = 0; job.apart && pair < job.pairs; pair++) {
        Item<Set> item(job, job.memory, pair / call->kv_heads, pair % call->kv_heads, 0);
        item.begin_total();
        for (size_t s = 0; s < job.segments; s++) item.take_up({job.partial(s * job.pairs + pair), item.part.stride});
        item.write();
    }
    return Attended::DONE;
}

}  // namespace
