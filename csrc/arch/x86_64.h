/* Raw system calls and the vfork clone on x86-64.
 *
 * syscall(2) clobbers rcx and r11 only. The child of clone3 starts behind the same instruction, on
 * the stack that it was given, with rax = 0; nothing of the parent's frame may be touched there, so
 * the call of its entry happens inside the same asm statement. */
#ifndef AVF_ARCH_X86_64_H
#define AVF_ARCH_X86_64_H

#define AVF_ARCH_HAS_CLONE3 1

/* THREAD any|child. RETURNS what the kernel returned: >= 0 or -errno. */
static inline __attribute__((always_inline)) long arch_syscall(long n, long a, long b, long c, long d, long e,
                                                               long f)
{
    long ret;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}

/* THREAD worker. RETURNS the child's pid or -errno; in the child it calls entry(arg) and never
 * returns. args->stack + args->stack_size must be a multiple of 16 (the ABI's alignment at a call). */
static inline __attribute__((always_inline)) long arch_clone3(void *args, unsigned long size,
                                                              void (*entry)(void *), void *arg)
{
    long ret;
    register void (*r8)(void *) __asm__("r8") = entry;
    register void *r9 __asm__("r9") = arg;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "movq %%r9, %%rdi\n\t"
                     "callq *%%r8\n\t"
                     "ud2\n"
                     "1:"
                     : "=a"(ret)
                     : "a"(SYS_clone3), "D"(args), "S"(size), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory", "cc");
    return ret;
}

/* The entry of a program without libc: calls main with the stack that the kernel made. */
#define ARCH_START(main)                                                                                     \
    __asm__(".globl _start\n"                                                                                \
            "_start:\n\t"                                                                                    \
            "xorl %ebp, %ebp\n\t"                                                                            \
            "movq %rsp, %rdi\n\t"                                                                            \
            "andq $-16, %rsp\n\t"                                                                            \
            "call " #main "\n\t"                                                                             \
            "ud2\n")

#endif
