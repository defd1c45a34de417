// Threads for the CPU's kernels: OpenMP where the compiler has it (then they are PyTorch's own threads), else one.

#pragma once

#include <stdint.h>

const int64_t WORTH_A_THREAD = 1 << 14;  // elements; waking a thread costs about as much as a few thousand of them

static inline int threads_for(int64_t elements, int threads) {
    const int64_t useful = elements / WORTH_A_THREAD;
    return useful < 2 || threads < 2 ? 1 : useful < threads ? (int)useful : threads;
}

// work(0) ... work(items - 1), each once, in any order.
template <class Work> static void in_parallel(int64_t items, int threads, Work work) {
    if (threads == 1) {
        for (int64_t item = 0; item < items; ++item) work(item);
        return;
    }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t item = 0; item < items; ++item) work(item);
}
