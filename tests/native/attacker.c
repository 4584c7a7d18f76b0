/* Attacks a process from another user: `attacker PID ADDRESS`. Until the end of its standard input it tries to write
 * to the address, in that process and in each of its children, to trace it, to stop it and to open its memory. Then it
 * prints how often it got at the process, and how many children it tried. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <unistd.h>

static int write_to(int pid, uintptr_t address)
{
    char path[300], value = 'x';
    struct iovec mine = {&value, 1}, theirs = {(void *)address, 1};
    int written = process_vm_writev(pid, &mine, 1, &theirs, 1, 0) == 1;
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int fd = open(path, O_RDWR);
    if (fd >= 0) {
        written += pwrite(fd, &value, 1, (off_t)address) == 1;
        close(fd);
    }
    return written;
}

int main(int argc, char **argv)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    long reached = 0, children = 0;
    if (argc != 3)
        return 64;
    int pid = atoi(argv[1]);
    uintptr_t address = strtoull(argv[2], NULL, 10);
    puts("ready");
    fflush(stdout);
    while (poll(&input, 1, 0) == 0) {
        char path[300];
        reached += write_to(pid, address);
        reached += ptrace(PTRACE_SEIZE, pid, 0, 0) == 0;
        reached += kill(pid, SIGSTOP) == 0;
        snprintf(path, sizeof path, "/proc/%d/task", pid);
        DIR *tasks = opendir(path);
        for (struct dirent *task; tasks && (task = readdir(tasks)) != NULL;) {
            snprintf(path, sizeof path, "/proc/%d/task/%.16s/children", pid, task->d_name);
            FILE *list = fopen(path, "r");
            for (int child; list && fscanf(list, "%d", &child) == 1; children++)
                (void)write_to(child, address); /* its own memory it may get at, once it runs its program */
            if (list)
                fclose(list);
        }
        if (tasks)
            closedir(tasks);
    }
    printf("%ld %ld\n", reached, children);
    return 0;
}
