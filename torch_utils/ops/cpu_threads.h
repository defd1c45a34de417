// Threads of the CPU kernels: OpenMP if the compiler supports it (then PyTorch's own threads are used), else one thread.

#pragma once

#include <stdint.h>

const int64_t WORTH_A_THREAD = 1 << 14;  // elements; waking a thread costs about as much as processing a few thousand

static inline int threads_for(int64_t elements, int threads) {
    const int64_t useful = elements / WORTH_A_THREAD;
    return useful < 2 || threads < 2 ? 1 : useful < threads ? (int)useful : threads;
}

// Call work(0) ... work(items - 1), each once, in any order.
template <class Work> static void in_parallel(int64_t items, int threads, Work work) {
    if (threads == 1) {
        for (int64_t item = 0; item < items; ++item) work(item);
        return;
    }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t item = 0; item < items; ++item) work(item);
}
