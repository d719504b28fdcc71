// Rows of a table that is stored as the matrix of a product: the tied table of tokens is there once.
#pragma once
#include "block_scales.h"

namespace {

template <class Set>
bool gather(const BlockMatrix *w, const int64_t *ids, size_t count, float *y) {
    int block = w->block, blocks = w->inputs / block;
    for (size_t m = 0; m < count; m++, y += w->columns) {
        if (ids[m] < 0 || ids[m] >= w->outputs) return false;
        size_t tile = size_t(ids[m]) / 16, place = size_t(ids[m]) % 16;
        const uint8_t *codes = w->codes + tile * 2 * w->inputs * w->bits;
        for (int c = 0; c < blocks; c++) {
            size_t at = tile * blocks + c;
            float scale[16], minimum[16] = {};
            typename Set::Floats tile_scales = scales<Set>(*w, at);
            Set::store(scale, tile_scales);
            if (w->minima) Set::store(minimum, minima<Set>(*w, at, tile_scales));
            int zero = w->zeros ? w->zeros[at * 16 + place] : 1 << ((w->table ? 8 : w->bits) - 1);
            for (int k = c * block; k < (c + 1) * block && k < w->columns; k++) {
                int code = code_at(codes + size_t(k / 16) * 32 * w->bits, w->bits, k / 4 % 4, int(place) * 4 + k % 4);
                if (w->table) code = w->table[code];
                y[k] = scale[place] * float(code - zero);
                if (w->minima) y[k] += minimum[place];
            }
        }
    }
    return true;
}

}  // namespace
