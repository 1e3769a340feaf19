/* aflock/file.h: files that several programs read and change, without torn content and without blocking the loop.
 *
 * Each call does one thing with one file: it acquires the lock FILE.lock beside it, does its work on the executor while
 * the lock is held, and calls back once while the lock is being given back. Everybody who takes that lock is excluded:
 * other programs with these functions, aflock and flock(1) on FILE.lock, Python's FileLock("FILE.lock"). The lock file
 * stays.
 *
 * What others see
 *   A file is changed by writing a new one, FILE.lock.tmp, making it durable and renaming it. So who only reads, with
 *   these functions or without a lock, sees the old or the new content, never a mixture, and so it is after a crash at
 *   any moment. A FILE.lock.tmp that a killed program has left is removed by the next call on FILE: whoever holds the
 *   lock knows that nobody else is writing. A file that is replaced keeps its permission bits and its owner (if the
 *   owner cannot be kept the call fails, step "chown"), not its hard links, ACLs and extended attributes.
 *   A line is appended by one write(2).
 *
 * Which files
 *   Regular ones. A symbolic link at the end of the path is AFLOCK_ELOOP: its target may be locked under another name.
 *   A directory is AFLOCK_EISDIR, anything else AFLOCK_ENOTFILE; none is waited for. The name has at most 246 bytes, so
 *   that FILE.lock.tmp can be made, else AFLOCK_ENAMETOOLONG. Paths are relative to the working directory at the time
 *   of the call.
 *
 * Errors
 *   A call that returns 0 calls back exactly once, later, as aflock_acquire does; otherwise its callback never runs:
 *   AFLOCK_EINVAL, AFLOCK_ENAMETOOLONG, AFLOCK_ENOMEM, and what aflock_open and aflock_acquire answer. A failure leaves
 *   the file as it was, with the exceptions that are named below.
 */
#ifndef AFLOCK_FILE_H
#define AFLOCK_FILE_H

#include <aflock/aflock.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct aflock_file_options {
    size_t size;
    const aflock_options *lock; /* of FILE.lock: protocol, waiting; borrowed during the call; NULL: defaults */
    const aflock_acquire_options *acquire; /* timeout, token, owner, ...; borrowed during the call; NULL: defaults. The
                                              mode is chosen by the call: shared for reading, if the protocol can, else
                                              exclusive. A timeout and a token end the waiting; once the work has begun
                                              it is done. on_acquired must be NULL */
    uint64_t max_size;                     /* bytes of content, old or new, that are more are refused: AFLOCK_ESYS with
                                              EFBIG; default 64 MiB. A file that is only appended to may be larger */
    uint32_t mode;                         /* permission bits of a file that is created, filtered by the umask; default
                                              0666 */
    int no_sync;                           /* not 0: the change is not made durable (fsync of file and directory), so it
                                              may be lost, or the file be empty, if the machine crashes; default 0 */
} aflock_file_options;

AFLOCK_API void aflock_file_options_init(aflock_file_options *options);

/* What a callback learns. Pointers live until it returns. */
typedef struct aflock_file_result {
    size_t size;
    int status;        /* 0, or AFLOCK_E...; of the lock, or of the work. AFLOCK_EBUSY: the context was freed, and the
                          work goes on. AFLOCK_ECOMPROMISED: it was done, and the lease was lost meanwhile */
    int sys_errno;     /* what the system said, or 0 */
    int cleanup_errno; /* why FILE.lock.tmp could not be removed after a failure, or 0; the next call tries again */
    const char *step;  /* the failing step ("open", "write", "fsync", "rename", ...), or NULL */
    const char *path;  /* absolute: of the file that the step was about, or of FILE */
    const void *data;  /* aflock_file_read: the content, with a '\0' behind it that does not count; else NULL */
    size_t length;     /* ... its bytes */
    int exists;        /* aflock_file_read: 0: there is no such file (status is 0, length too) */
} aflock_file_result;

/* Runs once, from a turn, on the loop's thread; may call anything but aflock_ctx_free. */
typedef void (*aflock_file_callback)(const aflock_file_result *result, void *user);

/* Reads the whole file. Its directory has to exist, unlike for the other calls: AFLOCK_ENOENT. [loop's thread] */
AFLOCK_API int aflock_file_read(aflock_ctx *ctx, const char *path, const aflock_file_options *options,
                                aflock_file_callback callback, void *user);

/* Makes the file contain `data`, which is copied; creates it if it is missing. If making the rename durable fails
 * (step "fsync", path: the directory) the new content is there already. [loop's thread] */
AFLOCK_API int aflock_file_replace(aflock_ctx *ctx, const char *path, const void *data, size_t length,
                                   const aflock_file_options *options, aflock_file_callback callback, void *user);

/* The same for a file that must not exist: it appears complete, or not at all. AFLOCK_ESYS with EEXIST: it is there, by
 * whomever it was made, and stays as it is. [loop's thread] */
AFLOCK_API int aflock_file_create(aflock_ctx *ctx, const char *path, const void *data, size_t length,
                                  const aflock_file_options *options, aflock_file_callback callback, void *user);

/* Appends `line` (copied) and a newline by exactly one write; creates the file if it is missing. AFLOCK_EINVAL: there
 * is a newline in it. What could be written in part only (no space, a quota, a limit of the file's size) is taken back.
 * A last line without a newline, as a crash in the middle of a long line may leave it, is ended first, by the same
 * write. If only fsync fails the line is there. [loop's thread] */
AFLOCK_API int aflock_file_append(aflock_ctx *ctx, const char *path, const char *line, size_t length,
                                  const aflock_file_options *options, aflock_file_callback callback, void *user);

/* Appends lines, each of which ends with its newline, by exactly one write, under one hold: none is torn, and none of
 * another program comes between them. AFLOCK_EINVAL: the last byte is no newline, or there is none. Otherwise as
 * aflock_file_append: what could be written in part only, the lines that would have found room included, is taken back.
 * Linux writes at most 2 GiB at one time. [loop's thread] */
AFLOCK_API int aflock_file_append_lines(aflock_ctx *ctx, const char *path, const char *lines, size_t length,
                                        const aflock_file_options *options, aflock_file_callback callback, void *user);

typedef struct aflock_file_content {
    void *data;
    size_t length;
    int exists;
} aflock_file_content;

/* Turns what the file contains into what it will contain. Runs on a worker thread while the lock is held, and must not
 * call into the context. `before` is the library's, with a '\0' behind its data; if there is no file its length is 0
 * and `exists` too. Into `after` (NULL, 0) it stores a block of malloc(3)'s, which the library frees, also after a
 * refusal. Returns 0: `after` is written (`exists` is not looked at; NULL and 0: an empty file; NULL and more: a
 * refusal, EINVAL); AFLOCK_FILE_KEEP: all stays as it is; an errno: a refusal, answered as AFLOCK_EREFUSED with that
 * sys_errno. */
enum { AFLOCK_FILE_KEEP = -1 };
typedef int (*aflock_file_change)(const aflock_file_content *before, aflock_file_content *after, void *user);

/* Reads the file, has it changed, replaces it; all under one hold. `user` is the function's and the callback's: if the
 * callback says AFLOCK_EBUSY the function may still use it. [loop's thread] */
AFLOCK_API int aflock_file_update(aflock_ctx *ctx, const char *path, aflock_file_change change,
                                  const aflock_file_options *options, aflock_file_callback callback, void *user);

#ifdef __cplusplus
}
#endif
#endif
