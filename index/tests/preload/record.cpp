// A library for LD_PRELOAD that stands between a process and its files: it records what changes them and what is synced,
// in order and with the bytes, and fails calls on command. No root, no special file system.
//
//   g++ -shared -fPIC -O1 -o librecord.so record.cpp -ldl
//
// MOCO_RECORD=FILE     append one event a call on files under MOCO_UNDER, and one a write to standard output. What an event
//                      looks like stands at `record` below; `tests/durability/record.rs` reads it.
// MOCO_FAIL_SYNC=N     the N-th sync under MOCO_UNDER fails with EIO, and as on Linux the next one "succeeds"; with `N+`
//                      every later one fails too.
// MOCO_FAULTS=FOLDER   while these files exist there, calls on files under MOCO_UNDER fail:
//                      enospc (holds a number: that many bytes can still be written), eio-sync, eio-sync-db (files other
//                      than logs), erofs.
//
// A change and its event happen under one lock, so the order of the record is the order of the changes. A sync is recorded
// when it begins and when it has ended, and covers what came before its beginning. Calls that change files in ways that
// the record has no event for are refused as unsupported where callers have a fallback (copy_file_range, sendfile,
// fallocate), and recorded as `unrecordable` where they have none, so that a reader of the record knows it is incomplete.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <mutex>
#include <string>
#include <vector>

namespace {

enum Op : uint8_t {
    CREATE = 1,
    MKDIR = 2,
    WRITE = 3,
    TRUNCATE = 4,
    SYNC_BEGIN = 5,
    SYNC_END = 6,
    SYNC_FAILED = 7,
    RENAME = 8,
    UNLINK = 9,
    RMDIR = 10,
    SAID = 11,
    LINK = 12,
    UNRECORDABLE = 13,
};

int record_fd = -1;
const char *faults = nullptr;
const char *under = nullptr;
long failing_sync = 0;
bool failing_later = false;
long syncs = 0;
long written_when_full = 0;

// Made at the first call and never destroyed: other libraries' constructors may open files before ours has run.
std::mutex &order() {
    static std::mutex *mutex = new std::mutex;
    return *mutex;
}

// Everything of ours goes to the kernel directly, never through the functions below.
__attribute__((constructor)) void start() {
    if (const char *path = getenv("MOCO_RECORD"))
        record_fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    faults = getenv("MOCO_FAULTS");
    under = getenv("MOCO_UNDER");
    if (const char *sync = getenv("MOCO_FAIL_SYNC")) {
        failing_sync = atol(sync);
        failing_later = strchr(sync, '+') != nullptr;
    }
}

std::string path_of(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    return std::string(path, length < 0 ? 0 : length);
}

std::string path_at(int folder, const char *path) {
    if (path[0] == '/') return path;
    if (folder != AT_FDCWD) return path_of(folder) + "/" + path;
    char cwd[4096] = "";
    syscall(SYS_getcwd, cwd, sizeof cwd);
    return std::string(cwd) + "/" + path;
}

bool is_ours(const std::string &path) { return under && path.compare(0, strlen(under), under) == 0; }

// op u8, thread u32, offset i64, length u64 (bytes of data, or the new length of a truncated file), lengths of path, of
// the second path and of data as u32, then these three; little-endian.
void record(Op op, const std::string &path, const std::string &second = "", long offset = 0, uint64_t length = 0,
            const void *data = nullptr, size_t data_length = 0) {
    if (record_fd < 0 || (op != SAID && !is_ours(path))) return;
    std::vector<char> event;
    auto put = [&](const void *bytes, size_t size) { event.insert(event.end(), (const char *)bytes, (const char *)bytes + size); };
    uint32_t thread = syscall(SYS_gettid);
    int64_t at = offset;
    uint32_t lengths[3] = {(uint32_t)path.size(), (uint32_t)second.size(), (uint32_t)data_length};
    put(&op, 1), put(&thread, 4), put(&at, 8), put(&length, 8), put(lengths, 12);
    put(path.data(), path.size()), put(second.data(), second.size()), put(data, data_length);
    for (size_t done = 0; done < event.size();) {
        long written = syscall(SYS_write, record_fd, event.data() + done, event.size() - done);
        if (written <= 0) abort();
        done += written;
    }
}

// The content of a control file as a number; -1 if there is no such file.
long control(const char *name) {
    if (!faults) return -1;
    char path[4096], text[32] = {0};
    snprintf(path, sizeof path, "%s/%s", faults, name);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return atol(text);
}

// How many of `length` bytes the disk has room for.
size_t room(const std::string &path, size_t length) {
    long limit = is_ours(path) ? control("enospc") : -1;
    if (limit < 0) {
        written_when_full = 0;
        return length;
    }
    size_t left = limit > written_when_full ? limit - written_when_full : 0;
    size_t fits = length < left ? length : left;
    written_when_full += fits;
    return fits;
}

bool is_read_only(const std::string &path) { return is_ours(path) && control("erofs") >= 0; }

bool ends_with(const std::string &path, const char *end) {
    size_t length = strlen(end);
    return path.size() >= length && path.compare(path.size() - length, length, end) == 0;
}

bool sync_fails(const std::string &path) {
    if (!is_ours(path)) return false;
    syncs++;
    if (failing_sync > 0 && (syncs == failing_sync || (failing_later && syncs > failing_sync))) return true;
    return control("eio-sync") >= 0 || (!ends_with(path, "-wal") && control("eio-sync-db") >= 0);
}

template <typename F> F next(const char *name) { return reinterpret_cast<F>(dlsym(RTLD_NEXT, name)); }

int refused(int error) {
    errno = error;
    return -1;
}

int opened(int folder, const char *name, int flags, mode_t mode) {
    if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))) return syscall(SYS_openat, folder, name, flags, mode);
    std::string path = path_at(folder, name);
    if (!is_ours(path)) return syscall(SYS_openat, folder, name, flags, mode);
    std::lock_guard<std::mutex> lock(order());
    if (is_read_only(path)) return refused(EROFS);
    struct stat found;
    bool is_new = syscall(SYS_newfstatat, folder, name, &found, 0) != 0;
    if ((flags & O_CREAT) && is_new && room(path, 1) == 0) return refused(ENOSPC);
    int fd = syscall(SYS_openat, folder, name, flags, mode);
    if (fd < 0) return fd;
    if ((flags & O_TMPFILE) == O_TMPFILE)
        record(UNRECORDABLE, path, "O_TMPFILE");
    else if (is_new)
        record(CREATE, path);
    else if ((flags & O_TRUNC) && found.st_size > 0)
        record(TRUNCATE, path);
    return fd;
}

