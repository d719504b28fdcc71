// Defines what the kernels compute, as plain C functions. The specification is refimpl/ops/quant.py: `linear_blocks` and
// `rows` give the same bits.
#pragma once
#include <stddef.h>
#include <stdint.h>

// A matrix [outputs, inputs] of codes with one scale for each block of neighbouring inputs:
//     w = scale * (code - zero) + minimum
// Outputs are cut into tiles of 16, and the last tile is filled up. Inputs are cut into steps of 16. Within a step, four
// inputs of each output lie side by side: code j = 4 * output + input % 4 of the groups g = 0 .. 3.
//   codes   u8 [tiles][inputs / 16][32 * bits], see planes.h: with 8 bits [4][64], with fewer bits first the low 4 or 2
//           bits of each code and then the remaining bits
//   scales  float32 [tiles][blocks][16], or the same numbers in float16, or codes of 8 bits, as `scale_type` says
//   zeros   u8 [tiles][blocks][16], or null if all are 2^(bits - 1)
//   minima  float32 [tiles][blocks][16], or null if all are 0. If scales are float16 or codes, minima have the same type
//           and contain the lowest number of each block: minimum = number + 2^(bits - 1) * scale, rounded once. With
//           codes of 8 bits, minimum = number + 16 * scale
//   table   u8 [16], or null: codes of 8 bits. The stored codes, of 4 bits, are then indices into the table, and zeros and
//           minima are null
//   factors float16 [tiles][inputs / 256][16], or [tiles][inputs / 256][2][16] with minima; null unless scales are codes.
//           The codes of scales, and the codes of lowest numbers, are multiplied by the factors. These products are exact
// `block` is 16, 32, 64 or 128. `inputs` is a multiple of `block`, and with factors of 256. `bits` is 2, 4, 5, 6 or 8, and
// with a table 4. The first `columns` inputs are real, and the rest is filler. With `swiglu`, the first half of the
// outputs, whose size is a multiple of 16, are the gates of the second half.
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

// Computes y[m, n] = bias[n] + (scale_w[n] * scale_x[m]) * (codes_x[m] . (codes_w[n] - 128)) for x [rows, columns] and
// y [rows, outputs]. With `gelu`, y is GELU of this number. Each row of x is first multiplied by `factors`, unless these
// are null, and then rounded to codes: `quantize_rows` of refimpl/ops/quant.py. `bias` and `factors` may be null.
//   codes   u8 [tiles][inputs / 4][16][4], as in a BlockMatrix of 8 bits; `inputs` is a multiple of 16 and at most 2^16
//   scales  float32 [tiles][16]
// GELU's error is at most 3 * 2^-24 * |x|. Its argument has the bits of the product without `gelu`.
struct RowLinearCall {
    const uint8_t *codes;
    const float *scales, *factors, *bias, *x;
    float *y;
    size_t rows;
    int32_t outputs, inputs, columns;
    bool gelu;
};

// A pool of threads. `run` calls task(data, 0), ..., task(data, count - 1), in any order, on all its threads.
struct Pool {
    const void *owner;
    void (*run)(const void *owner, void (*task)(void *data, size_t index), size_t count, void *data);
};

// The form in which a cache stores a number. FLOAT32 stores the number itself, and FLOAT16 the nearest float16, halves to
// even. INT8 and INT4 store a code, as `append_by_channel` of refimpl/ops/quantized_cache.py does: x / scale, rounded to
// the nearest integer and clipped to -128 .. 127. A code is read as code * scale. Codes of INT4 are clipped to -8 .. 7,
// and a byte contains two of them, as in `pack_nibbles`.
enum class CacheType : int32_t { FLOAT32, FLOAT16, INT8, INT4 };

inline size_t bytes_of(CacheType type, size_t numbers) {
    constexpr size_t BITS[] = {32, 16, 8, 4};
    return numbers * BITS[int(type)] / 8;
}
inline bool has_codes(CacheType type) { return type >= CacheType::INT8; }

// Attention of new tokens over a cache. Row b has `tokens` new tokens at the places last[b] + 1 - tokens .. last[b] of its
// cache. A head has `head_size` numbers, a multiple of 8. Query head h reads key head h / (heads / kv_heads). If k and v
// are null, another call has already written these places.
// With `lengths`, there is no cache: k and v contain `capacity` tokens, and each query sees the first lengths[b] of them.
// If the call is `causal`, a query sees keys only up to its own place. With `lengths`, nothing is rotated and there is no
// window. `by_head` says that k and v are [batch, kv_heads, capacity, head_size]. `bias` is added to scores after the cap.
// A key with a bias of -1e30 or less isn't seen.
struct AttentionCall {
    const float *q;        // [batch, tokens], with heads side by side, and so are k and v
    const void *k, *v;     // of float32; with `lengths` of type `cache`, which isn't a type of codes
    void *keys, *values;     // [batch, kv_heads, capacity, head_size] of type `cache`, written in place
    const float *k_scale, *v_scale;  // [kv_heads, head_size] if the cache stores codes, else null
    float *y;                // [batch, tokens, heads, head_size]
    const int32_t *last;
    const int32_t *lengths;    // [batch], or null
    const int64_t *positions;  // [batch, tokens], consecutive; if null, places in the cache are positions
    const float *cos, *sin;    // [table, pairs], by which queries and keys are rotated; or null
    const float *sinks;        // [heads]: a logit that gets weight but adds no value; or null
    const float *bias;         // [batch or 1, heads or 1, tokens, capacity], only with `lengths`; or null
    size_t q_stride, k_stride, v_stride;  // from one token to the next
    size_t bias_batch, bias_head;  // from one text, and from one head, to the next; 0 if all use the same bias
    int32_t batch, tokens, heads, kv_heads, head_size, capacity, table, pairs;
    int32_t window;  // how many keys a token sees, including its own; 0: all
    bool interleaved;  // rotated pairs are (2j, 2j + 1) instead of (j, j + pairs)
    bool causal, by_head;
    float scale, softcap;  // a softcap of 0 means no cap
    CacheType cache;
};

