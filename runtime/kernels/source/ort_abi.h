// The part of ONNX Runtime's C interface that the operators use, declared by hand: its tables only grow at their end, so
// places are for good. API 17 is the first with KernelContext_ParallelFor.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace ort {

constexpr uint32_t API = 17;
enum Type : int { ANY = 0, FLOAT = 1, UINT8 = 2, INT8 = 3, INT32 = 6, INT64 = 7, FLOAT16 = 10, DOUBLE = 11 };
enum Code : int { INVALID_ARGUMENT = 2 };
struct Status;
struct Context;
struct Info;
struct Value;
struct Shape;
struct Options;
struct Domain;
struct Op;

struct Api {
    Status *(*CreateStatus)(Code, const char *);
    void *unused1[25];
    Status *(*CreateCustomOpDomain)(const char *, Domain **);
    Status *(*CustomOpDomain_Add)(Domain *, const Op *);
    Status *(*AddCustomOpDomain)(Options *, Domain *);
    void *unused2[22];
    Status *(*GetTensorMutableData)(const Value *, void **);
    void *unused3[8];
    Status *(*GetTensorElementType)(const Shape *, Type *);
    Status *(*GetDimensionsCount)(const Shape *, size_t *);
    Status *(*GetDimensions)(const Shape *, int64_t *, size_t);
    void *unused4[2];
    Status *(*GetTensorTypeAndShape)(const Value *, Shape **);
    void *unused5[19];
    Status *(*KernelInfoGetAttribute_float)(const Info *, const char *, float *);
    Status *(*KernelInfoGetAttribute_int64)(const Info *, const char *, int64_t *);
    void *unused6;
    Status *(*KernelContext_GetInputCount)(const Context *, size_t *);
    void *unused9;
    Status *(*KernelContext_GetInput)(const Context *, size_t, const Value **);
    Status *(*KernelContext_GetOutput)(Context *, size_t, const int64_t *, size_t, Value **);
    void *unused7;
    void (*ReleaseStatus)(Status *);
    void *unused10[5];
    void (*ReleaseTensorTypeAndShapeInfo)(Shape *);
    void *unused8[174];
    Status *(*KernelContext_ParallelFor)(const Context *, void (*)(void *, size_t), size_t, size_t, void *);
};

struct ApiBase {
    const Api *(*GetApi)(uint32_t);
    const char *(*GetVersionString)();
};

struct Op {
    uint32_t version;
    void *CreateKernel;
    const char *(*GetName)(const Op *);
    const char *(*GetExecutionProviderType)(const Op *);
    Type (*GetInputType)(const Op *, size_t);
    size_t (*GetInputTypeCount)(const Op *);
    Type (*GetOutputType)(const Op *, size_t);
    size_t (*GetOutputTypeCount)(const Op *);
    void *KernelCompute;
    void (*KernelDestroy)(void *);
    int (*GetInputCharacteristic)(const Op *, size_t);
    int (*GetOutputCharacteristic)(const Op *, size_t);
    int (*GetInputMemoryType)(const Op *, size_t);
    int (*GetVariadicInputMinArity)(const Op *);
    int (*GetVariadicInputHomogeneity)(const Op *);
    void *variadic_outputs[2];
    Status *(*CreateKernelV2)(const Op *, const Api *, const Info *, void **);
    Status *(*KernelComputeV2)(void *, Context *);
    void *InferOutputShapeFn;
    int (*GetStartVersion)(const Op *);
    int (*GetEndVersion)(const Op *);
    void *alias[4];
};

static_assert(offsetof(Api, GetTensorMutableData) == 51 * sizeof(void *));
static_assert(offsetof(Api, GetTensorElementType) == 60 * sizeof(void *));
static_assert(offsetof(Api, GetTensorTypeAndShape) == 65 * sizeof(void *));
static_assert(offsetof(Api, KernelInfoGetAttribute_float) == 85 * sizeof(void *));
static_assert(offsetof(Api, KernelInfoGetAttribute_int64) == 86 * sizeof(void *));
static_assert(offsetof(Api, KernelContext_GetInputCount) == 88 * sizeof(void *));
static_assert(offsetof(Api, KernelContext_GetInput) == 90 * sizeof(void *));
static_assert(offsetof(Api, ReleaseStatus) == 93 * sizeof(void *));
static_assert(offsetof(Api, ReleaseTensorTypeAndShapeInfo) == 99 * sizeof(void *));
static_assert(offsetof(Api, KernelContext_ParallelFor) == 274 * sizeof(void *));
static_assert(offsetof(Op, GetVariadicInputMinArity) == 104);
static_assert(offsetof(Op, CreateKernelV2) == 136 && offsetof(Op, GetEndVersion) == 168 && sizeof(Op) == 208);

}  // namespace ort
