/* A disk that hangs, for a process that is started with LD_PRELOAD: reads, writes and syncs of files under a directory
   storage-node-N do not return while there is a file $HUNG_DISKS/N. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int hangs(int fd) {
  const char *flags = getenv("HUNG_DISKS");
  char link[64], path[4096], flag[4096];
  int node;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (!flags || length < 0) return 0;
  path[length] = 0;
  const char *found = strstr(path, "/storage-node-");
  if (!found || sscanf(found, "/storage-node-%d/", &node) != 1) return 0;
  snprintf(flag, sizeof flag, "%s/%d", flags, node);
  return access(flag, F_OK) == 0;
}

static void wait_while_it_hangs(int fd) {
  while (hangs(fd)) usleep(20000);
}

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

int fsync(int fd) {
  REAL(fsync);
  wait_while_it_hangs(fd);
  return real(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  wait_while_it_hangs(fd);
  return real(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
  REAL(pwrite64);
  wait_while_it_hangs(fd);
  return real(fd, bytes, count, at);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) {
  REAL(pread64);
  wait_while_it_hangs(fd);
  return real(fd, bytes, count, at);
}
