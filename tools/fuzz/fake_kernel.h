/* In place of an architecture's system calls: no call is made, and what the kernel would read is read. */
#ifndef FAKE_KERNEL_H
#define FAKE_KERNEL_H

#define AVF_ARCH_HAS_CLONE3 0

/* THREAD any. RETURNS what the fake kernel says. */
long arch_syscall(long n, long a, long b, long c, long d, long e, long f);

#endif
