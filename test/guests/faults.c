/* Provokes one fault after another, and prints a line "NAME ERRNO" for each: "ok" if the call succeeded.
 *
 * It is built for the host as well, so that a test can compare. The folders are the test's: /ro is mounted
 * read-only and /rw writable, both with the same files; /tmp is a small tmpfs, and the root is read-only.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define NAME(E) {E, #E}

static const struct {
  int number;
  const char *name;
} NAMES[] = {
    NAME(EACCES), NAME(EAGAIN),       NAME(EBADF),  NAME(EBUSY),  NAME(EEXIST),    NAME(EFAULT),    NAME(EFBIG),
    NAME(EILSEQ), NAME(EINVAL),       NAME(EIO),    NAME(EISDIR), NAME(ELOOP),     NAME(EMFILE),    NAME(EMLINK),
    NAME(ENOENT), NAME(ENAMETOOLONG), NAME(ENODEV), NAME(ENOMEM), NAME(ENOSPC),    NAME(ENOSYS),    NAME(ENOTDIR),
    NAME(ENOTTY), NAME(ENOTEMPTY),    NAME(ENXIO),  NAME(EPERM),  NAME(EOVERFLOW), NAME(EOPNOTSUPP), NAME(EPIPE),
    NAME(EROFS),  NAME(ESPIPE),       NAME(EXDEV),  NAME(ETXTBSY),
#ifdef ENOTCAPABLE
    NAME(ENOTCAPABLE),
#endif
};

static const char *name_of(int number) {
  for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
    if (NAMES[i].number == number) return NAMES[i].name;
  return strerror(number);
}

/* Prints the result of a call, which is negative after a failure. */
static void show(const char *fault, long result) {
  printf("%s %s\n", fault, result < 0 ? name_of(errno) : "ok");
  fflush(stdout);
}

static int opened(const char *path, int flags) {
  int fd = open(path, flags, 0644);
  if (fd < 0) return -1;
  close(fd);
  return 0;
}

static int listed(const char *path) {
  DIR *directory = opendir(path);
  if (!directory) return -1;
  errno = 0;
  while (readdir(directory)) {
  }
  int wrong = errno;
  closedir(directory);
  errno = wrong;
  return wrong ? -1 : 0;
}

static int stamped(const char *path) {
  struct timespec times[2] = {{1, 0}, {1, 0}};
  return utimensat(AT_FDCWD, path, times, 0);
}

static int looked_at(const char *path) {
  struct stat status;
  return stat(path, &status);
}

static int read_link(const char *path) {
  char target[64];
  return readlink(path, target, sizeof target) < 0 ? -1 : 0;
}

static const char *repeated(char letter, int length) {
  static char path[8192];
  memcpy(path, "/rw/", 4);
  memset(path + 4, letter, length);
  path[4 + length] = 0;
  return path;
}

static const char *deep(int length) {
  static char path[8192] = "/rw";
  for (int at = 3; at < length; at += 2) memcpy(path + at, "/.", 3);
  return path;
}

