/* Forks in one thread while another makes the first use of a library: does the child find a lock held for good? */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

struct race {
    int (*use)(void **ret_handle);
    atomic_int started;
};

static void *run(void *arg)
{
    struct race *race = arg;
    void *handle;
    race->started = 1;
    race->use(&handle);
    return NULL;
}

/* One attempt, in a process of its own which has not used the library: returns the wait status of a child that
 * was forked spins later, and there made a second use. It is killed by SIGALRM where that hangs. */
int fork_race(int (*use)(void **ret_handle), void (*again)(void *), int spins)
{
    struct race race = {.use = use};
    char room[1024];
    int status = -1;
    pid_t fresh = fork();
    if (fresh == 0) {
        pthread_t thread;
        pid_t child;
        if (pthread_create(&thread, NULL, run, &race) != 0)
            _exit(1);
        while (!race.started)
            ;
        for (volatile int i = 0; i < spins; i++)
            ;
        child = fork();
        if (child == 0) {
            alarm(5);
            again(room);
            _exit(0);
        }
        pthread_join(thread, NULL);
        waitpid(child, &status, 0);
        _exit(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    waitpid(fresh, &status, 0);
    return status;
}
