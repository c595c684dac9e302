/* A guest that uses the network, through the sockets of WASI preview 2: `net COMMAND ARGS...`.
 *
 *   tcp-serve PORT           prints "ready", then echoes the bytes of each connection
 *   http-serve PORT          prints "ready", then answers each HTTP request with 200 and "ok", or with
 *                            500 if it contains "fail"
 *   tcp-get HOST PORT        sends a line, prints the answer
 *   udp-serve PORT           prints "ready", then sends each datagram back to its sender
 *   udp-send HOST PORT TEXT  sends a datagram, prints the answer
 *   lookup NAME              prints the addresses of a name, one per line
 *
 * HOST is a name or an address. IPv4 only. Its bindings (net.h) are made by `componentize`.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

typedef wasi_sockets_network_error_code_t error_code;
typedef wasi_sockets_network_ip_socket_address_t address;
typedef wasi_sockets_tcp_own_tcp_socket_t tcp_socket;
typedef wasi_sockets_udp_own_udp_socket_t udp_socket;
typedef wasi_io_streams_own_input_stream_t input;
typedef wasi_io_streams_own_output_stream_t output;
typedef wasi_sockets_udp_tuple2_own_incoming_datagram_stream_own_outgoing_datagram_stream_t
    datagrams;

#define IPV4 WASI_SOCKETS_NETWORK_IP_ADDRESS_FAMILY_IPV4
#define WOULD_BLOCK WASI_SOCKETS_NETWORK_ERROR_CODE_WOULD_BLOCK

static wasi_sockets_network_borrow_network_t network;

static const char *const errors[] = {
    "unknown error", "access denied", "not supported", "invalid argument", "out of memory",
    "timeout", "concurrency conflict", "not in progress", "would block", "invalid state",
    "new socket limit", "address not bindable", "address in use", "remote unreachable",
    "connection refused", "connection reset", "connection aborted", "datagram too large",
    "name unresolvable", "temporary resolver failure", "permanent resolver failure",
};

static void must(bool ok, const char *what, error_code error) {
  if (ok) return;
  fprintf(stderr, "net: %s: %s\n", what, errors[error]);
  exit(1);
}

static void wait_for(wasi_io_poll_own_pollable_t pollable) {
  wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(pollable));
  wasi_io_poll_pollable_drop_own(pollable);
}

static void wait_tcp(tcp_socket socket) {
  wait_for(wasi_sockets_tcp_method_tcp_socket_subscribe(wasi_sockets_tcp_borrow_tcp_socket(socket)));
}

static void ready(void) {
  puts("ready");
  fflush(stdout);
}

/* Calls `each` with every IPv4 address of a name, until it returns false. */
static void resolve(const char *name, bool (*each)(wasi_sockets_network_ipv4_address_t *, void *),
                    void *context) {
  net_string_t text;
  net_string_dup(&text, name);
  wasi_sockets_ip_name_lookup_own_resolve_address_stream_t stream;
  error_code error = 0;
  must(wasi_sockets_ip_name_lookup_resolve_addresses(network, &text, &stream, &error), name, error);
  for (;;) {
    wasi_sockets_ip_name_lookup_borrow_resolve_address_stream_t borrowed =
        wasi_sockets_ip_name_lookup_borrow_resolve_address_stream(stream);
    wasi_sockets_ip_name_lookup_option_ip_address_t next;
    bool ok = wasi_sockets_ip_name_lookup_method_resolve_address_stream_resolve_next_address(
        borrowed, &next, &error);
    if (!ok && error == WOULD_BLOCK) {
      wait_for(wasi_sockets_ip_name_lookup_method_resolve_address_stream_subscribe(borrowed));
      continue;
    }
    must(ok, name, error);
    if (!next.is_some) break;
    if (next.val.tag == WASI_SOCKETS_NETWORK_IP_ADDRESS_IPV4 && !each(&next.val.val.ipv4, context))
      break;
  }
  wasi_sockets_ip_name_lookup_resolve_address_stream_drop_own(stream);
}

static bool first(wasi_sockets_network_ipv4_address_t *found, void *context) {
  address *to = context;
  to->tag = WASI_SOCKETS_NETWORK_IP_SOCKET_ADDRESS_IPV4;
  to->val.ipv4.address = *found;
  return false;
}

static address remote(const char *host, const char *port) {
  address to = {.tag = 0xff};
  resolve(host, first, &to);
  if (to.tag == 0xff) {
    fprintf(stderr, "net: %s: no IPv4 address\n", host);
    exit(1);
  }
  to.val.ipv4.port = (uint16_t)atoi(port);
  return to;
}

