package qemu

import "testing"

func TestCoresAreDescribedOnce(t *testing.T) {
	cpuinfo := "processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd\nCPU part\t: 0xd03\n\n" +
		"processor\t: 1\nBogoMIPS\t: 48.01\nFeatures\t: fp asimd\nCPU part\t: 0xd08\n\n: \n\nx"
	if got, want := describeCores([]byte(cpuinfo)), "CPU part: 0xd03\nCPU part: 0xd08\nFeatures: fp asimd"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
