// The kernels as operators of ONNX Runtime, domain "tfm", version 1:
//   BlockLinear(x [.., K], codes, scales, zeros?, bias [N]?) -> [.., N]
//   BlockGather(codes, ids [..], scales, zeros?) -> [.., K]
// with the attributes of MatMulNBits: K, N, bits, block_size. kernels.h says how codes, scales and zeros lie.
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

    int64_t tiles() const { return (N + 15) / 16; }
    int64_t blocks() const { return (K + block - 1) / block; }
};

ort::Status *create(const ort::Op *, const ort::Api *, const ort::Info *info, void **made) {
    Node node;
    TRY(api->KernelInfoGetAttribute_int64(info, "K", &node.K));
    TRY(api->KernelInfoGetAttribute_int64(info, "N", &node.N));
    TRY(api->KernelInfoGetAttribute_int64(info, "bits", &node.bits));
    TRY(api->KernelInfoGetAttribute_int64(info, "block_size", &node.block));
    int64_t b = node.block, limit = int64_t(1) << 28;
    if (b != 16 && b != 32 && b != 64 && b != 128) return wrong("block_size must be 16, 32, 64 or 128");
    if (node.bits != 4 && node.bits != 8) return wrong("bits must be 4 or 8");
    if (node.N < 1 || node.N > limit || node.K < 1 || node.K > limit) return wrong("N and K must be 1 to 2^28");
    *made = malloc(sizeof node);
    if (!*made) return wrong("no memory for an operator");
    memcpy(*made, &node, sizeof node);
    return nullptr;
}

void destroy(void *node) { free(node); }

constexpr size_t RANK = 8;

// An input's data and shape. `data` is null where an optional input is left out.
struct Input {
    void *data = nullptr;
    int64_t shape[RANK + 1];
    size_t rank = 0;

    ort::Status *read(const ort::Context *context, size_t index) {
        const ort::Value *value = nullptr;
        TRY(api->KernelContext_GetInput(context, index, &value));
        if (!value) return nullptr;
        ort::Shape *info;
        TRY(api->GetTensorMutableData(value, &data));
        TRY(api->GetTensorTypeAndShape(value, &info));
        ort::Status *status = api->GetDimensionsCount(info, &rank);
        if (!status) status = rank > RANK ? wrong("rank must be at most 8") : api->GetDimensions(info, shape, rank);
        api->ReleaseTensorTypeAndShapeInfo(info);
        return status;
    }
    // The number of elements of all axes but the last `kept`.
    size_t count(size_t kept) const {
        size_t count = 1;
        for (size_t i = 0; i + kept < rank; i++) count *= size_t(shape[i]);
        return count;
    }
};

// A node's matrix, from the inputs with its codes, scales and zero points.
struct Matrix : BlockMatrix {
    ort::Status *read(const Node &node, const ort::Context *context, size_t codes_at, size_t scales_at) {
        Input parts[3];
        TRY(parts[0].read(context, codes_at));
        TRY(parts[1].read(context, scales_at));
        TRY(parts[2].read(context, scales_at + 1));
        size_t scale_count = size_t(node.tiles() * node.blocks() * 16);
        if (parts[0].count(0) != scale_count * node.block * node.bits / 8) return wrong("codes must be [tiles, K * bits / 32, 16, 4]");
        if (parts[1].count(0) != scale_count) return wrong("scales must be [tiles, blocks, 16]");
        if (parts[2].data && parts[2].count(0) != scale_count) return wrong("zeros must be [tiles, blocks, 16]");
        codes = (const uint8_t *)parts[0].data;
        scales = (const float *)parts[1].data;
        zeros = (const uint8_t *)parts[2].data;
        outputs = int32_t(node.N), columns = int32_t(node.K), inputs = int32_t(node.blocks() * node.block);
        block = int32_t(node.block), bits = int32_t(node.bits);
        return nullptr;
    }
};

ort::Status *output(ort::Context *context, const int64_t *shape, size_t rank, float **data) {
    ort::Value *value;
    TRY(api->KernelContext_GetOutput(context, 0, shape, rank, &value));
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
    TRY(w.read(node, context, 1, 2));
    TRY(bias.read(context, 4));
    if (x.rank == 0 || x.shape[x.rank - 1] != node.K) return wrong("x must be [.., K]");
    if (bias.data && bias.count(0) != size_t(node.N)) return wrong("bias must be [N]");
    size_t rows = x.count(1);
    x.shape[x.rank - 1] = node.N;
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
    TRY(w.read(node, context, 0, 2));
    ids.shape[ids.rank] = node.K;
    TRY(output(context, ids.shape, ids.rank + 1, &y));
    return node.kernels->gather(&w, (const int64_t *)ids.data, ids.count(0), y) ? nullptr : wrong("ids must be rows of the table");
}

// An operator with the types of its inputs; `optional` of them, at the end, may be left out.
struct Op : ort::Op {
    const char *name;
    const ort::Type *types;
    size_t count, optional;

    Op(const char *name, const ort::Type *types, size_t count, size_t optional, ort::Status *(*compute)(void *, ort::Context *))
        : ort::Op(), name(name), types(types), count(count), optional(optional) {
        version = ort::API;
        GetName = [](const ort::Op *op) { return ((const Op *)op)->name; };
        GetExecutionProviderType = [](const ort::Op *) -> const char * { return nullptr; };
        GetInputType = [](const ort::Op *op, size_t index) { return ((const Op *)op)->types[index]; };
        GetInputTypeCount = [](const ort::Op *op) { return ((const Op *)op)->count; };
        GetOutputType = [](const ort::Op *, size_t) { return ort::FLOAT; };
        GetOutputTypeCount = [](const ort::Op *) -> size_t { return 1; };
        GetInputCharacteristic = [](const ort::Op *op, size_t index) {
            const Op &self = *(const Op *)op;
            return int(index + self.optional >= self.count);
        };
        GetOutputCharacteristic = GetInputMemoryType = [](const ort::Op *, size_t) { return 0; };
        GetStartVersion = [](const ort::Op *) { return 1; };
        GetEndVersion = [](const ort::Op *) { return 0x7fffffff; };
        CreateKernelV2 = create;
        KernelComputeV2 = compute;
        KernelDestroy = destroy;
    }
};

const ort::Type LINEAR[] = {ort::FLOAT, ort::UINT8, ort::FLOAT, ort::UINT8, ort::FLOAT};
const ort::Type GATHER[] = {ort::UINT8, ort::INT64, ort::FLOAT, ort::UINT8};
const Op ops[] = {{"BlockLinear", LINEAR, 5, 2, linear}, {"BlockGather", GATHER, 4, 1, gather}};

}  // namespace

// What ONNX Runtime calls when a session registers the library.
extern "C" __attribute__((visibility("default"))) ort::Status *RegisterCustomOps(ort::Options *options, const ort::ApiBase *base) {
    static ort::Domain *domain;
    api = base->GetApi(ort::API);
    const char *instruction_set = tfm_instruction_set();
    if (!instruction_set) return wrong("this processor has none of the kernels' instruction sets");
    registered = tfm_kernels(instruction_set);
    if (!domain) {
        TRY(api->CreateCustomOpDomain("tfm", &domain));
        for (auto &one : ops) TRY(api->CustomOpDomain_Add(domain, &one));
    }
    return api->AddCustomOpDomain(options, domain);
}
