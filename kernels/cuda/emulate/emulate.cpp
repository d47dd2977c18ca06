// Runs the kernels of this folder on the host. The interface is that of a driver's launch: a name, a grid, the addresses of
// the arguments. See emulate.h.
#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "emulate.h"

#include "../attend.cu"
#include "../experts.cu"
#include "../rows.cu"

namespace emulated {
thread_local Triple thread, block, threads, blocks;

namespace {
constexpr size_t SHARED_BYTES = 48 * 1024; // what every accelerator gives a block without being asked
constexpr size_t STACK_BYTES = 64 * 1024;
constexpr unsigned MOST_THREADS = 1024;

enum class Waits { nobody, warp, block, done };

struct Fiber {
    ucontext_t context; // to begin with; from then on fibers take turns by jumps, which cost no system call
    jmp_buf place;
    bool begun = false;
    Waits waits = Waits::nobody;
    size_t shared = 0; // how much shared memory it has named
};

struct Crew {
    std::vector<Fiber> fibers;
    std::unique_ptr<char[]> stacks{new char[MOST_THREADS * STACK_BYTES]}; // touched as far as they are used
    uint32_t words[MOST_THREADS];
    alignas(16) char memory[SHARED_BYTES];
    jmp_buf home;
    unsigned now = 0;
    uint64_t dice = 88172645463325252u;
    void (*body)(void *) = nullptr;
    void *arguments = nullptr;

    unsigned draw(unsigned n) {
        dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
        return unsigned(dice % n);
    }
};
thread_local std::unique_ptr<Crew> crew;

void enter() {
    crew->body(crew->arguments);
    crew->fibers[crew->now].waits = Waits::done;
    _longjmp(crew->home, 1);
}

void wait(Waits how) {
    Fiber &fiber = crew->fibers[crew->now];
    fiber.waits = how;
    if (_setjmp(fiber.place) == 0) _longjmp(crew->home, 1);
}

// The next turn of a fiber, until it waits or ends.
void turn(Fiber &fiber) {
    if (_setjmp(crew->home) != 0) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

// Lets go those who wait together, if all of them do. Threads that have ended are not waited for in a block, as on a
// device; a warp whose threads part company is an error of the kernel.
bool release(unsigned first, unsigned end, Waits how) {
    unsigned waiting = 0, ended = 0;
    for (unsigned i = first; i < end; i++) {
        waiting += crew->fibers[i].waits == how;
        ended += crew->fibers[i].waits == Waits::done;
    }
    if (waiting == 0 || waiting + ended < end - first) return false;
    if (how == Waits::warp && ended > 0) fail("a warp met after some of its threads had ended");
    for (unsigned i = first; i < end; i++)
        if (crew->fibers[i].waits == how) crew->fibers[i].waits = Waits::nobody;
    return true;
}

void run_block(unsigned count) {
    std::memset(crew->memory, 0xff, SHARED_BYTES); // not a number
    for (unsigned i = 0; i < count; i++) {
        Fiber &fiber = crew->fibers[i];
        fiber.waits = Waits::nobody;
        fiber.begun = false;
        fiber.shared = 0;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = crew->stacks.get() + i * STACK_BYTES;
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
    }
    std::vector<unsigned> ready(count);
    for (;;) {
        ready.clear();
        for (unsigned i = 0; i < count; i++)
            if (crew->fibers[i].waits == Waits::nobody) ready.push_back(i);
        if (ready.empty()) {
            bool moved = false, done = true;
            for (unsigned w = 0; w < count; w += 32) moved |= release(w, w + 32 < count ? w + 32 : count, Waits::warp);
            if (!moved) moved = release(0, count, Waits::block);
            for (unsigned i = 0; i < count; i++) done &= crew->fibers[i].waits == Waits::done;
            if (done) return;
            if (!moved) fail("threads of a block wait for each other for ever");
            continue;
        }
        for (unsigned left = unsigned(ready.size()); left > 0; left--) {
            unsigned at = crew->draw(left);
            crew->now = ready[at];
            ready[at] = ready[left - 1];
            thread = {crew->now % threads.x, crew->now / threads.x, 0};
            turn(crew->fibers[crew->now]);
        }
    }
}
} // namespace

void meet_block() { wait(Waits::block); }
void meet_warp() { wait(Waits::warp); }
uint32_t &slot(unsigned lane) { return crew->words[crew->now / 32 * 32 + lane]; }

void *shared(size_t bytes) {
    Fiber &fiber = crew->fibers[crew->now];
    void *here = crew->memory + fiber.shared;
    fiber.shared += (bytes + 15) / 16 * 16;
    if (fiber.shared > SHARED_BYTES) fail("more than 48 KiB of shared memory");
    return here;
}

void fail(const char *sentence) {
    std::fprintf(stderr, "emulated kernel, block (%u, %u, %u), thread %u: %s\n", block.x, block.y, block.z, thread.x, sentence);
    std::abort();
}

namespace {
template <class... A> struct Call {
    void (*kernel)(A...);
    void **arguments;
    template <size_t... I> void run(std::index_sequence<I...>) { kernel(*static_cast<std::remove_reference_t<A> *>(arguments[I])...); }
    static void enter(void *self) { static_cast<Call *>(self)->run(std::index_sequence_for<A...>()); }
};

template <class... A> void launch(void (*kernel)(A...), Triple grid, Triple size, void **arguments) {
    Call<A...> call{kernel, arguments};
    unsigned count = size.x * size.y;
    if (!crew) crew.reset(new Crew);
    crew->fibers.resize(count);
    crew->body = Call<A...>::enter;
    crew->arguments = &call;
    threads = size, blocks = grid;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                block = {x, y, z};
                run_block(count);
            }
}
} // namespace
} // namespace emulated

// 0, or 1 where no kernel has this name.
extern "C" int emulate(const char *name, const unsigned grid[3], const unsigned size[3], void **arguments) {
    if (size[2] != 1 || size[0] * size[1] == 0 || size[0] * size[1] > emulated::MOST_THREADS) emulated::fail("a block of another size");
#define KERNEL(kernel)                                                                                              \
    if (std::strcmp(name, #kernel) == 0) {                                                                            \
        emulated::launch(kernel, {grid[0], grid[1], grid[2]}, {size[0], size[1], 1}, arguments);                      \
        return 0;                                                                                                     \
    }
#include "kernels.inc"
#undef KERNEL
    return 1;
}
