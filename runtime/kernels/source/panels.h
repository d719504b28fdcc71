// What products with a matrix of codes have in common: rows as codes in panels, tiles of outputs, exact sums of products,
// for the instruction set `Set`.
#pragma once
#include <stdint.h>
#include <string.h>

#include "gelu.h"
#include "kernels.h"
#include "partial.h"
#include "planes.h"
#include "sizes.h"

namespace {

constexpr int TILE = 16;
constexpr size_t NEAR = 384 * 1024;   // bytes of codes of inputs that stay in a core's cache
constexpr size_t NEARER = 32 * 1024;  // bytes of a matrix's codes that stay in its first one
constexpr size_t CHUNKS = 32;         // pieces of the work, at most
constexpr size_t AHEAD = 4096;        // bytes of a matrix's codes before their use that they are asked for
constexpr size_t GROUP = 8;           // panels whose results are written side by side

struct Part;

// Rows as codes, in panels of up to R, and outputs in tiles. A task has a chunk of the tiles for a group of the panels.
template <class Set, size_t R>
struct Panels {
    static constexpr size_t ROWS = R;
    static constexpr bool FIXED = Set::FIXED;
    size_t rows, outputs, inputs, panels, chunks, groups;
    typename Set::Four *codes;

    Panels(size_t rows, size_t outputs, size_t inputs, void *codes)
        : rows(rows), outputs(outputs), inputs(inputs), panels(over(rows, R)), chunks(1), groups(1), codes((typename Set::Four *)codes) {}
    size_t tiles() const { return over(outputs, TILE); }
    size_t first(size_t panel) const { return Set::FIXED ? least(panel * R, rows) : rows * panel / panels; }
    // Tiles of a matrix whose codes stay in a core's first cache.
    static size_t near_tiles(size_t inputs, size_t least_tiles) { return most(NEARER / (TILE * inputs * least_tiles), 1) * least_tiles; }
    // Before the products of tiles t .. end.
    void prepare(const Part &, size_t, size_t) const {}
    // Bytes of the codes of so many rows.
    static size_t bytes(size_t rows, size_t inputs) { return round_up(over(rows, R) * R * inputs / 4 * sizeof(typename Set::Four)); }
};

// Codes of numbers, sixteen f(i) at a time, and their sum.
template <class Set, class F>
int32_t round(int count, int8_t *codes, F f) {
    typename Set::Ints sum = Set::ints();
    for (int i = 0; i < count; i += 16) sum = Set::add(sum, Set::round(f(i), codes + i));
    return Set::sum(sum);
}

// Independent sums of a row, where rows alone don't fill the pipeline.
constexpr int chains(int rows) { return rows >= 4 ? 1 : rows >= 2 ? 2 : 4; }

// dot[i][r] += products of the codes of T tiles of outputs, each of which has `bytes` from `at` on, with those of R rows;
// `table` is of codes that are looked up.
template <class Set, int T, int R, int BITS, int CHAINS>
inline __attribute__((always_inline)) void add_dots(typename Set::Ints (&dot)[T][R][CHAINS], const uint8_t *at, size_t bytes, const typename Set::Four *x, typename Set::Table table = typename Set::Table()) {
    for (const uint8_t *end = at + bytes; at < end; at += TILE * 2 * stored_bits(BITS), x += 4 * R) {
        __builtin_prefetch(at + AHEAD), __builtin_prefetch(at + AHEAD + 64);
#pragma GCC unroll 8
        for (int g = 0; g < 4; g++) {
            typename Set::Codes four[T];
#pragma GCC unroll 4
            for (int i = 0; i < T; i++) four[i] = four_codes<Set, BITS>(at + i * bytes, g, table);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int i = 0; i < T; i++) dot[i][r][g % CHAINS] = Set::dot(dot[i][r][g % CHAINS], four[i], x[g * R + r]);
        }
    }
}

// What is added to the sums of a tile.
template <class Set>
typename Set::Floats bias_of(const float *bias, size_t n, size_t count) {
    return bias ? load_some<Set>(bias + n, count) : Set::zero();
}

// Add the bias, which may be null, to a tile of R rows, take GELU if asked, and write the outputs that are real. A sum is
// never -0, which a bias of 0 would change.
template <class Set, bool GELU = false>
inline __attribute__((always_inline)) void finish(size_t N, const float *bias, float *y, size_t t, size_t m0, size_t R, const typename Set::Floats *sums) {
    size_t n = t * TILE, count = least(N - n, TILE);
    typename Set::Floats added = bias_of<Set>(bias, n, count);
    y += m0 * N + n;
#pragma GCC unroll 16
    for (size_t r = 0; r < R; r++) {
        typename Set::Floats sum = Set::add(sums[r], added);
        if constexpr (GELU) sum = gelu<Set>(sum);
        store_some<Set>(y + r * N, sum, count);
    }
}

// What a task has.
struct Part {
    size_t index, tile, tiles_end, panel, panels_end;

    template <class Job>
    Part(const Job &job, size_t index) : index(index) {
        size_t steps = over(job.tiles(), Job::TILES), chunk = index % job.chunks, group = index / job.chunks;
        tile = steps * chunk / job.chunks * Job::TILES;
        tiles_end = least(steps * (chunk + 1) / job.chunks * Job::TILES, job.tiles());
        panel = job.panels * group / job.groups, panels_end = job.panels * (group + 1) / job.groups;
    }
};

// As many panels and tiles at a time as caches hold.
template <class Job>
void multiply(const Job &job, const Part &part) {
    size_t together = most(NEAR / (sizeof(*job.codes) / 4 * Job::ROWS * job.inputs), 1);
    size_t group = job.near_tiles(job.inputs, Job::TILES);
    for (size_t p0 = part.panel; p0 < part.panels_end; p0 += together)
        for (size_t g = part.tile; g < part.tiles_end; g += group) {
            job.prepare(part, g, least(g + group, part.tiles_end));
            for (size_t p = p0; p < p0 + together && p < part.panels_end; p++)
                for (size_t t = g; t < g + group && t < part.tiles_end; t += Job::TILES)
                    panel_tiles(job, part, t, least(part.tiles_end - t, Job::TILES), p);
        }
}

template <class Job>
void quantize_task(void *data, size_t panel) {
    quantize(*(const Job *)data, panel);
}

template <class Job>
void multiply_task(void *data, size_t index) {
    const Job &job = *(const Job *)data;
    multiply(job, Part(job, index));
}

// Codes of the rows, then products with a matrix of so many bytes.
template <class Job>
void run_product(Job &job, size_t bytes, Pool pool) {
    if (job.panels < 4)
        for (size_t p = 0; p < job.panels; p++) quantize(job, p);
    else
        pool.run(pool.owner, quantize_task<Job>, job.panels, &job);
    size_t steps = over(job.tiles(), Job::TILES);
    if constexpr (Job::FIXED) {
        // Results are written row by row, so that few pages are written at a time, and a matrix is read from a near cache.
        job.groups = least(over(job.panels, GROUP), CHUNKS / 2);
        job.chunks = least(least(most(over(CHUNKS / 2, job.groups), over(bytes, 1u << 20)), CHUNKS / job.groups), steps);
    } else {
        // Few chunks where reading the matrix is all there is to do: each costs a wake-up.
        job.chunks = least(job.rows >= 8 ? 16 : bytes > (8u << 20) ? CHUNKS : bytes > (1u << 20) ? 4 : 2, steps);
    }
    pool.run(pool.owner, multiply_task<Job>, job.chunks * job.groups, &job);
}

}  // namespace
