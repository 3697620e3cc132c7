package machine

import (
	"slices"
	"strings"
	"testing"
)

func TestHostAccess(t *testing.T) {
	for access, want := range map[string]struct {
		all   bool
		ports []uint16
	}{
		"":               {true, nil},
		"on":             {true, nil},
		"off":            {false, nil},
		"5432":           {false, []uint16{5432}},
		"5432,8000-8002": {false, []uint16{5432, 8000, 8001, 8002}},
		"65535":          {false, []uint16{65535}},
	} {
		if _, err := parseHostAccess(access); err != nil {
			t.Errorf("%q: %v", access, err)
		}
		all, ports := (&Spec{HostAccess: access}).HostPorts()
		if all != want.all || !slices.Equal(ports, want.ports) {
			t.Errorf("%q: %v, %v", access, all, ports)
		}
	}
	for _, bad := range []string{"0", "65536", "-1", "8000-", "-8000", "9-8", "1,,2", "x", "On", " 80", "80,", "1-65535", "1-1000,2000-2100", strings.Repeat("1-1000,", 100) + "1"} {
		if _, err := parseHostAccess(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzHostAccess(f *testing.F) {
	f.Add("5432,8000-8010")
	f.Fuzz(func(t *testing.T, access string) {
		if ports, err := parseHostAccess(access); err == nil && (len(ports) > maxHostPorts || slices.Contains(ports, 0)) {
			t.Errorf("%q: %d ports", access, len(ports))
		}
	})
}
