// Package hypervisor says in hardware words what a VM is, and what there is to do with one.
// Its implementations are its subpackages, of which only pick knows.
package hypervisor

// Config is a whole VM. Paths are absolute. It is plain data: an implementation
// turns it into a command line by a pure function.
type Config struct {
	Name    string // begins with NamePrefix; in process lists, and by which a Backend knows its VMs there
	CPUs    int
	Memory  int64 // bytes, a multiple of 1 MiB
	Kernel  string
	Initrd  string
	Cmdline string

	Disks    []Disk
	Channels []Channel
	Network  Network

	// Console says that there is one. What the guest says on it goes to whoever starts the
	// VM, never to a file: nobody could bound that.
	Console bool

	// Incoming has the VM wait for the state of a frozen one instead of booting: kernel,
	// initrd and command line are in that.
	Incoming bool
	// MemoryFile, if it is set, is what the memory begins as, a file of its size: what
	// the guest changes is the VM's own, the file stays as it is.
	MemoryFile string

	// Generation is the VM generation ID, a UUID: a new one tells the guest's
	// kernel that it was cloned or taken back in time, and it reseeds.
	Generation string
}

// Disk is a raw disk image. The guest finds it by its serial.
type Disk struct {
	Serial   string // at most 20 bytes of ASCII
	Path     string
	ReadOnly bool
}

// Channel is a byte stream between the host and the guest, which finds it under that name
// as the hypervisor's Capabilities say. The host listens on Socket before the VM starts, the
// hypervisor connects.
type Channel struct {
	Name   string
	Socket string
}

// Network is the one card. The host listens on Socket, a unix socket, before the VM
// starts; the hypervisor brings the frames there as its Capabilities say.
type Network struct {
	Socket string
	MAC    string
	MTU    int
}
