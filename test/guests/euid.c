/* Says whose rights it has: critest runs it from a file with the set-user-ID bit. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
  printf("Effective uid: %d\n", (int)geteuid());
  return 0;
}
