// Three steps of a workflow that share the folder /work:
//
//     steps generate COUNT    writes the numbers from 1 to COUNT
//     steps add               adds them up
//     steps verify TOTAL      compares the sum; exit code 3 if it differs
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char NUMBERS[] = "/work/numbers";
static const char SUM[] = "/work/sum";

static FILE *open_or_exit(const char *path, const char *mode) {
    FILE *file = fopen(path, mode);
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    return file;
}

static void close_or_exit(const char *path, FILE *file) {
    if (fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

static int generate(long count) {
    FILE *numbers = open_or_exit(NUMBERS, "w");
    for (long number = 1; number <= count; number++) {
        fprintf(numbers, "%ld\n", number);
    }
    close_or_exit(NUMBERS, numbers);
    printf("generated %ld numbers\n", count);
    return 0;
}

static int add(void) {
    FILE *numbers = open_or_exit(NUMBERS, "r");
    long number, sum = 0;
    while (fscanf(numbers, "%ld", &number) == 1) {
        sum += number;
    }
    close_or_exit(NUMBERS, numbers);
    FILE *file = open_or_exit(SUM, "w");
    fprintf(file, "%ld\n", sum);
    close_or_exit(SUM, file);
    printf("the sum is %ld\n", sum);
    return 0;
}

static int verify(long total) {
    FILE *file = open_or_exit(SUM, "r");
    long sum = 0;
    if (fscanf(file, "%ld", &sum) != 1 || sum != total) {
        printf("the sum is %ld, expected %ld\n", sum, total);
        return 3;
    }
    printf("verified: %ld\n", sum);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "generate") == 0) {
        return generate(atol(argv[2]));
    }
    if (argc == 2 && strcmp(argv[1], "add") == 0) {
        return add();
    }
    if (argc == 3 && strcmp(argv[1], "verify") == 0) {
        return verify(atol(argv[2]));
    }
    fputs("usage: steps generate COUNT | add | verify TOTAL\n", stderr);
    return 2;
}
