/* A command that imports a function which no WASI runtime has: env::missing. */
__attribute__((import_module("env"), import_name("missing"))) void missing(void);

int main(void) {
  missing();
  return 0;
}
