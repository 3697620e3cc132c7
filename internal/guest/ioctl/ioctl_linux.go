// Package ioctl makes those ioctls for which golang.org/x/sys has no function.
package ioctl

import (
	"syscall"
	"unsafe"
)

// Call makes an ioctl whose argument is a structure given as its bytes.
func Call(fd uintptr, request uintptr, arg []byte) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	if errno != 0 {
		return errno
	}
	return nil
}
