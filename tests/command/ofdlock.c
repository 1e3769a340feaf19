/* A record-lock program that has nothing to do with aflock, for the tests of --fcntl.
 *
 *   ofdlock [-s] [-p] [-r START] FILE [COMMAND...]
 *
 * Tries once to lock FILE (the whole of it, or one byte) exclusively or, with -s, shared, by an open-file-description
 * lock or, with -p, by a POSIX lock of the process. Exits with 1 if somebody else holds a lock in the way; otherwise
 * becomes COMMAND, if there is one, with the lock held.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int fail(const char *what)
{
    perror(what);
    return 2;
}

int main(int argc, char **argv)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int command = F_OFD_SETLK;
    int option, fd;

    while ((option = getopt(argc, argv, "+spr:")) != -1) {
        if (option == 's')
            range.l_type = F_RDLCK;
        else if (option == 'p')
            command = F_SETLK;
        else if (option == 'r')
            range.l_start = strtol(optarg, NULL, 10), range.l_len = 1;
        else
            return 2;
    }
    if (optind >= argc)
        return 2;
    fd = open(argv[optind], O_RDWR | O_CREAT, 0666);
    if (fd < 0)
        return fail(argv[optind]);
    if (fcntl(fd, command, &range) != 0)
        return errno == EAGAIN || errno == EACCES ? 1 : fail("fcntl");
    if (!argv[optind + 1])
        return 0;
    execvp(argv[optind + 1], argv + optind + 1);
    return fail(argv[optind + 1]);
}
