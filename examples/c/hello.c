// Prints a greeting, its arguments and one environment variable.
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    fputs("Hello from C", stdout);
    for (int i = 1; i < argc; i++) {
        printf(" %s", argv[i]);
    }
    puts("");
    const char *colour = getenv("COLOUR");
    if (colour != NULL) {
        printf("COLOUR is %s\n", colour);
    }
    return 0;
}
