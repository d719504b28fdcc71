// What the kernels compute, as plain C functions. The specification is refimpl/ops/quant.py: `linear_blocks` and `rows`
// have the same bits.
#pragma once
#include <stddef.h>
#include <stdint.h>

// A matrix [outputs, inputs] of codes with one scale for `block` neighbouring inputs: w = scale * (code - zero) + minimum.
// Outputs are cut into tiles of 16, the last one filled up, and inputs into steps of 16; within a step, four inputs of each
// output lie side by side: code j = 4 * output + input % 4 of four g = 0 .. 3.
//   codes   u8 [tiles][inputs / 16][32 * bits], planes.h: of 8 bits [4][64], of fewer the low 4 or 2 of each code and then the rest
//   scales  float32 [tiles][blocks][16], or the same numbers in float16, or codes of 8 bits, as `scale_type` says
//   zeros   u8 [tiles][blocks][16], or null: all are 2^(bits - 1)
//   minima  float32 [tiles][blocks][16], or null: all are 0. Where scales are float16 or codes, so is a block's lowest
//           number: minimum = number + 2^(bits - 1) * scale, of codes of 8 bits number + 16 * scale, rounded once
//   table   u8 [16], or null: codes of 8 bits, of which the stored ones, of 4, are places. There are no zeros and minima then
//   factors float16 [tiles][inputs / 256][16], or [tiles][inputs / 256][2][16] with minima: what codes of scales, and of lowest
//           numbers, are multiplied by, which is exact. Else null
// `inputs` is a multiple of `block`, which is 16, 32, 64 or 128, and with factors of 256; `bits` are 2, 4, 5, 6 or 8, with a table 4. `columns` of
// the inputs are real: the rest is filler. With `swiglu` the first half of the outputs, a multiple of 16, are gates of the
// second half.
enum class ScaleType : int32_t { FLOAT32, FLOAT16, CODES };

struct BlockMatrix {
    const uint8_t *codes;
    const void *scales;
    const uint8_t *zeros;
    const void *minima;
    const uint16_t *factors;
    const uint8_t *table;
    int32_t outputs, inputs, columns, block, bits;
    ScaleType scale_type;
    bool swiglu;
};

// y[m, n] = bias[n] + (scale_w[n] * scale_x[m]) * (codes_x[m] . (codes_w[n] - 128)), and with `gelu` GELU of that, for
// x [rows, columns] and y [rows, outputs]. Each row of x, times `factors` where there are any, is rounded to codes
// first: `quantize_rows` of refimpl/ops/quant.py. `bias` and `factors` may be null.
//   codes   u8 [tiles][inputs / 4][16][4] as in a BlockMatrix of 8 bits; `inputs` is a multiple of 16 and at most 2^16
//   scales  float32 [tiles][16]
// GELU is within 3 * 2^-24 * |x|; its argument has the bits of the product without it.
struct RowLinearCall {
    const uint8_t *codes;
    const float *scales, *factors, *bias, *x;
    float *y;
    size_t rows;
    int32_t outputs, inputs, columns;
    bool gelu;
};

// Runs task(data, 0), ..., task(data, count - 1), in any order, on as many threads as it has.
struct Pool {
    const void *owner;
    void (*run)(const void *owner, void (*task)(void *data, size_t index), size_t count, void *data);
};

// What a cache holds of each number: the number itself, or it rounded to the nearest of float16, halves to even; or a
// code, as refimpl/ops/quantized_cache.py has it in `append_by_channel`: x / scale, rounded so and clipped to -128 .. 127,
// which is read as code * scale. Codes of INT4 are clipped to -8 .. 7, and two are in a byte as `pack_nibbles` has them.
enum class CacheType : int32_t { FLOAT32, FLOAT16, INT8, INT4 };

inline size_t bytes_of(CacheType type, size_t numbers) {
    constexpr size_t BITS[] = {32, 16, 8, 4};
    return numbers * BITS[int(type)] / 8;
}
inline bool has_codes(CacheType type) { return type >= CacheType::INT8; }

