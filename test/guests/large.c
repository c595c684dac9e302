/* A module of more than 5 MB for the benchmark's first run: 1700 distinct copies of ordinary code.
 *
 * The work of a compiler depends on the number, the length and the content of functions. So this is not
 * padding: each copy is a small program of loops, tables, byte handling, 64-bit and floating point
 * arithmetic, with different constants, which clang optimises like any program. The compiler cannot
 * merge the copies, and all are reachable: `large [NUMBER]` runs one.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char text[4096];

/* One copy. K is its number. */
#define PROGRAM(K)                                                                                     \
  static __attribute__((noinline)) uint32_t hash_##K(const unsigned char *p, size_t n) {               \
    uint32_t h = 2166136261u ^ (K * 2654435761u);                                                      \
    for (size_t i = 0; i < n; i++) {                                                                   \
      h = (h ^ p[i]) * (16777619u + 2 * K);                                                            \
      if ((h & 0xff) == (K & 0xff)) h = (h << 13 | h >> 19) + K;                                       \
    }                                                                                                  \
    return h;                                                                                          \
  }                                                                                                    \
  static __attribute__((noinline)) void sort_##K(uint32_t *a, int n) {                                 \
    for (int gap = n / 2; gap > 0; gap /= 2)                                                           \
      for (int i = gap; i < n; i++) {                                                                  \
        uint32_t v = a[i], key = v ^ (K * 40503u);                                                     \
        int j = i;                                                                                     \
        for (; j >= gap && (a[j - gap] ^ (K * 40503u)) > key; j -= gap) a[j] = a[j - gap];             \
        a[j] = v;                                                                                      \
      }                                                                                                \
  }                                                                                                    \
  static __attribute__((noinline)) double solve_##K(double *m, int n) {                                \
    double det = 1.0 + K;                                                                              \
    for (int c = 0; c < n; c++) {                                                                      \
      int best = c;                                                                                    \
      for (int r = c + 1; r < n; r++)                                                                  \
        if (m[r * n + c] * m[r * n + c] > m[best * n + c] * m[best * n + c]) best = r;                 \
      if (m[best * n + c] == 0.0) return K;                                                            \
      for (int k = 0; k < n; k++) {                                                                    \
        double t = m[c * n + k];                                                                       \
        m[c * n + k] = m[best * n + k];                                                                \
        m[best * n + k] = t;                                                                           \
      }                                                                                                \
      det *= m[c * n + c];                                                                             \
      for (int r = c + 1; r < n; r++) {                                                                \
        double f = m[r * n + c] / m[c * n + c];                                                        \
        for (int k = c; k < n; k++) m[r * n + k] -= f * m[c * n + k];                                  \
      }                                                                                                \
    }                                                                                                  \
    return det;                                                                                        \
  }                                                                                                    \
  static __attribute__((noinline)) size_t encode_##K(const unsigned char *in, size_t n,                \
                                                     unsigned char *out) {                             \
    size_t at = 0;                                                                                     \
    for (size_t i = 0; i < n;) {                                                                       \
      size_t run = 1;                                                                                  \
      while (i + run < n && in[i + run] == in[i] && run < 255) run++;                                  \
      switch ((in[i] + K) % 7) {                                                                       \
        case 0: out[at++] = (unsigned char)run; out[at++] = in[i]; break;                              \
        case 1: out[at++] = 0x80 | (unsigned char)(run & 0x7f); out[at++] = in[i] ^ (K & 0xff); break; \
        case 2: case 3:                                                                                \
          for (size_t k = 0; k < run && at < 4000; k++) out[at++] = in[i] + (unsigned char)k;          \
          break;                                                                                       \
        case 4: out[at++] = '\\'; out[at++] = 'x'; out[at++] = "0123456789abcdef"[in[i] >> 4]; break;  \
        default: out[at++] = in[i] * (K | 1);                                                          \
      }                                                                                                \
      if (at > 4000) break;                                                                            \
      i += run;                                                                                        \
    }                                                                                                  \
    return at;                                                                                         \
  }                                                                                                    \
  static uint32_t program_##K(void) {                                                                  \
    uint32_t numbers[64];                                                                              \
    double matrix[36];                                                                                 \
    unsigned char out[8192];                                                                           \
    size_t n = encode_##K(text, sizeof text / 2, out);                                                 \
    for (int i = 0; i < 64; i++) numbers[i] = hash_##K(out + i, n > 64 ? n - 64 : 0);                  \
    sort_##K(numbers, 64);                                                                             \
    for (int i = 0; i < 36; i++) matrix[i] = (double)(numbers[i] % 1000) + K;                          \
    return numbers[K % 64] ^ (uint32_t)(int64_t)(solve_##K(matrix, 6) / 1e12);                         \
  }

#define TEN(X, D) X(D##0) X(D##1) X(D##2) X(D##3) X(D##4) X(D##5) X(D##6) X(D##7) X(D##8) X(D##9)
#define HUNDRED(X, D)                                                                                  \
  TEN(X, D##0) TEN(X, D##1) TEN(X, D##2) TEN(X, D##3) TEN(X, D##4)                                     \
  TEN(X, D##5) TEN(X, D##6) TEN(X, D##7) TEN(X, D##8) TEN(X, D##9)
/* Numbers begin with 1: with 0 they would be octal. */
#define ALL(X)                                                                                         \
  HUNDRED(X, 11) HUNDRED(X, 12) HUNDRED(X, 13) HUNDRED(X, 14) HUNDRED(X, 15) HUNDRED(X, 16)            \
  HUNDRED(X, 17) HUNDRED(X, 18) HUNDRED(X, 19) HUNDRED(X, 20) HUNDRED(X, 21) HUNDRED(X, 22)            \
  HUNDRED(X, 23) HUNDRED(X, 24) HUNDRED(X, 25) HUNDRED(X, 26) HUNDRED(X, 27)

ALL(PROGRAM)

#define ENTRY(K) program_##K,
static uint32_t (*const programs[])(void) = {ALL(ENTRY)};

int main(int argc, char **argv) {
  size_t number = argc > 1 ? (size_t)atoi(argv[1]) : 0;
  for (size_t i = 0; i < sizeof text; i++) text[i] = (unsigned char)(i * i >> 7);
  printf("%08x\n", programs[number % (sizeof programs / sizeof *programs)]());
  return 0;
}
