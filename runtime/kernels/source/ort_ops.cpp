// The kernels as operators of ONNX Runtime, domain "tfm", version 1:
//   BlockLinear(x [.., K], codes, scales, zeros?, bias [N]?, minima?, factors?, table [16]?) -> [.., N]
//   BlockSwiGLU(x [.., K], codes, scales, zeros?, bias [N]?, minima?, factors?, table [16]?) -> [.., N / 2]
// the same with the first half of the outputs as gates of the second: silu(gate) * up.
//   BlockGather(codes, ids [..], scales, zeros?, minima?, factors?, table [16]?) -> [.., K]
// with the attributes of MatMulNBits: K, N, bits, block_size. kernels.h says how codes, scales, zeros, minima and factors lie;
// scales and minima are of float32 or of float16, or of int8 with factors. With a table there are no zeros and minima.
//   Attention(q [B, T, ..], keys, values [B, G, capacity, D], last [B], k?, v?, cos?, sin?, positions [B, T]?, sinks [H]?,
//             k_scale, v_scale [G, D]?) -> [B, T, H * D], keys, values
// with the attributes of GroupQueryAttention: num_heads, kv_num_heads, local_window_size, rotary_interleaved, scale,
// softcap. Without k and v, q holds all three side by side. The cache is written in place where it is bound so; it is of
// float32, float16 or int8, and then has scales; of uint8 it has codes of 4 bits, D / 2 bytes a row.
//   SharedAttention(q [B, T, H * D], keys, values, last, cos?, sin?, positions?, sinks?) -> [B, T, H * D]
// the same over a cache of floats that has the keys and values of these tokens: another layer's, which isn't written.
//   TextAttention(q [B, T, H * D], lengths [B], k, v [B, S, H * D] or [B, H, S, D]?, bias [B or 1, H or 1, T, S]?) -> [B, T, H * D]
// with the attributes of MultiHeadAttention: num_heads, scale and unidirectional. Without k and v, q holds all three side by side.
//   SwiGLU(x [.., 2 * width]) -> [.., width]
//   Gelu, GeluTanh, Tanh, Sigmoid, SiLU, Softplus, Exp, Sqrt(x [.., width]) -> [.., width]
//   Softmax(x [.., width]) -> [.., width], RowSum(x [.., width]) -> [.., 1], FloatLinear(x [.., depth], w [depth, width]) -> [.., width]
//   MatMul(a [.., rows, depth], b [.., depth, width]) -> [.., rows, width], each product as FloatLinear's, where leading axes
// are the same or 1
//   TokenSum(x [B, T, ..]) -> [B, ..], of floats or of int64: in order of the tokens, from 0
//   Log(x [..]) -> [..], of float64 numbers from 1 on; Sin, Cos(x [..]) -> [..], of float64 numbers within 1e6
//   AddRMSNorm(a [.., width], b [.., width], weight [width]) -> a + b, its norm
//   RMSNorm(x [.., width], weight [width]) -> its norm
// with the attribute epsilon.
//   CausalConv(x [B, T, F], tail [B, A, F], kernel [A + 1, F], past [B], lengths [B], bias [F]?) -> [B, T, F], tail
// with the attribute silu.
//   LinearAttention(q [B, T, ..], k [B, T, ..], v [B, T, ..], state [B, H, K, V], step [B, T, H], a_log [H] or [H, K],
//                   past [B], beta [B, T, H]?) -> [B, T, H * V], state
// with the attributes key_heads, scale and unit; q_at, k_at and v_at say where in a token's numbers they begin. A state
// [B, H, K] has one value a head. Tail and state are written in place where they are bound so.
//   ExpertLinear(x [M, K] or [M, I, K], index [M, I], matrices..) -> [M, I, N]
//   ExpertSwiGLU, the same with the first half of the outputs as gates of the second -> [M, I, N / 2]
//   ExpertSum(x, index, shares [M, I], matrices..) -> [M, N]: for each token the sum of its products, times shares
// with the attributes K, N, bits and block_size, and zeros, minima, biases and tables (0 if left out), which say what each matrix
// has. They are inputs one after the other, of each matrix its codes and scales, and then what it has of zeros, minima, a bias,
// factors and a table.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "ort_abi.h"

namespace {

const ort::Api *api;
const Kernels *registered;  // for nodes that are created from now on

#define TRY(call) \
    if (ort::Status *status = (call)) return status

ort::Status *wrong(const char *what) { return api->CreateStatus(ort::INVALID_ARGUMENT, what); }

// The attributes of a node, and what computes it.
struct Node {
    const Kernels *kernels = registered;
    int64_t K, N, bits, block;
    ScaleType scale_type;
    bool swiglu;

    int64_t tiles() const { return (N + 15) / 16; }
    int64_t blocks() const { return (K + block - 1) / block; }
};

template <class Kind>
ort::Status *keep(const Kind &node, void **made) {
    *made = malloc(sizeof node);
    if (!*made) return wrong("no memory for an operator");
    memcpy(*made, &node, sizeof node);
    return nullptr;
}

ort::Status *read_blocks(const ort::Info *info, Node &node) {
    TRY(api->KernelInfoGetAttribute_int64(info, "K", &node.K));
    TRY(api->KernelInfoGetAttribute_int64(info, "N", &node.N));
    TRY(api->KernelInfoGetAttribute_int64(info, "bits", &node.bits));
    TRY(api->KernelInfoGetAttribute_int64(info, "block_size", &node.block));
    int64_t b = node.block, limit = int64_t(1) << 28;
    if (b != 16 && b != 32 && b != 64 && b != 128) return wrong("block_size must be 16, 32, 64 or 128");
    if (node.bits != 2 && node.bits != 4 && node.bits != 5 && node.bits != 6 && node.bits != 8) return wrong("bits must be 2, 4, 5, 6 or 8");
    if (node.N < 1 || node.N > limit || node.K < 1 || node.K > limit) return wrong("N and K must be 1 to 2^28");
    return node.swiglu && node.N % 32 ? wrong("N must be a multiple of 32 where half of it are gates") : nullptr;
}

template <ScaleType SCALES, bool SWIGLU = false>
ort::Status *create_blocks(const ort::Op *, const ort::Api *, const ort::Info *info, void **made) {
    Node node;
    node.scale_type = SCALES, node.swiglu = SWIGLU;
    TRY(read_blocks(info, node));
    return keep(node, made);
}

// The attributes of an Attention, as a call without its arrays, and what computes it.
struct AttentionNode {
    const Kernels *kernels = registered;
    AttentionCall call = {};
};

template <CacheType TYPE>
ort::Status *create_attention(const ort::Op *, const ort::Api *, const ort::Info *info, void **made) {
    AttentionNode node;
    AttentionCall &call = node.call;
    call.cache = TYPE;
    int64_t heads, kv_heads, window, interleaved, limit = 1 << 20;
    TRY(api->KernelInfoGetAttribute_int64(info, "num_heads", &heads));
    TRY(api->KernelInfoGetAttribute_int64(info, "kv_num_heads", &kv_heads));
    TRY(api->KernelInfoGetAttribute_int64(info, "local_window_size", &window));
    TRY(api->KernelInfoGetAttribute_int64(info, "rotary_interleaved", &interleaved));
    TRY(api->KernelInfoGetAttribute_float(info, "scale", &call.scale));
    TRY(api->KernelInfoGetAttribute_float(info, "softcap", &call.softcap));
    if (kv_heads < 1 || heads < kv_heads || heads > limit || heads % kv_heads) return wrong("num_heads must be a multiple of kv_num_heads");
    call.heads = int32_t(heads), call.kv_heads = int32_t(kv_heads), call.interleaved = interleaved != 0;
    if (window > 0) call.window = window < INT32_MAX ? int32_t(window) : INT32_MAX;
    return keep(node, made);
}

void destroy(void *node) { free(node); }

constexpr size_t RANK = 8;

// An input's data and shape. `data` is null where an optional input is left out.
struct Input {
    void *data = nullptr;
    int64_t shape[RANK + 1];
    size_t rank = 0;

