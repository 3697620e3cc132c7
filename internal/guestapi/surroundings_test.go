package guestapi

import (
	"strings"
	"testing"
)

func TestSurroundingsAreStrict(t *testing.T) {
	tzif := "TZif2" + strings.Repeat("\x00", 39)
	for text, want := range map[string]bool{"corp.test": true, "corp.test.": true, "a": true, "_tcp.x-y.z": true,
		"": false, ".": false, "..": false, "-x": false, "x..y": false, "a b": false, "x\nnameserver 1.2.3.4": false, strings.Repeat("a.", 127) + "aa": false} {
		if IsSearchDomain(text) != want {
			t.Errorf("domain %q: want %v", text, want)
		}
	}
	for text, want := range map[string]bool{"ndots:2": true, "timeout:1": true, "attempts:5": true, "edns0": true, "use-vc": true,
		"rotate": false, "ndots": false, "ndots:": false, "ndots:+2": false, "ndots:99": false, "edns0:1": false, "": false, "timeout:1\nsearch x": false} {
		if IsResolverOption(text) != want {
			t.Errorf("option %q: want %v", text, want)
		}
	}
	for name, test := range map[string]struct {
		zone Zone
		ok   bool
	}{
		"a zone":         {Zone{"Europe/Berlin", []byte(tzif)}, true},
		"without a name": {Zone{"", []byte(tzif)}, true},
		"up":             {Zone{"../../etc/shadow", []byte(tzif)}, false},
		"two lines":      {Zone{"UTC\nx", []byte(tzif)}, false},
		"another file":   {Zone{"UTC", []byte(strings.Repeat("root:x:0", 10))}, false},
		"large":          {Zone{"UTC", []byte(tzif + strings.Repeat("x", MaxZone))}, false},
		"short":          {Zone{"UTC", []byte("TZif2")}, false},
	} {
		if err := test.zone.Check(); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, test := range map[string]struct {
		file RegistryFile
		ok   bool
	}{
		"a CA":        {RegistryFile{"registry.test:5000", "ca.crt", nil}, true},
		"a client":    {RegistryFile{"[::1]:5000", "client.key", nil}, true},
		"up":          {RegistryFile{"..", "ca.crt", nil}, false},
		"deeper":      {RegistryFile{"a/b", "ca.crt", nil}, false},
		"a path":      {RegistryFile{"a", "../ca.crt", nil}, false},
		"other files": {RegistryFile{"a", "ca.pem", nil}, false},
		"large":       {RegistryFile{"a", "ca.crt", make([]byte, MaxRegistryFile+1)}, false},
	} {
		if err := test.file.Check(); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
