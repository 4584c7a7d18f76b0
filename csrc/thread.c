/* DESIGN: births of threads.
 *
 * What: every thread of the core, workers (worker.c) and the reaper (reaper.c), is created by whoever asks,
 *     detached, and ends by itself.
 * Invariants: signals are blocked from birth, so no handler of the application runs on them; but those
 *     that libc uses between threads are not, outside the window: a thread that keeps one blocked makes
 *     setuid() hang for good. */
#include "thread.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "sys.h"

/* Learnt from a success with the default size; it holds for the process: static TLS does not shrink. */
static _Atomic int small_stack_is_too_small;
static pthread_once_t measured = PTHREAD_ONCE_INIT;
static size_t tls_size;

/* THREAD any. The kernel's real-time signals begin at 32, those that libc leaves to programs at SIGRTMIN. */
uint64_t avf_libc_signals(void)
{
    return ((1ULL << (SIGRTMIN - 1)) - 1) & ~((1ULL << 31) - 1);
}

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

/* THREAD any. A stack_size of 0 is libc's default. */
static int thread_create(void *(*entry)(void *), void *arg, size_t stack_size)
{
    pthread_attr_t attributes;
    pthread_t thread;
    uint64_t birth = ~avf_libc_signals(), mask;
    int error = pthread_attr_init(&attributes);
    if (error)
        return -error;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (stack_size)
        pthread_attr_setstacksize(&attributes, stack_size);
    sys_sigmask(SIG_SETMASK, &birth, &mask);
    error = pthread_create(&thread, &attributes, entry, arg);
    sys_sigmask(SIG_SETMASK, &mask, NULL);
    pthread_attr_destroy(&attributes);
    return -error;
}

/* THREAD any. EINVAL has two reasons: a libc that wants a larger stack, or a thread that may have no threads
 * (unshare(2), CLONE_NEWPID). Only what works with a larger stack was about the stack. */
int avf_thread_start(void *(*entry)(void *), void *arg)
{
    pthread_once(&measured, measure_tls);
    size_t stack_size = (AVF_WORKER_STACK + tls_size + 4095) & ~(size_t)4095;
    if (small_stack_is_too_small)
        return thread_create(entry, arg, 0);
    int error = thread_create(entry, arg, stack_size);
    if (error != -EINVAL)
        return error;
    error = thread_create(entry, arg, 0);
    if (error == 0)
        small_stack_is_too_small = 1;
    return error;
}
