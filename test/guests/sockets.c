/* Provokes one fault of sockets after another, and prints a line "NAME ERRNO" for each, as faults.c
 * does for files. The container has no network but its loopback interface.
 *
 * As a component it uses the sockets of WASI preview 2, whose errors it prints as wasi-libc's numbers.
 */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define LOOPBACK 127, 0, 0, 1
#define NOWHERE 192, 0, 2, 1
#define PORT 7001
#define TOO_LARGE 65508

static void show(const char *fault, const char *error) {
  printf("%s %s\n", fault, error ? error : "ok");
  fflush(stdout);
}

#ifdef __wasm__
#include "net.h"

typedef wasi_sockets_network_error_code_t error_code;
typedef wasi_sockets_network_ip_socket_address_t address;
typedef wasi_sockets_tcp_borrow_tcp_socket_t tcp;
typedef wasi_sockets_udp_borrow_udp_socket_t udp;

#define IPV4 WASI_SOCKETS_NETWORK_IP_ADDRESS_FAMILY_IPV4
#define WOULD_BLOCK WASI_SOCKETS_NETWORK_ERROR_CODE_WOULD_BLOCK

/* In the order of the enumeration error-code. */
static const char *const NAMES[] = {
    "EIO", "EACCES", "EOPNOTSUPP", "EINVAL", "ENOMEM", "ETIMEDOUT", "EALREADY", "EINVAL", "EAGAIN", "EINVAL",
    "EMFILE", "EADDRNOTAVAIL", "EADDRINUSE", "EHOSTUNREACH", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED",
    "EMSGSIZE", "EAI_NONAME", "EAI_AGAIN", "EAI_FAIL",
};

static wasi_sockets_network_borrow_network_t network;

static address at(int a, int b, int c, int d, int port) {
  address address = {.tag = WASI_SOCKETS_NETWORK_IP_SOCKET_ADDRESS_IPV4};
  address.val.ipv4.address = (wasi_sockets_network_ipv4_address_t){a, b, c, d};
  address.val.ipv4.port = (uint16_t)port;
  return address;
}

static tcp new_tcp(void) {
  wasi_sockets_tcp_own_tcp_socket_t socket;
  error_code error;
  wasi_sockets_tcp_create_socket_create_tcp_socket(IPV4, &socket, &error);
  return wasi_sockets_tcp_borrow_tcp_socket(socket);
}

static udp new_udp(void) {
  wasi_sockets_udp_own_udp_socket_t socket;
  error_code error;
  wasi_sockets_udp_create_socket_create_udp_socket(IPV4, &socket, &error);
  return wasi_sockets_udp_borrow_udp_socket(socket);
}

static const char *bind_tcp(tcp socket, address address) {
  error_code error;
  if (!wasi_sockets_tcp_method_tcp_socket_start_bind(socket, network, &address, &error)) return NAMES[error];
  return wasi_sockets_tcp_method_tcp_socket_finish_bind(socket, &error) ? NULL : NAMES[error];
}

static const char *bind_udp(udp socket, address address) {
  error_code error;
  if (!wasi_sockets_udp_method_udp_socket_start_bind(socket, network, &address, &error)) return NAMES[error];
  return wasi_sockets_udp_method_udp_socket_finish_bind(socket, &error) ? NULL : NAMES[error];
}

static const char *listen_tcp(tcp socket) {
  error_code error;
  if (!wasi_sockets_tcp_method_tcp_socket_start_listen(socket, &error)) return NAMES[error];
  return wasi_sockets_tcp_method_tcp_socket_finish_listen(socket, &error) ? NULL : NAMES[error];
}

static const char *connect_tcp(tcp socket, address address) {
  error_code error;
  wasi_sockets_tcp_tuple2_own_input_stream_own_output_stream_t streams;
  if (!wasi_sockets_tcp_method_tcp_socket_start_connect(socket, network, &address, &error)) return NAMES[error];
  while (!wasi_sockets_tcp_method_tcp_socket_finish_connect(socket, &streams, &error)) {
    if (error != WOULD_BLOCK) return NAMES[error];
    wasi_io_poll_method_pollable_block(
        wasi_io_poll_borrow_pollable(wasi_sockets_tcp_method_tcp_socket_subscribe(socket)));
  }
  return NULL;
}

static const char *accept_tcp(tcp socket) {
  error_code error;
  wasi_sockets_tcp_tuple3_own_tcp_socket_own_input_stream_own_output_stream_t client;
  return wasi_sockets_tcp_method_tcp_socket_accept(socket, &client, &error) ? NULL : NAMES[error];
}

static const char *shutdown_tcp(tcp socket) {
  error_code error;
  bool done = wasi_sockets_tcp_method_tcp_socket_shutdown(socket, WASI_SOCKETS_TCP_SHUTDOWN_TYPE_SEND, &error);
  return done ? NULL : NAMES[error];
}


