/* HTTP/1.1 load in a closed loop: one thread, epoll, keep-alive. Each connection asks again as soon as it is answered.
 *
 *   loadgen -u http://127.0.0.1:PORT/PATH [-c CONNECTIONS] [-d SECONDS] [-w WARM_UP_SECONDS] [-n REQUESTS] [-b BODY_FILE]
 *           [-H HEADER]... [-o LATENCY_FILE]
 *
 * It ends after -d seconds behind the warm-up or after -n requests, whichever comes first, and at most GRACE_S later.
 * One JSON object on stdout; in LATENCY_FILE one unsigned 32-bit number of microseconds for each 2xx of the window.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GRACE_S 20
#define HEAD_MAX 16384

enum state { CLOSED, CONNECTING, IDLE, BUSY };

typedef struct {
    int fd;
    enum state state;
    int watches_write, in_body, closes, status;
    uint64_t asked_at;
    size_t sent, head_size;
    long left;
    char head[HEAD_MAX];
} connection;

static int poller, connections = 1;
static connection *all;
static char *request;
static size_t request_size;
static struct sockaddr_in server;
static double seconds = 2, warm_up = 0;
static long requests_max = 0;
static uint64_t window_begins, window_ends, asked, answered, answered_ok, window_ok, window_bad, broken, bytes_in;
static uint32_t *latencies;
static size_t latencies_room;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void watch(int i, uint32_t events, int operation) {
    struct epoll_event e = {.events = events, .data.u32 = i};
    epoll_ctl(poller, operation, all[i].fd, &e);
    all[i].watches_write = (events & EPOLLOUT) != 0;
}

static void dial(int i) {
    connection *c = &all[i];
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (void *)&server, sizeof server) < 0 && errno != EINPROGRESS) {
        broken++;
        close(c->fd);
        c->state = CLOSED;
        return;
    }
    c->state = CONNECTING;
    watch(i, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
}

static void hang_up(int i) {
    connection *c = &all[i];
    if (c->state == CLOSED) return;
    epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->state = CLOSED;
}

static void push(int i) {
    connection *c = &all[i];
    while (c->sent < request_size) {
        ssize_t k = send(c->fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
        if (k < 0 && errno == EAGAIN) {
            if (!c->watches_write) watch(i, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return;
        }
        if (k < 0) {
            broken++;
            hang_up(i);
            return;
        }
        c->sent += k;
    }
    if (c->watches_write) watch(i, EPOLLIN, EPOLL_CTL_MOD);
}

static int wants_more(uint64_t now) { return now < window_ends && (!requests_max || (long)asked < requests_max); }

static void ask(int i) {
    connection *c = &all[i];
    c->state = IDLE;
    uint64_t now = now_ns();
    if (!wants_more(now)) return;
    c->state = BUSY;
    c->asked_at = now;
    c->sent = c->head_size = 0;
    c->in_body = 0;
    asked++;
    push(i);
}

static void finish(int i) {
    connection *c = &all[i];
    uint64_t now = now_ns();
    int ok = c->status / 100 == 2;
    answered++;
    answered_ok += ok;
    if (now >= window_begins && now <= window_ends) {
        if (ok && window_ok == latencies_room) {
            latencies_room = latencies_room ? 2 * latencies_room : 1 << 16;
            latencies = realloc(latencies, latencies_room * sizeof *latencies);
        }
        if (ok) latencies[window_ok++] = (uint32_t)((now - c->asked_at) / 1000);
        else window_bad++;
    }
    if (c->closes) {
        hang_up(i);
        dial(i);
    } else {
        ask(i);
    }
}

/* Take the head of an answer apart; returns how many of the n bytes belong to it, 0 when it is not whole, -1 when bad. */
static long read_head(connection *c, const char *bytes, size_t n) {
    size_t room = HEAD_MAX - 1 - c->head_size, take = n < room ? n : room, before = c->head_size;
    memcpy(c->head + before, bytes, take);
    c->head_size += take;
    char *end = memmem(c->head, c->head_size, "\r\n\r\n", 4);
    if (!end) return take < n ? -1 : 0;
    *end = 0;
    c->status = atoi(c->head + 9);
    c->left = -1;
    c->closes = 0;
    for (char *line = strchr(c->head, '\n'); line; line = strchr(line + 1, '\n')) {
        if (!strncasecmp(line + 1, "content-length:", 15)) c->left = strtol(line + 16, NULL, 10);
        else if (!strncasecmp(line + 1, "connection: close", 17)) c->closes = 1;
    }
    c->in_body = 1;
    return c->left < 0 ? -1 : (long)(end + 4 - c->head - before);
}

