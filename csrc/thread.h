/* The core's threads: how they are born, and what both kinds do. */
#ifndef AVF_THREAD_H
#define AVF_THREAD_H

/* The signals that libc uses between threads (SIGCANCEL, SIGSETXID). */
#define AVF_LIBC_SIGNALS (1ULL << 31 | 1ULL << 32)

/* THREAD any. Starts a detached thread that inherits the calling thread's confinement, with every signal
 * blocked that libc lets block. RETURNS 0 or -errno (EAGAIN: RLIMIT_NPROC, pids cgroup). */
int avf_thread_start(void *(*entry)(void *), void *arg);

/* THREAD worker|reaper. Kills what pidfd names, reaps it and closes pidfd; blocks until it is dead. */
void avf_kill_and_reap(int pidfd);

/* THREAD any. Not under the lock. OWNS the pidfd. The same off this thread, since a killed child may take
 * its time; where no thread can be had its zombie goes when the process does. */
void avf_kill_and_reap_elsewhere(int pidfd);

#endif
