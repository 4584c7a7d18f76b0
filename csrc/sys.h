/* Raw system calls, returning -errno.
 *
 * DESIGN. The child may call nothing of libc (no TLS, no locks, no cancellation points), and the
 * worker wants signals 32 and 33 in its masks, which libc's wrappers filter out: so both call the
 * kernel through this one header. Kernel structures that the oldest supported headers lack are
 * declared here. Only calls that exist on every architecture are used (dup3, not dup2). */
#ifndef AVF_SYS_H
#define AVF_SYS_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef SYS_statx
#if defined(__x86_64__)
#define SYS_statx 332
#else
#define SYS_statx 291 /* asm-generic/unistd.h */
#endif
#endif
#ifndef SYS_clone3
#define SYS_clone3 435 /* the same on every architecture, as all since 424 */
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

#if defined(AVF_FAKE_KERNEL) /* tools/fuzz */
#include AVF_FAKE_KERNEL
#elif defined(__x86_64__) && !defined(__ILP32__)
#include "arch/x86_64.h"
#elif defined(__aarch64__) && !defined(__ILP32__)
#include "arch/aarch64.h"
#else
#include "arch/generic.h"
#endif

#define AVF_INLINE static inline __attribute__((always_inline))

/* linux/sched.h */
#define AVF_CLONE_VM            0x00000100ULL
#define AVF_CLONE_FILES         0x00000400ULL
#define AVF_CLONE_PIDFD         0x00001000ULL
#define AVF_CLONE_VFORK         0x00004000ULL
#define AVF_CLONE_CLEAR_SIGHAND 0x100000000ULL /* Linux 5.5 */
#define AVF_CLONE_INTO_CGROUP   0x200000000ULL /* Linux 5.7 */

/* linux/close_range.h */
#define AVF_CLOSE_RANGE_UNSHARE 2U

/* linux/fcntl.h; Linux 6.10 */
#define AVF_F_DUPFD_QUERY 1027

/* asm-generic/socket.h; Linux 4.12 */
#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

/* linux/kcmp.h */
#define AVF_KCMP_FILE 0

/* linux/pidfd.h; Linux 6.9 */
#define AVF_PIDFD_SIGNAL_PROCESS_GROUP 4U

/* linux/wait.h; glibc has P_PIDFD since 2.36 */
#define AVF_P_PIDFD 3
#define AVF_WALL    0x40000000 /* __WALL: children of any exit signal */
#define AVF_WCLONE  0x80000000 /* __WCLONE: only those whose exit signal is not SIGCHLD */

#define AVF_SIGNALS 64 /* Linux' _NSIG on every supported architecture */

/* struct clone_args, CLONE_ARGS_SIZE_VER2 (Linux 5.7); up to `tls` it is VER0 (Linux 5.3). */
struct sys_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
    uint64_t set_tid, set_tid_size, cgroup;
};
enum { SYS_CLONE_ARGS_VER0 = 64 };
_Static_assert(offsetof(struct sys_clone_args, set_tid) == SYS_CLONE_ARGS_VER0 &&
                   sizeof(struct sys_clone_args) == 88,
               "linux/sched.h");

/* The kernel's struct sigaction differs between architectures behind its first word only, and all
 * zeros mean SIG_DFL on each. */
struct sys_sigaction {
    void *handler;
    unsigned long rest[7];
};

/* struct pidfd_info, PIDFD_INFO_SIZE_VER0 (Linux 6.13; exit_code 6.15). */
struct sys_pidfd_info {
    uint64_t mask, cgroupid;
    uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
    int32_t exit_code;
};
#define AVF_PIDFD_INFO_EXIT (1ULL << 3)
#define AVF_PIDFD_GET_INFO  0xc040ff0bUL /* _IOWR(0xFF, 11, struct pidfd_info) */

/* struct statx (Linux 4.11), up to what is read here. */
struct sys_statx {
    uint64_t before[3];
    uint32_t gid;
    uint16_t mode, spare;
    uint64_t between[12];
    uint32_t rdev_major, rdev_minor;
    uint64_t rest[15];
};
_Static_assert(offsetof(struct sys_statx, mode) == 28 && offsetof(struct sys_statx, rdev_major) == 128 &&
                   sizeof(struct sys_statx) == 256,
               "linux/stat.h");
#define AVF_AT_STATX_DONT_SYNC 0x4000
#define AVF_STATX_TYPE         1U

#define AVF_SYS6(n, a, b, c, d, e, f)                                                                        \
    arch_syscall(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define AVF_SYS4(n, a, b, c, d) AVF_SYS6(n, a, b, c, d, 0, 0)

/* THREAD any|child. */
AVF_INLINE int sys_close(int fd)
{
    return (int)AVF_SYS4(SYS_close, fd, 0, 0, 0);
}

/* THREAD any|child. */
AVF_INLINE int sys_fcntl(int fd, int command, long arg)
{
    return (int)AVF_SYS4(SYS_fcntl, fd, command, arg, 0);
}

/* THREAD any|child. Places old on new; old == new is EINVAL. */
AVF_INLINE int sys_dup3(int old, int new, int flags)
{
    return (int)AVF_SYS4(SYS_dup3, old, new, flags, 0);
}

/* THREAD any|child. */
AVF_INLINE int sys_open(const char *path, int flags)
{
    return (int)AVF_SYS4(SYS_openat, AT_FDCWD, path, flags, 0);
}

/* THREAD any|child. Linux 5.9; flags 5.9/5.11. */
AVF_INLINE int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
    return (int)AVF_SYS4(SYS_close_range, first, last, flags, 0);
}

