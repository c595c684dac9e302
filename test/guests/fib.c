/* A computation of fixed size, to compare engines with native code: fib [N], 35 by default. */
#include <stdio.h>
#include <stdlib.h>

static unsigned fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

int main(int argc, char **argv) {
  printf("%u\n", fib(argc > 1 ? (unsigned)atoi(argv[1]) : 35));
  return 0;
}