ssize_t wrote(int fd, const void *bytes, size_t length, long offset) {
    std::string path = path_of(fd);
    bool is_said = fd == STDOUT_FILENO;
    if (!is_said && !is_ours(path))
        return offset < 0 ? syscall(SYS_write, fd, bytes, length) : syscall(SYS_pwrite64, fd, bytes, length, offset);
    std::lock_guard<std::mutex> lock(order());
    size_t fits = is_said ? length : room(path, length);
    if (fits == 0 && length > 0) return refused(ENOSPC);
    long at = offset;
    if (at < 0) {
        struct stat found;
        bool at_end = (syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND) && syscall(SYS_fstat, fd, &found) == 0;
        at = at_end ? found.st_size : syscall(SYS_lseek, fd, 0, SEEK_CUR);
    }
    long written = offset < 0 ? syscall(SYS_write, fd, bytes, fits) : syscall(SYS_pwrite64, fd, bytes, fits, offset);
    if (written > 0) record(is_said ? SAID : WRITE, path, "", at, written, bytes, written);
    return written;
}

ssize_t wrote_parts(int fd, const struct iovec *parts, int count, long offset) {
    std::string all;
    for (int i = 0; i < count; i++) all.append((const char *)parts[i].iov_base, parts[i].iov_len);
    return wrote(fd, all.data(), all.size(), offset);
}

int synced(const char *name, int fd) {
    std::string path = path_of(fd);
    {
        std::lock_guard<std::mutex> lock(order());
        if (sync_fails(path)) {
            record(SYNC_FAILED, path);
            return refused(EIO);
        }
        record(SYNC_BEGIN, path);
    }
    int outcome = next<int (*)(int)>(name)(fd);
    std::lock_guard<std::mutex> lock(order());
    record(outcome == 0 ? SYNC_END : SYNC_FAILED, path);
    return outcome;
}

// Runs `change` and, where it succeeded, records it.
template <typename F> int changed(Op op, const std::string &path, const std::string &second, uint64_t length, F change) {
    std::lock_guard<std::mutex> lock(order());
    if (is_read_only(path)) return refused(EROFS);
    if (op == MKDIR && room(path, 1) == 0) return refused(ENOSPC);
    int outcome = change();
    if (outcome == 0) record(op, path, second, 0, length);
    return outcome;
}

int renamed(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    std::string target = path_at(to_folder, to);
    if (flags != 0) record(UNRECORDABLE, target, "renameat2 with flags");
    return changed(RENAME, target, path_at(from_folder, from), 0,
                   [&] { return (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags); });
}

int unlinked(int folder, const char *name, int flags) {
    return changed(flags & AT_REMOVEDIR ? RMDIR : UNLINK, path_at(folder, name), "", 0,
                   [&] { return (int)syscall(SYS_unlinkat, folder, name, flags); });
}