    // With `type` the type of the data is written there.
    ort::Status *read(const ort::Context *context, size_t index, ort::Type *type = nullptr) {
        const ort::Value *value = nullptr;
        TRY(api->KernelContext_GetInput(context, index, &value));
        if (!value) return nullptr;
        ort::Shape *info;
        TRY(api->GetTensorMutableData(value, &data));
        TRY(api->GetTensorTypeAndShape(value, &info));
        ort::Status *status = api->GetDimensionsCount(info, &rank);
        if (!status && type) status = api->GetTensorElementType(info, type);
        if (!status) status = rank > RANK ? wrong("rank must be at most 8") : api->GetDimensions(info, shape, rank);
        api->ReleaseTensorTypeAndShapeInfo(info);
        return status;
    }
    bool is(size_t axes, const int64_t *sizes) const { return rank == axes && !memcmp(shape, sizes, axes * sizeof *sizes); }
    // The number of elements of all axes but the last `kept`.
    size_t count(size_t kept) const {
        size_t count = 1;
        for (size_t i = 0; i + kept < rank; i++) count *= size_t(shape[i]);
        return count;
    }
};

// A node's matrix, from the inputs with its codes, scales, zero points, minima, factors and table.
struct Matrix : BlockMatrix {
    ort::Status *read(const Node &node, const ort::Context *context, size_t codes_at, size_t scales_at, size_t minima_at) {
        Input parts[6];
        TRY(parts[0].read(context, codes_at));
        TRY(parts[1].read(context, scales_at));
        TRY(parts[2].read(context, scales_at + 1));
        TRY(parts[3].read(context, minima_at));
        TRY(parts[4].read(context, minima_at + 1));
        TRY(parts[5].read(context, minima_at + 2));
        return take(node, parts);
    }
    // From the codes, scales, zero points, minima, factors and table.
    ort::Status *take(const Node &node, const Input (&parts)[6]) {
        size_t scale_count = size_t(node.tiles() * node.blocks() * 16);
        if (parts[0].count(0) != scale_count * node.block * node.bits / 8) return wrong("codes must be [tiles, K / 16, 32 * bits]");
        if ((node.scale_type == ScaleType::CODES) != (parts[4].data != nullptr)) return wrong("factors must be there with scales of int8, and only then");
        if (parts[4].data && node.K % 256) return wrong("K must be a multiple of 256 where there are factors");
        if (parts[4].data && parts[4].count(0) * 256 != scale_count * node.block * (parts[3].data ? 2 : 1)) return wrong("factors must be [tiles, K / 256, 16], with minima [tiles, K / 256, 2, 16]");
        if (parts[1].count(0) != scale_count) return wrong("scales must be [tiles, blocks, 16]");
        if (parts[2].data && parts[2].count(0) != scale_count) return wrong("zeros must be [tiles, blocks, 16]");
        if (parts[3].data && parts[3].count(0) != scale_count) return wrong("minima must be [tiles, blocks, 16]");
        if (parts[5].data && (parts[5].count(0) != 16 || node.bits != 4)) return wrong("a table must be [16], of codes of 4 bits");
        if (parts[5].data && (parts[2].data || parts[3].data)) return wrong("zeros and minima must be left out where there is a table");
        codes = (const uint8_t *)parts[0].data, table = (const uint8_t *)parts[5].data;
        scales = parts[1].data, scale_type = node.scale_type, swiglu = node.swiglu;
        zeros = (const uint8_t *)parts[2].data, minima = parts[3].data, factors = (const uint16_t *)parts[4].data;
        outputs = int32_t(node.N), columns = int32_t(node.K), inputs = int32_t(node.blocks() * node.block);
        block = int32_t(node.block), bits = int32_t(node.bits);
        return nullptr;
    }
};

template <class Data>
ort::Status *output(ort::Context *context, const int64_t *shape, size_t rank, Data **data, size_t index = 0) {
    ort::Value *value;
    TRY(api->KernelContext_GetOutput(context, index, shape, rank, &value));
    return api->GetTensorMutableData(value, (void **)data);
}

// Memory for one call, aligned to 64; `whole` is null where there is none.
struct Memory {
    void *whole, *start;
    explicit Memory(size_t bytes) : whole(malloc(bytes + 63)), start((void *)((uintptr_t(whole) + 63) & ~uintptr_t(63))) {}
    ~Memory() { free(whole); }
};

void run(const void *context, void (*task)(void *, size_t), size_t count, void *data) {
    api->KernelContext_ParallelFor((const ort::Context *)context, task, count, 0, data);
}

ort::Status *linear(void *made, ort::Context *context) {
    const Node &node = *(const Node *)made;
    Input x, bias;
    Matrix w;
    float *y;
    TRY(x.read(context, 0));
    TRY(w.read(node, context, 1, 2, 5));
    TRY(bias.read(context, 4));
    if (x.rank == 0 || x.shape[x.rank - 1] != node.K) return wrong("x must be [.., K]");
    if (bias.data && bias.count(0) != size_t(node.N)) return wrong("bias must be [N]");
    size_t rows = x.count(1);
    x.shape[x.rank - 1] = node.swiglu ? node.N / 2 : node.N;
    TRY(output(context, x.shape, x.rank, &y));
    Memory scratch(node.kernels->linear_scratch(&w, rows));
    if (!scratch.whole) return wrong("no memory for the codes of x");
    node.kernels->linear(&w, (const float *)bias.data, (const float *)x.data, rows, y, scratch.start, {context, run});
    return nullptr;
}

ort::Status *gather(void *made, ort::Context *context) {
    const Node &node = *(const Node *)made;
    Input ids;
    Matrix w;
    float *y;
    TRY(ids.read(context, 1));
    TRY(w.read(node, context, 0, 2, 4));
    ids.shape[ids.rank] = node.K;
    TRY(output(context, ids.shape, ids.rank + 1, &y));
    return node.kernels->gather(&w, (const int64_t *)ids.data, ids.count(0), y) ? nullptr : wrong("ids must be rows of the table");
}

// Which inputs a matrix of a mixture has, and of which types they must be.
struct Experts {
    Node node;
    int64_t zeros, minima, biases, tables = 0;
    bool sum, factors = false;  // as the scales of the first expert say

    size_t parts() const { return 2 + (zeros != 0) + (minima != 0) + (biases != 0) + factors + (tables != 0); }
    size_t before() const { return sum ? 3 : 2; }

