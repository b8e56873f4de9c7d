#include "server/listen.h"

#include "runtime/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static bool is_loopback(const union address *a)
{
    if (a->any.sa_family == AF_INET6) return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
    return ntohl(a->v4.sin_addr.s_addr) >> 24 == 127;
}

static char *url_of(int fd, bool *is_local)
{
    union address address = {0};
    socklen_t len = sizeof(address);
    char host[64], port[8];
    if (getsockname(fd, &address.any, &len) != 0 ||
        getnameinfo(&address.any, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return NULL;
    *is_local = is_loopback(&address);
    return xprintf(strchr(host, ':') ? "http://[%s]:%s" : "http://%s:%s", host, port);
}

int listen_bind(int *fd, char **url, bool *is_local, const char *host, int port, struct error *err)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char service[8];
    snprintf(service, sizeof(service), "%d", port);
    int rc = getaddrinfo(host, service, &hints, &found);
    if (rc != 0) return error_set(err, ERROR_BAD_REQUEST, "--host %s: %s", host, gai_strerror(rc));
    int s = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    if (s >= 0) setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    rc = s >= 0 && bind(s, found->ai_addr, found->ai_addrlen) == 0 ? 0 : errno;
    freeaddrinfo(found);
    char *text = rc == 0 ? url_of(s, is_local) : NULL;
    if (!text) {
        if (s >= 0) close(s);
        return error_set(err, ERROR_BAD_REQUEST, "cannot take port %d of %s: %s", port, host,
                         rc ? strerror(rc) : "it has no address");
    }
    *fd = s;
    *url = text;
    return 0;
}
