/* Stands in for nginx in critest's images: `nginx PORT` answers each HTTP request with 200. critest wants to see a
 * process that is called "nginx: master process", a file /var/run/nginx.pid, and a line with "httpd" in its log.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void end(int signal) {
  (void)signal;
  _exit(0);
}

static int listen_on(int port) {
  int one = 1;
  struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  int listener = socket(AF_INET6, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (listener >= 0 && bind(listener, (void *)&any, sizeof any) == 0) {
    listen(listener, 64);
    return listener;
  }
  // A machine without IPv6.
  struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(port)};
  listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (void *)&any4, sizeof any4) != 0) return -1;
  listen(listener, 64);
  return listener;
}

int main(int argc, char **argv) {
  if (argc < 3) {
    char *words[] = {"nginx: master process", "master", argc > 1 ? argv[1] : "80", NULL};
    execv("/usr/sbin/nginx", words);
    return 1;
  }
  signal(SIGTERM, end);
  signal(SIGQUIT, end);
  signal(SIGPIPE, SIG_IGN);
  FILE *file = fopen("/var/run/nginx.pid", "w");
  if (file) {
    fprintf(file, "%d\n", getpid());
    fclose(file);
  }
  int listener = listen_on(atoi(argv[2]));
  if (listener < 0) {
    perror("httpd: bind");
    return 1;
  }
  puts("httpd ready");
  fflush(stdout);
  static const char answer[] =
      "HTTP/1.1 200 OK\r\nServer: nginx/1.14\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
  for (;;) {
    int client = accept(listener, NULL, NULL);
    if (client < 0) continue;
    char bytes[4096];
    ssize_t got = read(client, bytes, sizeof bytes);
    if (got > 0) got = write(client, answer, sizeof answer - 1);
    shutdown(client, SHUT_WR);
    while (read(client, bytes, sizeof bytes) > 0) {
    }
    close(client);
  }
}