// Attention of new tokens over a cache. Row b has `tokens` new ones at the places last[b] + 1 - tokens .. last[b] of its
// cache. A head has `head_size` numbers, a multiple of 8; query head h reads key head h / (heads / kv_heads).
// Without k and v these places are written already, by another call.
// With `lengths` there is no cache: k and v are of `capacity` tokens, and each query sees the first lengths[b] of them, if the call
// is `causal` up to its own place. Nothing is rotated and there is no window. `by_head` says that k and v are [batch, kv_heads,
// capacity, head_size]. `bias` is added to scores, behind the cap; a key whose bias is -1e30 or less isn't seen.
struct AttentionCall {
    const float *q, *k, *v;  // [batch, tokens], heads side by side
    void *keys, *values;     // [batch, kv_heads, capacity, head_size], of type `cache`, written in place
    const float *k_scale, *v_scale;  // [kv_heads, head_size], of codes; else null
    float *y;                // [batch, tokens, heads, head_size]
    const int32_t *last;
    const int32_t *lengths;    // [batch], or null
    const int64_t *positions;  // [batch, tokens], which count on; null: places in the cache are positions
    const float *cos, *sin;    // [table, pairs]: rotate queries and keys; or null
    const float *sinks;        // [heads]: a logit that takes weight and gives no value; or null
    const float *bias;         // [batch or 1, heads or 1, tokens, capacity], of whole texts; or null
    size_t q_stride, k_stride, v_stride;  // from one token to the next
    size_t bias_batch, bias_head;  // from one text, and from one head, to the next; 0: all have the same
    int32_t batch, tokens, heads, kv_heads, head_size, capacity, table, pairs;
    int32_t window;  // a token sees that many keys, itself included; 0: all
    bool interleaved;  // pairs are (2j, 2j + 1), not (j, j + pairs)
    bool causal, by_head;
    float scale, softcap;  // 0: no cap
    CacheType cache;
};

enum class Attended : int32_t {
    DONE,
    MISFIT,     // sizes don't fit each other, the cache or the tables
    TOO_LARGE,  // a finite key or value would be infinite in the cache, or one that isn't finite a code
};

// y[m, i] = silu(x[m, i]) * x[m, width + i] for x [rows, 2 * width] and y [rows, width].
struct SwigluCall {
    const float *x;
    float *y;
    size_t rows, width;
};

// What a number becomes on its own: exponential.h and gelu.h say by which steps, and how near.
enum class Function : int32_t { GELU, GELU_TANH, TANH, SIGMOID, SILU, SOFTPLUS, EXP };

// y = f(x), number by number.
struct PointwiseCall {
    const float *x;
    float *y;
    size_t rows, width;
    Function function;
};

// Of each row x [width] either its softmax, exp(x - the largest) / total, or the total of x alone, y [rows, 1]. The total is
// added in 16 lanes, and the lanes in order.
struct RowCall {
    const float *x;
    float *y;
    size_t rows, width;
};

// y = x w for w [depth, width] in floats: each number is a sum by fma of the products in their order, from 0.
struct FloatLinearCall {
    const float *x, *w;
    float *y;
    size_t rows, depth, width;
};

// sum = a + b and y = sum / sqrt(mean(sum^2) + epsilon) * weight, row by row; b and sum may be null: y is of a then.
// Without a weight y isn't multiplied.
// Squares are added in 16 lanes, by fma, and the lanes in order. In a layer norm `sum` may be null, `bias` too:
//     mean and mean of squares of x = sum - mean are added in that way; y = x / sqrt(variance + epsilon) * weight + bias
struct AddNormCall {
    const float *a, *b, *weight, *bias;
    float *sum, *y;
    size_t rows, width;
    float epsilon;
};

