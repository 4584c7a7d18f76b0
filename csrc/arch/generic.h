/* Other machines: libc's syscall(), and libc's clone() for the child (engine.c).
 *
 * syscall() writes errno, which is thread-local: the vfork child writes its suspended worker's, which
 * nobody reads. That is why only here the child's object may have an undefined symbol. */
#ifndef AVF_ARCH_GENERIC_H
#define AVF_ARCH_GENERIC_H

#include <errno.h>
#include <unistd.h>

#define AVF_ARCH_HAS_CLONE3 0

/* THREAD any|child. RETURNS >= 0 or -errno. */
static inline __attribute__((always_inline)) long arch_syscall(long n, long a, long b, long c, long d, long e,
                                                               long f)
{
    long ret = syscall(n, a, b, c, d, e, f);
    return ret == -1 ? -errno : ret;
}

#endif
