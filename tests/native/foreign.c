/* What a forked process has of its parent, looked at without an allocator, a lock or Python. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PIDFD = 1, PIPE_END = 2, SOCKET = 4, ANONYMOUS = 8, OTHER = 16, HIGHEST = 4096 };

static unsigned char known[HIGHEST];

/* Notes what is open now: what a forked process may have. */
void foreign_note(void)
{
    for (int fd = 0; fd < HIGHEST; fd++)
        known[fd] = fcntl(fd, F_GETFD) >= 0;
}

static int kind_of(int fd)
{
    char path[64], target[128];
    struct stat status;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(path, target, sizeof target - 1);
    target[size < 0 ? 0 : size] = 0;
    if (strstr(target, "pidfd"))
        return PIDFD;
    if (strncmp(target, "anon_inode", 10) == 0)
        return ANONYMOUS;
    if (fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode))
        return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY ? PIPE_END : 0; /* Python reads children's output */
    if (fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode))
        return SOCKET;
    /* libuv keeps a spare one; those that tests give are open for writing too */
    return strcmp(target, "/dev/null") == 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY ? 0 : OTHER;
}

static int say(int fd, int kind)
{
    char path[64], target[128];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(path, target, sizeof target - 1);
    if (kind)
        dprintf(2, "foreign: %d is %.*s\n", fd, (int)size, target);
    return kind;
}

/* What is open beside that; as bits. */
int foreign_found(void)
{
    int found = 0;
    for (int fd = 0; fd < HIGHEST; fd++)
        if (!known[fd] && fcntl(fd, F_GETFD) >= 0)
            found |= say(fd, kind_of(fd));
    return found;
}

struct storm {
    int forks, found;
};

static void *storm_run(void *arg)
{
    struct storm *storm = arg;
    for (int i = 0; i < storm->forks; i++) {
        int status = -1;
        pid_t pid = fork();
        if (pid == 0)
            _exit(foreign_found());
        if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
            storm->found |= 1 << 16;
        else
            storm->found |= WEXITSTATUS(status);
    }
    return NULL;
}

/* So many forks in a thread that Python does not know; RETURNS all that was found. */
int foreign_storm(int forks)
{
    pthread_t thread;
    struct storm storm = {.forks = forks};
    if (pthread_create(&thread, NULL, storm_run, &storm) != 0)
        return -1;
    pthread_join(thread, NULL);
    return storm.found;
}

/* A process made without any handler of fork(), which stands until the other end of a pipe is closed. RETURNS its
 * pid. */
int foreign_raw_fork(int wait_for, int close_first)
{
    long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        char byte;
        close(close_first);
        (void)!read(wait_for, &byte, 1);
        _exit(0);
    }
    return (int)pid;
}
