package qemu

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/hyve-vm/hyve/internal/hypervisor"
)

const (
	// monitorFD is where QEMU finds its end of the QMP connection: an inherited
	// socket pair, so no monitor listens anywhere.
	monitorFD = 3

	// consoleFD is where QEMU finds its end of the console's connection. What does not
	// fit into a socket QEMU drops, and nobody waits: neither it nor the guest.
	consoleFD = 4

	// nameArg begins the argument that is the VM's name.
	nameArg = "guest="

	// memoryID names the guest's memory.
	memoryID = "ram"

	sandboxArg = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
)

// Args returns QEMU's arguments for a VM. It is pure: the same VM and features
// give the same arguments. The process must be given connected unix stream
// sockets: as descriptor 3 the one on which it speaks QMP (no monitor listens),
// as descriptor 4 the one that takes what the guest says on its console; and after
// them what Open has opened.
//
// What could have been said in JSON is (QEMU 7.2 takes it for -object, -device,
// -blockdev and -netdev): no character of a path means anything there.
// -name has only the old form, where a comma is doubled.
func Args(cfg hypervisor.Config, f Features) []string {
	fds := descriptorsOf(cfg, f)
	a := []string{
		"-name", nameArg + escape(cfg.Name),
		"-nodefaults", "-no-user-config", "-display", "none",
		// A VM is started once: a guest's reset ends it, and the supervisor
		// decides. So does a panicked kernel, which panic=-1 makes reset.
		"-no-reboot",
		// Start lets it go when the monitor answers, so that no event is missed.
		"-S",
	}
	if f.Sandbox {
		a = append(a, "-sandbox", sandboxArg)
	}
	a = append(a, machineArgs(cfg, f)...)
	a = append(a, kernelArgs(cfg, fds)...)
	a = append(a,
		"-chardev", "socket,id=monitor,fd="+strconv.Itoa(monitorFD),
		"-mon", "chardev=monitor,mode=control",
	)
	a = append(a, diskArgs(cfg.Disks, fds.disks)...)
	a = append(a, serialArgs(cfg, fds)...)
	a = append(a, networkArgs(cfg.Network, fds.network)...)
	return append(a, comfortArgs(cfg, f)...)
}

// RunsVM tells whether a process with these arguments runs a VM of hyve's.
func RunsVM(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, nameArg+hypervisor.NamePrefix) })
}

// kernelArgs are what the guest begins with. What Freeze has written has no section
// that names the machine, which QEMU would want to see first, and none that describes
// the others, which it would look for at the end.
func kernelArgs(cfg hypervisor.Config, fds *descriptors) []string {
	if cfg.Incoming {
		return []string{"-incoming", "defer", "-global", "migration.send-configuration=off", "-machine", "suppress-vmdesc=on"}
	}
	kernel, initrd := cfg.Kernel, cfg.Initrd
	if fds.kernel != 0 {
		kernel = reopened(fds.kernel)
	}
	if fds.initrd != 0 {
		initrd = reopened(fds.initrd)
	}
	a := []string{"-kernel", kernel}
	if initrd != "" {
		a = append(a, "-initrd", initrd)
	}
	if cfg.Cmdline != "" {
		a = append(a, "-append", cfg.Cmdline)
	}
	return a
}

// Shape names everything about a VM and its emulator that must be the same for a
// frozen state to be thawed. The content of kernel, initrd and disks is the
// caller's to compare.
func (q *QEMU) Shape(cfg hypervisor.Config, accel string) string {
	// Of paths there are only descriptors in the arguments.
	cfg.Name, cfg.Kernel, cfg.Initrd = "", "kernel", "initrd"
	cfg.Incoming, cfg.MemoryFile, cfg.Generation = false, "", "00000000-0000-0000-0000-000000000000"
	words := append(Args(cfg, q.Features(accel)), q.Path, q.key)
	if accel != accelTCG {
		processor, _ := q.guestProcessor() // see capabilities
		words = append(words, processor)
	}
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return hex.EncodeToString(sum[:])
}

