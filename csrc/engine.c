/* DESIGN: the one place that creates processes.
 *
 * What: clone3(2) by inline assembly on x86-64 and aarch64; elsewhere, and where clone3 is refused,
 *     libc's clone(2) with CLONE_PIDFD.
 * Where: the worker, all signals blocked.
 * Invariants: never without CLONE_VM | CLONE_VFORK; never CLONE_FS, CLONE_SIGHAND or CLONE_SETTLS.
 * Deliberately absent: vfork(3) itself, whose child returns through the parent's stack frame. */
#include "engine.h"

#include <sched.h>
#include <string.h>

#include "sys.h"

struct engine_entry {
    void (*entry)(void *);
    void *arg;
};

/* THREAD child. libc's clone wants an int. */
static __attribute__((no_sanitize("address", "undefined"), noinline)) int engine_child(void *arg)
{
    const struct engine_entry *e = arg;
    e->entry(e->arg);
    return 127;
}

/* THREAD any. */
int avf_engine_refused(long error)
{
    return error == -ENOSYS || error == -EPERM || error == -EINVAL;
}

/* THREAD worker. */
long avf_engine_clone(int use_clone3, uint64_t flags, void *stack, size_t stack_size, void (*entry)(void *),
                      void *arg, int cgroup_fd, int32_t *pidfd)
{
    flags |= AVF_CLONE_VM | AVF_CLONE_VFORK | AVF_CLONE_PIDFD;
#if AVF_ARCH_HAS_CLONE3
    if (use_clone3) {
        struct sys_clone_args args = {
            .flags = flags,
            .pidfd = (uint64_t)(uintptr_t)pidfd,
            .stack = (uint64_t)(uintptr_t)stack,
            .stack_size = stack_size,
        };
        if (cgroup_fd < 0) /* no more than kernels before 5.7 know */
            return arch_clone3(&args, SYS_CLONE_ARGS_VER0, entry, arg);
        args.flags |= AVF_CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)cgroup_fd;
        return arch_clone3(&args, sizeof args, entry, arg);
    }
#endif
    if (use_clone3 || cgroup_fd >= 0 || flags & AVF_CLONE_CLEAR_SIGHAND)
        return -ENOSYS;
    struct engine_entry e = {entry, arg};
    int pid = clone(engine_child, (char *)stack + stack_size, (int)flags, &e, pidfd);
    return pid < 0 ? -errno : pid;
}
