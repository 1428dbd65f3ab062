// A libcuda.so that is no GPU: the functions of NVIDIA's driver that darts-cuda calls, over the emulator. It tests what stands
// between a program and a device (copies, graphs, errors) where there is no device, and lets a whole run say --device cuda there.
//
// What a stream is asked for is done as late as it may be: when somebody waits. So a buffer that is used again before its copy is
// done, or a result that is read without waiting, gives wrong numbers here every time. A stream does what another was asked for
// only where it waits for an event of that one.
//
// The environment sets the scene, read once: DARTS_FAKE_CUDA="devices=1 version=13000 capability=90 memory=1073741824
// fail_launch=0", each of them optional. fail_launch=N makes the Nth launch fail as a lost device does.

#include "emulator.h"

#include <chrono>
#include <map>
#include <memory>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <vector>

namespace emulator {
struct Report {
    uint32_t block[3];
    uint32_t thread;
    uint64_t address;
    uint32_t wrote;
    char message[496];
};
}  // namespace emulator

using emulator::Entry;

extern "C" {
const Entry *darts_emulator_entries();
unsigned char *darts_emulator_map(size_t bytes, size_t *mapped);
void darts_emulator_unmap(unsigned char *start, size_t mapped);
size_t darts_emulator_page();
bool darts_emulator_launch(const Entry *entry, const void *args, const uint32_t grid[3], uint32_t shared_bytes, uint32_t order,
                           uint64_t seed, emulator::Report *report);
}

namespace {

enum Result {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
};

struct Scene {
    long devices = 1, version = 13000, capability = 90, fail_launch = 0;
    size_t memory = size_t(1) << 30;
    Scene() {
        const char *text = getenv("DARTS_FAKE_CUDA");
        char name[32];
        unsigned long long value;
        int used;
        for (; text && sscanf(text, " %31[a-z_]=%llu%n", name, &value, &used) == 2; text += used) {
            std::string key = name;
            if (key == "devices") devices = long(value);
            if (key == "version") version = long(value);
            if (key == "capability") capability = long(value);
            if (key == "fail_launch") fail_launch = long(value);
            if (key == "memory") memory = size_t(value);
        }
    }
};

const Scene &scene() {
    static const Scene scene;
    return scene;
}

struct Stream;

struct Event {
    Stream *pending = nullptr;  // where it was recorded and not reached
    double milliseconds = 0;
};

struct Task {
    enum { launch, to_device, to_host, event, wait } kind;
    const Entry *entry = nullptr;
    std::vector<unsigned char> args;
    uint32_t grid[3] = {}, shared_bytes = 0;
    const void *from = nullptr;
    void *to = nullptr;
    size_t bytes = 0;
    Event *recorded = nullptr;
};

struct Graph {
    std::vector<Task> tasks;
};

struct Stream {
    std::vector<Task> waiting;
    std::unique_ptr<Graph> capture;
};

struct Allocation {
    unsigned char *start;
    size_t mapped, bytes;
};

std::map<uint64_t, Allocation> allocations;
size_t allocated;
int lost;
long launches;
int a_context;
void *current;

int finish(Stream *stream);

int perform(const Task &task) {
    switch (task.kind) {
    case Task::to_device:
    case Task::to_host: memcpy(task.to, task.from, task.bytes); return SUCCESS;
    case Task::event: {
        auto now = std::chrono::steady_clock::now().time_since_epoch();
        task.recorded->pending = nullptr;
        task.recorded->milliseconds = std::chrono::duration<double, std::milli>(now).count();
        return SUCCESS;
    }
    // What is waited for may have been recorded again since: then more is done than need be, never less.
    case Task::wait: return task.recorded->pending ? finish(task.recorded->pending) : int(SUCCESS);
    case Task::launch: break;
    }
    if (++launches == scene().fail_launch) return lost = LAUNCH_FAILED;
    emulator::Report report = {};
    alignas(16) unsigned char args[4096];
    memcpy(args, task.args.data(), task.args.size());
    if (darts_emulator_launch(task.entry, args, task.grid, task.shared_bytes, 0, 0, &report)) return SUCCESS;
    fprintf(stderr, "fake driver: %s, block (%u, %u, %u), thread %u: %s%s%#llx\n", task.entry->name, report.block[0],
            report.block[1], report.block[2], report.thread, report.message, report.message[0] ? " " : "touched address ",
            static_cast<unsigned long long>(report.address));
    return lost = ILLEGAL_ADDRESS;
}

int finish(Stream *stream) {
    std::vector<Task> tasks;
    tasks.swap(stream->waiting);
    for (const Task &task : tasks)
        if (int error = perform(task)) return error;
    return lost;
}

std::vector<Stream *> streams;

int finish_all() {
    for (Stream *stream : streams)
        if (int error = finish(stream)) return error;
    return lost;
}

}  // namespace

