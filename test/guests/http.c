/* A server of HTTP, `wasi:http/incoming-handler`. The path says how it responds; an argument follows
 * a question mark.
 *
 *   /hello          "hello\n"
 *   /echo           the body of the request, part by part, and its trailer x-check
 *   /status?CODE    this status
 *   /header?NAME    the values of a field of the request, a line each
 *   /env            the environment
 *   /file?PATH      the content of a file
 *   /print?COUNT    prints so many lines on standard output, each written in two parts
 *   /partial        prints a line without its end
 *   /fetch?URL      the status and the body of another server's response
 *   /trailers       a body with the trailer x-check
 *   /stream?COUNT   so many lines, with 10 ms between two of them
 *   /sleep?MS       "slept\n", after a time
 *   /trap /cut      traps, before and after the head of the response
 *   /spin /grow     computes, takes memory, without end
 *   /exit?CODE      exits
 *   /none /refused  no response, an error in place of one
 *
 * As a program it prints "program\n". Its bindings (http.h) are made by `componentize`.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "http.h"

extern char **environ;

typedef wasi_http_types_own_incoming_request_t request_t;
typedef wasi_http_types_own_response_outparam_t outparam_t;
typedef wasi_http_types_own_outgoing_body_t body_t;
typedef wasi_http_types_own_output_stream_t output_t;
typedef wasi_http_types_own_input_stream_t input_t;
typedef wasi_http_types_error_code_t error_t;

/* A response whose head was sent. */
typedef struct {
  body_t body;
  output_t stream;
} response_t;

static http_string_t text(const char *c) {
  http_string_t s = {(uint8_t *)c, strlen(c)};
  return s;
}

static response_t respond(outparam_t out, uint16_t status) {
  response_t r;
  wasi_http_types_own_outgoing_response_t response =
      wasi_http_types_constructor_outgoing_response(wasi_http_types_constructor_fields());
  wasi_http_types_borrow_outgoing_response_t b = wasi_http_types_borrow_outgoing_response(response);
  if (!wasi_http_types_method_outgoing_response_set_status_code(b, status) ||
      !wasi_http_types_method_outgoing_response_body(b, &r.body))
    abort();
  wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = false};
  result.val.ok = response;
  wasi_http_types_static_response_outparam_set(out, &result);
  if (!wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(r.body), &r.stream))
    abort();
  return r;
}

/* Writes all; false if the client is gone. */
static bool write_bytes(response_t *r, const uint8_t *bytes, size_t size) {
  while (size > 0) {
    http_list_u8_t part = {(uint8_t *)bytes, size < 4096 ? size : 4096};
    wasi_io_streams_stream_error_t error;
    if (!wasi_io_streams_method_output_stream_blocking_write_and_flush(
            wasi_io_streams_borrow_output_stream(r->stream), &part, &error))
      return false;
    bytes += part.len;
    size -= part.len;
  }
  return true;
}

static bool write_text(response_t *r, const char *c) {
  return write_bytes(r, (const uint8_t *)c, strlen(c));
}

static void finish(response_t *r, wasi_http_types_own_fields_t *trailers) {
  error_t error;
  wasi_io_streams_output_stream_drop_own(r->stream);
  wasi_http_types_static_outgoing_body_finish(r->body, trailers, &error);
}

static void answer(outparam_t out, uint16_t status, const char *c) {
  response_t r = respond(out, status);
  write_text(&r, c);
  finish(&r, NULL);
}

static void wait_for(wasi_io_poll_own_pollable_t pollable) {
  wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(pollable));
  wasi_io_poll_pollable_drop_own(pollable);
}

/* Copies a body to the response. False: it ended with an error. */
static bool copy(wasi_http_types_own_incoming_body_t *body, response_t *r) {
  input_t input;
  bool good = true;
  if (!wasi_http_types_method_incoming_body_stream(wasi_http_types_borrow_incoming_body(*body), &input))
    abort();
  for (;;) {
    http_list_u8_t bytes;
    wasi_io_streams_stream_error_t error;
    if (!wasi_io_streams_method_input_stream_blocking_read(wasi_io_streams_borrow_input_stream(input),
                                                           65536, &bytes, &error)) {
      good = error.tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED;
      break;
    }
    bool written = write_bytes(r, bytes.ptr, bytes.len);
    http_list_u8_free(&bytes);
    if (!written) break;
  }
  wasi_io_streams_input_stream_drop_own(input);
  return good;
}