static const char *send_udp(udp socket, address to, size_t size) {
  static uint8_t bytes[TOO_LARGE];
  wasi_sockets_udp_tuple2_own_incoming_datagram_stream_own_outgoing_datagram_stream_t streams;
  error_code error;
  if (!wasi_sockets_udp_method_udp_socket_stream(socket, NULL, &streams, &error)) return NAMES[error];
  wasi_sockets_udp_borrow_outgoing_datagram_stream_t out =
      wasi_sockets_udp_borrow_outgoing_datagram_stream(streams.f1);
  wasi_sockets_udp_outgoing_datagram_t datagram = {
      .data = {bytes, size},
      .remote_address = {.is_some = true, .val = to},
  };
  wasi_sockets_udp_list_outgoing_datagram_t one = {&datagram, 1};
  uint64_t sent;
  if (!wasi_sockets_udp_method_outgoing_datagram_stream_check_send(out, &sent, &error)) return NAMES[error];
  return wasi_sockets_udp_method_outgoing_datagram_stream_send(out, &one, &sent, &error) ? NULL : NAMES[error];
}
#else
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct sockaddr_in address;
typedef int tcp;
typedef int udp;

/* The name of the last error, if a call has failed. */
static const char *failed(long result) { return result < 0 ? strerrorname_np(errno) : NULL; }

static address at(int a, int b, int c, int d, int port) {
  uint32_t number = (uint32_t)a << 24 | (uint32_t)b << 16 | (uint32_t)c << 8 | (uint32_t)d;
  return (address){.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(number)}};
}

static tcp new_tcp(void) { return socket(AF_INET, SOCK_STREAM, 0); }
static udp new_udp(void) { return socket(AF_INET, SOCK_DGRAM, 0); }

static const char *bind_tcp(tcp socket, address to) {
  return failed(bind(socket, (struct sockaddr *)&to, sizeof to));
}
static const char *bind_udp(udp socket, address to) { return bind_tcp(socket, to); }
static const char *listen_tcp(tcp socket) { return failed(listen(socket, 1)); }
static const char *connect_tcp(tcp socket, address to) {
  return failed(connect(socket, (struct sockaddr *)&to, sizeof to));
}
static const char *accept_tcp(tcp socket) { return failed(accept(socket, NULL, NULL)); }
static const char *shutdown_tcp(tcp socket) { return failed(shutdown(socket, SHUT_WR)); }

static const char *send_udp(udp socket, address to, size_t size) {
  static uint8_t bytes[TOO_LARGE];
  return failed(sendto(socket, bytes, size, 0, (struct sockaddr *)&to, sizeof to));
}
#endif

static udp bound_udp(void) {
  udp socket = new_udp();
  bind_udp(socket, at(0, 0, 0, 0, 0));
  return socket;
}

int main(void) {
#ifdef __wasm__
  // Otherwise wasi-libc asks for a terminal in the adapter's first call, and loses the first line.
  setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
  network = wasi_sockets_network_borrow_network(wasi_sockets_instance_network_instance_network());
#endif
  show("connect to a closed port", connect_tcp(new_tcp(), at(LOOPBACK, 9)));
  show("connect without a route", connect_tcp(new_tcp(), at(NOWHERE, 9)));
  show("connect to port 0", connect_tcp(new_tcp(), at(LOOPBACK, 0)));
  show("connect to the address 0", connect_tcp(new_tcp(), at(0, 0, 0, 0, 9)));
  show("bind to an address of another machine", bind_tcp(new_tcp(), at(NOWHERE, 0)));
  tcp listener = new_tcp();
  bind_tcp(listener, at(LOOPBACK, PORT));
  show("bind twice", bind_tcp(listener, at(LOOPBACK, 0)));
  listen_tcp(listener);
  show("bind to a port in use", bind_tcp(new_tcp(), at(LOOPBACK, PORT)));
  show("connect a listener", connect_tcp(listener, at(LOOPBACK, PORT)));
  tcp client = new_tcp();
  show("connect", connect_tcp(client, at(LOOPBACK, PORT)));
  show("connect twice", connect_tcp(client, at(LOOPBACK, PORT)));
  show("listen on a connection", listen_tcp(client));
  show("accept without listening", accept_tcp(new_tcp()));
  show("end an unconnected socket", shutdown_tcp(new_tcp()));
  show("bind UDP to an address of another machine", bind_udp(new_udp(), at(NOWHERE, 0)));
  udp first = new_udp();
  bind_udp(first, at(LOOPBACK, PORT));
  show("bind UDP to a port in use", bind_udp(new_udp(), at(LOOPBACK, PORT)));
  show("send without a route", send_udp(bound_udp(), at(NOWHERE, 9), 1));
  show("send a datagram that is too large", send_udp(bound_udp(), at(LOOPBACK, 9), TOO_LARGE));
  show("send to port 0", send_udp(bound_udp(), at(LOOPBACK, 0), 1));
  return 0;
}