#define FAKE extern "C" __attribute__((visibility("default"))) int

FAKE cuInit(unsigned) { return scene().devices ? SUCCESS : NO_DEVICE; }
FAKE cuDriverGetVersion(int *version) {
    *version = int(scene().version);
    return SUCCESS;
}
FAKE cuGetErrorString(int error, const char **text) {
    *text = error == LAUNCH_FAILED ? "unspecified launch failure" : error == ILLEGAL_ADDRESS ? "an illegal memory access" : "an error";
    return SUCCESS;
}
FAKE cuDeviceGetCount(int *count) {
    *count = int(scene().devices);
    return SUCCESS;
}
FAKE cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal < scene().devices ? SUCCESS : INVALID_DEVICE;
}
FAKE cuDeviceGetName(char *name, int len, int) {
    snprintf(name, size_t(len), "fake device");
    return SUCCESS;
}
FAKE cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
    case 75: *value = int(scene().capability / 10); break;  // compute capability, major
    case 76: *value = int(scene().capability % 10); break;  // and minor
    case 97: *value = 227 * 1024; break;                     // shared memory of a block, with consent
    default: *value = 0;
    }
    return SUCCESS;
}
FAKE cuDevicePrimaryCtxRetain(void **context, int) {
    *context = &a_context;
    return SUCCESS;
}
FAKE cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
FAKE cuCtxGetCurrent(void **context) {
    *context = current;
    return SUCCESS;
}
FAKE cuCtxSetCurrent(void *context) {
    current = context;
    return SUCCESS;
}
FAKE cuCtxSynchronize() { return finish_all(); }

FAKE cuMemGetInfo_v2(size_t *free, size_t *total) {
    *total = scene().memory;
    *free = scene().memory - allocated;
    return SUCCESS;
}
FAKE cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (lost) return lost;
    if (bytes > scene().memory - allocated) return OUT_OF_MEMORY;
    size_t room = (bytes + 15) / 16 * 16, mapped;
    unsigned char *start = darts_emulator_map(room, &mapped);
    if (start == nullptr) return OUT_OF_MEMORY;
    *address = uint64_t(start) + (mapped - 2 * darts_emulator_page() - room);
    allocations[*address] = Allocation{start, mapped, bytes};
    allocated += bytes;
    return SUCCESS;
}
FAKE cuMemFree_v2(uint64_t address) {
    auto found = allocations.find(address);
    if (found == allocations.end()) return INVALID_VALUE;
    finish_all();
    allocated -= found->second.bytes;
    darts_emulator_unmap(found->second.start, found->second.mapped);
    allocations.erase(found);
    return SUCCESS;
}
FAKE cuMemHostAlloc(void **memory, size_t bytes, unsigned) {
    *memory = malloc(bytes);
    return *memory ? SUCCESS : OUT_OF_MEMORY;
}
FAKE cuMemFreeHost(void *memory) {
    finish_all();
    free(memory);
    return SUCCESS;
}
FAKE cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *stream) {
    if (lost) return lost;
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    Task task{Task::to_device};
    task.from = from, task.to = reinterpret_cast<void *>(to), task.bytes = bytes;
    stream->waiting.push_back(task);
    return SUCCESS;
}
FAKE cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *stream) {
    if (lost) return lost;
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    Task task{Task::to_host};
    task.from = reinterpret_cast<void *>(from), task.to = to, task.bytes = bytes;
    stream->waiting.push_back(task);
    return SUCCESS;
}