// y[t] = bias + sum over j of kernel[j] * input[t + j], each channel on its own, and with `silu` SiLU of that, where the
// inputs are those of `tail` and x behind it: refimpl/ops/short_conv.py. In the order in which numbers are rounded: the
// first product, then by fma of j in order, then the bias. The tail is written in place, with the last inputs of each
// row's first `lengths` tokens; a row with past = 0 begins with zeros, whatever its tail holds.
struct CausalConvCall {
    const float *x, *kernel, *bias;  // [batch, tokens, channels], [length, channels], and [channels] or null
    float *tail, *y;                 // [batch, length - 1, channels], [batch, tokens, channels]
    const int64_t *past, *lengths;   // [batch]
    int32_t batch, tokens, channels, length;
    bool silu;
};

// Linear attention with decay, and with the delta rule where there is `beta`: refimpl/ops/delta.py. Head h reads the keys
// and queries of head h / (heads / key_heads). At each token, in the order in which numbers are rounded:
//     decay = exp(-exp(a_log) * step); key = k and query = q * scale, with `unit` (k / sqrt(sum of k^2 + unit)) and likewise
//     known = sum over keys, by fma in order from 0, of (decay * key) * state;  u = beta * (v - known), or v without beta
//     state = fma(key, u, decay * state);  y = sum over keys, by fma in order from 0, of query * state
// Squares, and y where a head has one value and there is one head of keys, without beta and unit, are added in 16 lanes,
// by fma, and the lanes in order. exp(a_log) is within e^-88 .. e^88. The state is written in place; a row with past = 0
// begins with zeros, whatever is there.
struct LinearAttentionCall {
    static constexpr int32_t MOST_KEYS = 256;  // the largest key_size
    const float *q, *k, *v;     // [batch, tokens], heads side by side
    const float *step;          // [batch, tokens, heads]; 0 at padding, and so is beta there
    const float *a_log;         // [heads], or `by_key` [heads, key_size]
    const float *beta;          // [batch, tokens, heads], or null
    float *state, *y;           // [batch, heads, key_size, value_size], [batch, tokens, heads, value_size]
    const int64_t *past;        // [batch]
    size_t q_stride, k_stride, v_stride;  // from one token to the next
    int32_t batch, tokens, heads, key_heads, key_size, value_size;
    bool by_key;
    float scale, unit;
};

// Products of rows with a few of many matrices, of one shape, as refimpl/ops/moe.py has them in `mixture`. For the choice i of
// token m, c = m * choices + i, of expert e:
//     z[c] = linear of experts[e], with biases[e], and x[c] where rows are `apart`, else x[m]
// With `shares` y[m] is the sum of shares[c] * z[c] from 0 on, in order of the experts and then of the choices, each product
// and each sum rounded once; y[c] = z[c] without.
struct ExpertCall {
    const BlockMatrix *experts;     // [count]; one that isn't chosen isn't read
    const float *const *biases;     // [count], or null
    const int64_t *starts, *order;  // [count + 1] and [tokens * choices]: e has choices order[starts[e]] .. order[starts[e + 1] - 1]
    const float *x, *shares;        // [tokens, choices, columns] or [tokens, columns], and [tokens, choices] or null
    float *y;                       // [tokens, outputs], or [tokens, choices, outputs] without shares
    size_t tokens;
    int32_t count, choices;
    bool apart;
};

