/* DESIGN: snapshots of open files.
 *
 * What: a child must get the files that its caller's numbers were at the call, whatever happens to the numbers
 *     while the request waits. There are two ways to hold a file, since each alone would do harm:
 *     - A duplicate in this process' table. It costs a number, so requests with the same open file share it
 *       (the kernel tells, exactly: F_DUPFD_QUERY, kcmp(2)). But to close any descriptor of a file drops all record locks that the
 *       process holds on it (fcntl(2)): so not for files that programs lock.
 *     - A message in flight (messages.c): holds references, but no numbers, and to discard it closes nothing in this
 *       table. For regular files, directories and devices, but terminals, pipes, sockets and memory devices.
 *     The kernel limits the files in flight: so when many requests wait, or where a filter forbids it, such a file
 *     is duplicated after all. That duplicate is not closed while this process has a record lock on the file; only a
 *     lock that is taken while it is being closed can be lost.
 * Where: held on the loop's thread, released by whoever is done with the request.
 * Invariants: an idle process holds none.
 * Deliberately absent: a guess whether two numbers are the same file. Where kcmp is refused (CONFIG_KCMP,
 *     seccomp), each request has duplicates of its own. */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"

enum {
    FILES_MESSAGES = 64,  /* at a time; beyond, duplicates */
    FILES_LOOKED_AT = 64, /* of the live duplicates, to find one to share */
};

/* linux/major.h */
enum { MAJOR_MEMORY = 1, MAJOR_TTY_AUX = 5, MAJOR_PTS_FIRST = 136, MAJOR_PTS_LAST = 143 };

/* guarded by lock */
static struct avf_file *live, *spare; /* in use, newest first; records for reuse */

/* Requests that hold duplicates; guarded by lock. */
static uint32_t holders;

/* Duplicates that wait for the end of a record lock: closed, or shared again, by a later request. */
static _Atomic uint32_t kept;

/* THREAD loop. Whether programs take record locks on such a file. Not fstat: that asks a file server, which may be
 * dead, and the loop would wait for it. */
static int file_is_lockable(int fd)
{
    struct sys_statx status;
    if (sys_statx_type(fd, &status) < 0)
        return 1; /* a filter: the way that does no harm */
    switch (status.mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFBLK:
        return 1;
    case S_IFCHR:
        return status.rdev_major != MAJOR_MEMORY && status.rdev_major != MAJOR_TTY_AUX &&
               !(status.rdev_major >= MAJOR_PTS_FIRST && status.rdev_major <= MAJOR_PTS_LAST);
    default:
        return 0;
    }
}

/* THREAD any. Whether this process has a record lock on that file: an open file description lock would
 * conflict with it (fcntl(2), F_OFD_GETLK). */
static int file_is_locked_here(int fd)
{
    struct flock look = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    while (fcntl(fd, F_OFD_GETLK, &look) == 0 && look.l_type != F_UNLCK) {
        if (look.l_pid == getpid())
            return 1;
        if (look.l_len == 0)
            break;
        look = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = look.l_start + look.l_len};
    }
    return 0;
}

/* THREAD any. */
static int file_lingers(int fd)
{
    struct linger linger;
    socklen_t size = sizeof linger;
    return getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size) == 0 && linger.l_onoff;
}

/* THREAD any, under the lock. */
static void file_unlist(struct avf_file *file)
{
    if (file->previous)
        file->previous->next = file->next;
    else
        live = file->next;
    if (file->next)
        file->next->previous = file->previous;
}

/* THREAD any, under the lock. */
static void file_list(struct avf_file *file)
{
    file->previous = NULL;
    file->next = live;
    if (live)
        live->previous = file;
    live = file;
}

/* THREAD any, under the lock. Takes the record out of use, for its descriptor to be closed. */
static int file_retire(struct avf_file *file)
{
    int fd = file->fd;
    file_unlist(file);
    file->fd = -1;
    file->next = spare;
    spare = file;
    return fd;
}

/* THREAD any, under the lock. A duplicate of a standard stream that waits for the next request. It does not linger. */
static int file_is_idle(const struct avf_file *file)
{
    return file->references == 0 && file->inherited && !file->kept;
}

/* THREAD any, under the lock. */
static void files_close_idle(void)
{
    for (struct avf_file *file = live, *next; file; file = next) {
        next = file->next;
        if (file_is_idle(file))
            close(file_retire(file));
    }
}

/* THREAD loop, under the lock. The live duplicate of the open file that this number is now, or NULL. */
static struct avf_file *file_find(int number)
{
    int looked = 0;
    for (struct avf_file *file = live, *next; file && looked < FILES_LOOKED_AT; file = next, looked++) {
        next = file->next;
        if (file->number != number)
            continue;
        if (sys_same_file(number, file->fd))
            return file;
        if (file_is_idle(file)) /* the stream has become another one */
            close(file_retire(file));
    }
    return NULL;
}

/* THREAD loop. */
static struct avf_file *file_record(void)
{
    avf_lock();
    struct avf_file *file = spare;
    if (file)
        spare = file->next;
    avf_unlock();
    return file ? file : malloc(sizeof *file);
}

/* THREAD loop, under the lock. */
static void files_share(struct avf_files *files, struct avf_file *file)
{
    file->references++;
    holders += !files->is_holder;
    files->is_holder = 1;
    files->shared[files->shared_count++] = file;
}