FAKE cuStreamCreate(Stream **stream, unsigned) {
    *stream = new Stream;
    streams.push_back(*stream);
    return SUCCESS;
}
FAKE cuStreamDestroy_v2(Stream *stream) {
    finish(stream);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream) streams.erase(streams.begin() + long(i));
    delete stream;
    return SUCCESS;
}
FAKE cuStreamQuery(Stream *stream) {
    // Done for those who ask twice, as time passes.
    if (lost) return lost;
    if (stream->waiting.empty()) return SUCCESS;
    if (int error = finish(stream)) return error;
    return NOT_READY;
}
FAKE cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    Task task{Task::wait};
    task.recorded = event;
    stream->waiting.push_back(task);
    return lost;
}
FAKE cuStreamSynchronize(Stream *stream) { return stream->capture ? int(CAPTURE_UNSUPPORTED) : finish(stream); }
FAKE cuStreamBeginCapture_v2(Stream *stream, int) {
    stream->capture.reset(new Graph);
    return SUCCESS;
}
FAKE cuStreamEndCapture(Stream *stream, Graph **graph) {
    *graph = stream->capture.release();
    return SUCCESS;
}
FAKE cuGraphGetNodes(Graph *graph, void **, size_t *count) {
    *count = graph->tasks.size();
    return SUCCESS;
}
FAKE cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long) {
    *executable = new Graph(*graph);
    return SUCCESS;
}
FAKE cuGraphUpload(Graph *, Stream *) { return lost; }
FAKE cuGraphLaunch(Graph *graph, Stream *stream) {
    if (lost) return lost;
    stream->waiting.insert(stream->waiting.end(), graph->tasks.begin(), graph->tasks.end());
    return SUCCESS;
}
FAKE cuGraphExecDestroy(Graph *graph) {
    delete graph;
    return SUCCESS;
}
FAKE cuGraphDestroy(Graph *graph) {
    delete graph;
    return SUCCESS;
}

FAKE cuEventCreate(Event **event, unsigned) {
    *event = new Event;
    return SUCCESS;
}
FAKE cuEventRecord(Event *event, Stream *stream) {
    event->pending = stream;
    Task task{Task::event};
    task.recorded = event;
    stream->waiting.push_back(task);
    return lost;
}
FAKE cuEventSynchronize(Event *event) { return event->pending ? finish(event->pending) : lost; }
FAKE cuEventElapsedTime(float *milliseconds, Event *start, Event *end) {
    *milliseconds = float(end->milliseconds - start->milliseconds);
    return SUCCESS;
}
FAKE cuEventDestroy_v2(Event *event) {
    finish_all();
    delete event;
    return SUCCESS;
}

FAKE cuModuleLoadData(void **module, const void *) {
    *module = &a_context;
    return SUCCESS;
}
FAKE cuModuleUnload(void *) { return SUCCESS; }
FAKE cuModuleGetFunction(const Entry **function, void *, const char *name) {
    for (*function = darts_emulator_entries(); *function; *function = (*function)->next)
        if (strcmp((*function)->name, name) == 0) return SUCCESS;
    return NOT_FOUND;
}
FAKE cuFuncSetAttribute(const Entry *, int, int) { return SUCCESS; }
FAKE cuFuncGetAttribute(int *value, int, const Entry *) {
    *value = 0;
    return SUCCESS;
}
FAKE cuLaunchKernel(const Entry *entry, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                    unsigned shared_bytes, Stream *stream, void **params, void **) {
    if (lost) return lost;
    if (threads != entry->threads || x == 0 || y == 0 || z == 0) return INVALID_VALUE;
    Task task{Task::launch};
    task.entry = entry;
    auto *args = static_cast<const unsigned char *>(params[0]);
    task.args.assign(args, args + entry->args_bytes);
    task.grid[0] = x, task.grid[1] = y, task.grid[2] = z;
    task.shared_bytes = shared_bytes;
    (stream->capture ? stream->capture->tasks : stream->waiting).push_back(task);
    return SUCCESS;
}
