/* Raw system calls and the vfork clone on aarch64.
 *
 * svc preserves every register but x0. The child of clone3 starts behind the same instruction, on
 * the stack that it was given, with x0 = 0. */
#ifndef AVF_ARCH_AARCH64_H
#define AVF_ARCH_AARCH64_H

#define AVF_ARCH_HAS_CLONE3 1

/* THREAD any|child. RETURNS what the kernel returned: >= 0 or -errno. */
static inline __attribute__((always_inline)) long arch_syscall(long n, long a, long b, long c, long d, long e,
                                                               long f)
{
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory", "cc");
    return x0;
}

/* THREAD worker. RETURNS the child's pid or -errno; in the child it calls entry(arg) and never
 * returns. args->stack + args->stack_size must be a multiple of 16. */
static inline __attribute__((always_inline)) long arch_clone3(void *args, unsigned long size,
                                                              void (*entry)(void *), void *arg)
{
    register long x8 __asm__("x8") = SYS_clone3;
    register long x0 __asm__("x0") = (long)args;
    register long x1 __asm__("x1") = (long)size;
    register void (*x9)(void *) __asm__("x9") = entry;
    register void *x10 __asm__("x10") = arg;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x30, #0\n\t"
                     "mov x0, x10\n\t"
                     "blr x9\n\t"
                     "brk #1\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x9), "r"(x10)
                     : "memory", "cc");
    return x0;
}

/* The entry of a program without libc: calls main with the stack that the kernel made. */
#define ARCH_START(main)                                                                                     \
    __asm__(".globl _start\n"                                                                                \
            "_start:\n\t"                                                                                    \
            "mov x29, #0\n\t"                                                                                \
            "mov x30, #0\n\t"                                                                                \
            "mov x0, sp\n\t"                                                                                 \
            "bl " #main "\n\t"                                                                               \
            "brk #1\n")

#endif