static void add_check(wasi_http_types_own_fields_t fields, const uint8_t *value, size_t size) {
  http_string_t name = text("x-check");
  http_list_u8_t bytes = {(uint8_t *)value, size};
  wasi_http_types_header_error_t error;
  wasi_http_types_method_fields_append(wasi_http_types_borrow_fields(fields), &name, &bytes, &error);
}

static void echo(request_t request, outparam_t out) {
  wasi_http_types_own_incoming_body_t body;
  if (!wasi_http_types_method_incoming_request_consume(wasi_http_types_borrow_incoming_request(request), &body))
    abort();
  response_t r = respond(out, 200);
  if (!copy(&body, &r)) {
    fputs("echo: the body is incomplete\n", stderr);
    wasi_io_streams_output_stream_drop_own(r.stream);
    return;
  }
  wasi_http_types_own_future_trailers_t future = wasi_http_types_static_incoming_body_finish(body);
  wasi_http_types_borrow_future_trailers_t borrowed = wasi_http_types_borrow_future_trailers(future);
  wait_for(wasi_http_types_method_future_trailers_subscribe(borrowed));
  wasi_http_types_result_result_option_own_fields_error_code_void_t result;
  wasi_http_types_own_fields_t trailers = wasi_http_types_constructor_fields();
  if (wasi_http_types_method_future_trailers_get(borrowed, &result) && !result.is_err &&
      !result.val.ok.is_err && result.val.ok.val.ok.is_some) {
    http_string_t name = text("x-check");
    http_list_list_u8_t values;
    wasi_http_types_method_fields_get(wasi_http_types_borrow_fields(result.val.ok.val.ok.val), &name, &values);
    for (size_t i = 0; i < values.len; i++) add_check(trailers, values.ptr[i].ptr, values.ptr[i].len);
  }
  finish(&r, &trailers);
}

static void fetch(outparam_t out, const char *url) {
  bool tls = strncmp(url, "https://", 8) == 0;
  const char *authority = url + (tls ? 8 : 7);
  const char *path = strchr(authority, '/');
  char *host = path ? strndup(authority, path - authority) : strdup(authority);
  http_string_t host_text = text(host), path_text = text(path ? path : "/");
  wasi_http_types_scheme_t scheme = {
      .tag = tls ? WASI_HTTP_TYPES_SCHEME_HTTPS : WASI_HTTP_TYPES_SCHEME_HTTP};
  wasi_http_types_own_outgoing_request_t request =
      wasi_http_types_constructor_outgoing_request(wasi_http_types_constructor_fields());
  wasi_http_types_borrow_outgoing_request_t b = wasi_http_types_borrow_outgoing_request(request);
  if (!wasi_http_types_method_outgoing_request_set_path_with_query(b, &path_text) ||
      !wasi_http_types_method_outgoing_request_set_scheme(b, &scheme) ||
      !wasi_http_types_method_outgoing_request_set_authority(b, &host_text))
    return answer(out, 400, "no such address\n");
  wasi_http_types_own_future_incoming_response_t future;
  wasi_http_outgoing_handler_error_code_t error;
  if (!wasi_http_outgoing_handler_handle(request, NULL, &future, &error))
    return answer(out, 502, "refused\n");
  wasi_http_types_borrow_future_incoming_response_t borrowed =
      wasi_http_types_borrow_future_incoming_response(future);
  wait_for(wasi_http_types_method_future_incoming_response_subscribe(borrowed));
  wasi_http_types_result_result_own_incoming_response_error_code_void_t result;
  if (!wasi_http_types_method_future_incoming_response_get(borrowed, &result) || result.is_err) abort();
  if (result.val.ok.is_err) {
    char line[64];
    snprintf(line, sizeof line, "error %d\n", (int)result.val.ok.val.err.tag);
    return answer(out, 502, line);
  }
  wasi_http_types_own_incoming_response_t response = result.val.ok.val.ok;
  wasi_http_types_borrow_incoming_response_t received = wasi_http_types_borrow_incoming_response(response);
  char line[64];
  snprintf(line, sizeof line, "%d\n", wasi_http_types_method_incoming_response_status(received));
  wasi_http_types_own_incoming_body_t body;
  if (!wasi_http_types_method_incoming_response_consume(received, &body)) abort();
  response_t r = respond(out, 200);
  write_text(&r, line);
  copy(&body, &r);
  finish(&r, NULL);
}