// machineArgs are the board, the processor and the memory.
func machineArgs(cfg hypervisor.Config, f Features) []string {
	memory := opts{"qom-type": "memory-backend-ram", "id": memoryID, "size": cfg.Memory}
	if cfg.MemoryFile != "" {
		memory["qom-type"], memory["mem-path"], memory["share"] = "memory-backend-file", cfg.MemoryFile, false
	}
	return []string{
		"-object", object(memory),
		// A core file would have the guest's memory in it, in clear.
		"-machine", machineType(cfg, f) + ",dump-guest-core=off,memory-backend=" + memoryID,
		"-accel", accelArg(cfg, f),
		"-cpu", cpuModel(f),
		"-smp", strconv.Itoa(cfg.CPUs),
		"-m", strconv.FormatInt(cfg.Memory>>20, 10) + "M",
	}
}

// machineType is a PC of 2009 without what a guest would only probe for, or
// QEMU's own arm64 board. microvm was measured: no faster, and it hangs.
func machineType(cfg hypervisor.Config, f Features) string {
	if f.Arch == "arm64" {
		switch {
		case f.Accel == accelKVM:
			return "virt,gic-version=max" // what the host's can be
		case f.Accel == accelHVF && cfg.CPUs <= 8:
			return "virt" // version 2 of the GIC, the only one before QEMU 8.0
		default:
			return "virt,gic-version=3"
		}
	}
	return "q35,vmport=off,smbus=off,sata=off,usb=off,i8042=off,hpet=off,graphics=off"
}

// cpuModel is the processor that the guest sees.
func cpuModel(f Features) string {
	switch {
	case f.Accel != accelTCG:
		return "host"
	case f.Arch == "arm64":
		// Emulating "max" spends its time on pointer authentication.
		return "cortex-a76"
	}
	// Where the processor calls them fast, the kernel copies with string instructions,
	// which are emulated byte by byte: three to five times slower than its own loops.
	model := "max,-erms,-fsrm"
	if !f.Version.Less(Version{Major: 8}) { // which knows of one more
		model += ",-fsrs"
	}
	return model
}

// cx16Broken says that cmpxchg16b is emulated wrongly. Before 8.0, which
// translates it inline, QEMU computed the flags around it from stale state and
// left any of them set; a 6.12 kernel then panics at random in its allocator.
func (f Features) cx16Broken() bool {
	return f.Accel == accelTCG && f.Arch == "amd64" && f.Version.Less(Version{Major: 8})
}

// countsAsHost says that the guest's time stamp counter is the host's.
func (f Features) countsAsHost() bool {
	return f.Accel == accelTCG && f.Arch == "amd64" && runtime.GOARCH == "amd64"
}

// slowAES says that the instructions for AES are emulated step by step; since 8.2 the
// host's own do the work of them, and of GCM's multiplication.
func (f Features) slowAES() bool {
	return f.Accel == accelTCG && f.Arch == "amd64" && f.Version.Less(Version{Major: 8, Minor: 2})
}

// Bounds of QEMU's translation cache, in MiB of host memory. Its default is 1024, which
// a guest that starts many processes fills with translations that nobody needs again.
// What is full is emptied and translated again: with two CPUs, booting to Docker needs
// 110 and running one container after another 250, without which each empties it twice
// and takes half as long again. More CPUs run more at once and get more.
const (
	minTranslations    = 256
	maxTranslations    = 512
	translationsPerCPU = 128
)

// retranslates says that code is translated anew wherever it is mapped: before
// 8.0 a translation was good for one virtual address only, so a program at
// another random address found nothing of its last run.
func (f Features) retranslates() bool {
	return f.Accel == accelTCG && f.Arch == "amd64" && f.Version.Less(Version{Major: 8})
}

func accelArg(cfg hypervisor.Config, f Features) string {
	if f.Accel != accelTCG {
		return f.Accel
	}
	size := min(max(translationsPerCPU*cfg.CPUs, minTranslations), maxTranslations)
	return "tcg,thread=multi,tb-size=" + strconv.Itoa(size)
}