    // The matrix and the bias of an expert.
    ort::Status *read(const ort::Context *context, size_t expert, BlockMatrix *w, const float **bias) {
        size_t index = before() + expert * parts();
        Input in[6], added;
        ort::Type codes, scales, other;
        TRY(in[0].read(context, index++, &codes));
        TRY(in[1].read(context, index++, &scales));
        if (codes != ort::UINT8 || (scales != ort::FLOAT && scales != ort::FLOAT16 && scales != ort::INT8))
            return wrong("codes must be uint8, scales float32, float16 or int8");
        if (zeros) {
            TRY(in[2].read(context, index++, &other));
            if (other != ort::UINT8) return wrong("zeros must be uint8");
        }
        if (minima) {
            TRY(in[3].read(context, index++, &other));
            if (other != scales) return wrong("minima must be of the type of scales");
        }
        if (biases) {
            TRY(added.read(context, index++, &other));
            if (other != ort::FLOAT || added.count(0) != size_t(node.N)) return wrong("a bias must be float32 [N]");
        }
        if (factors) {
            TRY(in[4].read(context, index++, &other));
            if (other != ort::FLOAT16) return wrong("factors must be float16");
        }
        if (tables) {
            TRY(in[5].read(context, index++, &other));
            if (other != ort::UINT8) return wrong("a table must be uint8");
        }
        Node one = node;
        one.scale_type = scales == ort::INT8 ? ScaleType::CODES : scales == ort::FLOAT16 ? ScaleType::FLOAT16 : ScaleType::FLOAT32;
        Matrix matrix;
        TRY(matrix.take(one, in));
        *w = matrix, *bias = (const float *)added.data;
        return nullptr;
    }
};

template <bool SUM, bool SWIGLU>
ort::Status *create_experts(const ort::Op *, const ort::Api *, const ort::Info *info, void **made) {
    Experts experts;
    experts.sum = SUM, experts.node.swiglu = SWIGLU, experts.node.scale_type = ScaleType::FLOAT32;
    TRY(read_blocks(info, experts.node));
    TRY(api->KernelInfoGetAttribute_int64(info, "zeros", &experts.zeros));
    TRY(api->KernelInfoGetAttribute_int64(info, "minima", &experts.minima));
    TRY(api->KernelInfoGetAttribute_int64(info, "biases", &experts.biases));
    // Graphs of tfm 0.2 and before don't say it.
    if (ort::Status *missing = api->KernelInfoGetAttribute_int64(info, "tables", &experts.tables)) api->ReleaseStatus(missing), experts.tables = 0;
    return keep(experts, made);
}

// The choices of each expert, in order.
ort::Status *by_expert(const int64_t *index, size_t choices, int64_t count, int64_t *starts, int64_t *order) {
    memset(starts, 0, size_t(count + 1) * sizeof *starts);
    for (size_t c = 0; c < choices; c++) {
        if (index[c] < 0 || index[c] >= count) return wrong("index must name experts");
        starts[index[c] + 1]++;
    }
    for (int64_t e = 0; e < count; e++) starts[e + 1] += starts[e];
    for (size_t c = 0; c < choices; c++) order[starts[index[c]]++] = int64_t(c);
    for (int64_t e = count; e > 0; e--) starts[e] = starts[e - 1];  // each has moved to its end
    starts[0] = 0;
    return nullptr;
}

ort::Status *experts(void *made, ort::Context *context) {
    Experts node = *(const Experts *)made;
    const Kernels *kernels = node.node.kernels;
    Input x, index, shares;
    size_t inputs;
    TRY(api->KernelContext_GetInputCount(context, &inputs));
    TRY(x.read(context, 0));
    TRY(index.read(context, 1));
    if (node.sum) TRY(shares.read(context, 2));
    if (inputs > node.before() + 1) {
        Input scales;
        ort::Type type;
        TRY(scales.read(context, node.before() + 1, &type));
        node.factors = type == ort::INT8;
    }
    size_t count = (inputs - node.before()) / node.parts();
    if (!count || node.before() + count * node.parts() != inputs || count > 1 << 20) return wrong("each expert must have its matrix");
    if (index.rank != 2) return wrong("index must be [M, I]");
    int64_t M = index.shape[0], I = index.shape[1], apart[] = {M, I, node.node.K}, shared[] = {M, node.node.K};
    if (!x.is(3, apart) && !x.is(2, shared)) return wrong("x must be [M, K] or [M, I, K]");
    if (node.sum && !shares.is(2, apart)) return wrong("shares must be [M, I]");
    if (M > INT32_MAX || I > 1 << 20) return wrong("sizes must be below 2^31, choices up to 2^20");
    int64_t width = node.node.swiglu ? node.node.N / 2 : node.node.N, y[] = {M, I, width}, sums[] = {M, width};
    ExpertCall call = {};
    TRY(output(context, node.sum ? sums : y, node.sum ? 2 : 3, &call.y));
    size_t choices = size_t(M * I);
    // Starts and order, then matrices and biases.
    Memory memory((count + 1 + choices) * sizeof(int64_t) + count * (sizeof(BlockMatrix) + sizeof(float *)));
    if (!memory.whole) return wrong("no memory for the choices of experts");
    int64_t *starts = (int64_t *)memory.start, *order = starts + count + 1;
    BlockMatrix *matrices = (BlockMatrix *)(order + choices);
    const float **biases = (const float **)(matrices + count);
    TRY(by_expert((const int64_t *)index.data, choices, int64_t(count), starts, order));
    for (size_t e = 0; e < count; e++)
        if (starts[e] < starts[e + 1]) TRY(node.read(context, e, &matrices[e], &biases[e]));
    call.experts = matrices, call.biases = biases, call.starts = starts, call.order = order;
    call.x = (const float *)x.data, call.shares = (const float *)shares.data, call.apart = x.rank == 3;
    call.tokens = size_t(M), call.count = int32_t(count), call.choices = int32_t(I);
    if (node.sum && !choices) memset(call.y, 0, size_t(M * width) * sizeof(float));
    Memory scratch(kernels->experts_scratch(&call));
    if (!scratch.whole) return wrong("no memory for the rows of experts");
    kernels->experts(&call, scratch.start, {context, run});
    return nullptr;
}

struct RowNode {
    const Kernels *kernels = registered;
    int64_t K, N, gelu;
};

ort::Status *create_row(const ort::Op *, const ort::Api *, const ort::Info *info, void **made) {
    RowNode node;
    TRY(api->KernelInfoGetAttribute_int64(info, "K", &node.K));
    TRY(api->KernelInfoGetAttribute_int64(info, "N", &node.N));
    TRY(api->KernelInfoGetAttribute_int64(info, "gelu", &node.gelu));
    if (node.K < 1 || node.K > 1 << 16 || node.N < 1 || node.N > 1 << 28) return wrong("K must be 1 to 2^16 and N 1 to 2^28");
    return keep(node, made);
}

ort::Status *row_linear(void *made, ort::Context *context) {
    const RowNode &node = *(const RowNode *)made;
    enum { X, CODES, SCALES, FACTORS, BIAS, COUNT };
    Input in[COUNT];
    for (size_t i = 0; i < COUNT; i++) TRY(in[i].read(context, i));
    Input &x = in[X];
    int64_t tiles = (node.N + 15) / 16, inputs = (node.K + 15) / 16 * 16;
    int64_t codes[] = {tiles, inputs / 4, 16, 4}, scales[] = {tiles, 16};
    if (x.rank == 0 || x.shape[x.rank - 1] != node.K) return wrong("x must be [.., K]");
    if (!in[CODES].is(4, codes)) return wrong("codes must be [tiles, inputs / 4, 16, 4]");
    if (!in[SCALES].is(2, scales)) return wrong("scales must be [tiles, 16]");
    if (in[FACTORS].data && !in[FACTORS].is(1, &node.K)) return wrong("factors must be [K]");
    if (in[BIAS].data && !in[BIAS].is(1, &node.N)) return wrong("bias must be [N]");
    RowLinearCall call = {};
    call.codes = (const uint8_t *)in[CODES].data, call.scales = (const float *)in[SCALES].data, call.x = (const float *)x.data;
    call.factors = (const float *)in[FACTORS].data, call.bias = (const float *)in[BIAS].data;
    call.rows = x.count(1), call.outputs = int32_t(node.N), call.inputs = int32_t(inputs), call.columns = int32_t(node.K);
    call.gelu = node.gelu != 0;
    x.shape[x.rank - 1] = node.N;
    TRY(output(context, x.shape, x.rank, &call.y));
    Memory scratch(node.kernels->row_linear_scratch(&call));
    if (!scratch.whole) return wrong("no memory for the codes of x");
    node.kernels->row_linear(&call, scratch.start, {context, run});
    return nullptr;
}

// The present cache, with the past one in it.
ort::Status *present(ort::Context *context, const Input &past, size_t index, CacheType type, void **cache) {
    TRY(output(context, past.shape, past.rank, cache, index));
    if (*cache != past.data) memcpy(*cache, past.data, past.count(0) * bytes_of(type, type == CacheType::INT4 ? 2 : 1));
    return nullptr;
}

template <bool SHARED>
ort::Status *attention(void *made, ort::Context *context) {
    const AttentionNode &node = *(const AttentionNode *)made;
    AttentionCall call = node.call;
    enum { Q, KEYS, VALUES, LAST, K, V, COS, SIN, POSITIONS, SINKS, K_SCALE, V_SCALE, COUNT };
    Input in[COUNT];
    for (size_t i = 0, index = 0; i < COUNT; i++)
        if (!SHARED || (i != K && i != V && i < K_SCALE)) TRY(in[i].read(context, index++));
    if (in[Q].rank != 3 || in[KEYS].rank != 4) return wrong("q must have 3 axes, keys 4");
    int64_t batch = in[Q].shape[0], tokens = in[Q].shape[1], row = in[KEYS].shape[3], G = call.kv_heads, H = call.heads;
    int64_t size = call.cache == CacheType::INT4 ? 2 * row : row;
    int64_t cache[] = {batch, G, in[KEYS].shape[2], row}, joined[] = {batch, tokens, (H + 2 * G) * size};
    int64_t queries[] = {batch, tokens, H * size}, new_keys[] = {batch, tokens, G * size};
    bool alone = in[K].data && in[V].data;
    if (!in[KEYS].is(4, cache) || !in[VALUES].is(4, cache)) return wrong("keys and values must be [B, kv_num_heads, capacity, D]");
    if (SHARED && !in[Q].is(3, queries)) return wrong("q must be [B, T, num_heads * D]");
    if (!SHARED && !in[Q].is(3, alone ? queries : joined)) return wrong("q must be [B, T, num_heads * D], with k and v beside it if they aren't inputs");
    if (alone && (!in[K].is(3, new_keys) || !in[V].is(3, new_keys))) return wrong("k and v must be [B, T, kv_num_heads * D]");
    if (!in[LAST].is(1, &batch)) return wrong("last must be [B]");
    if (in[POSITIONS].data && !in[POSITIONS].is(2, queries)) return wrong("positions must be [B, T]");
    if (in[SINKS].data && !in[SINKS].is(1, &H)) return wrong("sinks must be [num_heads]");
    if (in[COS].data && (in[COS].rank != 2 || !in[SIN].is(2, in[COS].shape))) return wrong("cos and sin must be [positions, pairs]");
    int64_t scales[] = {G, size};
    if (has_codes(call.cache) && !(in[K_SCALE].is(2, scales) && in[V_SCALE].is(2, scales))) return wrong("k_scale and v_scale must be [kv_num_heads, D]");
    call.k_scale = (const float *)in[K_SCALE].data, call.v_scale = (const float *)in[V_SCALE].data;
    call.cos = (const float *)in[COS].data, call.sin = (const float *)in[SIN].data, call.sinks = (const float *)in[SINKS].data;
    int64_t sizes[] = {batch, tokens, size, cache[2], call.cos ? in[COS].shape[0] : 0, call.cos ? in[COS].shape[1] : 0};
    for (int64_t one : sizes)
        if (one > INT32_MAX) return wrong("sizes must be below 2^31");
    call.batch = int32_t(batch), call.tokens = int32_t(tokens), call.head_size = int32_t(size), call.capacity = int32_t(cache[2]);
    call.q = (const float *)in[Q].data, call.k = in[K].data, call.v = in[V].data;
    call.q_stride = size_t(H * size), call.k_stride = call.v_stride = size_t(G * size);
    if (!SHARED && !alone) {
        call.k = call.q + H * size, call.v = call.q + (H + G) * size;
        call.q_stride = call.k_stride = call.v_stride = size_t(joined[2]);
    }
    call.last = (const int32_t *)in[LAST].data, call.positions = (const int64_t *)in[POSITIONS].data;
    if (call.cos) call.table = int32_t(in[COS].shape[0]), call.pairs = int32_t(in[COS].shape[1]);
    TRY(output(context, queries, 3, &call.y));
    call.keys = in[KEYS].data, call.values = in[VALUES].data;
    if (!SHARED) TRY(present(context, in[KEYS], 1, call.cache, &call.keys));
    if (!SHARED) TRY(present(context, in[VALUES], 2, call.cache, &call.values));
    Memory scratch(node.kernels->attention_scratch(&call));
    if (!scratch.whole) return wrong("no memory for scores");
    switch (node.kernels->attention(&call, scratch.start, {context, run})) {
        case Attended::MISFIT: return wrong("the tokens must fit the cache and the tables");
        case Attended::TOO_LARGE: return wrong("a key or value doesn't fit the cache");  // runtime.ort.kernel_backend reads this
        case Attended::DONE: return nullptr;
    }
    return nullptr;
}

// Attention over whole texts, without a cache: keys and values that are inputs have the type TYPE.
template <CacheType TYPE>
ort::Status *create_text_attention(const ort::Op *, const ort::Api *, const ort::Info *info, void **made) {
    AttentionNode node;
    node.call.cache = TYPE;
    int64_t heads, causal = 0;
    TRY(api->KernelInfoGetAttribute_int64(info, "num_heads", &heads));
    TRY(api->KernelInfoGetAttribute_float(info, "scale", &node.call.scale));
    // Graphs of tfm 0.2 and before don't say it.
    if (ort::Status *missing = api->KernelInfoGetAttribute_int64(info, "unidirectional", &causal)) api->ReleaseStatus(missing), causal = 0;
    node.call.causal = causal != 0;
    if (heads < 1 || heads > 1 << 20) return wrong("num_heads must be 1 to 2^20");
    node.call.heads = node.call.kv_heads = int32_t(heads);
    return keep(node, made);
}

ort::Status *text_attention(void *made, ort::Context *context) {
    const AttentionNode &node = *(const AttentionNode *)made;
    AttentionCall call = node.call;
    enum { Q, LENGTHS, K, V, BIAS, COUNT };
    Input in[COUNT];
    for (size_t i = 0; i < COUNT; i++) TRY(in[i].read(context, i));
    if (in[Q].rank != 3) return wrong("q must have 3 axes");
    bool alone = in[K].data && in[V].data;
    if (!alone && call.cache != CacheType::FLOAT32) return wrong("k and v of float16 must be inputs");
    int64_t batch = in[Q].shape[0], tokens = in[Q].shape[1], beside = alone ? 1 : 3, H = call.heads, size = in[Q].shape[2] / (beside * H);
    bool by_head = alone && in[K].rank == 4;
    int64_t keys = !alone ? tokens : in[K].rank > 2 ? in[K].shape[by_head ? 2 : 1] : 0;
    int64_t y[] = {batch, tokens, H * size}, by_token[] = {batch, keys, H * size}, heads[] = {batch, H, keys, size};
    const int64_t *shape = by_head ? heads : by_token, *bias = in[BIAS].shape;
    if (in[Q].shape[2] != beside * H * size) return wrong("q must be [B, T, num_heads * D], with k and v beside it if they aren't inputs");
    if (alone && (!in[K].is(by_head ? 4 : 3, shape) || !in[V].is(by_head ? 4 : 3, shape)))
        return wrong("k and v must be [B, S, num_heads * D] or [B, num_heads, S, D]");
    if (!in[LENGTHS].is(1, &batch)) return wrong("lengths must be [B]");
    if (in[BIAS].data) {
        bool fits = in[BIAS].rank == 4 && bias[2] == tokens && bias[3] == keys;
        if (!fits || (bias[0] != batch && bias[0] != 1) || (bias[1] != H && bias[1] != 1)) return wrong("bias must be [B or 1, num_heads or 1, T, S]");
        call.bias_head = bias[1] > 1 ? size_t(tokens * keys) : 0;
        call.bias_batch = bias[0] > 1 ? size_t(bias[1] * tokens * keys) : 0;
    }
    if (batch > INT32_MAX || tokens > INT32_MAX || keys > INT32_MAX || size > INT32_MAX) return wrong("sizes must be below 2^31");
    call.batch = int32_t(batch), call.tokens = int32_t(tokens), call.capacity = int32_t(keys), call.head_size = int32_t(size);
    call.q = (const float *)in[Q].data, call.k = in[K].data, call.v = in[V].data;
    if (!alone) call.k = call.q + H * size, call.v = call.q + 2 * H * size;
    call.q_stride = size_t(beside * H * size), call.k_stride = call.v_stride = by_head ? size_t(size) : call.q_stride;
    call.by_head = by_head, call.bias = (const float *)in[BIAS].data;
    call.lengths = (const int32_t *)in[LENGTHS].data;
    TRY(output(context, y, 3, &call.y));
    Memory scratch(node.kernels->attention_scratch(&call));
    if (!scratch.whole) return wrong("no memory for scores");
    bool fits = node.kernels->attention(&call, scratch.start, {context, run}) == Attended::DONE;
    return fits ? nullptr : wrong("lengths must be 0 to S, and D a multiple of 8");
}

struct Gate {
    const Kernels *kernels = registered;
};

ort::Status *create_gate(const ort::Op *, const ort::Api *, const ort::Info *, void **made) { return keep(Gate(), made); }

ort::Status *swiglu(void *made, ort::Context *context) {
    Input x;
    SwigluCall call = {};
    TRY(x.read(context, 0));
    if (x.rank == 0 || x.shape[x.rank - 1] % 2) return wrong("x must be [.., 2 * width]");
    call.rows = x.count(1), call.width = size_t(x.shape[x.rank - 1] /= 2), call.x = (const float *)x.data;
    TRY(output(context, x.shape, x.rank, &call.y));
    ((const Gate *)made)->kernels->swiglu(&call, {context, run});
    return nullptr;
}

template <Function function>
ort::Status *pointwise(void *made, ort::Context *context) {
    Input x;
    PointwiseCall call = {};
    TRY(x.read(context, 0));
    if (x.rank == 0) return wrong("x must be [.., width]");
    call.rows = x.count(1), call.width = size_t(x.shape[x.rank - 1]), call.x = (const float *)x.data, call.function = function;
    TRY(output(context, x.shape, x.rank, &call.y));
    ((const Gate *)made)->kernels->pointwise(&call, {context, run});
    return nullptr;
}

template <bool SUM>
ort::Status *of_row(void *made, ort::Context *context) {
    Input x;
    RowCall call = {};
    TRY(x.read(context, 0));
    if (x.rank == 0) return wrong("x must be [.., width]");
    call.rows = x.count(1), call.width = size_t(x.shape[x.rank - 1]), call.x = (const float *)x.data;
    if (SUM) x.shape[x.rank - 1] = 1;
    TRY(output(context, x.shape, x.rank, &call.y));
    const Kernels *kernels = ((const Gate *)made)->kernels;
    (SUM ? kernels->row_sum : kernels->softmax)(&call, {context, run});
    return nullptr;
}

ort::Status *float_linear(void *made, ort::Context *context) {
    Input x, w;
    FloatLinearCall call = {};
    TRY(x.read(context, 0));
    TRY(w.read(context, 1));
    if (x.rank == 0 || w.rank != 2 || x.shape[x.rank - 1] != w.shape[0]) return wrong("x must be [.., depth], w [depth, width]");
    call.rows = x.count(1), call.depth = size_t(w.shape[0]), call.width = size_t(w.shape[1]);
    call.x = (const float *)x.data, call.w = (const float *)w.data;
    x.shape[x.rank - 1] = w.shape[1];
    TRY(output(context, x.shape, x.rank, &call.y));
    ((const Gate *)made)->kernels->float_linear(&call, {context, run});
    return nullptr;
}

// Matrices a [rows, depth] and b [depth, width] of two inputs whose leading axes are the same or 1, and where they begin.
struct Products {
    const Kernels *kernels;
    FloatLinearCall call;
    Input a, b, y;
    Pool pool;