/* THREAD any|child. Signals 32 and 33 included. */
AVF_INLINE int sys_sigmask(int how, const uint64_t *set, uint64_t *ret_old)
{
    return (int)AVF_SYS4(SYS_rt_sigprocmask, how, set, ret_old, sizeof(uint64_t));
}

/* THREAD any|child. Signals 32 and 33 included. */
AVF_INLINE int sys_sigaction(int signal, const struct sys_sigaction *new, struct sys_sigaction *ret_old)
{
    return (int)AVF_SYS4(SYS_rt_sigaction, signal, new, ret_old, sizeof(uint64_t));
}

/* THREAD any|child. */
AVF_INLINE void sys_nanosleep(long nanoseconds)
{
    struct timespec request = {0, nanoseconds};
    (void)AVF_SYS4(SYS_nanosleep, &request, 0, 0, 0);
}

/* THREAD any|child. Nanoseconds of CLOCK_MONOTONIC. */
AVF_INLINE int64_t sys_now(void)
{
    struct timespec now = {0, 0};
    (void)AVF_SYS4(SYS_clock_gettime, CLOCK_MONOTONIC, &now, 0, 0);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* linux/capability.h, version 3: effective, permitted, inheritable; capabilities 0 to 31, then 32 to 63. */
struct sys_capabilities {
    uint32_t low[3], high[3];
};
enum { SYS_CAP_EFFECTIVE, SYS_CAP_PERMITTED, SYS_CAP_INHERITABLE };

/* THREAD any|child. Of the calling thread; number is SYS_capget or SYS_capset. */
AVF_INLINE int sys_capabilities(long number, struct sys_capabilities *sets)
{
    struct {
        uint32_t version;
        int32_t pid;
    } header = {0x20080522, 0}; /* _LINUX_CAPABILITY_VERSION_3 */
    return (int)AVF_SYS4(number, &header, sets, 0, 0);
}

/* THREAD any|child. */
AVF_INLINE uint64_t sys_capabilities_get(const struct sys_capabilities *sets, int which)
{
    return sets->low[which] | (uint64_t)sets->high[which] << 32;
}

/* THREAD any|child. */
AVF_INLINE void sys_capabilities_put(struct sys_capabilities *sets, int which, uint64_t set)
{
    sets->low[which] = (uint32_t)set;
    sets->high[which] = (uint32_t)(set >> 32);
}

/* THREAD any|child. A whole process (and the vfork child is one) ends. */
AVF_INLINE __attribute__((noreturn)) void sys_exit_group(int code)
{
    for (;;)
        (void)AVF_SYS4(SYS_exit_group, code, 0, 0, 0);
}

/* struct rusage as the kernel writes it on 64-bit Linux; libc's may be larger (musl). */
struct sys_rusage {
    int64_t values[18];
};

/* THREAD any. */
AVF_INLINE int sys_pidfd_send_signal(int pidfd, int signal)
{
    return (int)AVF_SYS4(SYS_pidfd_send_signal, pidfd, signal, 0, 0);
}

/* THREAD any. To every member of the process group whose number this process has, or had: even if it has been reaped,
 * for as long as there is a member nobody else gets the number. Linux 6.9. */
AVF_INLINE int sys_pidfd_signal_group(int pidfd, int signal)
{
    return (int)AVF_SYS4(SYS_pidfd_send_signal, pidfd, signal, 0, AVF_PIDFD_SIGNAL_PROCESS_GROUP);
}

/* THREAD any. libc's waitid has no rusage. */
AVF_INLINE int sys_waitid_pidfd(int pidfd, siginfo_t *ret_info, unsigned options,
                                struct sys_rusage *ret_rusage)
{
    return (int)AVF_SYS6(SYS_waitid, AVF_P_PIDFD, pidfd, ret_info, options, ret_rusage, 0);
}

/* THREAD any. The type of a file, as far as this machine knows it: asks no file server. */
AVF_INLINE int sys_statx_type(int fd, struct sys_statx *ret_status)
{
    return (int)AVF_SYS6(SYS_statx, fd, "", AT_EMPTY_PATH | AVF_AT_STATX_DONT_SYNC, AVF_STATX_TYPE,
                         ret_status, 0);
}

/* THREAD any|child. RETURNS 0 if number a of one process and b of another are the same open file, > 0 if not, -errno
 * where nobody may ask (CONFIG_KCMP, seccomp). */
AVF_INLINE int sys_kcmp_file(long pid_a, long pid_b, int a, int b)
{
    return (int)AVF_SYS6(SYS_kcmp, pid_a, pid_b, AVF_KCMP_FILE, a, b, 0);
}

/* THREAD any|child. Whether two numbers of this process are the same open file; 0 where nobody may ask. fcntl does it
 * in an eighth of kcmp's time. */
AVF_INLINE int sys_same_file(int a, int b)
{
    int same = sys_fcntl(a, AVF_F_DUPFD_QUERY, b);
    if (same >= 0)
        return same;
    long self = AVF_SYS4(SYS_getpid, 0, 0, 0, 0);
    return sys_kcmp_file(self, self, a, b) == 0;
}

#endif
