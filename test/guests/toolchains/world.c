/* The guest of test/e2e/tests/e2e/toolchains.rs in C: see there. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void show(const char *what, const char *path) {
  char text[64] = "";
  FILE *file = fopen(path, "r");
  if (!file) {
    printf("%s: %s\n", what, strerror(errno));
    return;
  }
  fread(text, 1, sizeof text - 1, file);
  fclose(file);
  printf("%s: %s\n", what, text);
}

int main(int argc, char **argv) {
  printf("arguments:");
  for (int i = 1; i < argc; i++) printf(" %s", argv[i]);
  printf("\nvariable: %s\n", getenv("GREETING"));
  show("relative", "here.txt");
  show("below", "below/deep.txt");
  show("absolute", "/data/there.txt");
  show("link", "link.txt");
  FILE *file = fopen("new.txt", "w");
  if (file) {
    fputs("written", file);
    fclose(file);
  }
  show("written", "/work/new.txt");
  show("missing", "missing.txt");
  return 7;
}
