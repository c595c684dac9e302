/* One guest for most tests: `kit COMMAND ARGS...`.
 *
 *   show                     prints its arguments, environment and working directory, one per line
 *   exit CODE                exits with this code
 *   cat                      copies standard input to standard output
 *   echo WORDS...            prints its arguments
 *   spew OUT [ERR]           writes that many bytes of a known pattern to stdout (and to stderr)
 *   spin                     prints "ready", then computes forever
 *   sleep SECONDS            prints "ready", sleeps, prints "done"
 *   trap [unreachable|bounds|divide|stack|abort]
 *   alloc MIB                allocates and touches that many MiB, one by one, printing its progress,
 *                            then waits for the end of its input; exits with 3 if an allocation fails
 *   read PATH                copies a file to standard output
 *   write PATH TEXT          creates a file with this text
 *   list PATH                prints the names in a directory, sorted
 *   mkdir PATH               creates a directory
 *   tty                      prints for each of the three streams whether it is a terminal
 *   tick MILLISECONDS        prints a number again and again
 *   do LINES...              runs each line, "COMMAND ARGS...", after printing it with a "$ "; exits with the
 *                            number of failed lines
 *
 * It is built for the host as well, so that tests can compare.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int fail(const char *what) {
  fprintf(stderr, "kit: %s: %s\n", what, strerror(errno));
  return 1;
}

static int ready(void) {
  puts("ready");
  return fflush(stdout);
}

static int write_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t written = write(fd, bytes, length);
    if (written < 0) return -1;
    bytes += written;
    length -= (size_t)written;
  }
  return 0;
}

static int copy(int from) {
  static char buffer[65536];
  for (;;) {
    ssize_t got = read(from, buffer, sizeof buffer);
    if (got == 0) return 0;
    if (got < 0) return fail("read");
    if (write_all(1, buffer, (size_t)got) < 0) return fail("write");
  }
}

static int show(int argc, char **argv) {
  for (int i = 0; i < argc; i++) printf("arg %s\n", argv[i]);
  for (char **variable = environ; *variable; variable++) printf("env %s\n", *variable);
  char cwd[4096];
  if (getcwd(cwd, sizeof cwd)) printf("cwd %s\n", cwd);
  return 0;
}

/* Byte i of the pattern is 'a' + i % 25, or a line feed at the end of every 64 bytes. */
static int spew(int fd, long long total) {
  static char block[64 * 25 * 40];
  for (size_t i = 0; i < sizeof block; i++) block[i] = i % 64 == 63 ? '\n' : (char)('a' + i % 25);
  while (total > 0) {
    size_t length = total < (long long)sizeof block ? (size_t)total : sizeof block;
    if (write_all(fd, block, length) < 0) return fail("write");
    total -= (long long)length;
  }
  return 0;
}

static int spin(void) {
  ready();
  for (volatile uint64_t n = 0;; n++) {
  }
}

static int nap(long long milliseconds) {
  struct timespec time = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};
  return nanosleep(&time, NULL);
}

static volatile int zero = 0;

/* The division after the call keeps the compiler from making a loop of it. */
static int recurse(int depth) { return zero ? depth : recurse(depth + 1) / (zero + 2); }

static int trap(const char *kind) {
  if (strcmp(kind, "bounds") == 0) return *(volatile int *)(uintptr_t)0x7fffff00;
  if (strcmp(kind, "divide") == 0) return 7 / zero;
  if (strcmp(kind, "stack") == 0) return recurse(0);
  if (strcmp(kind, "abort") == 0) abort();
  __builtin_trap();
}

static int alloc(int mebibytes) {
  // Never read, but the compiler must not see that.
  static char *volatile taken;
  for (int i = 1; i <= mebibytes; i++) {
    char *block = malloc(1 << 20);
    if (!block) {
      printf("no more after %d\n", i - 1);
      return 3;
    }
    memset(block, i, 1 << 20);
    taken = block;
    printf("%d\n", i);
    fflush(stdout);
  }
  ready();
  while (getchar() != EOF) {
  }
  return 0;
}

static int write_file(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  if (!file) return fail(path);
  int wrong = fputs(text, file) < 0;
  return fclose(file) != 0 || wrong ? fail(path) : 0;
}

static int read_file(const char *path) {
  FILE *file = fopen(path, "r");
  return file ? copy(fileno(file)) : fail(path);
}

static int list(const char *path) {
  struct dirent **entries;
  int count = scandir(path, &entries, NULL, alphasort);
  if (count < 0) return fail(path);
  for (int i = 0; i < count; i++) {
    if (strcmp(entries[i]->d_name, ".") && strcmp(entries[i]->d_name, ".."))
      puts(entries[i]->d_name);
  }
  return 0;
}

static int tty(void) {
  for (int fd = 0; fd < 3; fd++) printf("%d %s\n", fd, isatty(fd) ? "terminal" : "no terminal");
  return 0;
}

static int tick(long long milliseconds) {
  for (int n = 1;; n++) {
    printf("%d\n", n);
    if (fflush(stdout) != 0) return fail("write");
    nap(milliseconds);
  }
}

static int run(int argc, char **argv);

static int run_lines(int count, char **lines) {
  int failed = 0;
  for (int i = 0; i < count; i++) {
    char *words[8] = {"kit"};
    int argc = 1;
    printf("$ %s\n", lines[i]);
    fflush(stdout);
    for (char *word = strtok(lines[i], " "); word && argc < 7; word = strtok(NULL, " "))
      words[argc++] = word;
    failed += run(argc, words) != 0;
    fflush(stdout);
  }
  return failed;
}

static int run(int argc, char **argv) {
  const char *command = argc > 1 ? argv[1] : "show";
  const char *one = argc > 2 ? argv[2] : NULL, *two = argc > 3 ? argv[3] : NULL;

  if (strcmp(command, "show") == 0) return show(argc, argv);
  if (strcmp(command, "cat") == 0) return copy(0);
  if (strcmp(command, "spin") == 0) return spin();
  if (strcmp(command, "tty") == 0) return tty();
  if (strcmp(command, "do") == 0) return run_lines(argc - 2, argv + 2);
  if (strcmp(command, "trap") == 0) return trap(one ? one : "unreachable");
  if (strcmp(command, "echo") == 0) {
    for (int i = 2; i < argc; i++) printf("%s%s", i > 2 ? " " : "", argv[i]);
    putchar('\n');
    return 0;
  }
  if (one) {
    if (strcmp(command, "exit") == 0) exit(atoi(one));
    if (strcmp(command, "alloc") == 0) return alloc(atoi(one));
    if (strcmp(command, "read") == 0) return read_file(one);
    if (strcmp(command, "list") == 0) return list(one);
    if (strcmp(command, "mkdir") == 0) return mkdir(one, 0755) == 0 ? 0 : fail(one);
    if (strcmp(command, "tick") == 0) return tick(atoll(one));
    if (strcmp(command, "write") == 0 && two) return write_file(one, two);
    if (strcmp(command, "spew") == 0) {
      int failed = spew(1, atoll(one));
      return failed || !two ? failed : spew(2, atoll(two));
    }
    if (strcmp(command, "sleep") == 0) {
      ready();
      if (nap((long long)(atof(one) * 1000)) != 0) return fail("sleep");
      puts("done");
      return 0;
    }
  }
  fprintf(stderr, "kit: unknown command: %s\n", command);
  return 2;
}

int main(int argc, char **argv) { return run(argc, argv); }
