package cli

import (
	"strings"
	"testing"

	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/machinestore"
)

// What this host cannot give an imported machine is said, and nothing else is.
func TestBoundNotes(t *testing.T) {
	bounds := machine.Host{CPUs: 4, Memory: 16 << 30, Disk: 100 << 30}
	for name, test := range map[string]struct {
		vm    machinestore.VM
		asked machine.Spec
		want  []string // parts of the notes, in order
	}{
		"fits":              {machinestore.VM{CPUs: 2, Memory: 1 << 30, Disk: 20000 << 20}, machine.Spec{}, nil},
		"all CPUs":          {machinestore.VM{CPUs: 0, Memory: 1 << 30, Disk: 20000 << 20}, machine.Spec{}, nil},
		"too much of all":   {machinestore.VM{CPUs: 8, Memory: 1 << 50, Disk: 1 << 50}, machine.Spec{}, []string{"memory of 1PiB", "disk of 1PiB", "8 CPUs"}},
		"too little":        {machinestore.VM{CPUs: 1, Memory: 1 << 20, Disk: 20000 << 20}, machine.Spec{}, []string{"memory of 1MiB"}},
		"something else is": {machinestore.VM{CPUs: 8, Memory: 1 << 50, Disk: 20000 << 20}, machine.Spec{CPUs: 1, Memory: 1 << 30}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			spec := importSpec(new(machinestore.Host), &test.vm, test.asked, bounds)
			notes := boundNotes(&test.vm, spec, test.asked)
			if len(notes) != len(test.want) {
				t.Fatalf("%q, want %q", notes, test.want)
			}
			for i, part := range test.want {
				if !strings.Contains(notes[i], part) {
					t.Errorf("%q says nothing of %q", notes[i], part)
				}
			}
		})
	}
}
