// Runs kernels on the CPU, one fiber for each thread of a block, block after block on the calling OS thread. A fiber runs
// until it waits (for a barrier, for its warp) or ends; which one runs next is the caller's choice of order. Whatever no
// kernel may do ends the launch with a report instead of a result:
//
//   barriers       all threads of the block at one line; nobody returns before one
//   warp exchanges all 32 lanes at one line
//   memory         buffers end at pages that cannot be touched; the fault is caught and ends the launch
//   copies         nobody returns while they are under way
//
// Fibers that are given up when a launch fails are not unwound: kernels own nothing.

#include "emulator.h"

#include <signal.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

__thread Position position;

static const Entry *entries;

Registration::Registration(const char *name, uint32_t args_bytes, uint32_t threads, void (*run)(const void *))
    : entry{name, args_bytes, threads, run, entries} {
    entries = &entry;
}

namespace {

constexpr uint32_t MAX_THREADS = 1024;
constexpr size_t STACK = 96 * 1024;
constexpr size_t SHARED = 227 * 1024;
constexpr uint32_t MAX_COPIES = 256;
constexpr unsigned char POISON = 0xff;  // NaN in every floating-point format

enum class Order : uint32_t { forward, reverse, random };
enum class State : uint8_t { ready, at_barrier, at_exchange, returned };

struct Site {
    const char *what, *file;
    int line;
    static bool same(const char *a, const char *b) { return a == b || strcmp(a, b) == 0; }
    bool operator==(const Site &other) const {
        return line == other.line && same(file, other.file) && same(what, other.what);
    }
};

struct Warp {
    Lane in[32], out[32];
    uint32_t arrived, first;
};

// What Rust is told of a failed launch; `address` is set where memory was touched that must not be.
struct Report {
    uint32_t block[3];
    uint32_t thread;
    uint64_t address;
    uint32_t wrote;
    char message[496];
};

#if defined(__x86_64__)
using Context = void *;
extern "C" void darts_emulator_switch(Context *save, Context *load);
// Callee-saved registers on the stack, then the other stack: all that a call has to keep.
asm(R"(
.text
.globl darts_emulator_switch
darts_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#else
using Context = ucontext_t;
void darts_emulator_switch(Context *save, Context *load) { swapcontext(save, load); }
#endif

struct Copy {
    void *to;
    const void *from;
    uint32_t bytes;
    bool there;
};

struct Fiber {
    Context context;
    unsigned char *stack;
    Site site;
    State state;
    uint32_t copying;  // copies under way
    Copy copies[MAX_COPIES];
};

struct Machine {
    Fiber fibers[MAX_THREADS];
    Warp warps[MAX_THREADS / 32];
    uint64_t ready[MAX_THREADS / 64];
    Context scheduler;
    sigjmp_buf escape;
    const Entry *entry;
    const void *args;
    Report *report;
    unsigned char *shared_end;
    uint32_t current, arrived, first, returned;
    Order order;
    uint64_t random;
};

__thread Machine *machine;   // this OS thread's fibers and memory, kept between launches
__thread bool running;       // whether a fiber of this OS thread runs

size_t page() {
    static const size_t size = size_t(sysconf(_SC_PAGESIZE));
    return size;
}

// `bytes` that may be touched, between two pages that may not. The program ends where there is no memory.
unsigned char *guarded(size_t bytes, size_t *mapped) {
    size_t inner = (bytes + page() - 1) / page() * page();
    *mapped = inner + 2 * page();
    void *p = mmap(nullptr, *mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    auto *start = static_cast<unsigned char *>(p) + page();
    if (mprotect(start, inner, PROT_READ | PROT_WRITE) != 0) return nullptr;
    return start;
}

unsigned char *must(unsigned char *memory) {
    if (memory == nullptr) {
        fputs("darts-cuda-emulator: no memory\n", stderr);
        abort();
    }
    return memory;
}

uint64_t next_random(uint64_t *state) {  // splitmix64
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void set_ready(uint32_t thread) {
    machine->fibers[thread].state = State::ready;
    machine->ready[thread / 64] |= uint64_t(1) << (thread % 64);
}

void to_scheduler() { darts_emulator_switch(&machine->fibers[machine->current].context, &machine->scheduler); }

void fiber_main() {
    machine->entry->run(machine->args);
    if (machine->fibers[machine->current].copying > 0) fail("it returns while copies to shared memory are under way");
    machine->fibers[machine->current].state = State::returned;
    machine->returned++;
    to_scheduler();
    abort();
}

void start(uint32_t thread) {
    Fiber &fiber = machine->fibers[thread];
    size_t mapped;
    if (fiber.stack == nullptr) fiber.stack = must(guarded(STACK, &mapped));
#if defined(__x86_64__)
    auto *top = reinterpret_cast<void **>(fiber.stack + (STACK + page() - 1) / page() * page());
    *--top = nullptr;                                     // where fiber_main would return to
    *--top = reinterpret_cast<void *>(&fiber_main);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber.context = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
#endif
    fiber.copying = 0;
    set_ready(thread);
}

// The next fiber to run, or MAX_THREADS where all wait.
uint32_t pick() {
    constexpr uint32_t words = MAX_THREADS / 64;
    const uint64_t *ready = machine->ready;
    switch (machine->order) {
    case Order::forward:
        for (uint32_t w = 0; w < words; w++)
            if (ready[w]) return w * 64 + uint32_t(__builtin_ctzll(ready[w]));
        return MAX_THREADS;
    case Order::reverse:
        for (uint32_t w = words; w-- > 0;)
            if (ready[w]) return w * 64 + 63 - uint32_t(__builtin_clzll(ready[w]));
        return MAX_THREADS;
    case Order::random: break;
    }
    uint32_t count = 0;
    for (uint32_t w = 0; w < words; w++) count += uint32_t(__builtin_popcountll(ready[w]));
    if (count == 0) return MAX_THREADS;
    uint32_t skip = uint32_t(next_random(&machine->random) % count);
    for (uint32_t w = 0;; w++) {
        uint32_t here = uint32_t(__builtin_popcountll(ready[w]));
        if (skip >= here) {
            skip -= here;
            continue;
        }
        uint64_t bits = ready[w];
        while (skip-- > 0) bits &= bits - 1;
        return w * 64 + uint32_t(__builtin_ctzll(bits));
    }
}

void end_with_report(uint32_t thread) {
    Report *report = machine->report;
    report->block[0] = position.block.x;
    report->block[1] = position.block.y;
    report->block[2] = position.block.z;
    report->thread = thread;
    running = false;
    siglongjmp(machine->escape, 1);
}

const char *base(const char *file) {
    // The last folder and the file are enough to find it.
    const char *cut = file, *slash = nullptr;
    for (const char *p = file; *p; p++)
        if (*p == '/') cut = slash ? slash + 1 : file, slash = p;
    return cut;
}

// All fibers that have not returned wait, and nobody will release them: say who waits for whom.
void deadlock() {
    for (uint32_t t = 0; t < machine->entry->threads; t++) {
        const Fiber &fiber = machine->fibers[t];
        if (fiber.state == State::returned || fiber.state == State::ready) continue;
        uint32_t first = 0, last = machine->entry->threads;
        if (fiber.state == State::at_exchange) first = t / 32 * 32, last = first + 32;
        for (uint32_t other = first; other < last; other++) {
            const Fiber &absent = machine->fibers[other];
            if (absent.state == fiber.state && absent.site == fiber.site) continue;
            machine->current = t;
            if (absent.state == State::returned)
                fail("%s at %s:%d waits for thread %u, which has returned", fiber.site.what, base(fiber.site.file),
                     fiber.site.line, other);
            fail("%s at %s:%d waits for thread %u, which is at %s of %s:%d", fiber.site.what, base(fiber.site.file),
                 fiber.site.line, other, absent.site.what, base(absent.site.file), absent.site.line);
        }
    }
    fail("no thread can go on");
}

void run_block() {
    memset(machine->ready, 0, sizeof machine->ready);
    machine->arrived = machine->returned = 0;
    uint32_t threads = machine->entry->threads;
    for (uint32_t w = 0; w < threads / 32; w++) machine->warps[w].arrived = 0;
    for (uint32_t t = 0; t < threads; t++) start(t);
    while (machine->returned < threads) {
        uint32_t next = pick();
        if (next == MAX_THREADS) deadlock();
        machine->ready[next / 64] &= ~(uint64_t(1) << (next % 64));
        machine->current = next;
        position.thread = uint3{next, 0, 0};
        running = true;
        darts_emulator_switch(&machine->scheduler, &machine->fibers[next].context);
        running = false;
    }
}

struct sigaction previous[2];
const int SIGNALS[2] = {SIGSEGV, SIGBUS};

// A guard page was touched by a fiber: end the launch. Anything else is not ours.
void on_signal(int signal, siginfo_t *info, void *context) {
    (void)context;
    if (!running) {
        for (int i = 0; i < 2; i++)
            if (SIGNALS[i] == signal) sigaction(signal, &previous[i], nullptr);
        return;  // the instruction faults again, under the former handler
    }
    Report *report = machine->report;
    report->address = uint64_t(reinterpret_cast<uintptr_t>(info->si_addr));
#if defined(__x86_64__) && defined(__linux__)
    report->wrote = (static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_ERR] & 2) ? 1 : 0;
#endif
    unsigned char *stack = machine->fibers[machine->current].stack;
    auto *at = static_cast<unsigned char *>(info->si_addr);
    if (at < stack && at >= stack - page()) {
        report->address = 0;
        strcpy(report->message, "its stack overflowed");
    } else if (at >= machine->shared_end && at < machine->shared_end + page()) {
        report->address = 0;
        snprintf(report->message, sizeof report->message, "it %s %zu bytes past the end of shared memory",
                 report->wrote ? "wrote" : "read", size_t(at - machine->shared_end));
    }
    end_with_report(machine->current);
}

void handle_signals() {
    static const bool once = [] {
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        for (int i = 0; i < 2; i++) sigaction(SIGNALS[i], &action, &previous[i]);
        return true;
    }();
    (void)once;
    stack_t stack = {};
    sigaltstack(nullptr, &stack);
    if (stack.ss_flags & SS_DISABLE) {
        size_t mapped;
        stack = {};
        stack.ss_size = 64 * 1024;
        stack.ss_sp = must(guarded(stack.ss_size, &mapped));
        sigaltstack(&stack, nullptr);
    }
}

Machine *this_machine() {
    if (machine == nullptr) {
        size_t mapped;
        auto *memory = must(guarded(sizeof(Machine), &mapped));
        machine = reinterpret_cast<Machine *>(memory);  // zeros
        machine->shared_end = must(guarded(SHARED, &mapped)) + (SHARED + page() - 1) / page() * page();
        handle_signals();
    }
    return machine;
}

}  // namespace

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(machine->report->message, sizeof machine->report->message, format, arguments);
    va_end(arguments);
    end_with_report(machine->current);
    abort();
}

void barrier(const char *file, int line) {
    Fiber &fiber = machine->fibers[machine->current];
    uint32_t threads = machine->entry->threads;
    fiber.site = Site{"the barrier", file, line};
    fiber.state = State::at_barrier;
    if (machine->arrived == 0) machine->first = machine->current;
    const Site &other = machine->fibers[machine->first].site;
    if (!(other == fiber.site))
        fail("it is at the barrier of %s:%d, and thread %u at that of %s:%d", base(file), line, machine->first,
             base(other.file), other.line);
    if (++machine->arrived == threads) {
        machine->arrived = 0;
        for (uint32_t t = 0; t < threads; t++) set_ready(t);
    }
    to_scheduler();
}

void copy(void *to, const void *from, size_t bytes, bool there) {
    Fiber &fiber = machine->fibers[machine->current];
    aligned(static_cast<unsigned char *>(to), bytes);
    if (there) aligned(static_cast<const unsigned char *>(from), bytes);
    if (fiber.copying == MAX_COPIES) fail("more than %u copies to shared memory are under way", MAX_COPIES);
    memset(to, POISON, bytes);
    fiber.copies[fiber.copying++] = Copy{to, from, uint32_t(bytes), there};
}

void copies_done() {
    Fiber &fiber = machine->fibers[machine->current];
    for (uint32_t i = 0; i < fiber.copying; i++) {
        const Copy &copy = fiber.copies[i];
        if (copy.there) memcpy(copy.to, copy.from, copy.bytes);
        else memset(copy.to, 0, copy.bytes);
    }
    fiber.copying = 0;
}

void exchange(const void *in, size_t in_bytes, void *out, size_t out_bytes, Combine combine, const char *what, const char *file,
              int line) {
    uint32_t thread = machine->current, lane = thread % 32, first = thread - lane;
    Fiber &fiber = machine->fibers[thread];
    Warp &warp = machine->warps[thread / 32];
    fiber.site = Site{what, file, line};
    fiber.state = State::at_exchange;
    memcpy(warp.in[lane].bytes, in, in_bytes);
    if (warp.arrived == 0) warp.first = thread;
    const Site &other = machine->fibers[warp.first].site;
    if (!(other == fiber.site))
        fail("it is at %s of %s:%d, and thread %u of its warp at %s of %s:%d", what, base(file), line, warp.first, other.what,
             base(other.file), other.line);
    if (++warp.arrived == 32) {
        // Every lane has taken its former `out`: it could not have come here else.
        warp.arrived = 0;
        combine(warp.in, warp.out);
        for (uint32_t t = first; t < first + 32; t++) set_ready(t);
    }
    to_scheduler();
    memcpy(out, warp.out[lane].bytes, out_bytes);
}

}  // namespace emulator

