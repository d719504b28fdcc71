// Rows of a cache, written and read: of each case the file has its type and size as int32, numbers and scales as float32;
// the output has the row's bytes and then the numbers as they are read.
#include "target.h"
#if defined(__x86_64__)
TARGET("avx2,fma,f16c")
#include "avx2.h"
using Set = Avx2;
#else
#include "neon.h"
using Set = Neon;
#endif
#include <stdio.h>
#include <stdlib.h>

#include "cache_rows.h"

int main(int, char **names) {
    FILE *file = fopen(names[1], "rb");
    int32_t header[2];
    while (fread(header, sizeof header, 1, file) == 1) {
        size_t size = size_t(header[1]), bytes = bytes_of(CacheType(header[0]), size);
        // Blocks of memory as long as they are, so that a sanitizer sees what is touched behind them.
        float *x = (float *)malloc(size * sizeof *x), *scales = (float *)malloc(size * sizeof *x), *y = (float *)malloc(size * sizeof *x);
        void *memory = malloc(bytes);
        if (fread(x, sizeof *x, size, file) != size || fread(scales, sizeof *x, size, file) != size) return 1;
        CacheRow row = {memory, size, CacheType(header[0]), header[0] < 2 ? nullptr : scales};
        if (!row.write<Set>(x)) return 1;
        row.read<Set>(y);
        fwrite(memory, 1, bytes, stdout);
        fwrite(y, sizeof *y, size, stdout);
        free(x), free(scales), free(y), free(memory);
    }
}
#if defined(__x86_64__)
TARGET_END
#endif
