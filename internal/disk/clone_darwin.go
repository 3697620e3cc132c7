package disk

import "golang.org/x/sys/unix"

// clone makes a file that shares all blocks with another, or nothing.
func clone(to, from string) error { return unix.Clonefile(from, to, 0) }
