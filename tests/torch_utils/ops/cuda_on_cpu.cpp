// Runs a CUDA kernel on a CPU, block after block, to test its indices and its arithmetic, but not its speed.
//
// Compiled with -DKERNEL_SOURCE=<file that defines the constants and includes the .cu file> and -DKERNEL=<name>. The
// threads of a block alternate on one core: each runs until its next __syncthreads, then the next thread runs. As on a
// GPU, a block continues without threads that return early.

#include <ucontext.h>

#include <vector>

#define __global__
#define __shared__ static
#define __launch_bounds__(threads)
#define DEVICE inline
#define DYNAMIC_SHARED static
#define DYNAMIC_SIZE 256 * 1024

struct Index { unsigned x; };
static Index threadIdx, blockIdx;

static ucontext_t scheduler;
static std::vector<ucontext_t> threads;

static void __syncthreads() {
    const unsigned me = threadIdx.x;
    swapcontext(&threads[me], &scheduler);
    threadIdx.x = me;
}

#include KERNEL_SOURCE

static const void* argument;
static bool finished;

template <class A> static void call(void (*kernel)(A)) { kernel(*static_cast<const A*>(argument)); }

static void thread_main() {
    call(KERNEL);
    finished = true;
    swapcontext(&threads[threadIdx.x], &scheduler);
}

static void run_block(std::vector<std::vector<char>>& stacks) {
    std::vector<bool> running(threads.size(), true);
    for (size_t t = 0; t < threads.size(); ++t) {
        getcontext(&threads[t]);
        threads[t].uc_stack.ss_sp = stacks[t].data();
        threads[t].uc_stack.ss_size = stacks[t].size();
        threads[t].uc_link = nullptr;
        makecontext(&threads[t], thread_main, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (size_t t = 0; t < threads.size(); ++t) {
            if (!running[t]) continue;
            threadIdx.x = static_cast<unsigned>(t);
            finished = false;
            swapcontext(&scheduler, &threads[t]);
            running[t] = !finished;
            any = true;
        }
    }
}

extern "C" void run(long long blocks, long long block_threads, const void* kernel_argument) {
    argument = kernel_argument;
    threads.resize(block_threads);
    std::vector<std::vector<char>> stacks(block_threads, std::vector<char>(64 * 1024));
    for (long long block = 0; block < blocks; ++block) {
        blockIdx.x = static_cast<unsigned>(block);
        run_block(stacks);
    }
}