static address any(const char *port) {
  address local = {.tag = WASI_SOCKETS_NETWORK_IP_SOCKET_ADDRESS_IPV4};
  local.val.ipv4.port = (uint16_t)atoi(port);
  return local;
}

static bool print(wasi_sockets_network_ipv4_address_t *found, void *context) {
  (void)context;
  printf("%d.%d.%d.%d\n", found->f0, found->f1, found->f2, found->f3);
  return true;
}

static tcp_socket tcp(void) {
  tcp_socket socket;
  error_code error = 0;
  must(wasi_sockets_tcp_create_socket_create_tcp_socket(IPV4, &socket, &error), "socket", error);
  return socket;
}

/* Reads the available bytes; false at the end. */
static bool receive(input from, net_list_u8_t *bytes) {
  wasi_io_streams_stream_error_t error;
  return wasi_io_streams_method_input_stream_blocking_read(
      wasi_io_streams_borrow_input_stream(from), 4096, bytes, &error);
}

static bool transmit(output to, net_list_u8_t *bytes) {
  wasi_io_streams_stream_error_t error;
  return wasi_io_streams_method_output_stream_blocking_write_and_flush(
      wasi_io_streams_borrow_output_stream(to), bytes, &error);
}

static void close_tcp(tcp_socket socket, input from, output to) {
  wasi_io_streams_input_stream_drop_own(from);
  wasi_io_streams_output_stream_drop_own(to);
  wasi_sockets_tcp_tcp_socket_drop_own(socket);
}

/* Sends back what arrives, to the end. */
static void echo(input from, output to) {
  net_list_u8_t bytes;
  while (receive(from, &bytes)) {
    bool sent = transmit(to, &bytes);
    net_list_u8_free(&bytes);
    if (!sent) break;
  }
}

/* Answers one HTTP request, which must fit into one read. */
static void answer(input from, output to) {
  static const char good[] = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
  static const char bad[] = "HTTP/1.1 500 Asked for\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  net_list_u8_t bytes;
  if (!receive(from, &bytes)) return;
  bool fail = memmem(bytes.ptr, bytes.len, "fail", 4) != NULL;
  net_list_u8_free(&bytes);
  net_list_u8_t out = {(uint8_t *)(fail ? bad : good), fail ? sizeof bad - 1 : sizeof good - 1};
  transmit(to, &out);
}

static int serve(const char *port, void (*each)(input, output)) {
  tcp_socket socket = tcp();
  wasi_sockets_tcp_borrow_tcp_socket_t borrowed = wasi_sockets_tcp_borrow_tcp_socket(socket);
  address local = any(port);
  error_code error = 0;
  must(wasi_sockets_tcp_method_tcp_socket_start_bind(borrowed, network, &local, &error), "bind",
       error);
  must(wasi_sockets_tcp_method_tcp_socket_finish_bind(borrowed, &error), "bind", error);
  must(wasi_sockets_tcp_method_tcp_socket_start_listen(borrowed, &error), "listen", error);
  must(wasi_sockets_tcp_method_tcp_socket_finish_listen(borrowed, &error), "listen", error);
  ready();
  for (;;) {
    wasi_sockets_tcp_tuple3_own_tcp_socket_own_input_stream_own_output_stream_t client;
    wait_tcp(socket);
    bool ok = wasi_sockets_tcp_method_tcp_socket_accept(borrowed, &client, &error);
    if (!ok && error == WOULD_BLOCK) continue;
    must(ok, "accept", error);
    each(client.f1, client.f2);
    close_tcp(client.f0, client.f1, client.f2);
  }
}

static int tcp_get(const char *host, const char *port) {
  tcp_socket socket = tcp();
  wasi_sockets_tcp_borrow_tcp_socket_t borrowed = wasi_sockets_tcp_borrow_tcp_socket(socket);
  address to = remote(host, port);
  error_code error = 0;
  must(wasi_sockets_tcp_method_tcp_socket_start_connect(borrowed, network, &to, &error), "connect",
       error);
  wasi_sockets_tcp_tuple2_own_input_stream_own_output_stream_t streams;
  for (;;) {
    wait_tcp(socket);
    bool ok = wasi_sockets_tcp_method_tcp_socket_finish_connect(borrowed, &streams, &error);
    if (ok) break;
    if (error != WOULD_BLOCK) must(false, "connect", error);
  }
  char line[] = "hello over tcp\n";
  net_list_u8_t bytes = {(uint8_t *)line, sizeof line - 1};
  if (!transmit(streams.f1, &bytes)) must(false, "send", 0);
  wasi_sockets_tcp_method_tcp_socket_shutdown(borrowed, WASI_SOCKETS_TCP_SHUTDOWN_TYPE_SEND, &error);
  while (receive(streams.f0, &bytes)) {
    fwrite(bytes.ptr, 1, bytes.len, stdout);
    net_list_u8_free(&bytes);
  }
  close_tcp(socket, streams.f0, streams.f1);
  return 0;
}