// diskArgs are the disks, each under its serial as node name, so that an event
// about a node names the disk. When the host's disk is full QEMU pauses the VM
// (BLOCK_IO_ERROR with nospace, then STOP; its default for writes) and repeats
// the write after VM.Resume: the guest never sees an error.
//
// io_uring is not used: containers and hardened hosts forbid it, and QEMU then
// fails at its start.
func diskArgs(disks []hypervisor.Disk, fds []int) []string {
	var a []string
	for i, d := range disks {
		node := opts{
			"driver":    "raw",
			"node-name": d.Serial,
			"read-only": d.ReadOnly,
			"file": opts{
				"driver":   "file",
				"filename": fdset(fds[i]),
				// The page cache serves the disk and flushes are passed on:
				// what the guest synced survives a crash of the host.
				"aio":     "threads",
				"locking": "on", // one VM at a time may write
			},
		}
		if !d.ReadOnly {
			// What the guest frees or zeroes is given back to the host.
			node["discard"] = "unmap"
			node["detect-zeroes"] = "unmap"
			node["file"].(opts)["discard"] = "unmap"
		}
		a = append(a, fdsetArgs(fds[i])...)
		a = append(a,
			"-blockdev", object(node),
			"-device", object(opts{
				"driver": "virtio-blk-pci",
				"id":     "disk" + strconv.Itoa(i),
				"drive":  d.Serial,
				"serial": d.Serial,
			}),
		)
	}
	return a
}

// serialArgs are the console, hvc0 in the guest, and the channels.
func serialArgs(cfg hypervisor.Config, fds *descriptors) []string {
	a := []string{"-device", object(opts{"driver": "virtio-serial-pci", "id": "serial"})}
	if cfg.Console {
		a = append(a,
			"-chardev", "socket,id=console,fd="+strconv.Itoa(consoleFD),
			"-device", object(opts{"driver": "virtconsole", "chardev": "console"}),
		)
	}
	for i, c := range cfg.Channels {
		id := "channel" + strconv.Itoa(i)
		a = append(a,
			"-chardev", "socket,id="+id+",fd="+strconv.Itoa(fds.channels[i]),
			"-device", object(opts{
				"driver":  "virtserialport",
				"chardev": id,
				"name":    c.Name,
				"nr":      i + 1, // 0 is the console's
			}),
		)
	}
	return a
}

func networkArgs(n hypervisor.Network, fd int) []string {
	if fd == 0 {
		return nil
	}
	card := opts{
		"driver":  "virtio-net-pci",
		"id":      "card",
		"netdev":  "network",
		"mac":     n.MAC,
		"romfile": "", // nothing boots from it, and the file may not be installed
		// A thawed guest is not to tell its network where it is: nobody there knew it.
		"guest_announce": false,
	}
	if n.MTU != 0 {
		card["host_mtu"] = n.MTU
	}
	return []string{
		"-netdev", object(opts{
			"type":   "stream",
			"id":     "network",
			"server": false,
			"addr":   opts{"type": "fd", "str": strconv.Itoa(fd)},
		}),
		"-device", object(card),
	}
}

// comfortArgs are entropy, memory given back, and the generation.
func comfortArgs(cfg hypervisor.Config, f Features) []string {
	a := []string{
		"-device", object(opts{"driver": "virtio-rng-pci", "id": "entropy"}),
		"-device", object(opts{"driver": "virtio-balloon-pci", "id": "balloon", "free-page-reporting": true}),
	}
	// QEMU has the device for PCs only.
	if cfg.Generation != "" && f.Arch == "amd64" {
		a = append(a, "-device", object(opts{"driver": "vmgenid", "id": "generation", "guid": cfg.Generation}))
	}
	return a
}

// opts is an object in JSON; its keys are written in alphabetical order.
type opts map[string]any

func object(o opts) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // for whoever reads the command line
	if err := enc.Encode(o); err != nil {
		panic(fmt.Sprintf("encoding %v: %v", o, err)) // strings, numbers and truth values only
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// escape doubles commas, which end a value in QEMU's old option syntax.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
