/* A module that is not a command: its functions are called by name, as in `library.wasm#greet`. */
#include <stdio.h>

/* Set before `_initialize` returns, so that `greet` can check that it was called. */
static int initialised;

__attribute__((constructor)) static void initialise(void) { initialised = 1; }

__attribute__((export_name("greet"))) void greet(void) {
  puts(initialised ? "greetings" : "not initialised");
  fflush(stdout);
}

__attribute__((export_name("trap"))) void trap(void) { __builtin_trap(); }

/* Takes an argument, so it cannot be called by name. */
__attribute__((export_name("add"))) int add(int a, int b) { return a + b; }