enum class Attended : int32_t {
    DONE,
    MISFIT,     // sizes don't fit each other, the cache or the tables
    TOO_LARGE,  // a finite key or value would be infinite in the cache, or a number that isn't finite would become a code
};

// Computes y[m, i] = silu(x[m, i]) * x[m, width + i] for x [rows, 2 * width] and y [rows, width].
struct SwigluCall {
    const float *x;
    float *y;
    size_t rows, width;
};

// Functions of one number. exponential.h and gelu.h say by which steps they are computed, and how accurate they are. The
// square root is rounded once, as IEEE 754 defines it.
enum class Function : int32_t { GELU, GELU_TANH, TANH, SIGMOID, SILU, SOFTPLUS, EXP, SQRT };

// Computes y = f(x) for each number.
struct PointwiseCall {
    const float *x;
    float *y;
    size_t rows, width;
    Function function;
};

// Computes for each row x [width] either its softmax, exp(x - the largest) / total, or only the total of x, y [rows, 1]. The
// total is summed in 16 lanes, and then the lanes are summed in order.
struct RowCall {
    const float *x;
    float *y;
    size_t rows, width;
};

// Computes y = x w for floats w [depth, width]. Each number is the sum of its products, by fma in order, starting at 0.
struct FloatLinearCall {
    const float *x, *w;
    float *y;
    size_t rows, depth, width;
};

// Computes sum = a + b and y = sum / sqrt(mean(sum^2) + epsilon) * weight, row by row. If b and sum are null, y is computed
// from a. If the weight is null, y isn't multiplied. Squares are summed in 16 lanes, by fma, and then the lanes are summed
// in order.
// A layer norm sums the mean, and the squares of x = sum - mean, in the same way: y = x / sqrt(variance + epsilon) * weight +
// bias. `sum` and `bias` may be null.
struct AddNormCall {
    const float *a, *b, *weight, *bias;
    float *sum, *y;
    size_t rows, width;
    float epsilon;
};

// Computes y[t] = bias + sum over j of kernel[j] * input[t + j] for each channel separately, and with `silu` SiLU of this
// number: refimpl/ops/short_conv.py. The inputs are the tail, followed by x. Numbers are rounded in this order: the first
// product, then the other products by fma in order of j, then the bias. The call writes the last inputs of each row's
// first `lengths` tokens into the tail. A row with past = 0 begins with zeros, whatever its tail contains.
struct CausalConvCall {
    const float *x, *kernel, *bias;  // [batch, tokens, channels], [length, channels], and [channels] or null
    float *tail, *y;                 // [batch, length - 1, channels], [batch, tokens, channels]
    const int64_t *past, *lengths;   // [batch]
    int32_t batch, tokens, channels, length;
    bool silu;
};

// Linear attention with decay, and with the delta rule if `beta` isn't null: refimpl/ops/delta.py. Head h reads the keys
// and queries of head h / (heads / key_heads). At each token, numbers are computed and rounded in this order:
//     decay = exp(-exp(a_log) * step); key = k and query = q * scale. If `unit` isn't 0, k is divided by
//     sqrt(sum of k^2 + unit) first, and q likewise
//     known = sum over keys, by fma in order from 0, of (decay * key) * state;  u = beta * (v - known), or v without beta
//     state = fma(key, u, decay * state);  y = sum over keys, by fma in order from 0, of query * state
// Squares are summed in 16 lanes, by fma, and then the lanes are summed in order. The same holds for y if a head has one
// value, there is one head of keys, and there are no beta and no unit. exp(a_log) is within e^-88 .. e^88. The state is
// written in place. A row with past = 0 begins with zeros, whatever its state contains.
struct LinearAttentionCall {
    static constexpr int32_t MOST_KEYS = 256;  // the largest key_size
    const float *q, *k, *v;     // [batch, tokens], with heads side by side
    const float *step;          // [batch, tokens, heads]; step and beta are 0 at padding
    const float *a_log;         // [heads], or with `by_key` [heads, key_size]
    const float *beta;          // [batch, tokens, heads], or null
    float *state, *y;           // [batch, heads, key_size, value_size], [batch, tokens, heads, value_size]
    const int64_t *past;        // [batch]
    size_t q_stride, k_stride, v_stride;  // from one token to the next
    int32_t batch, tokens, heads, key_heads, key_size, value_size;
    bool by_key;
    float scale, unit;
};

