package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// deniedHere has nothing: there are no older forms of what is denied.
var deniedHere []uintptr