    // The matrix of an input that belongs to the index-th product.
    const float *matrix(const Input &of, size_t index) const {
        size_t at = 0, step = size_t(of.shape[of.rank - 2] * of.shape[of.rank - 1]);
        for (size_t i = 3; i <= y.rank; i++) {
            size_t axis = index % size_t(y.shape[y.rank - i]), size = i <= of.rank ? size_t(of.shape[of.rank - i]) : 1;
            at += (size == 1 ? 0 : axis) * step, step *= size, index /= size_t(y.shape[y.rank - i]);
        }
        return (const float *)of.data + at;
    }

    static void task(void *data, size_t index) {
        const Products &all = *(const Products *)data;
        FloatLinearCall one = all.call;
        one.x = all.matrix(all.a, index), one.w = all.matrix(all.b, index), one.y += index * one.rows * one.width;
        all.kernels->float_linear(&one, all.pool);
    }
};

void one_after_the_other(const void *, void (*task)(void *, size_t), size_t count, void *data) {
    for (size_t i = 0; i < count; i++) task(data, i);
}

ort::Status *mat_mul(void *made, ort::Context *context) {
    Products all = {((const Gate *)made)->kernels, {}, {}, {}, {}, {context, run}};
    Input &a = all.a, &b = all.b, &y = all.y;
    TRY(a.read(context, 0));
    TRY(b.read(context, 1));
    if (a.rank < 2 || b.rank < 2 || a.shape[a.rank - 1] != b.shape[b.rank - 2]) return wrong("a must be [.., rows, depth], b [.., depth, width]");
    y.rank = a.rank < b.rank ? b.rank : a.rank;
    y.shape[y.rank - 2] = a.shape[a.rank - 2], y.shape[y.rank - 1] = b.shape[b.rank - 1];
    size_t count = 1;
    for (size_t i = 3; i <= y.rank; i++) {
        int64_t of_a = i <= a.rank ? a.shape[a.rank - i] : 1, of_b = i <= b.rank ? b.shape[b.rank - i] : 1;
        if (of_a != of_b && of_a != 1 && of_b != 1) return wrong("leading axes of a and b must be the same or 1");
        y.shape[y.rank - i] = of_a == 1 ? of_b : of_a;
        count *= size_t(y.shape[y.rank - i]);
    }
    FloatLinearCall &call = all.call;
    call.rows = size_t(a.shape[a.rank - 2]), call.depth = size_t(a.shape[a.rank - 1]), call.width = size_t(b.shape[b.rank - 1]);
    TRY(output(context, y.shape, y.rank, &call.y));
    if (count > 1 && count * call.rows * call.width >= 16384) {  // as many threads as share the products
        all.pool = {nullptr, one_after_the_other};
        run(context, Products::task, count, &all);
    } else {
        one_after_the_other(nullptr, Products::task, count, &all);
    }
    return nullptr;
}

template <class Number>
ort::Status *token_sum(void *, ort::Context *context) {
    Input x;
    Number *y;
    TRY(x.read(context, 0));
    if (x.rank < 2) return wrong("x must be [B, T, ..]");
    size_t batch = size_t(x.shape[0]), tokens = size_t(x.shape[1]), width = 1;
    for (size_t i = 2; i < x.rank; i++) width *= size_t(x.shape[i]);
    x.shape[1] = x.shape[0];
    TRY(output(context, x.shape + 1, x.rank - 1, &y));
    memset(y, 0, batch * width * sizeof *y);
    const Number *from = (const Number *)x.data;
    for (size_t b = 0; b < batch; b++, y += width)
        for (size_t t = 0; t < tokens; t++, from += width)
            for (size_t i = 0; i < width; i++) y[i] += from[i];
    return nullptr;
}

// The logarithm of a number from 1 on, within 2 ulp: x = m * 2^e with m in [1/2, 1) or, where it is below sqrt(1/2), twice that,
// and log(m) = 2 atanh(s) = 2 s (1 + z/3 + z^2/5 + .. + z^10/21) with s = (m - 1) / (m + 1) and z = s^2. Each quotient, product
// and sum is rounded once, the sum of the series from its end on.
double logarithm(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    double m, e = double(int(bits >> 52) - 1022), series = 1.0 / 21;
    bits = (bits & 0xfffffffffffff) | 0x3fe0000000000000;
    memcpy(&m, &bits, sizeof m);
    if (m < 0.7071067811865476) m += m, e -= 1;
    double s = (m - 1) / (m + 1), z = s * s;
    for (int k = 19; k > 0; k -= 2) series = series * z + 1.0 / k;
    return e * 0.6931471805599453 + 2 * s * series;
}

// The sine of r + quarters * pi / 2, within 2^-51: r = x - n * pi / 2 for the n next to x * 2 / pi, pi / 2 in three parts, of which
// n times the first two is exact. sin(r) = r (1 - z / (2 * 3) (1 - z / (4 * 5) (1 - ..))) up to z^8 and cos(r) =
// 1 - z / (1 * 2) (1 - z / (3 * 4) (1 - ..)) up to z^9 with z = r^2. Each quotient, product and sum is rounded once.
template <int quarters>
double sine(double x) {
    const double halfway = 6755399441055744.0;  // 1.5 * 2^52: sums with it are whole numbers
    double n = x * 0.6366197723675814 + halfway - halfway, sum = 1;
    double r = x - n * 1.5707963267341256 - n * 6.077100506303966e-11 - n * 2.0222662487959506e-21, z = r * r;
    int64_t turned = int64_t(n) + quarters;
    for (int k = turned % 2 ? 18 : 17; k > 1; k -= 2) sum = 1 - z / (k * (k - 1)) * sum;
    if (turned % 2 == 0) sum *= r;
    return turned & 2 ? -sum : sum;
}

template <double (*f)(double)>
ort::Status *of_doubles(void *, ort::Context *context) {
    Input x;
    double *y;
    TRY(x.read(context, 0));
    TRY(output(context, x.shape, x.rank, &y));
    for (size_t i = 0; i < x.count(0); i++) y[i] = f(((const double *)x.data)[i]);
    return nullptr;
}

struct Norm {
    const Kernels *kernels = registered;
    float epsilon;
};

ort::Status *create_norm(const ort::Op *, const ort::Api *, const ort::Info *info, void **made) {
    Norm norm;
    TRY(api->KernelInfoGetAttribute_float(info, "epsilon", &norm.epsilon));
    return keep(norm, made);
}

// The norm of inputs 0 + 1, or of input 0 alone; the weight follows, a layer norm's bias too, and the norm is the last output.
template <bool sum, bool layer>
ort::Status *norm(void *made, ort::Context *context) {
    const Norm &node = *(const Norm *)made;
    Input a, b, weight, bias;
    TRY(a.read(context, 0));
    if (sum) TRY(b.read(context, 1));
    TRY(weight.read(context, sum ? 2 : 1));
    if (layer) TRY(bias.read(context, sum ? 3 : 2));
    if (a.rank == 0 || (sum && !b.is(a.rank, a.shape))) return wrong("what is normed must have an axis, and a and b one shape");
    AddNormCall call = {};
    call.rows = a.count(1), call.width = size_t(a.shape[a.rank - 1]), call.epsilon = node.epsilon;
    if ((weight.data && weight.count(0) != call.width) || (bias.data && bias.count(0) != call.width)) return wrong("weight must be [width], and so must bias");
    call.a = (const float *)a.data, call.b = (const float *)b.data;
    call.weight = (const float *)weight.data, call.bias = (const float *)bias.data;
    if (sum) TRY(output(context, a.shape, a.rank, &call.sum, 0));
    TRY(output(context, a.shape, a.rank, &call.y, sum ? 1 : 0));
    (layer ? node.kernels->add_layer_norm : node.kernels->add_norm)(&call, {context, run});
    return nullptr;
}

// The memory of the second output, with what a step begins from in it.
ort::Status *in_place(ort::Context *context, const Input &kept, float **at) {
    void *memory = nullptr;
    TRY(present(context, kept, 1, CacheType::FLOAT32, &memory));
    *at = (float *)memory;
    return nullptr;
}

struct Convolution {
    const Kernels *kernels = registered;
    int64_t silu;
};

ort::Status *create_conv(const ort::Op *, const ort::Api *, const ort::Info *info, void **made) {
    Convolution node;
    TRY(api->KernelInfoGetAttribute_int64(info, "silu", &node.silu));
    return keep(node, made);
}

ort::Status *causal_conv(void *made, ort::Context *context) {
    const Convolution &node = *(const Convolution *)made;
    enum { X, TAIL, KERNEL, PAST, LENGTHS, BIAS, COUNT };
    Input in[COUNT];
    for (size_t i = 0; i < COUNT; i++) TRY(in[i].read(context, i));
    if (in[X].rank != 3 || in[KERNEL].rank != 2 || in[KERNEL].shape[0] < 1) return wrong("x must have 3 axes, kernel 2");
    int64_t batch = in[X].shape[0], tokens = in[X].shape[1], channels = in[X].shape[2], length = in[KERNEL].shape[0];
    int64_t tail[] = {batch, length - 1, channels}, sizes[] = {batch, tokens, channels, length};
    if (in[KERNEL].shape[1] != channels || !in[TAIL].is(3, tail)) return wrong("kernel must be [A + 1, F] and tail [B, A, F]");
    if (!in[PAST].is(1, &batch) || !in[LENGTHS].is(1, &batch)) return wrong("past and lengths must be [B]");
    if (in[BIAS].data && !in[BIAS].is(1, &channels)) return wrong("bias must be [F]");
    for (int64_t one : sizes)
        if (one > INT32_MAX) return wrong("sizes must be below 2^31");
    CausalConvCall call = {};
    call.x = (const float *)in[X].data, call.kernel = (const float *)in[KERNEL].data, call.bias = (const float *)in[BIAS].data;
    call.past = (const int64_t *)in[PAST].data, call.lengths = (const int64_t *)in[LENGTHS].data, call.silu = node.silu != 0;
    call.batch = int32_t(batch), call.tokens = int32_t(tokens), call.channels = int32_t(channels), call.length = int32_t(length);
    TRY(output(context, in[X].shape, 3, &call.y));
    TRY(in_place(context, in[TAIL], &call.tail));
    return node.kernels->causal_conv(&call, {context, run}) ? nullptr : wrong("lengths must be 0 to T");
}

constexpr int64_t MOST_SIZE = 1 << 24;

struct Recurrence {
    const Kernels *kernels = registered;
    int64_t key_heads, q_at, k_at, v_at;
    float scale, unit;
};

ort::Status *create_linear_attention(const ort::Op *, const ort::Api *, const ort::Info *info, void **made) {
    Recurrence node;
    TRY(api->KernelInfoGetAttribute_int64(info, "key_heads", &node.key_heads));
    TRY(api->KernelInfoGetAttribute_int64(info, "q_at", &node.q_at));
    TRY(api->KernelInfoGetAttribute_int64(info, "k_at", &node.k_at));
    TRY(api->KernelInfoGetAttribute_int64(info, "v_at", &node.v_at));
    TRY(api->KernelInfoGetAttribute_float(info, "scale", &node.scale));
    TRY(api->KernelInfoGetAttribute_float(info, "unit", &node.unit));
    // Bounded, so that sums and products with sizes don't overflow.
    int64_t places[] = {node.q_at, node.k_at, node.v_at};
    for (int64_t place : places)
        if (place < 0 || place > MOST_SIZE) return wrong("q_at, k_at and v_at must be 0 to 2^24");
    if (node.key_heads < 1 || node.key_heads > MOST_SIZE) return wrong("key_heads must be 1 to 2^24");
    return keep(node, made);
}

ort::Status *linear_attention(void *made, ort::Context *context) {
    const Recurrence &node = *(const Recurrence *)made;
    enum { Q, K, V, STATE, STEP, A_LOG, PAST, BETA, COUNT };
    Input in[COUNT];
    for (size_t i = 0; i < COUNT; i++) TRY(in[i].read(context, i));
    if (in[V].rank != 3 || in[STATE].rank < 3 || in[STATE].rank > 4) return wrong("v must have 3 axes, state 3 or 4");
    int64_t batch = in[V].shape[0], tokens = in[V].shape[1], heads = in[STATE].shape[1], keys = in[STATE].shape[2];
    int64_t values = in[STATE].rank == 4 ? in[STATE].shape[3] : 1;
    int64_t sizes[] = {batch, tokens, heads, keys, values};
    for (int64_t one : sizes)
        if (one > MOST_SIZE) return wrong("sizes must be up to 2^24");
    if (in[STATE].shape[0] != batch || keys < 1 || keys > LinearAttentionCall::MOST_KEYS) return wrong("state must be [B, H, K, V] with K from 1 to 256");
    if (heads % node.key_heads) return wrong("key_heads must divide the heads");
    int64_t needs[] = {node.q_at + node.key_heads * keys, node.k_at + node.key_heads * keys, node.v_at + heads * values};
    for (int i = Q; i <= V; i++)
        if (in[i].rank != 3 || in[i].shape[0] != batch || in[i].shape[1] != tokens || in[i].shape[2] < needs[i])
            return wrong("q, k and v must be [B, T, ..] with all heads");
    int64_t steps[] = {batch, tokens, heads}, rates[] = {heads, keys}, y[] = {batch, tokens, heads * values};
    if (!in[STEP].is(3, steps) || (in[BETA].data && !in[BETA].is(3, steps))) return wrong("step and beta must be [B, T, H]");
    if (!in[A_LOG].is(1, rates) && !in[A_LOG].is(2, rates)) return wrong("a_log must be [H] or [H, K]");
    if (!in[PAST].is(1, &batch)) return wrong("past must be [B]");
    LinearAttentionCall call = {};
    call.q = (const float *)in[Q].data + node.q_at, call.k = (const float *)in[K].data + node.k_at, call.v = (const float *)in[V].data + node.v_at;
    call.q_stride = size_t(in[Q].shape[2]), call.k_stride = size_t(in[K].shape[2]), call.v_stride = size_t(in[V].shape[2]);
    call.step = (const float *)in[STEP].data, call.a_log = (const float *)in[A_LOG].data, call.beta = (const float *)in[BETA].data;
    call.past = (const int64_t *)in[PAST].data, call.by_key = in[A_LOG].rank == 2, call.scale = node.scale, call.unit = node.unit;
    call.batch = int32_t(batch), call.tokens = int32_t(tokens), call.heads = int32_t(heads), call.key_heads = int32_t(node.key_heads);
    call.key_size = int32_t(keys), call.value_size = int32_t(values);
    TRY(output(context, y, 3, &call.y));
    TRY(in_place(context, in[STATE], &call.state));
    node.kernels->linear_attention(&call, {context, run});
    return nullptr;
}

// An operator with the types of its inputs; `optional` of them, at the end, may be left out. The first output is of
// float32, or of float64 or int64 as the first input, the others of the types of the inputs from the second on. An input of ANY type is the last one, for any number.
struct Op : ort::Op {
    const char *name;
    const ort::Type *types;
    size_t count, optional, outputs;

