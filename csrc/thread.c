/* DESIGN: threads that live as long as one thing takes.
 *
 * What: workers (worker.c) and reapers, which wait for a killed child that nobody else waits for.
 * Where: created by whoever asks; detached; they end by themselves and touch no Python.
 * Invariants: signals are blocked from birth, so no handler of the application runs on them; but the
 *     two that libc uses between threads are not, outside the window: a thread that keeps SIGSETXID
 *     blocked makes setuid() hang for good. */
#include "thread.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "state.h"
#include "sys.h"

static _Atomic int small_stack_refused;
static pthread_once_t measured = PTHREAD_ONCE_INIT;
static size_t tls_size;

/* THREAD any, once. glibc carves static TLS out of the stack, and checks for little more than its size: a
 * process that loaded libraries with 100 KiB of it would be left with too small a stack, not refused.
 * This private function tells how much it is, and is looked up at run time, as Rust's std does it. */
static void measure_tls(void)
{
    size_t (*minimum)(const pthread_attr_t *);
    pthread_attr_t attributes;
    void *symbol = dlsym(RTLD_DEFAULT, "__pthread_get_minstack");
    if (!symbol || pthread_attr_init(&attributes))
        return;
    memcpy(&minimum, &symbol, sizeof minimum);
    tls_size = minimum(&attributes);
    pthread_attr_destroy(&attributes);
}

/* THREAD any. */
int avf_thread_start(void *(*entry)(void *), void *arg)
{
    pthread_attr_t attributes;
    pthread_t thread;
    uint64_t birth = ~AVF_LIBC_SIGNALS, mask;
    int error = pthread_attr_init(&attributes);
    if (error)
        return -error;
    pthread_once(&measured, measure_tls);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (!small_stack_refused)
        pthread_attr_setstacksize(&attributes, (AVF_WORKER_STACK + tls_size + 4095) & ~(size_t)4095);
    sys_sigmask(SIG_SETMASK, &birth, &mask);
    error = pthread_create(&thread, &attributes, entry, arg);
    sys_sigmask(SIG_SETMASK, &mask, NULL);
    pthread_attr_destroy(&attributes);
    if (error == EINVAL && !small_stack_refused) {
        /* A libc that wants more, for a reason that is not known here: its default will do. */
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
