package guest

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

// nativeEndian is the byte order of the kernel's structures.
var nativeEndian = binary.NativeEndian

// ioctlBytes makes an ioctl whose argument is a structure given as its bytes.
func ioctlBytes(fd uintptr, request uintptr, arg []byte) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	if errno != 0 {
		return errno
	}
	return nil
}