static void header(request_t request, outparam_t out, const char *name) {
  wasi_http_types_own_fields_t headers =
      wasi_http_types_method_incoming_request_headers(wasi_http_types_borrow_incoming_request(request));
  http_string_t key = text(name);
  http_list_list_u8_t values;
  wasi_http_types_method_fields_get(wasi_http_types_borrow_fields(headers), &key, &values);
  response_t r = respond(out, 200);
  for (size_t i = 0; i < values.len; i++) {
    write_bytes(&r, values.ptr[i].ptr, values.ptr[i].len);
    write_text(&r, "\n");
  }
  finish(&r, NULL);
}

static void list(outparam_t out, char **texts) {
  response_t r = respond(out, 200);
  for (; *texts; texts++) {
    write_text(&r, *texts);
    write_text(&r, "\n");
  }
  finish(&r, NULL);
}

static void file(outparam_t out, const char *path) {
  FILE *f = fopen(path, "r");
  if (!f) return answer(out, 404, "no such file\n");
  response_t r = respond(out, 200);
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, f)) > 0;) write_bytes(&r, (uint8_t *)buffer, n);
  fclose(f);
  finish(&r, NULL);
}

/* In two parts, between which another request runs if each were written at once. */
static void print(outparam_t out, int count) {
  for (int i = 0; i < count; i++) {
    printf("the first half of a line and ");
    fflush(stdout);
    usleep(1000);
    printf("the second half of it\n");
    fflush(stdout);
  }
  answer(out, 200, "printed\n");
}

static void stream(outparam_t out, int count) {
  response_t r = respond(out, 200);
  for (int i = 0; i < count; i++) {
    if (!write_text(&r, "line\n")) break;
    usleep(10000);
  }
  finish(&r, NULL);
}

static void trailers(outparam_t out) {
  response_t r = respond(out, 200);
  write_text(&r, "body\n");
  wasi_http_types_own_fields_t fields = wasi_http_types_constructor_fields();
  add_check(fields, (const uint8_t *)"sent", 4);
  finish(&r, &fields);
}

static void grow(void) {
  for (;;) {
    /* volatile: or the compiler leaves it out. */
    volatile char *more = malloc(1 << 20);
    if (!more) abort();
    *more = 1;
  }
}

static void refused(outparam_t out) {
  wasi_http_types_result_own_outgoing_response_error_code_t result = {.is_err = true};
  result.val.err.tag = WASI_HTTP_TYPES_ERROR_CODE_CONNECTION_REFUSED;
  wasi_http_types_static_response_outparam_set(out, &result);
}

void exports_wasi_http_incoming_handler_handle(request_t request, outparam_t out) {
  http_string_t all;
  if (!wasi_http_types_method_incoming_request_path_with_query(
          wasi_http_types_borrow_incoming_request(request), &all))
    abort();
  char *path = strndup((char *)all.ptr, all.len);
  char *argument = strchr(path, '?');
  if (argument) *argument++ = 0;
  const char *value = argument ? argument : "";
  if (!strcmp(path, "/hello")) answer(out, 200, "hello\n");
  else if (!strcmp(path, "/echo")) echo(request, out);
  else if (!strcmp(path, "/status")) answer(out, atoi(value), "status\n");
  else if (!strcmp(path, "/header")) header(request, out, value);
  else if (!strcmp(path, "/env")) list(out, environ);
  else if (!strcmp(path, "/file")) file(out, value);
  else if (!strcmp(path, "/print")) print(out, atoi(value));
  else if (!strcmp(path, "/partial")) { printf("partial"); answer(out, 200, "printed\n"); }
  else if (!strcmp(path, "/fetch")) fetch(out, value);
  else if (!strcmp(path, "/trailers")) trailers(out);
  else if (!strcmp(path, "/stream")) stream(out, atoi(value));
  else if (!strcmp(path, "/sleep")) { usleep(atoi(value) * 1000); answer(out, 200, "slept\n"); }
  else if (!strcmp(path, "/trap")) __builtin_trap();
  else if (!strcmp(path, "/cut")) {
    response_t r = respond(out, 200);
    for (int i = 0; i < 64; i++) write_text(&r, "this response is not complete\n");
    usleep(1000);
    __builtin_trap();
  }
  else if (!strcmp(path, "/spin")) for (volatile int i = 0;; i++) ;
  else if (!strcmp(path, "/grow")) grow();
  else if (!strcmp(path, "/exit")) exit(atoi(value));
  else if (!strcmp(path, "/refused")) refused(out);
  else if (!strcmp(path, "/none")) return;
  else answer(out, 404, "no such path\n");
  fflush(stdout);
}

/* Exported by the one that is a program, too. */
bool exports_wasi_cli_run_run(void) {
  puts("program");
  return fflush(stdout) == 0;
}
