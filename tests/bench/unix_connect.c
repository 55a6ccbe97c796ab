/* Preloaded into wrk, which supports TCP only, this library redirects its connections to $UNIX_SOCKET. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    if (address->sa_family != AF_INET) return syscall(SYS_connect, fd, address, length);
    strncpy(path.sun_path, getenv("UNIX_SOCKET"), sizeof path.sun_path - 1);
    int instead = socket(AF_UNIX, SOCK_STREAM, 0);
    int failed = syscall(SYS_connect, instead, &path, sizeof path);
    fcntl(instead, F_SETFL, fcntl(fd, F_GETFL));
    dup2(instead, fd);
    close(instead);
    return failed;
}
