// Which instruction sets this library and this processor have. A library for one machine may be made without some.
#include "kernels.h"

#include <string.h>

namespace {

// Each platform has an array `sets` of these, the fastest first.
struct Available {
    const Kernels *kernels;
    bool (*available)();
};

}  // namespace

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern const Kernels amx_kernels, avx512_kernels, avx_vnni_kernels, avx2_kernels;

namespace {

struct Leaf {
    unsigned a = 0, b = 0, c = 0, d = 0;
    Leaf(unsigned leaf, unsigned subleaf) { __get_cpuid_count(leaf, subleaf, &a, &b, &c, &d); }
};

bool has(unsigned word, unsigned bit) { return word >> bit & 1; }

// The registers that the system saves when it switches between threads.
unsigned saved_registers() {
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool saves(unsigned registers) { return has(Leaf(1, 0).c, 27) && (saved_registers() & registers) == registers; }

bool has_avx2() {
    constexpr unsigned SSE_AVX = 0x6;
    unsigned one = Leaf(1, 0).c;
    bool fma = has(one, 12), f16c = has(one, 29);
    return saves(SSE_AVX) && fma && f16c && has(Leaf(7, 0).b, 5);
}

bool has_avx_vnni() { return has_avx2() && has(Leaf(7, 1).a, 4); }

bool has_avx512_vnni() {
    Leaf seven(7, 0);
    constexpr unsigned AVX512 = 0xe0;
    bool f = has(seven.b, 16), dq = has(seven.b, 17), bw = has(seven.b, 30), vl = has(seven.b, 31), vnni = has(seven.c, 11);
    return has_avx2() && saves(AVX512) && f && dq && bw && vl && vnni;
}

// AMX has 8 KiB of registers, which Linux gives to a process that asks.
bool has_amx() {
#if defined(__linux__)
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    Leaf seven(7, 0);
    return has_avx512_vnni() && has(seven.d, 24) && has(seven.d, 25) && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

constexpr Available sets[] = {
#if !defined(TFM_WITHOUT_AVX512)
    {&amx_kernels, has_amx},
    {&avx512_kernels, has_avx512_vnni},
#endif
#if !defined(TFM_WITHOUT_AVX_VNNI)
    {&avx_vnni_kernels, has_avx_vnni},
#endif
    {&avx2_kernels, has_avx2},
};

}  // namespace

#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

extern const Kernels neon_kernels, neon_dotprod_kernels;

namespace {

bool has_neon() { return true; }

bool has_neon_dotprod() {
#if defined(__linux__)
    constexpr unsigned long ASIMDDP = 1 << 20;
    return getauxval(AT_HWCAP) & ASIMDDP;
#elif defined(__APPLE__)
    return true;
#else
    return false;
#endif
}

constexpr Available sets[] = {{&neon_dotprod_kernels, has_neon_dotprod}, {&neon_kernels, has_neon}};

}  // namespace
#endif

namespace {

const char *chosen;

}  // namespace

extern "C" {
bool tfm_use(const char *instruction_set) {
    const Kernels *kernels = tfm_kernels(instruction_set);
    if (kernels) chosen = kernels->name;
    return kernels;
}

const Kernels *tfm_kernels(const char *instruction_set) {
    for (auto &set : sets)
        if (!strcmp(set.kernels->name, instruction_set) && set.available()) return set.kernels;
    return nullptr;
}

const char *tfm_instruction_set(void) {
    if (chosen) return chosen;
    for (auto &set : sets)
        if (set.available()) return set.kernels->name;
    return nullptr;
}
}
