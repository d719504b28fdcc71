// Runs a graph over tfm's kernels: `run_graph LIBRARY INSTRUCTION_SET GRAPH OUTPUT < inputs > numbers`.
//
// The inputs are, one after the other: a name of 32 bytes, ONNX's number of the type, how many axes, 8 sizes of 64 bits, how
// many bytes, and these. It ends with 3 where the processor has no such instruction set.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#define FAIL(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))
#define OK(call) do { OrtStatus *s = (call); if (s) FAIL("%s", ort->GetErrorMessage(s)); } while (0)
enum { MOST = 256 };
struct header { char name[32]; int32_t type, axes; int64_t shape[8], bytes; };

int main(int words, char **word) {
    static struct header headers[MOST];
    const char *names[MOST], *output = word[4];
    OrtValue *values[MOST], *result = NULL;
    if (words != 5) FAIL("usage: run_graph LIBRARY INSTRUCTION_SET GRAPH OUTPUT");
    void *library = dlopen(word[1], RTLD_NOW), *handle;
    if (!library) FAIL("%s", dlerror());
    bool (*use)(const char *) = (bool (*)(const char *))dlsym(library, "tfm_use");
    if (!use(word[2])) return 3;
    const OrtApi *ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    OrtEnv *env;
    OrtSessionOptions *options;
    OrtSession *session;
    OrtMemoryInfo *memory;
    OK(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "run_graph", &env));
    OK(ort->CreateSessionOptions(&options));
    OK(ort->RegisterCustomOpsLibrary(options, word[1], &handle));
    OK(ort->CreateSession(env, word[3], options, &session));
    OK(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    size_t count = 0;
    for (; count < MOST && fread(&headers[count], sizeof *headers, 1, stdin) == 1; count++) {
        struct header *h = &headers[count];
        void *data = aligned_alloc(64, (h->bytes + 64) / 64 * 64);
        if (fread(data, 1, h->bytes, stdin) != (size_t)h->bytes) FAIL("%s ends early", h->name);
        names[count] = h->name;
        OK(ort->CreateTensorWithDataAsOrtValue(memory, data, h->bytes, h->shape, h->axes, h->type, &values[count]));
    }
    OK(ort->Run(session, NULL, names, (const OrtValue *const *)values, count, &output, 1, &result));
    OrtTensorTypeAndShapeInfo *shape;
    size_t size;
    float *data;
    OK(ort->GetTensorTypeAndShape(result, &shape));
    OK(ort->GetTensorShapeElementCount(shape, &size));
    OK(ort->GetTensorMutableData(result, (void **)&data));
    return fwrite(data, sizeof *data, size, stdout) != size;
}