/* THREAD loop, in the gate. */
static int files_duplicate(struct avf_files *files, int fd, int lockable, int32_t *ret_source)
{
    struct avf_file *file = file_record();
    if (!file)
        return -ENOMEM;
    *file = (struct avf_file){.lockable = (uint8_t)lockable, .number = fd};
    file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    int error = file->fd < 0 ? -errno : 0;
    *ret_source = file->fd;
    avf_lock();
    if (error == 0) {
        file_list(file);
        files_share(files, file);
    } else {
        file->next = spare;
        spare = file;
    }
    avf_unlock();
    return error;
}

/* THREAD loop, in the gate. */
int avf_files_hold(struct avf_files *files, int fd, int32_t *numbers, int32_t *ret_source)
{
    for (uint32_t i = 0; i < files->message_count && i < 3; i++) /* only a standard stream can come twice */
        if (numbers[i] == fd) {
            *ret_source = AVF_SOURCE_RECEIVED - (int32_t)i;
            return 0;
        }
    avf_lock();
    struct avf_file *file = file_find(fd);
    if (file) {
        files_share(files, file);
        *ret_source = file->fd;
    }
    avf_unlock();
    if (file)
        return 0;
    int lockable = file_is_lockable(fd);
    if (!lockable || files->message_count >= AVF_MESSAGE_FILES ||
        (files->message_count == 0 && !avf_messages_have_room()))
        return files_duplicate(files, fd, lockable, ret_source);
    *ret_source = AVF_SOURCE_RECEIVED - (int32_t)files->message_count;
    numbers[files->message_count++] = fd;
    return 0;
}

/* THREAD loop, in the gate. */
int avf_files_hold_inherited(struct avf_files *files, int fd, int32_t *numbers, int32_t *ret_source)
{
    uint32_t count = files->shared_count;
    int error = avf_files_hold(files, fd, numbers, ret_source);
    avf_lock();
    if (error == 0 && files->shared_count > count)
        files->shared[count]->inherited = 1;
    avf_unlock();
    return error;
}

/* THREAD loop, in the gate. */
int avf_files_send(struct avf_files *files, const int32_t *numbers, int32_t *sources, uint32_t count)
{
    if (files->message_count == 0)
        return 0;
    if (avf_message_send(numbers, files->message_count, &files->message) == 0) {
        files->message_fd = files->message.out;
        return 0;
    }
    files->message_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (sources[i] > AVF_SOURCE_RECEIVED)
            continue;
        int error = files_duplicate(files, numbers[AVF_SOURCE_RECEIVED - sources[i]], 1, &sources[i]);
        if (error < 0)
            return error;
    }
    return 0;
}

/* THREAD any. */
int avf_files_may_block(const struct avf_files *files)
{
    int may_block = files->message_fd >= 0;
    avf_lock();
    for (uint32_t i = 0; i < files->shared_count && !may_block; i++)
        may_block = files->shared[i]->references == 1 &&
                    (files->shared[i]->lockable || file_lingers(files->shared[i]->fd));
    avf_unlock();
    return may_block;
}

/* THREAD any, in the gate. */
void avf_files_release(struct avf_files *files)
{
    uint32_t late = 0;
    avf_lock();
    for (uint32_t i = 0; i < files->shared_count; i++) {
        struct avf_file *file = files->shared[i];
        if (file->references > 1)
            file->references--;
        else if (file->lockable || file_lingers(file->fd))
            files->shared[late++] = file;
        else if (file->inherited && holders > files->is_holder)
            file->references = 0; /* idle */
        else
            close(file_retire(file));
    }
    holders -= files->is_holder;
    files->is_holder = 0;
    if (holders == 0)
        files_close_idle();
    files->shared_count = late;
    avf_unlock();
    if (files->message.in >= 0)
        avf_message_discard(&files->message);
}

/* THREAD worker|reaper. Lets go of one reference. Neither in the gate nor under the lock: fork(), and everybody, would
 * wait for a peer that does not read, or for a file server that is asked for locks. A fork may copy the number
 * meanwhile. */
static void file_close_late(struct avf_file *file)
{
    int fd = -1, locked = file->lockable && file_is_locked_here(file->fd);
    avf_lock();
    file->references--;
    if (file->references == 0) {
        kept += (uint32_t)locked - file->kept;
        file->kept = (uint8_t)locked;
        if (!locked)
            fd = file_retire(file);
    }
    avf_unlock();
    if (fd >= 0)
        close(fd);
}

/* THREAD worker|reaper. Takes a reference to a duplicate that waits for the end of a record lock, if there is one that
 * was not looked at since `round`. */
static struct avf_file *file_take_kept(uint64_t round)
{
    struct avf_file *file;
    avf_lock();
    for (file = live; file; file = file->next)
        if (file->kept && file->references == 0 && file->looked < round) {
            file->looked = round;
            file->references = 1;
            break;
        }
    avf_unlock();
    return file;
}

/* THREAD worker|reaper. */
void avf_files_close_late(struct avf_files *files)
{
    static _Atomic uint64_t rounds;
    struct avf_file *file;
    for (uint32_t i = 0; i < files->shared_count; i++)
        file_close_late(files->shared[i]);
    files->shared_count = 0;
    if (!kept)
        return;
    uint64_t round = ++rounds;
    while ((file = file_take_kept(round)) != NULL)
        file_close_late(file);
}

/* THREAD any, in the child of a fork. */
void avf_files_forget_shared(struct avf_files *files)
{
    files->shared_count = 0;
}

/* THREAD any, in the child of a fork. */
void avf_files_after_fork(void)
{
    while (live)
        close(file_retire(live));
    avf_messages_after_fork();
    holders = 0;
    kept = 0;
}
