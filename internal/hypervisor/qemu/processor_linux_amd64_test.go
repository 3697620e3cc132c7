package qemu

import (
	"bytes"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A state goes on on any core, on a processor that has what its guest was told of, and on no
// other one.
func TestFeaturesAreTheProcessors(t *testing.T) {
	id := func(change func(id *kvmCPUID)) *kvmCPUID {
		id := &kvmCPUID{N: 7}
		for i, leaf := range [][2]uint32{{1, 0}, {7, 0}, {0xb, 1}, {0xd, 0}, {0xd, 2}, {0x1f, 0}, {0x8000001e, 0}} {
			e := &id.Entries[i]
			e.Function, e.Index = leaf[0], leaf[1]
			e.EAX, e.EBX, e.ECX, e.EDX = 0x11, 0x02000800, 0x33, 0x44
		}
		change(id)
		return id
	}
	first := id(func(*kvmCPUID) {}).features()
	for name, change := range map[string]func(*kvmCPUID){
		"APIC ID":         func(id *kvmCPUID) { id.Entries[0].EBX = 0x03000800 },
		"x2APIC ID":       func(id *kvmCPUID) { id.Entries[2].EDX, id.Entries[5].EDX = 9, 9 },
		"size by XCR0":    func(id *kvmCPUID) { id.Entries[3].EBX = 0x340 },
		"extended ID":     func(id *kvmCPUID) { id.Entries[6].EAX, id.Entries[6].EBX, id.Entries[6].ECX = 9, 9, 9 },
		"what is no leaf": func(id *kvmCPUID) { id.Entries[7].EAX = 9 },
	} {
		if !bytes.Equal(id(change).features(), first) {
			t.Errorf("another %s makes another processor", name)
		}
	}
	for name, change := range map[string]func(*kvmCPUID){
		"CLFLUSH":        func(id *kvmCPUID) { id.Entries[0].EBX = 0x02000900 },
		"AVX":            func(id *kvmCPUID) { id.Entries[0].ECX ^= 1 << 28 },
		"AVX2":           func(id *kvmCPUID) { id.Entries[1].EBX ^= 1 << 5 },
		"a state's size": func(id *kvmCPUID) { id.Entries[4].EBX++ },
		"one leaf less":  func(id *kvmCPUID) { id.N-- },
	} {
		if bytes.Equal(id(change).features(), first) {
			t.Errorf("without %s it is the same processor", name)
		}
	}
}

// All of this host's cores are the same processor.
func TestProcessorOfAllCores(t *testing.T) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skip(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	var first string
	for core := range 1024 {
		if !all.IsSet(core) {
			continue
		}
		var one unix.CPUSet
		one.Set(core)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Fatal(err)
		}
		processor, err := guestProcessor()
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = processor
		}
		if processor != first {
			t.Errorf("core %d is %s, the first one %s", core, processor, first)
		}
	}
}
