/* Threads that reap every child they can get: what a library with waitpid(-1) does to its process. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum { THREADS = 8 };

static pthread_t threads[THREADS];
static int started, options;
static atomic_int stopping;
static atomic_long stolen;

static void *steal(void *unused)
{
    (void)unused;
    while (!stopping)
        if (waitpid(-1, NULL, options) > 0)
            stolen++;
    return NULL;
}

/* Options as for waitpid(2). Returns 0 or an errno. */
int thief_start(int number, int wait_options)
{
    options = wait_options;
    stopping = 0;
    for (started = 0; started < number && started < THREADS; started++) {
        int error = pthread_create(&threads[started], NULL, steal, NULL);
        if (error)
            return error;
    }
    return 0;
}

/* For a process that has no children any more: else a thief waits. Returns what was stolen. */
long thief_stop(void)
{
    stopping = 1;
    while (started > 0)
        pthread_join(threads[--started], NULL);
    return stolen;
}

/* Has the kernel reap the children by itself, as SIGCHLD ignored does, but with a default handler. */
int thief_no_zombies(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    return sigaction(SIGCHLD, &action, NULL);
}
