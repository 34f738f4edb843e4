// A library for LD_PRELOAD that stands between a process and its files: it records what is written and synced, in order,
// and fails calls on command. No root, no special file system.
//
//   g++ -shared -fPIC -O1 -o librecord.so record.cpp -ldl
//
// MOCO_RECORD=FILE     append one line a call:  OP FD OFFSET LENGTH PATH
//                      `write` and `create` are recorded before the call, `sync-begin` before and `sync-end` after a
//                      sync that succeeded, `ack` before a write to standard output.
// MOCO_FAULTS=FOLDER   while these files exist there, calls on files under MOCO_UNDER fail:
//                      enospc (holds a number: that many bytes can still be written), eio-sync, eio-sync-db (files other
//                      than logs), erofs.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace {

int record_fd = -1;
const char *faults = nullptr;
const char *under = nullptr;
std::atomic<long> written_when_full{0};

// Everything of ours goes to the kernel directly, never through the functions below.
__attribute__((constructor)) void start() {
    if (const char *path = getenv("MOCO_RECORD"))
        record_fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    faults = getenv("MOCO_FAULTS");
    under = getenv("MOCO_UNDER");
}

void path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
}

void record(const char *op, int fd, long offset, long length, const char *path) {
    if (record_fd < 0) return;
    char line[4400];
    int size = snprintf(line, sizeof line, "%s %d %ld %ld %s\n", op, fd, offset, length, path);
    syscall(SYS_write, record_fd, line, (size_t)size);
}

bool is_ours(const char *path) { return faults && under && strncmp(path, under, strlen(under)) == 0; }

// The content of a control file as a number; -1 if there is no such file.
long control(const char *name) {
    char path[4096], text[32] = {0};
    snprintf(path, sizeof path, "%s/%s", faults, name);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return atol(text);
}

bool is_full(const char *path, long length) {
    if (!is_ours(path)) return false;
    long room = control("enospc");
    if (room < 0) {
        written_when_full = 0;
        return false;
    }
    if (written_when_full + length > room) return true;
    written_when_full += length;
    return false;
}

bool is_log(const char *path) {
    size_t length = strlen(path);
    return length > 4 && strcmp(path + length - 4, "-wal") == 0;
}

bool sync_fails(const char *path) {
    if (!is_ours(path)) return false;
    return control("eio-sync") >= 0 || (!is_log(path) && control("eio-sync-db") >= 0);
}

template <typename F> F next(const char *name) { return reinterpret_cast<F>(dlsym(RTLD_NEXT, name)); }

int opened(int folder, const char *path, int flags, mode_t mode) {
    if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && is_ours(path) && control("erofs") >= 0) {
        errno = EROFS;
        return -1;
    }
    struct stat found;
    if ((flags & O_CREAT) && syscall(SYS_newfstatat, folder, path, &found, 0) != 0) record("create", -1, 0, 0, path);
    return syscall(SYS_openat, folder, path, flags, mode);
}

ssize_t wrote(int fd, const void *bytes, size_t length, long offset) {
    char path[4096];
    path_of(fd, path, sizeof path);
    if (is_full(path, length)) {
        errno = ENOSPC;
        return -1;
    }
    record(fd == 1 ? "ack" : "write", fd, offset, length, path);
    return offset < 0 ? syscall(SYS_write, fd, bytes, length) : syscall(SYS_pwrite64, fd, bytes, length, offset);
}

int synced(const char *name, int fd) {
    char path[4096];
    path_of(fd, path, sizeof path);
    if (sync_fails(path)) {
        errno = EIO;
        return -1;
    }
    record("sync-begin", fd, 0, 0, path);
    int outcome = next<int (*)(int)>(name)(fd);
    if (outcome == 0) record("sync-end", fd, 0, 0, path);
    return outcome;
}

int truncated(const char *name, int fd, off_t length) {
    char path[4096];
    path_of(fd, path, sizeof path);
    record("truncate", fd, 0, length, path);
    return next<int (*)(int, off_t)>(name)(fd, length);
}

mode_t mode_of(int flags, va_list arguments) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0; }

}  // namespace

#define OPEN(name)                                                    \
    int name(const char *path, int flags, ...) {                      \
        va_list arguments;                                            \
        va_start(arguments, flags);                                   \
        mode_t mode = mode_of(flags, arguments);                      \
        va_end(arguments);                                            \
        return opened(AT_FDCWD, path, flags, mode);                   \
    }
#define OPENAT(name)                                                  \
    int name(int folder, const char *path, int flags, ...) {          \
        va_list arguments;                                            \
        va_start(arguments, flags);                                   \
        mode_t mode = mode_of(flags, arguments);                      \
        va_end(arguments);                                            \
        return opened(folder, path, flags, mode);                     \
    }

extern "C" {
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
ssize_t write(int fd, const void *bytes, size_t length) { return wrote(fd, bytes, length, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return wrote(fd, bytes, length, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) { return wrote(fd, bytes, length, offset); }
int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }
int ftruncate(int fd, off_t length) noexcept { return truncated("ftruncate", fd, length); }
int ftruncate64(int fd, off64_t length) noexcept { return truncated("ftruncate64", fd, length); }
int mkdir(const char *path, mode_t mode) noexcept {
    if (is_ours(path) && control("erofs") >= 0) {
        errno = EROFS;
        return -1;
    }
    record("create", -1, 0, 0, path);
    return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
int rename(const char *from, const char *to) noexcept {
    record("rename", -1, 0, 0, to);
    return next<int (*)(const char *, const char *)>("rename")(from, to);
}
int unlink(const char *path) noexcept {
    record("unlink", -1, 0, 0, path);
    return next<int (*)(const char *)>("unlink")(path);
}
}