/* A socket on this port, and its datagrams: from and to every address, or one only. */
static udp_socket udp(const char *port, address *only, datagrams *streams) {
  udp_socket socket;
  error_code error = 0;
  must(wasi_sockets_udp_create_socket_create_udp_socket(IPV4, &socket, &error), "socket", error);
  wasi_sockets_udp_borrow_udp_socket_t borrowed = wasi_sockets_udp_borrow_udp_socket(socket);
  address local = any(port);
  must(wasi_sockets_udp_method_udp_socket_start_bind(borrowed, network, &local, &error), "bind",
       error);
  must(wasi_sockets_udp_method_udp_socket_finish_bind(borrowed, &error), "bind", error);
  must(wasi_sockets_udp_method_udp_socket_stream(borrowed, only, streams, &error), "stream", error);
  return socket;
}

/* Waits for datagrams: at least one, at most sixteen. */
static wasi_sockets_udp_list_incoming_datagram_t udp_receive(datagrams *streams) {
  wasi_sockets_udp_borrow_incoming_datagram_stream_t from =
      wasi_sockets_udp_borrow_incoming_datagram_stream(streams->f0);
  wasi_sockets_udp_list_incoming_datagram_t received;
  error_code error = 0;
  do {
    wait_for(wasi_sockets_udp_method_incoming_datagram_stream_subscribe(from));
    must(wasi_sockets_udp_method_incoming_datagram_stream_receive(from, 16, &received, &error),
         "receive", error);
  } while (received.len == 0);
  return received;
}

static void udp_transmit(datagrams *streams, wasi_sockets_udp_outgoing_datagram_t *datagram) {
  wasi_sockets_udp_borrow_outgoing_datagram_stream_t to =
      wasi_sockets_udp_borrow_outgoing_datagram_stream(streams->f1);
  error_code error = 0;
  for (;;) {
    uint64_t allowed = 0, sent = 0;
    must(wasi_sockets_udp_method_outgoing_datagram_stream_check_send(to, &allowed, &error), "send",
         error);
    if (allowed > 0) {
      wasi_sockets_udp_list_outgoing_datagram_t one = {datagram, 1};
      must(wasi_sockets_udp_method_outgoing_datagram_stream_send(to, &one, &sent, &error), "send",
           error);
      if (sent > 0) return;
    }
    wait_for(wasi_sockets_udp_method_outgoing_datagram_stream_subscribe(to));
  }
}

static int udp_serve(const char *port) {
  datagrams streams;
  udp(port, NULL, &streams);
  ready();
  for (;;) {
    wasi_sockets_udp_list_incoming_datagram_t received = udp_receive(&streams);
    for (size_t i = 0; i < received.len; i++) {
      wasi_sockets_udp_outgoing_datagram_t back = {
          .data = received.ptr[i].data,
          .remote_address = {.is_some = true, .val = received.ptr[i].remote_address},
      };
      udp_transmit(&streams, &back);
    }
    wasi_sockets_udp_list_incoming_datagram_free(&received);
  }
}

static int udp_send(const char *host, const char *port, char *text) {
  address to = remote(host, port);
  datagrams streams;
  udp("0", &to, &streams);
  wasi_sockets_udp_outgoing_datagram_t datagram = {.data = {(uint8_t *)text, strlen(text)}};
  udp_transmit(&streams, &datagram);
  wasi_sockets_udp_list_incoming_datagram_t received = udp_receive(&streams);
  fwrite(received.ptr[0].data.ptr, 1, received.ptr[0].data.len, stdout);
  putchar('\n');
  return 0;
}

int main(int argc, char **argv) {
  const char *command = argc > 1 ? argv[1] : "";
  network = wasi_sockets_network_borrow_network(wasi_sockets_instance_network_instance_network());

  if (argc == 3 && strcmp(command, "tcp-serve") == 0) return serve(argv[2], echo);
  if (argc == 3 && strcmp(command, "http-serve") == 0) return serve(argv[2], answer);
  if (argc == 4 && strcmp(command, "tcp-get") == 0) return tcp_get(argv[2], argv[3]);
  if (argc == 3 && strcmp(command, "udp-serve") == 0) return udp_serve(argv[2]);
  if (argc == 5 && strcmp(command, "udp-send") == 0) return udp_send(argv[2], argv[3], argv[4]);
  if (argc == 3 && strcmp(command, "lookup") == 0) {
    resolve(argv[2], print, NULL);
    return 0;
  }
  fprintf(stderr, "net: unknown command: %s\n", command);
  return 2;
}
