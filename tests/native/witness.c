/* Stands still, so that its state can be read from /proc; its name says the parent-death signal it would get. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(void)
{
    int death = 0;
    char name[16];
    prctl(PR_GET_PDEATHSIG, &death);
    snprintf(name, sizeof name, "pdeathsig %d", death);
    prctl(PR_SET_NAME, name);
    kill(getpid(), SIGSTOP);
    return 0;
}
