/*
 * The limit: how many children per second C alone starts and reaps on this machine.
 *
 * THREADS threads take turns from one counter; each turn is posix_spawn + waitpid of PROGRAM, with
 * stdin, stdout and stderr inherited. Usage: climit PROGRAM THREADS COUNT. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

enum { MAX_THREADS = 256 };

extern char **environ;

/* Immutable once the threads run, but for `left`. */
static char *program;
static atomic_long left;

static void die(const char *what, int error)
{
    fprintf(stderr, "climit: %s: %s\n", what, strerror(error));
    exit(1);
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void *take_turns(void *unused)
{
    char *arguments[] = {program, NULL};

    (void)unused;
    while (atomic_fetch_sub(&left, 1) > 0) {
        pid_t pid;
        int status;
        int error = posix_spawn(&pid, program, NULL, NULL, arguments, environ);

        if (error != 0)
            die(program, error);
        if (waitpid(pid, &status, 0) < 0)
            die("waitpid", errno);
        if (status != 0) {
            fprintf(stderr, "climit: %s: wait status %d\n", program, status);
            exit(1);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[MAX_THREADS];
    int thread_count;
    long count;
    double start, elapsed;

    if (argc != 4) {
        fprintf(stderr, "usage: climit PROGRAM THREADS COUNT\n");
        return 2;
    }
    program = argv[1];
    thread_count = atoi(argv[2]);
    count = atol(argv[3]);
    if (thread_count < 1 || thread_count > MAX_THREADS || count < 1) {
        fprintf(stderr, "climit: THREADS is 1 to %d, COUNT at least 1\n", MAX_THREADS);
        return 2;
    }

    atomic_store(&left, count);
    start = seconds();
    for (int i = 0; i < thread_count; i++) {
        int error = pthread_create(&threads[i], NULL, take_turns, NULL);

        if (error != 0)
            die("pthread_create", error);
    }
    for (int i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    elapsed = seconds() - start;
    printf("{\"rate\": %.1f, \"count\": %ld}\n", (double)count / elapsed, count);
    return 0;
}
