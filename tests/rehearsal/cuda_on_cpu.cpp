// Runs a CUDA kernel on a CPU, block after block, to test its indices and its arithmetic, but not its speed.
//
// Compiled with -DKERNEL_SOURCE=<file that defines the constants and includes the .cu file> and -DKERNEL=<name>. The
// threads of a block alternate on one core: each runs until its next __syncthreads, then the next thread runs. As on a
// GPU, a block continues without threads that return early.

#include <setjmp.h>
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

struct Thread {
    ucontext_t start;
    jmp_buf place;  // where it continues, without the system calls of swapcontext
    bool started = false;
    std::vector<char> stack = std::vector<char>(64 * 1024);
};

static jmp_buf scheduler;
static std::vector<Thread*> threads;  // kept from block to block

static void yield() {
    const unsigned me = threadIdx.x;
    if (!_setjmp(threads[me]->place)) _longjmp(scheduler, 1);
    threadIdx.x = me;
}

static void __syncthreads() { yield(); }

#include KERNEL_SOURCE

static const void* argument;
static bool finished;

template <class A> static void call(void (*kernel)(A)) { kernel(*static_cast<const A*>(argument)); }

static void thread_main() {
    for (;;) {  // a block each time
        call(KERNEL);
        finished = true;
        yield();
    }
}

static void resume(unsigned t) {
    threadIdx.x = t;
    finished = false;
    if (_setjmp(scheduler)) return;
    if (threads[t]->started) _longjmp(threads[t]->place, 1);
    threads[t]->started = true;
    setcontext(&threads[t]->start);
}

static void run_block(unsigned count) {
    std::vector<bool> running(count, true);
    for (bool any = true; any;) {
        any = false;
        for (unsigned t = 0; t < count; ++t) {
            if (!running[t]) continue;
            resume(t);
            running[t] = !finished;
            any = true;
        }
    }
}

extern "C" void run(long long blocks, long long block_threads, const void* kernel_argument) {
    argument = kernel_argument;
    while (threads.size() < static_cast<size_t>(block_threads)) {
        auto* thread = new Thread;
        getcontext(&thread->start);
        thread->start.uc_stack.ss_sp = thread->stack.data();
        thread->start.uc_stack.ss_size = thread->stack.size();
        thread->start.uc_link = nullptr;
        makecontext(&thread->start, thread_main, 0);
        threads.push_back(thread);
    }
    for (long long block = 0; block < blocks; ++block) {
        blockIdx.x = static_cast<unsigned>(block);
        run_block(static_cast<unsigned>(block_threads));
    }
}
