/* A native program that an image names as its dynamic loader, so that the kernel runs it when the container
 * executes a dynamic executable of the host: through `/proc/self/exe`, that is the engine host.
 *
 * It tries to open the executable that it loads for writing. Then it executes itself (`/intruder`) with a
 * descriptor of that executable, which no process runs by then, and tries again through the descriptor. It
 * prints one line for each attempt, "NAME errno N" or "NAME opened", and writes nothing.
 *
 * Freestanding: a loader starts before the C library is loaded. x86-64 only.
 */
#include <fcntl.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}

static void say(const char *text) {
  long length = 0;
  while (text[length]) length++;
  call(SYS_write, 1, (long)text, length);
}

static void say_number(long number) {
  char digits[24];
  int at = sizeof digits - 1;
  digits[at] = 0;
  do digits[--at] = (char)('0' + number % 10);
  while (number /= 10);
  say(digits + at);
}

static int try_open(const char *name, const char *path, long flags) {
  long fd = call(SYS_open, (long)path, flags, 0);
  say(name);
  if (fd >= 0) {
    say(" opened\n");
    call(SYS_close, fd, 0, 0);
    return 1;
  }
  say(" errno ");
  say_number(-fd);
  say("\n");
  return 0;
}

void start(long *stack) {
  long count = stack[0];
  char **arguments = (char **)(stack + 1);
  if (count == 2 && arguments[1][1] == 0) {
    /* The file is busy on a writable mount until the engine host, our parent, is gone. */
    char path[] = "/proc/self/fd/X";
    path[14] = arguments[1][0];
    for (int i = 0; i < 100; i++) {
      if (call(SYS_open, (long)path, O_WRONLY, 0) >= 0) {
        say("descriptor opened\n");
        break;
      }
      long pause[2] = {0, 2000000};
      call(SYS_nanosleep, (long)pause, 0, 0);
    }
    try_open("descriptor", path, O_RDWR);
    try_open("descriptor-truncate", path, O_WRONLY | O_TRUNC);
    call(SYS_exit_group, 0, 0, 0);
  }
  say("loader\n");
  try_open("executable", "/proc/self/exe", O_WRONLY);
  try_open("executable-append", "/proc/self/exe", O_WRONLY | O_APPEND);
  long fd = call(SYS_open, (long)"/proc/self/exe", O_RDONLY, 0);
  char number[] = {(char)('0' + fd), 0};
  char *own[] = {"/intruder", number, 0};
  call(SYS_execve, (long)"/intruder", (long)own, 0);
  say("execve failed\n");
  call(SYS_exit_group, 1, 0, 0);
}

__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
