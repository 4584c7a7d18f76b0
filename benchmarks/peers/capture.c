/*
 * The limits of capturing: what C alone does on this machine with the output of children.
 *
 *     capture rate PROGRAM THREADS COUNT   children with captured output, that end by themselves, a second
 *     capture bulk BYTES                   so many bytes of one child (head -c) into fresh memory
 *     capture through BYTES                so many bytes into cat, and out of it into fresh memory
 *
 * rate: THREADS threads take turns from one counter; each turn is PROGRAM with the argument "captured", with stdin
 * from /dev/null, stdout and stderr through two pipes. bulk and through have pipes of 1 MiB. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 256, PIPE_SIZE = 1 << 20, SMALL = 4096 };

extern char **environ;

/* Immutable once the threads run, but for `left`. */
static char *program;
static atomic_long left;

static void die(const char *what, int error)
{
    fprintf(stderr, "capture: %s: %s\n", what, strerror(error));
    exit(1);
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void make_pipe(int ends[2], int size)
{
    if (pipe2(ends, O_CLOEXEC) < 0)
        die("pipe2", errno);
    if (size && fcntl(ends[0], F_SETPIPE_SZ, size) < 0)
        die("F_SETPIPE_SZ", errno);
}

/* Each of the three is a descriptor, or -1 for /dev/null. */
static pid_t start(char **arguments, int in, int out, int err)
{
    int given[3] = {in, out, err};
    posix_spawn_file_actions_t actions;
    pid_t pid;

    posix_spawn_file_actions_init(&actions);
    for (int fd = 0; fd < 3; fd++)
        if (given[fd] >= 0)
            posix_spawn_file_actions_adddup2(&actions, given[fd], fd);
        else
            posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
    int error = posix_spawnp(&pid, arguments[0], &actions, NULL, arguments, environ);
    if (error != 0)
        die(arguments[0], error);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

static void reap(pid_t pid, const char *what)
{
    int status;

    if (waitpid(pid, &status, 0) < 0)
        die("waitpid", errno);
    if (status != 0) {
        fprintf(stderr, "capture: %s: wait status %d\n", what, status);
        exit(1);
    }
}

/* Reads both to their ends, and closes them; returns how much came through the first. */
static long read_both(int out, int err)
{
    struct pollfd polled[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    char buffer[SMALL];
    long total = 0;

    for (int open_ends = 2; open_ends > 0;) {
        if (poll(polled, 2, -1) < 0)
            die("poll", errno);
        for (int i = 0; i < 2; i++) {
            if (polled[i].fd < 0 || !polled[i].revents)
                continue;
            ssize_t count = read(polled[i].fd, buffer, sizeof buffer);
            if (count < 0)
                die("read", errno);
            if (count == 0) {
                close(polled[i].fd);
                polled[i].fd = -1;
                open_ends--;
            }
            total += i == 0 ? count : 0;
        }
    }
    return total;
}

static void *take_turns(void *unused)
{
    char *arguments[] = {program, "captured", NULL};

    (void)unused;
    while (atomic_fetch_sub(&left, 1) > 0) {
        int out[2], err[2];

        make_pipe(out, 0);
        make_pipe(err, 0);
        pid_t pid = start(arguments, -1, out[1], err[1]);
        close(out[1]);
        close(err[1]);
        if (read_both(out[0], err[0]) != sizeof "captured") {
            fprintf(stderr, "capture: not all of the output came\n");
            exit(1);
        }
        reap(pid, program);
    }
    return NULL;
}

static int rate(int thread_count, long count)
{
    pthread_t threads[MAX_THREADS];

    if (thread_count < 1 || thread_count > MAX_THREADS || count < 1) {
        fprintf(stderr, "capture: THREADS is 1 to %d, COUNT at least 1\n", MAX_THREADS);
        return 2;
    }
    atomic_store(&left, count);
    double begun = seconds();
    for (int i = 0; i < thread_count; i++) {
        int error = pthread_create(&threads[i], NULL, take_turns, NULL);

        if (error != 0)
            die("pthread_create", error);
    }
    for (int i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    printf("{\"rate\": %.1f, \"count\": %ld}\n", (double)count / (seconds() - begun), count);
    return 0;
}

/* Memory that has no pages yet. */
static char *fresh(size_t size)
{
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        die("mmap", errno);
    return memory;
}

/* Reads `size` bytes and then the end; writes as many to `in` meanwhile if there is one. */
static void move_bytes(char *memory, size_t size, int out, const char *data, int in)
{
    struct pollfd polled[2] = {{.fd = out, .events = POLLIN}, {.fd = in, .events = POLLOUT}};
    size_t got = 0, written = 0;
    char end;

    while (got < size) {
        if (in >= 0 && poll(polled, 2, -1) < 0)
            die("poll", errno);
        if (in >= 0 && polled[1].fd >= 0 && polled[1].revents) {
            ssize_t count = write(in, data + written, size - written);
            if (count < 0 && errno != EAGAIN)
                die("write", errno);
            written += count > 0 ? (size_t)count : 0;
            if (written == size) {
                close(in);
                polled[1].fd = -1;
            }
        }
        if (in < 0 || polled[0].revents) {
            ssize_t count = read(out, memory + got, size - got);
            if (count <= 0)
                die("read", count < 0 ? errno : EPIPE);
            got += (size_t)count;
        }
    }
    if (read(out, &end, 1) != 0)
        die("end of the output", EIO);
}

static int bulk(size_t size, const char *text)
{
    char *arguments[] = {"head", "-c", (char *)text, "/dev/zero", NULL};
    int out[2];

    double begun = seconds();
    make_pipe(out, PIPE_SIZE);
    pid_t pid = start(arguments, -1, out[1], -1);
    close(out[1]);
    move_bytes(fresh(size), size, out[0], NULL, -1);
    reap(pid, "head");
    printf("{\"gbps\": %.4f, \"count\": 1}\n", (double)size / (seconds() - begun) / 1e9);
    return 0;
}

static int through(size_t size)
{
    char *arguments[] = {"cat", NULL};
    char *data = fresh(size);
    int in[2], out[2];

    memset(data, 'x', size);
    double begun = seconds();
    make_pipe(in, PIPE_SIZE);
    make_pipe(out, PIPE_SIZE);
    pid_t pid = start(arguments, in[0], out[1], -1);
    close(in[0]);
    close(out[1]);
    if (fcntl(in[1], F_SETFL, O_NONBLOCK) < 0)
        die("O_NONBLOCK", errno);
    move_bytes(fresh(size), size, out[0], data, in[1]);
    reap(pid, "cat");
    printf("{\"gbps\": %.4f, \"count\": 1}\n", (double)size / (seconds() - begun) / 1e9);
    return 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 5 && strcmp(argv[1], "rate") == 0) {
        program = argv[2];
        return rate(atoi(argv[3]), atol(argv[4]));
    }
    if (argc == 3 && strcmp(argv[1], "bulk") == 0)
        return bulk(strtoull(argv[2], NULL, 10), argv[2]);
    if (argc == 3 && strcmp(argv[1], "through") == 0)
        return through(strtoull(argv[2], NULL, 10));
    fprintf(stderr, "usage: capture rate PROGRAM THREADS COUNT | bulk BYTES | through BYTES\n");
    return 2;
}