int linked(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    return changed(LINK, path_at(to_folder, to), path_at(from_folder, from), 0,
                   [&] { return (int)syscall(SYS_linkat, from_folder, from, to_folder, to, flags); });
}

void *mapped(void *where, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fd >= 0 && (flags & MAP_SHARED) && (protection & PROT_WRITE)) {
        std::string path = path_of(fd);
        // SQLite's index of its log: no part of what survives a crash, it is made anew by the first to open the file.
        if (!ends_with(path, "-shm")) {
            std::lock_guard<std::mutex> lock(order());
            record(UNRECORDABLE, path, "a writable mapping");
        }
    }
    return (void *)syscall(SYS_mmap, where, length, protection, flags, fd, offset);
}

bool is_recorded(int fd) { return record_fd >= 0 && is_ours(path_of(fd)); }

mode_t mode_of(int flags, va_list arguments) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0; }

}  // namespace

#define OPEN(name)                                           \
    int name(const char *path, int flags, ...) {             \
        va_list arguments;                                   \
        va_start(arguments, flags);                          \
        mode_t mode = mode_of(flags, arguments);             \
        va_end(arguments);                                   \
        return opened(AT_FDCWD, path, flags, mode);          \
    }
#define OPENAT(name)                                         \
    int name(int folder, const char *path, int flags, ...) { \
        va_list arguments;                                   \
        va_start(arguments, flags);                          \
        mode_t mode = mode_of(flags, arguments);             \
        va_end(arguments);                                   \
        return opened(folder, path, flags, mode);            \
    }

extern "C" {
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }

ssize_t write(int fd, const void *bytes, size_t length) { return wrote(fd, bytes, length, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return wrote(fd, bytes, length, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) { return wrote(fd, bytes, length, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return wrote_parts(fd, parts, count, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return wrote_parts(fd, parts, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) { return wrote_parts(fd, parts, count, offset); }

int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }

int ftruncate(int fd, off_t length) noexcept {
    return changed(TRUNCATE, path_of(fd), "", length, [&] { return (int)syscall(SYS_ftruncate, fd, length); });
}
int ftruncate64(int fd, off64_t length) noexcept { return ftruncate(fd, length); }
int truncate(const char *path, off_t length) noexcept {
    return changed(TRUNCATE, path_at(AT_FDCWD, path), "", length, [&] { return (int)syscall(SYS_truncate, path, length); });
}
int truncate64(const char *path, off64_t length) noexcept { return truncate(path, length); }

int mkdirat(int folder, const char *path, mode_t mode) noexcept {
    return changed(MKDIR, path_at(folder, path), "", 0, [&] { return (int)syscall(SYS_mkdirat, folder, path, mode); });
}
int mkdir(const char *path, mode_t mode) noexcept { return mkdirat(AT_FDCWD, path, mode); }

int rename(const char *from, const char *to) noexcept { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_folder, const char *from, int to_folder, const char *to) noexcept {
    return renamed(from_folder, from, to_folder, to, 0);
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) noexcept {
    return renamed(from_folder, from, to_folder, to, flags);
}

int unlinkat(int folder, const char *path, int flags) noexcept { return unlinked(folder, path, flags); }
int unlink(const char *path) noexcept { return unlinked(AT_FDCWD, path, 0); }
int rmdir(const char *path) noexcept { return unlinked(AT_FDCWD, path, AT_REMOVEDIR); }
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) noexcept {
    return linked(from_folder, from, to_folder, to, flags);
}
int link(const char *from, const char *to) noexcept { return linked(AT_FDCWD, from, AT_FDCWD, to, 0); }

void *mmap(void *where, size_t length, int protection, int flags, int fd, off_t offset) noexcept {
    return mapped(where, length, protection, flags, fd, offset);
}
void *mmap64(void *where, size_t length, int protection, int flags, int fd, off64_t offset) noexcept {
    return mapped(where, length, protection, flags, fd, offset);
}

ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t length, unsigned flags) {
    if (is_recorded(to)) return refused(ENOSYS);
    return syscall(SYS_copy_file_range, from, from_offset, to, to_offset, length, flags);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t length) noexcept {
    if (is_recorded(to)) return refused(EINVAL);
    return syscall(SYS_sendfile, to, from, offset, length);
}
ssize_t sendfile(int to, int from, off_t *offset, size_t length) noexcept { return sendfile64(to, from, offset, length); }
int fallocate(int fd, int mode, off_t offset, off_t length) {
    if (is_recorded(fd)) return refused(EOPNOTSUPP);
    return syscall(SYS_fallocate, fd, mode, offset, length);
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) {
    if (is_recorded(fd)) return EOPNOTSUPP;
    return fallocate(fd, 0, offset, length) == 0 ? 0 : errno;
}
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }
}
