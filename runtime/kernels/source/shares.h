// Work that is shared out among threads.
#pragma once
#include "kernels.h"
#include "sizes.h"

namespace {

// `count` things in at most eight tasks, or in one where there is less `work`, in numbers, than waking a thread costs.
struct Shares {
    size_t count, tasks;

    Shares(size_t count, size_t work) : count(count), tasks(work < 16384 ? 1 : least(count, 8)) {}
    size_t begin(size_t task) const { return count * task / tasks; }
    size_t end(size_t task) const { return begin(task + 1); }
    void run(Pool pool, void (*task)(void *data, size_t index), void *data) const {
        if (tasks == 1) task(data, 0);
        else pool.run(pool.owner, task, tasks, data);
    }
};

}  // namespace
