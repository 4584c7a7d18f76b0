/* How a child is created: vfork semantics on a stack of its own, by one of two calls. */
#ifndef AVF_ENGINE_H
#define AVF_ENGINE_H

#include <stddef.h>
#include <stdint.h>

/* THREAD worker. SIGNALS all blocked. Calls entry(arg) in a child that shares this process' memory
 * while the calling thread is suspended until it execs or exits. flags: AVF_CLONE_FILES and, with
 * clone3 only, AVF_CLONE_CLEAR_SIGHAND. *pidfd is written before the child runs. exit_signal is 0:
 * a child that never execs raises no SIGCHLD and only a __WALL wait sees it. A cgroup_fd >= 0 needs clone3.
 * RETURNS the pid or -errno. */
long avf_engine_clone(int use_clone3, uint64_t flags, void *stack, size_t stack_size, void (*entry)(void *),
                      void *arg, int cgroup_fd, int32_t *pidfd);

/* THREAD any. Whether clone3's answer says that libc's clone is to be tried: the kernel lacks it, or
 * a seccomp filter refuses it (old Docker: EPERM). */
int avf_engine_refused(long error);

#endif