static void opening(void) {
  show("open a missing file", opened("/missing", O_RDONLY));
  show("open below a missing folder", opened("/missing/x", O_RDONLY));
  show("open an empty path", opened("", O_RDONLY));
  show("open below a file", opened("/rw/file/x", O_RDONLY));
  show("open a file with a slash", opened("/rw/file/", O_RDONLY));
  show("open a file as a folder", opened("/rw/file", O_RDONLY | O_DIRECTORY));
  show("open a folder to write", opened("/rw/folder", O_WRONLY));
  show("open a folder to read", opened("/rw/folder", O_RDONLY));
  show("create an existing file", opened("/rw/file", O_WRONLY | O_CREAT | O_EXCL));
  show("create a file with a slash", opened("/rw/new/", O_WRONLY | O_CREAT));
  show("create below a missing folder", opened("/rw/missing/x", O_WRONLY | O_CREAT));
  show("create in another's folder", opened("/rw/another/new", O_WRONLY | O_CREAT));
  show("read another's file", opened("/rw/private", O_RDONLY));
  show("write another's file", opened("/rw/another/file", O_WRONLY));
  show("open in a closed folder", opened("/rw/closed/file", O_RDONLY));
  show("open a loop of links", opened("/rw/loop", O_RDONLY));
  show("open a dangling link", opened("/rw/dangling", O_RDONLY));
  show("open a link itself", opened("/rw/link", O_RDONLY | O_NOFOLLOW));
  show("create over a dangling link", opened("/rw/unbound", O_WRONLY | O_CREAT | O_EXCL));
  show("open a long name", opened(repeated('x', 300), O_RDONLY));
  show("open a long path", opened(deep(5000), O_RDONLY));
  show("open a socket", opened("/rw/socket", O_RDONLY));
  show("open above the root", opened("../../ro/file", O_RDONLY));
  show("open an absolute link", opened("/rw/absolute", O_RDONLY));
  show("open a link above the root", opened("/rw/climbing", O_RDONLY));
}

static void read_only(void) {
  show("create on a read-only mount", opened("/ro/new", O_WRONLY | O_CREAT));
  show("write on a read-only mount", opened("/ro/file", O_WRONLY));
  show("read and write on a read-only mount", opened("/ro/file", O_RDWR));
  show("truncate on a read-only mount", opened("/ro/file", O_WRONLY | O_TRUNC));
  show("create on a read-only root", opened("/new", O_WRONLY | O_CREAT));
  show("write on a read-only root", opened("/etc/file", O_WRONLY));
  show("create through a link on a read-only mount", opened("/rw/to-read-only/new", O_WRONLY | O_CREAT));
  show("create above the root on a read-only mount", opened("/rw/../../ro/new", O_WRONLY | O_CREAT));
  show("make a folder on a read-only mount", mkdir("/ro/new", 0755));
  show("make a folder above the root on a read-only mount", mkdir("../ro/new", 0755));
  show("make a folder on a read-only root", mkdir("/new", 0755));
  show("remove a folder on a read-only mount", rmdir("/ro/folder"));
  show("remove a file on a read-only mount", unlink("/ro/file"));
  show("rename on a read-only mount", rename("/ro/file", "/ro/new"));
  show("link on a read-only mount", link("/ro/file", "/ro/new"));
  show("link symbolically on a read-only mount", symlink("file", "/ro/new"));
  show("set times on a read-only mount", stamped("/ro/file"));
}

static void naming(void) {
  show("make an existing folder", mkdir("/rw/folder", 0755));
  show("make the root", mkdir("/", 0755));
  show("make a folder below a missing one", mkdir("/rw/missing/x", 0755));
  show("make a folder below a file", mkdir("/rw/file/x", 0755));
  show("make a folder in another's", mkdir("/rw/another/new", 0755));
  show("remove a folder that is not empty", rmdir("/rw/full"));
  show("remove a missing folder", rmdir("/rw/missing"));
  show("remove a file as a folder", rmdir("/rw/file"));
  show("remove a folder by its dot", rmdir("/rw/folder/."));
  show("remove a missing file", unlink("/rw/missing"));
  show("remove a folder as a file", unlink("/rw/folder"));
  show("remove another's file", unlink("/rw/another/file"));
  show("rename a missing file", rename("/rw/missing", "/rw/new"));
  show("rename a folder over a file", rename("/rw/folder", "/rw/file"));
  show("rename a file over a folder", rename("/rw/file", "/rw/folder"));
  show("rename over a folder that is not empty", rename("/rw/folder", "/rw/full"));
  show("rename a folder into itself", rename("/rw/folder", "/rw/folder/x"));
  show("rename to another mount", rename("/rw/file", "/tmp/file"));
  show("rename to a read-only mount", rename("/rw/file", "/ro/new"));
  show("link over an existing file", link("/rw/file", "/rw/link"));
  show("link to another mount", link("/rw/file", "/tmp/file"));
  show("link a folder", link("/rw/folder", "/rw/new"));
  show("link symbolically over an existing file", symlink("x", "/rw/file"));
  show("read a file as a link", read_link("/rw/file"));
  show("read a missing link", read_link("/rw/missing"));
  show("inspect a missing file", looked_at("/rw/missing"));
  show("inspect below a file", looked_at("/rw/file/x"));
  show("inspect a loop of links", looked_at("/rw/loop"));
  show("inspect in a closed folder", looked_at("/rw/closed/file"));
  show("inspect above the root", looked_at("../rw/file"));
  show("set times of a missing file", stamped("/rw/missing"));
  show("set times of another's file", stamped("/rw/another/file"));
  show("list a missing folder", listed("/rw/missing"));
  show("list a file", listed("/rw/file"));
  show("list a folder that is not readable", listed("/rw/unlisted"));
  show("list the descriptors", listed("/proc/self/fd"));
  show("access a missing file", access("/rw/missing", F_OK));
  show("access another's file", access("/rw/private", R_OK));
}

