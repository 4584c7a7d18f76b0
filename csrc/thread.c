/* DESIGN: threads that live as long as one thing takes.
 *
 * What: workers (worker.c) and reapers, which wait for a killed child that nobody else waits for.
 * Where: created by whoever asks; detached; they end by themselves and touch no Python.
 * Invariants: signals are blocked from birth, so no handler of the application runs on them; but the
 *     two that libc uses between threads are not, outside the window: a thread that keeps SIGSETXID
 *     blocked makes setuid() hang for good. */
#include "thread.h"

#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "state.h"
#include "sys.h"

static _Atomic int small_stack_refused;

/* THREAD any. */
int avf_thread_start(void *(*entry)(void *), void *arg)
{
    pthread_attr_t attributes;
    pthread_t thread;
    uint64_t birth = ~AVF_LIBC_SIGNALS, mask;
    int error = pthread_attr_init(&attributes);
    if (error)
        return -error;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (!small_stack_refused)
        pthread_attr_setstacksize(&attributes, AVF_WORKER_STACK);
    sys_sigmask(SIG_SETMASK, &birth, &mask);
    error = pthread_create(&thread, &attributes, entry, arg);
    sys_sigmask(SIG_SETMASK, &mask, NULL);
    pthread_attr_destroy(&attributes);
    if (error == EINVAL && !small_stack_refused) {
        /* glibc carves static TLS out of the stack; a library loaded with much of it leaves too little. */
        small_stack_refused = 1;
        return avf_thread_start(entry, arg);
    }
    return -error;
}

/* THREAD worker|reaper. */
void avf_kill_and_reap(int pidfd)
{
    siginfo_t info;
    sys_pidfd_send_signal(pidfd, SIGKILL);
    while (sys_waitid_pidfd(pidfd, &info, WEXITED | AVF_WALL, NULL) == -EINTR)
        ;
    close(pidfd);
}

/* THREAD reaper. */
static void *reaper_main(void *arg)
{
    avf_kill_and_reap((int)(intptr_t)arg);
    return NULL;
}

/* THREAD any. */
void avf_kill_and_reap_elsewhere(int pidfd)
{
    siginfo_t info;
    sys_pidfd_send_signal(pidfd, SIGKILL);
    if (sys_waitid_pidfd(pidfd, &info, WEXITED | WNOHANG | AVF_WALL, NULL) == 0 &&
        avf_thread_start(reaper_main, (void *)(intptr_t)pidfd) == 0)
        return;
    close(pidfd);
}