static void feed(int i, const char *bytes, size_t n) {
    connection *c = &all[i];
    if (!c->in_body) {
        long used = read_head(c, bytes, n);
        if (used < 0) {
            broken++;
            hang_up(i);
            dial(i);
        }
        if (used <= 0) return;
        bytes += used;
        n -= used;
    }
    c->left -= n < (size_t)c->left ? (long)n : c->left;
    if (c->left == 0) finish(i);
}

static void serve(int i, uint32_t events) {
    static char bytes[1 << 18];
    connection *c = &all[i];
    if (c->state == CLOSED) return;
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            broken++;
            hang_up(i);
            return;
        }
        watch(i, EPOLLIN, EPOLL_CTL_MOD);
        ask(i);
        return;
    }
    if ((events & EPOLLOUT) && c->state == BUSY) push(i);
    if (c->state == CLOSED || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    ssize_t k = recv(c->fd, bytes, sizeof bytes, 0);
    if (k > 0) {
        bytes_in += k;
        if (c->state == BUSY) feed(i, bytes, k);
    } else if (k == 0 || errno != EAGAIN) {
        broken += c->state == BUSY;
        hang_up(i);
        if (now_ns() < window_ends) dial(i);
    }
}

static void run(void) {
    struct epoll_event events[512];
    uint64_t last = window_ends + GRACE_S * 1000000000ull, next_look = 0;
    for (;;) {
        uint64_t now = now_ns();
        if (now >= next_look || !wants_more(now)) {
            int busy = 0;
            next_look = now + 100000000ull;
            for (int i = 0; i < connections; i++) {
                if (all[i].state == CLOSED && wants_more(now)) dial(i);
                busy += all[i].state == BUSY;
            }
            if (!wants_more(now) && (!busy || now >= last)) return;
        }
        int n = epoll_wait(poller, events, 512, now >= window_ends ? 5 : 50);
        for (int k = 0; k < n; k++) serve(events[k].data.u32, events[k].events);
    }
}

static int compose(const char *url, const char *headers, const char *body_file) {
    if (!url || strncmp(url, "http://127.0.0.1:", 17)) {
        fprintf(stderr, "-u must be http://127.0.0.1:PORT/PATH\n");
        return 0;
    }
    int port = atoi(url + 17);
    const char *path = strchr(url + 17, '/');
    char *body = NULL;
    size_t body_size = 0;
    if (body_file) {
        FILE *file = fopen(body_file, "rb");
        if (!file) {
            perror(body_file);
            return 0;
        }
        body = malloc(1 << 20);
        body_size = fread(body, 1, 1 << 20, file);
        fclose(file);
    }
    request = malloc(body_size + 16384);
    request_size = sprintf(request, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s", body ? "POST" : "GET", path ? path : "/", port, headers);
    if (body) request_size += sprintf(request + request_size, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body_size);
    request_size += sprintf(request + request_size, "\r\n");
    if (body) memcpy(request + request_size, body, body_size);
    request_size += body_size;
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return 1;
}

static void report(const char *latency_file, double took) {
    uint64_t unanswered = 0;
    for (int i = 0; i < connections; i++) unanswered += all[i].state == BUSY;
    if (latency_file) {
        FILE *file = fopen(latency_file, "wb");
        if (file) {
            fwrite(latencies, sizeof *latencies, window_ok, file);
            fclose(file);
        }
    }
    printf("{\"answered\":%lu,\"answered_ok\":%lu,\"window_ok\":%lu,\"window_bad\":%lu,\"broken\":%lu,\"unanswered\":%lu,"
           "\"window_s\":%.4f,\"mb_in\":%.1f}\n",
           answered, answered_ok, window_ok, window_bad, broken, unanswered, took, bytes_in / 1e6);
}

int main(int count, char **words) {
    char *url = NULL, *body_file = NULL, *latency_file = NULL, headers[4096] = "";
    int option;
    signal(SIGPIPE, SIG_IGN);
    while ((option = getopt(count, words, "u:c:d:w:n:b:H:o:")) > 0) switch (option) {
        case 'u': url = optarg; break;
        case 'c': connections = atoi(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'w': warm_up = atof(optarg); break;
        case 'n': requests_max = atol(optarg); break;
        case 'b': body_file = optarg; break;
        case 'o': latency_file = optarg; break;
        case 'H':
            strncat(headers, optarg, sizeof headers - strlen(headers) - 3);
            strcat(headers, "\r\n");
            break;
        default: return 2;
        }
    if (!compose(url, headers, body_file)) return 2;
    poller = epoll_create1(0);
    all = calloc(connections, sizeof *all);
    window_begins = now_ns() + (uint64_t)(warm_up * 1e9);
    window_ends = window_begins + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < connections; i++) dial(i);
    run();
    uint64_t end = now_ns();
    report(latency_file, ((end < window_ends || requests_max ? end : window_ends) - window_begins) / 1e9);
    return 0;
}
