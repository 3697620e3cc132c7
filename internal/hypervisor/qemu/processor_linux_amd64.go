package qemu

import (
	"encoding/binary"
	"errors"
	"unsafe"
)

// processorFeatures returns the leaves of CPUID that KVM can show to a guest, family, model
// and vendor among them, and the microcode's revision.
func processorFeatures() ([]byte, error) {
	dev, v := openKVM("/dev/kvm")
	if dev == nil {
		return nil, errors.New(v.Reason)
	}
	defer dev.Close()
	kvm := int(dev.Fd())
	id, err := supportedCPUID(kvm)
	if err != nil {
		return nil, err
	}
	return binary.LittleEndian.AppendUint64(id.features(), microcode(kvm)), nil
}

// kvmMSRs is struct kvm_msrs with one entry.
type kvmMSRs struct {
	N, _     uint32
	Index, _ uint32
	Data     uint64
}

// microcode returns the revision of the microcode, 0 where KVM does not say it, as up to
// Linux 4.16. The file in /proc that has it, too, takes the kernel up to 20 ms.
func microcode(kvm int) uint64 {
	const revision = 0x8b // IA32_BIOS_SIGN_ID, on AMD's called PATCH_LEVEL
	msrs := kvmMSRs{N: 1, Index: revision}
	if n, err := ioctlPtr(kvm, kvmGetMSRs, unsafe.Pointer(&msrs)); err != nil || n != 1 {
		return 0
	}
	return msrs.Data
}

func supportedCPUID(kvm int) (*kvmCPUID, error) {
	id := &kvmCPUID{}
	id.N = uint32(len(id.Entries))
	_, err := ioctlPtr(kvm, kvmGetSupportedCPUID, unsafe.Pointer(id))
	id.N = min(id.N, uint32(len(id.Entries)))
	return id, err
}

// features are the leaves without what belongs to the core that was asked: its number, as
// Intel's manual (volume 2, CPUID) and AMD's (volume 3, appendix E) have it, and how large
// its registers' area is with those that are switched on just now.
func (id *kvmCPUID) features() []byte {
	var said []byte
	for _, e := range id.Entries[:id.N] {
		switch {
		case e.Function == 1:
			e.EBX &= 1<<24 - 1 // the initial APIC ID
		case e.Function == 0xb || e.Function == 0x1f:
			e.EDX = 0 // x2APIC ID
		case e.Function == 0xd && e.Index <= 1:
			e.EBX = 0 // by XCR0
		case e.Function == 0x8000001e:
			e.EAX, e.EBX, e.ECX = 0, 0, 0 // APIC, core and node
		}
		for _, word := range []uint32{e.Function, e.Index, e.EAX, e.EBX, e.ECX, e.EDX} {
			said = binary.LittleEndian.AppendUint32(said, word)
		}
	}
	return said
}