// Products of rows with a few of many matrices of one shape, as `mixture` of refimpl/ops/moe.py computes them. For choice i
// of token m, c = m * choices + i, which chooses expert e:
//     z[c] = linear of experts[e] with biases[e]. Its input is x[c] if each choice has its own row (`apart`), else x[m]
// Without `shares`, y[c] = z[c]. With `shares`, y[m] is the sum of shares[c] * z[c], starting at 0, in order of the experts
// and then of the choices. Each product and each sum is rounded once.
struct ExpertCall {
    const BlockMatrix *experts;     // [count]; an expert that isn't chosen isn't read
    const float *const *biases;     // [count], or null
    const int64_t *starts, *order;  // [count + 1], [tokens * choices]: the choices of e are order[starts[e]] .. order[starts[e + 1] - 1]
    const float *x, *shares;        // with `apart` [tokens, choices, columns], else [tokens, columns]; and [tokens, choices] or null
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
    // for x [rows, columns] and y [rows, outputs]. The blocks of x are rounded to codes first. Products of codes are exact
    // integers. Each multiplication and addition of floats is rounded once. The sum begins at 0, and the bias, which may
    // be null, is added last. sum_x is the sum of the block's unrounded numbers, in 16 lanes, each lane from 0 in order.
    // Then lanes j and j + 8 are added, then j and j + 4 of the results, and so on. With `swiglu`, only
    // z[m, n] = silu(y[m, n]) * y[m, n + outputs / 2] is written, with the bits of SwigluCall for y. `scratch` has
    // linear_scratch(w, rows) bytes and is aligned to 64.
    void (*linear)(const BlockMatrix *w, const float *bias, const float *x, size_t rows, float *y, void *scratch, Pool pool);
    size_t (*linear_scratch)(const BlockMatrix *w, size_t rows);
    // Writes row ids[m] of the matrix, [columns], to y[m]. Returns false if an id isn't a row.
    bool (*gather)(const BlockMatrix *w, const int64_t *ids, size_t count, float *y);
    // Attention as `cached_attention` of refimpl/ops/attention.py defines it. Rotated keys, and values, are rounded to the
    // cache's type and written into the cache. Then each token gets a weighted mean of the cached values that it may see.
    // Numbers are computed and rounded in this order:
    //     q = (a cos - b sin, b cos + a sin), each product and difference once, times scale; k without scale
    //     score = sum over d, in order from 0, by fma of q[d] * k[d]; then softcap * tanh(score / softcap); then score + bias
    // Keys are read in segments of 512 positions, and each segment in blocks of 64. Segments begin at multiples of 512,
    // and blocks at multiples of 64. A segment begins with m = -inf and sums of 0. For each block with keys that the
    // token sees:
    //     m' = max(m, scores);  weight = exp(score - m');  all sums *= exp(m - m');  m = m'
    //     lane[position % 16] += weight, and sum[d] = fma(weight, v[d], sum[d]), in order of the keys
    // Then the segment is added to the total. The total begins with m = sink, lane[0] = 1 and sums of 0, or without sinks
    // with m = -inf:
    //     m' = max(m, m of the segment);  total = fma(segment, exp(m of the segment - m'), total * exp(m - m'))
    // y = sum * (1 / the lanes summed in order), or 0 if no key is seen. The error of exp is at most 1.1 ulp down to
    // 2^-126, and exp is 0 below e^-87.7. The error of tanh is at most 3 ulp.
    // `scratch` has attention_scratch(call) bytes and is aligned to 64.
    Attended (*attention)(const AttentionCall *call, void *scratch, Pool pool);
    size_t (*attention_scratch)(const AttentionCall *call);
    void (*swiglu)(const SwigluCall *call, Pool pool);
    void (*add_norm)(const AddNormCall *call, Pool pool);
    void (*add_layer_norm)(const AddNormCall *call, Pool pool);
    // `scratch` has row_linear_scratch(call) bytes and is aligned to 64.
    void (*row_linear)(const RowLinearCall *call, void *scratch, Pool pool);
    size_t (*row_linear_scratch)(const RowLinearCall *call);
    bool (*causal_conv)(const CausalConvCall *call, Pool pool);  // false if a length isn't within 0 .. tokens
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

// Returns the kernels of an instruction set, or null if this processor or this library lacks the instruction set.
TFM_EXPORT const Kernels *tfm_kernels(const char *instruction_set);
// Chooses an instruction set for sessions that register the operators afterwards. Returns false if tfm_kernels returns null.
TFM_EXPORT bool tfm_use(const char *instruction_set);
// Returns the name of the chosen instruction set. If none was chosen, returns the fastest instruction set that this
// processor and this library have, or null.
TFM_EXPORT const char *tfm_instruction_set(void);