// The kernels of one instruction set.
struct Kernels {
    const char *name;
    // y[m, n] = bias[n] + sum over blocks c, in their order, of
    //     (scale_w[n, c] * scale_x[m, c]) * (codes_x[m, c] . (codes_w[n, c] - zero[n, c])) + sum_x[m, c] * minimum[n, c]
    // for x [rows, columns], whose blocks are rounded to codes first; y [rows, outputs]. Products of codes are exact
    // integers, each multiplication and addition of floats is rounded once, the sum begins at 0 and the bias, which
    // may be null, comes last. sum_x, of the block's numbers themselves, is their sum in 16 lanes, each from 0 in order;
    // then lanes j and j + 8 are added, of those j and j + 4, and so on. With `swiglu` z[m, n] = silu(y[m, n]) * y[m, n + outputs / 2] is written, with the bits of
    // SwigluCall for y, and nothing else. `scratch` has linear_scratch(w, rows) bytes and is aligned to 64.
    void (*linear)(const BlockMatrix *w, const float *bias, const float *x, size_t rows, float *y, void *scratch, Pool pool);
    size_t (*linear_scratch)(const BlockMatrix *w, size_t rows);
    // y[m] = row ids[m] of the matrix [columns]; false where an id isn't a row.
    bool (*gather)(const BlockMatrix *w, const int64_t *ids, size_t count, float *y);
    // Attention as refimpl/ops/attention.py states it in `cached_attention`: rotated keys and values go into the cache,
    // rounded to its type, then a token takes a mean of the values that it may see, as the cache holds them. In the order
    // in which numbers are rounded:
    //     q = (a cos - b sin, b cos + a sin), each product and difference once, times scale; k without scale
    //     score = sum over d, in order from 0, by fma of q[d] * k[d]; then softcap * tanh(score / softcap); then score + bias
    // Keys are taken in segments of 512 positions, these in blocks of 64, which begin at multiples of 512 and 64. A
    // segment begins with m = -inf and sums 0. For each block with keys that the token sees:
    //     m' = max(m, scores);  weight = exp(score - m');  all sums *= exp(m - m');  m = m'
    //     lane[position % 16] += weight, and sum[d] = fma(weight, v[d], sum[d]), in order of the keys
    // Then the total, which begins with m = sink, lane[0] = 1 and sums 0, or m = -inf without sinks, takes the segment up:
    //     m' = max(m, m of the segment);  total = fma(segment, exp(m of the segment - m'), total * exp(m - m'))
    // y = sum * (1 / the lanes added in order), 0 where no key is seen. exp is within 1.1 ulp down to 2^-126, and 0 below
    // e^-87.7; tanh within 3.
    // `scratch` has attention_scratch(call) bytes and is aligned to 64.
    Attended (*attention)(const AttentionCall *call, void *scratch, Pool pool);
    size_t (*attention_scratch)(const AttentionCall *call);
    void (*swiglu)(const SwigluCall *call, Pool pool);
    void (*add_norm)(const AddNormCall *call, Pool pool);
    void (*add_layer_norm)(const AddNormCall *call, Pool pool);
    // `scratch` has row_linear_scratch(call) bytes and is aligned to 64.
    void (*row_linear)(const RowLinearCall *call, void *scratch, Pool pool);
    size_t (*row_linear_scratch)(const RowLinearCall *call);
    bool (*causal_conv)(const CausalConvCall *call, Pool pool);  // false where a length isn't 0 .. tokens
    void (*linear_attention)(const LinearAttentionCall *call, Pool pool);
    // `scratch` has experts_scratch(call) bytes and is aligned to 64.
    void (*experts)(const ExpertCall *call, void *scratch, Pool pool);
    size_t (*experts_scratch)(const ExpertCall *call);
    void (*pointwise)(const PointwiseCall *call, Pool pool);
    void (*softmax)(const RowCall *call, Pool pool);
    void (*row_sum)(const RowCall *call, Pool pool);
    void (*float_linear)(const FloatLinearCall *call, Pool pool);
};

#ifdef _WIN32
#define TFM_EXPORT extern "C" __declspec(dllexport)
#else
#define TFM_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// The kernels of an instruction set, null where this processor or this library doesn't have it.
TFM_EXPORT const Kernels *tfm_kernels(const char *instruction_set);
// Choose an instruction set, for sessions that register the operators afterwards; false where tfm_kernels has none.
TFM_EXPORT bool tfm_use(const char *instruction_set);
// The name of the chosen instruction set, else of the fastest that this processor and this library have, or null.
TFM_EXPORT const char *tfm_instruction_set(void);