    Op(const char *name, const ort::Type *types, size_t count, size_t optional, size_t outputs, decltype(CreateKernelV2) create,
       decltype(KernelComputeV2) compute)
        : ort::Op(), name(name), types(types), count(count), optional(optional), outputs(outputs) {
        version = ort::API;
        GetName = [](const ort::Op *op) { return ((const Op *)op)->name; };
        GetExecutionProviderType = [](const ort::Op *) -> const char * { return nullptr; };
        GetInputType = [](const ort::Op *op, size_t index) { return ((const Op *)op)->types[index]; };
        GetInputTypeCount = [](const ort::Op *op) { return ((const Op *)op)->count; };
        GetOutputType = [](const ort::Op *op, size_t index) { 
            const ort::Type *types = ((const Op *)op)->types;
            return index || types[0] == ort::DOUBLE || types[0] == ort::INT64 ? types[index] : ort::FLOAT;
        };
        GetOutputTypeCount = [](const ort::Op *op) { return ((const Op *)op)->outputs; };
        GetInputCharacteristic = [](const ort::Op *op, size_t index) {
            const Op &self = *(const Op *)op;
            return self.types[index] == ort::ANY ? 2 : int(index + self.optional >= self.count);  // any number of any types
        };
        GetVariadicInputMinArity = [](const ort::Op *) { return 2; };
        GetVariadicInputHomogeneity = [](const ort::Op *) { return 0; };
        GetOutputCharacteristic = GetInputMemoryType = [](const ort::Op *, size_t) { return 0; };
        GetStartVersion = [](const ort::Op *) { return 1; };
        GetEndVersion = [](const ort::Op *) { return 0x7fffffff; };
        CreateKernelV2 = create;
        KernelComputeV2 = compute;
        KernelDestroy = destroy;
    }
};

#define LINEAR(SCALES) {ort::FLOAT, ort::UINT8, SCALES, ort::UINT8, ort::FLOAT, SCALES, ort::FLOAT16, ort::UINT8}
#define GATHER(SCALES) {ort::UINT8, ort::INT64, SCALES, ort::UINT8, SCALES, ort::FLOAT16, ort::UINT8}
const ort::Type LINEAR_FLOAT32[] = LINEAR(ort::FLOAT), LINEAR_FLOAT16[] = LINEAR(ort::FLOAT16), LINEAR_CODES[] = LINEAR(ort::INT8);
const ort::Type GATHER_FLOAT32[] = GATHER(ort::FLOAT), GATHER_FLOAT16[] = GATHER(ort::FLOAT16), GATHER_CODES[] = GATHER(ort::INT8);
const ort::Type ROW_LINEAR[] = {ort::FLOAT, ort::UINT8, ort::FLOAT, ort::FLOAT, ort::FLOAT};
const ort::Type DOUBLES[] = {ort::DOUBLE}, INTEGERS[] = {ort::INT64};
const ort::Type FLOATS[] = {ort::FLOAT, ort::FLOAT, ort::FLOAT, ort::FLOAT};
#define ATTEND(CACHE) \
    {ort::FLOAT, CACHE, CACHE, ort::INT32, ort::FLOAT, ort::FLOAT, ort::FLOAT, ort::FLOAT, ort::INT64, ort::FLOAT, ort::FLOAT, ort::FLOAT}
const ort::Type ATTEND_FLOAT32[] = ATTEND(ort::FLOAT), ATTEND_FLOAT16[] = ATTEND(ort::FLOAT16), ATTEND_INT8[] = ATTEND(ort::INT8), ATTEND_INT4[] = ATTEND(ort::UINT8);
#define SHARED_ATTEND(CACHE) \
    {ort::FLOAT, CACHE, CACHE, ort::INT32, ort::FLOAT, ort::FLOAT, ort::INT64, ort::FLOAT}
const ort::Type SHARED_FLOAT32[] = SHARED_ATTEND(ort::FLOAT), SHARED_FLOAT16[] = SHARED_ATTEND(ort::FLOAT16);
#define TEXT_ATTEND(TYPE) {ort::FLOAT, ort::INT32, TYPE, TYPE, ort::FLOAT}
const ort::Type TEXT_FLOAT32[] = TEXT_ATTEND(ort::FLOAT), TEXT_FLOAT16[] = TEXT_ATTEND(ort::FLOAT16);
const ort::Type CONVOLVE[] = {ort::FLOAT, ort::FLOAT, ort::FLOAT, ort::INT64, ort::INT64, ort::FLOAT};
const ort::Type RECUR[] = {ort::FLOAT, ort::FLOAT, ort::FLOAT, ort::FLOAT, ort::FLOAT, ort::FLOAT, ort::INT64, ort::FLOAT};
const ort::Type EXPERTS[] = {ort::FLOAT, ort::INT64, ort::ANY}, WEIGHED_EXPERTS[] = {ort::FLOAT, ort::INT64, ort::FLOAT, ort::ANY};
const Op ops[] = {
    {"BlockLinear", LINEAR_FLOAT32, 8, 5, 1, create_blocks<ScaleType::FLOAT32>, linear},
    {"BlockLinear", LINEAR_FLOAT16, 8, 5, 1, create_blocks<ScaleType::FLOAT16>, linear},
    {"BlockLinear", LINEAR_CODES, 8, 5, 1, create_blocks<ScaleType::CODES>, linear},
    {"BlockSwiGLU", LINEAR_FLOAT32, 8, 5, 1, create_blocks<ScaleType::FLOAT32, true>, linear},
    {"BlockSwiGLU", LINEAR_FLOAT16, 8, 5, 1, create_blocks<ScaleType::FLOAT16, true>, linear},
    {"BlockSwiGLU", LINEAR_CODES, 8, 5, 1, create_blocks<ScaleType::CODES, true>, linear},
    {"RowLinear", ROW_LINEAR, 5, 2, 1, create_row, row_linear},
    {"BlockGather", GATHER_FLOAT32, 7, 4, 1, create_blocks<ScaleType::FLOAT32>, gather},
    {"BlockGather", GATHER_FLOAT16, 7, 4, 1, create_blocks<ScaleType::FLOAT16>, gather},
    {"BlockGather", GATHER_CODES, 7, 4, 1, create_blocks<ScaleType::CODES>, gather},
    {"SwiGLU", FLOATS, 1, 0, 1, create_gate, swiglu},
    {"Gelu", FLOATS, 1, 0, 1, create_gate, pointwise<Function::GELU>},
    {"GeluTanh", FLOATS, 1, 0, 1, create_gate, pointwise<Function::GELU_TANH>},
    {"Tanh", FLOATS, 1, 0, 1, create_gate, pointwise<Function::TANH>},
    {"Sigmoid", FLOATS, 1, 0, 1, create_gate, pointwise<Function::SIGMOID>},
    {"SiLU", FLOATS, 1, 0, 1, create_gate, pointwise<Function::SILU>},
    {"Softplus", FLOATS, 1, 0, 1, create_gate, pointwise<Function::SOFTPLUS>},
    {"Exp", FLOATS, 1, 0, 1, create_gate, pointwise<Function::EXP>},
    {"Sqrt", FLOATS, 1, 0, 1, create_gate, pointwise<Function::SQRT>},
    {"Softmax", FLOATS, 1, 0, 1, create_gate, of_row<false>},
    {"RowSum", FLOATS, 1, 0, 1, create_gate, of_row<true>},
    {"FloatLinear", FLOATS, 2, 0, 1, create_gate, float_linear},
    {"MatMul", FLOATS, 2, 0, 1, create_gate, mat_mul},
    {"TokenSum", FLOATS, 1, 0, 1, create_gate, token_sum<float>},
    {"TokenSum", INTEGERS, 1, 0, 1, create_gate, token_sum<int64_t>},
    {"Log", DOUBLES, 1, 0, 1, create_gate, of_doubles<logarithm>},
    {"Sin", DOUBLES, 1, 0, 1, create_gate, of_doubles<sine<0>>},
    {"Cos", DOUBLES, 1, 0, 1, create_gate, of_doubles<sine<1>>},
    {"AddRMSNorm", FLOATS, 3, 1, 2, create_norm, norm<true, false>},
    {"RMSNorm", FLOATS, 2, 1, 1, create_norm, norm<false, false>},
    {"AddLayerNorm", FLOATS, 4, 2, 2, create_norm, norm<true, true>},
    {"LayerNorm", FLOATS, 3, 2, 1, create_norm, norm<false, true>},
    {"TextAttention", TEXT_FLOAT32, 5, 3, 1, create_text_attention<CacheType::FLOAT32>, text_attention},
    {"TextAttention", TEXT_FLOAT16, 5, 3, 1, create_text_attention<CacheType::FLOAT16>, text_attention},
    {"Attention", ATTEND_FLOAT32, 12, 8, 3, create_attention<CacheType::FLOAT32>, attention<false>},
    {"Attention", ATTEND_FLOAT16, 12, 8, 3, create_attention<CacheType::FLOAT16>, attention<false>},
    {"Attention", ATTEND_INT8, 12, 8, 3, create_attention<CacheType::INT8>, attention<false>},
    {"Attention", ATTEND_INT4, 12, 8, 3, create_attention<CacheType::INT4>, attention<false>},
    {"SharedAttention", SHARED_FLOAT32, 8, 4, 1, create_attention<CacheType::FLOAT32>, attention<true>},
    {"SharedAttention", SHARED_FLOAT16, 8, 4, 1, create_attention<CacheType::FLOAT16>, attention<true>},
    {"CausalConv", CONVOLVE, 6, 1, 2, create_conv, causal_conv},
    {"LinearAttention", RECUR, 8, 1, 2, create_linear_attention, linear_attention},
    {"ExpertLinear", EXPERTS, 3, 0, 1, create_experts<false, false>, experts},
    {"ExpertSwiGLU", EXPERTS, 3, 0, 1, create_experts<false, true>, experts},
    {"ExpertSum", WEIGHED_EXPERTS, 4, 0, 1, create_experts<true, false>, experts},
};

}  // namespace

// What ONNX Runtime calls when a session registers the library.
TFM_EXPORT ort::Status *RegisterCustomOps(ort::Options *options, const ort::ApiBase *base) {
    static ort::Domain *domain;
    api = base->GetApi(ort::API);
    if (!api) return nullptr;  // a message would be its object too: tfm_has_api says so
    const char *instruction_set = tfm_instruction_set();
    if (!instruction_set) return wrong("this processor has none of the kernels' instruction sets");
    registered = tfm_kernels(instruction_set);
    if (!domain) {
        TRY(api->CreateCustomOpDomain("tfm", &domain));
        for (auto &one : ops) TRY(api->CustomOpDomain_Add(domain, &one));
    }
    return api->AddCustomOpDomain(options, domain);
}

// Whether the ONNX Runtime that registered the library has the version of the interface that it was written for.
TFM_EXPORT bool tfm_has_api(void) { return api; }