/* Calls that go through a link to /ro. */
static void linked(void) {
  show("inspect through a link", looked_at("/rw/to-read-only/file"));
  show("inspect a link's target", looked_at("/rw/climbing"));
  show("inspect a link to a missing file", looked_at("/rw/dangling"));
  show("list through a link", listed("/rw/to-read-only"));
  show("access through a link", access("/rw/absolute", R_OK));
  show("make a folder through a link", mkdir("/rw/to-read-only/new", 0755));
  show("remove a folder through a link", rmdir("/rw/to-read-only/folder"));
  show("remove a file through a link", unlink("/rw/to-read-only/file"));
  show("rename through a link", rename("/rw/to-read-only/file", "/rw/to-read-only/new"));
  show("link through a link", link("/rw/to-read-only/file", "/rw/to-read-only/new"));
  show("link symbolically through a link", symlink("file", "/rw/to-read-only/new"));
  show("set times through a link", stamped("/rw/to-read-only/file"));
  show("set times of a link's target", stamped("/rw/absolute"));
  show("read a link through a link", read_link("/rw/to-read-only/link"));
  show("create through a loop of links", opened("/rw/loop/new", O_WRONLY | O_CREAT));
  show("make a folder through a loop of links", mkdir("/rw/loop/new", 0755));
  show("make a folder over a dangling link", mkdir("/rw/dangling", 0755));
}

static void reading(void) {
  static char bytes[4096];
  int folder = open("/rw/folder", O_RDONLY), reader = open("/rw/file", O_RDONLY);
  int writer = open("/rw/file", O_WRONLY);
  show("read a folder", read(folder, bytes, 1));
  show("read a file opened to write", read(writer, bytes, 1));
  show("write a file opened to read", write(reader, bytes, 1));
  show("read a descriptor that is not open", read(99, bytes, 1));
  show("close a descriptor that is not open", close(99));
  show("seek to a negative offset", lseek(reader, -1, SEEK_SET));
  show("seek in a pipe", lseek(0, 0, SEEK_CUR));
  show("truncate a file opened to read", ftruncate(reader, 0));
  show("truncate to a negative size", ftruncate(writer, -1));
  show("truncate to a size that is too large", ftruncate(writer, 0x7fffffffffffffffLL));
  show("write at a negative offset", pwrite(writer, bytes, 1, -1));
  show("write at an offset that is too large", pwrite(writer, bytes, 2, 0x7fffffffffffffffLL));
  int filler = open("/tmp/filler", O_WRONLY | O_CREAT, 0644);
  long written = 0;
  for (int i = 0; i < 1000 && written >= 0; i++) written = write(filler, bytes, sizeof bytes);
  show("fill a filesystem", written);
}

int main(void) {
  opening();
  read_only();
  naming();
  linked();
  reading();
  return 0;
}
