// Greedy tokens of a tfm bundle over ONNX Runtime's C API, caches updated in place, and its golden check. Without tfm.
//
//     cc -O2 client.c -I HEADERS LIBRARY -Wl,-rpath,FOLDER_OF_THE_LIBRARY -lm -o client
//     ./client BUNDLE 20 504 6330 ...     print the next 20 tokens after a prompt's, as text with BUNDLE/token_bytes, else ids
//     ./client BUNDLE check               compare the outputs for the golden tokens with the specification's, as they are computed
//                                         and, of int8 and int4, with products in float too, whose budget is sharp
//
// The bundle is a decoder's for ort-cpu or ort-web; its layers are alike, their rotary positions not scaled. RUNTIMES.md
// says where to get headers, library and ids, and has a table of the ports.
#include <math.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define FAIL(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))
#define VERSION OrtGetApiBase()->GetVersionString()
#define OK(call) do { OrtStatus *s = (call); if (s) FAIL("ONNX Runtime %s: %s", VERSION, ort->GetErrorMessage(s)); } while (0)
enum { MOST = 1024, F32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, I64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 };
static const OrtApi *ort; static OrtMemoryInfo *memory; static OrtSession *session;
static OrtValue *given[MOST], *got[MOST]; static size_t inputs, vocabulary;
static char names[2][MOST][16], *in[MOST] = {"tokens", "past", "at"}, *out[MOST] = {"logits"}, *bundle;
static char *load(const char *name) {  // at most 16 MB of a file, and a zero behind them; NULL where there is none
    char path[4096], *data = calloc(1 << 24, 1);
    FILE *file = (snprintf(path, sizeof path, "%s/%s", bundle, name), fopen(path, "rb"));
    return file && fread(data, 1, (1 << 24) - 1, file) && !fclose(file) ? data : NULL;
}
static double number(const char *json, const char *key) {  // what stands behind the first such key
    return (json = strstr(json, key)) ? atof(json + strlen(key)) : (FAIL("%s must state %s", bundle, key), 0);
}
static void *golden(const char *kind, const char *name, int64_t *count) {  // int64 or double, behind an .npy's header
    char path[64], *data;
    int rows = 0, columns = 1;
    snprintf(path, sizeof path, "golden/%s%s.npy", kind, name);
    if (!(data = load(path))) return NULL;
    sscanf(strstr(data + 10, "'shape': (") + 10, "%d, %d", &rows, &columns), *count = rows * columns;
    return data + 10 + (unsigned char)data[8] + 256 * (unsigned char)data[9];
}
static OrtValue *tensor(void *data, int type, size_t bytes, size_t axes, const int64_t *shape) {
    OrtValue *value;
    for (size_t i = 0; i < axes; i++) bytes *= shape[i];
    OK(ort->CreateTensorWithDataAsOrtValue(memory, data ? data : calloc(bytes, 1), bytes, shape, axes, type, &value));
    return value;
}
static void start(int64_t rows, int64_t capacity, int plain) {  // `plain`: with products in float, not of rounded inputs
    OrtEnv *env; OrtSessionOptions *options;
    char path[4096], *stated = load("tfm.json");
    if (!stated || !strstr(stated, "\"shared\"") || strstr(stated, "\"kv\": \"int") || strstr(stated, "\"scaling\": {"))
        FAIL("%s must be a bundle for ort-cpu or ort-web with a cache of floats and positions that aren't scaled", bundle);
    if (!(ort = OrtGetApiBase()->GetApi(ORT_API_VERSION))) FAIL("ONNX Runtime %s is older than its header", VERSION);
    OK(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "client", &env));
    OK(ort->CreateSessionOptions(&options));
    snprintf(path, sizeof path, "%s/model.onnx", bundle);
    if (plain) {
        size_t size = number(strstr(stated, "\"model.onnx\": "), "\"size\": ");
        char *graph = load("model.onnx");
        if (size >= 1 << 24) FAIL("%s is larger than this client reads", path);
        for (char *at = graph; at + 16 <= graph + size; at++) if (!memcmp(at, "accuracy_level\x18\x04", 16)) at[15] = 0;
        OK(ort->AddSessionConfigEntry(options, "session.model_external_initializers_file_folder_path", bundle));
        ort->ReleaseSession(session);
        OK(ort->CreateSessionFromArray(env, graph, size, options, &session));
    } else OK(ort->CreateSession(env, path, options, &session));
    OK(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    OK(ort->SessionGetInputCount(session, &inputs));
    if (inputs < 7 || inputs > MOST) FAIL("%s has %zu inputs, which this client doesn't know", path, inputs);
    vocabulary = number(stated, "\"vocabulary\": ");
    int64_t shape[] = {rows, number(stated, "\"kv_heads\": "), capacity, number(stated, "\"head_size\": ")};
    for (size_t i = 3; i < inputs - 2; i++) {  // a layer's keys or values: read and written in one place
        snprintf(in[i] = names[0][i], 16, "%c.%zu", "vk"[i % 2], (i - 3) / 2);
        snprintf(out[i - 2] = names[1][i], 16, "%c_out.%zu", "vk"[i % 2], (i - 3) / 2);
        got[i - 2] = given[i] = tensor(NULL, F32, 4, 4, shape);
    }
    int64_t half = number(stated, "\"dims\": ") / 2, size = capacity * half;
    float *tables[] = {malloc(size * 4), malloc(size * 4)};
    for (int64_t i = 0; i < size; i++) {
        double angle = i / half * pow(number(stated, "\"theta\": "), -(double)(i % half) / half);
        tables[0][i] = cos(angle), tables[1][i] = sin(angle);
    }
    for (int i = 0; i < 2; i++) given[inputs - 2 + i] = tensor(tables[i], F32, 4, 2, (int64_t[]){capacity, half});
    in[inputs - 2] = "cos.0", in[inputs - 1] = "sin.0";
}
// Logits [rows, wanted, vocabulary] at the places `at` among `time` more tokens, until the next step.
static float *step(int64_t *tokens, int64_t rows, int64_t time, int64_t *past, int64_t *at, int64_t wanted) {
    float *logits;
    for (int i = 0; i < 3; i++) ort->ReleaseValue(given[i]);
    ort->ReleaseValue(got[0]), got[0] = NULL;
    given[0] = tensor(tokens, I64, 8, 2, (int64_t[]){rows, time}), given[1] = tensor(past, I64, 8, 1, &rows);
    given[2] = tensor(at, I64, 8, 2, (int64_t[]){rows, wanted});
    OK(ort->Run(session, NULL, (const char **)in, (const OrtValue **)given, inputs, (const char **)out, inputs - 4, got));
    OK(ort->GetTensorMutableData(got[0], (void **)&logits));
    return logits;
}
static int within(const char *kind, const char *row, const float *logits, int64_t time, int shown) {  // a row of the certificate
    int64_t n, columns, *length = golden("", "lengths", &n), *column = golden("", "columns", &columns);
    double *expected = golden(kind, "logits", &n), largest = 0;
    char *certificate = load("certificate.json");
    if (!expected || !certificate || !(certificate = strstr(certificate, row))) return 0;
    for (int64_t i = 0; i < 2 * time; i++, logits += vocabulary)
        for (int c = 0; i % time < length[i / time] && c <= columns; c++, expected++)  // the last is of all columns
            if (c < columns && !(fabs(logits[column[c]] - *expected) <= largest))
                largest = isfinite(logits[column[c]]) ? fabs(logits[column[c]] - *expected) : INFINITY;
    double budget = number(certificate, "\"budget\": "), stated = number(certificate, "\"figure\": ");
    if (shown) printf("%s %g, in the certificate %g, budget %g\n", row, largest, stated, budget);
    return largest <= budget;
}
int main(int words, char **word) {
    int64_t past[2] = {0}, at[4096], *ids = calloc(words, 8), left, time, n;
    if (words < 3 || (words < 4 && strcmp(word[2], "check"))) FAIL("usage: client BUNDLE check, or client BUNDLE COUNT ID ...");
    bundle = word[1];
    if (!strcmp(word[2], "check")) {
        if (!(ids = golden("", "tokens", &n)) || n > 4096) FAIL("%s has no golden tokens", bundle);
        time = n / 2;
        for (int i = 0; i < n; i++) at[i] = i % time;
        const char *row[] = {"\"whole: largest error\"", "\"products in float: largest error\""};
        int right = 1, sharp = golden("plain.", "logits", &n) != NULL;
        if (sharp) start(2, time, 1), right = within("plain.", row[1], step(ids, 2, time, past, at, time), time, 1);
        start(2, time, 0);  // as it generates: on some processors that is with products in float too
        float *logits = step(ids, 2, time, past, at, time);
        if (!sharp || !within("plain.", row[1], logits, time, 0)) right &= within("own.", row[0], logits, time, 1);
        return puts(right ? "Right: within each budget above." : "WRONG: above a budget."), !right;
    }
    for (int i = 3; i < words; i++) ids[i - 3] = atoll(word[i]);
    int32_t *ends = (void *)load("token_bytes");  // offsets from its start, one more than it has tokens, and their bytes
    start(1, (time = words - 3) + (left = atoll(word[2])), 0);
    for (; left-- > 0; past[0] += time, time = 1) {
        float *logits = step(ids, 1, time, past, (*at = time - 1, at), 1);
        for (size_t n = *ids = 0; n < vocabulary; n++) if (logits[n] > logits[*ids]) *ids = n;
        if (!ends) printf("%lld ", (long long)*ids), fflush(stdout);
        else if (*ids < *ends / 4 - 1) fwrite((char *)ends + ends[*ids], 1, ends[*ids + 1] - ends[*ids], stdout), fflush(stdout);
    }
    puts("");
}