using namespace emulator;

extern "C" {

const Entry *darts_emulator_entries() { return entries; }

// `bytes` of poison between two pages that fault; `offset` and `mapped` say where they lie in what is mapped.
unsigned char *darts_emulator_map(size_t bytes, size_t *mapped) {
    unsigned char *start = guarded(bytes, mapped);
    if (start != nullptr) memset(start, POISON, *mapped - 2 * page());
    return start;
}

void darts_emulator_unmap(unsigned char *start, size_t mapped) { munmap(start - page(), mapped); }

size_t darts_emulator_page() { return page(); }

// Runs one launch. Returns whether it went well; if not, `report` says what happened.
bool darts_emulator_launch(const Entry *entry, const void *args, const uint32_t grid[3], uint32_t shared_bytes, uint32_t order,
                           uint64_t seed, Report *report) {
    Machine *m = this_machine();
    m->entry = entry;
    m->args = args;
    m->report = report;
    m->order = Order(order);
    m->random = seed;
    uint64_t count = uint64_t(grid[0]) * grid[1] * grid[2];
    std::vector<uint64_t> blocks(count);
    for (uint64_t i = 0; i < count; i++) blocks[i] = m->order == Order::reverse ? count - 1 - i : i;
    if (m->order == Order::random)
        for (uint64_t i = count; i > 1; i--) std::swap(blocks[i - 1], blocks[next_random(&m->random) % i]);
    size_t shared = (size_t(shared_bytes) + 15) / 16 * 16;
    position.threads = uint3{entry->threads, 1, 1};
    position.grid = uint3{grid[0], grid[1], grid[2]};
    position.shared = m->shared_end - shared;
    position.shared_bytes = shared_bytes;
    // No variable that changes below lives across the jump.
    if (sigsetjmp(m->escape, 1) != 0) return false;
    for (uint64_t block : blocks) {
        position.block = uint3{uint32_t(block % grid[0]), uint32_t(block / grid[0] % grid[1]),
                               uint32_t(block / grid[0] / grid[1])};
        memset(position.shared, POISON, shared);
        run_block();
    }
    return true;
}

}
