package hostenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// testHost is a host whose settings are in a directory.
func testHost(t *testing.T, env map[string]string) (*Host, string) {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	return &Host{
		Getenv: func(name string) string { return env[name] }, Hostname: func() (string, error) { return "box.home.test", nil },
		ResolvConf: in("resolv.conf"), Localtime: in("localtime"), ZoneInfo: []string{in("zoneinfo")},
		Bundles: []string{in("none.crt"), in("bundle.crt")}, CADirs: []string{in("certs")}, CertsD: []string{in("etc-certs.d"), in("certs.d")},
		Shipped: []string{in("shipped/*.crt")},
	}, dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestParseResolver(t *testing.T) {
	for text, want := range map[string][]string{
		"nameserver 1.2.3.4\nsearch a.test b.test\n":      {"a.test", "b.test"},
		"search a.test\ndomain c.test d.test\n":           {"c.test"},
		"domain c.test\nsearch a.test\n":                  {"a.test"},
		"search .\n":                                      nil,
		"search a.test. # no comment\n":                   {"a.test", "no", "comment"},
		"# search x.test\n; search y.test\n":              {"home.test"},
		"search " + strings.Repeat("x.test ", 100) + "\n": slices.Repeat([]string{"x.test"}, guestapi.MaxSearch),
		"search -bad a_b.test\n":                          {"a_b.test"},
		"":                                                {"home.test"},
	} {
		h, _ := testHost(t, nil)
		write(t, h.ResolvConf, text)
		if s, _ := h.Read([]string{Search}); !slices.Equal(s.Search, want) {
			t.Errorf("%.40q: %q, want %q", text, s.Search, want)
		}
	}
	_, options, _ := parseResolver("options ndots:3 rotate edns0\noptions timeout:1 trust-ad ndots:3 attempts:99\n")
	if !slices.Equal(options, []string{"ndots:3", "edns0", "timeout:1"}) {
		t.Errorf("options %q", options)
	}
}

func FuzzParseResolver(f *testing.F) {
	f.Add("search a.test b.test\noptions ndots:2\ndomain x\n")
	f.Fuzz(func(t *testing.T, text string) {
		search, options, _ := parseResolver(text)
		if len(search) > guestapi.MaxSearch || strings.ContainsAny(strings.Join(append(search, options...), ""), "\n\r \t\x00\x1b") {
			t.Errorf("%q gives %q, %q", text, search, options)
		}
	})
}

const tzif = "TZif2\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// inZoneInfo makes a time zone of that name, which is in its data.
func inZoneInfo(t *testing.T, h *Host, name string) {
	t.Helper()
	write(t, filepath.Join(h.ZoneInfo[0], name), tzif+name)
}

func TestZone(t *testing.T) {
	for name, test := range map[string]struct {
		tz       string
		make     func(h *Host)
		name     string // "-": no zone
		mistaken bool
	}{
		"a link":           {make: func(h *Host) { os.Symlink("zoneinfo/Europe/Berlin", h.Localtime) }, name: "Europe/Berlin"},
		"a copy":           {make: func(h *Host) { write(t, h.Localtime, tzif+"berlin") }, name: "Europe/Berlin"},
		"unknown":          {make: func(h *Host) { write(t, h.Localtime, tzif+"elsewhere") }, name: ""},
		"none":             {make: func(h *Host) {}, name: "-"},
		"no zone":          {make: func(h *Host) { write(t, h.Localtime, "root:x:0:0:root:/root:/bin/sh:123456789012345") }, name: "-", mistaken: true},
		"TZ":               {tz: "Asia/Tokyo", make: func(h *Host) { os.Symlink("zoneinfo/Europe/Berlin", h.Localtime) }, name: "Asia/Tokyo"},
		"TZ's colon":       {tz: ":Asia/Tokyo", make: func(h *Host) {}, name: "Asia/Tokyo"},
		"TZ leads out":     {tz: "../bundle.crt", make: func(h *Host) {}, name: "-", mistaken: true},
		"TZ of a rule":     {tz: "CET-1CEST,M3.5.0,M10.5.0/3", make: func(h *Host) {}, name: "-", mistaken: true},
		"a large file":     {make: func(h *Host) { write(t, h.Localtime, tzif+strings.Repeat("x", guestapi.MaxZone)) }, name: "-", mistaken: true},
		"two slashes":      {make: func(h *Host) { os.Symlink("zoneinfo//Europe/Berlin", h.Localtime) }, name: "Europe/Berlin"},
		"slashes between":  {make: func(h *Host) { os.Symlink("zoneinfo/Europe///Berlin", h.Localtime) }, name: "Europe/Berlin"},
		"a dot":            {make: func(h *Host) { os.Symlink("zoneinfo/./Europe/./Berlin", h.Localtime) }, name: "Europe/Berlin"},
		"there and back":   {make: func(h *Host) { os.Symlink("zoneinfo/Europe/../Europe/Berlin", h.Localtime) }, name: "Europe/Berlin"},
		"out and in again": {make: func(h *Host) { os.Symlink("zoneinfo/../zoneinfo/Europe/Berlin", h.Localtime) }, name: "Europe/Berlin"},
		"posix, two slashes": {make: func(h *Host) {
			inZoneInfo(t, h, "posix/Europe/Berlin")
			os.Symlink("zoneinfo//posix//Europe/Berlin", h.Localtime)
		}, name: "Europe/Berlin"},
		"TZ, two slashes":  {tz: ":ZONEINFO//Europe/Berlin", make: func(h *Host) {}, name: "Europe/Berlin"},
		"TZ's name, a dot": {tz: "./Europe//Berlin", make: func(h *Host) {}, name: "Europe/Berlin"},
		"TZ of a link": {tz: "Asia/Here", make: func(h *Host) {
			os.Symlink(filepath.Join(h.ZoneInfo[0], "Asia/Tokyo"), filepath.Join(h.ZoneInfo[0], "Asia/Here"))
		}, name: "Asia/Here"},
		"a link to a link": {make: func(h *Host) {
			os.Symlink("zoneinfo/Europe/Berlin", h.Localtime+".static")
			os.Symlink("localtime.static", h.Localtime)
		}, name: "Europe/Berlin"},
		"a linked directory": {make: func(h *Host) {
			os.Symlink("zoneinfo/Europe", h.Localtime+".d")
			os.Symlink("localtime.d/Berlin", h.Localtime)
		}, name: "Europe/Berlin"},
		// A name that cannot be used costs the name alone.
		"a name with a space": {make: func(h *Host) { inZoneInfo(t, h, "my home"); os.Symlink("zoneinfo/my home", h.Localtime) }, name: ""},
		"a name with a space of a known zone": {make: func(h *Host) {
			write(t, filepath.Join(h.ZoneInfo[0], "my home"), tzif+"tokyo")
			os.Symlink("zoneinfo/my home", h.Localtime)
		}, name: "Asia/Tokyo"},
		"a long name": {make: func(h *Host) {
			inZoneInfo(t, h, strings.Repeat("x", 200))
			os.Symlink("zoneinfo/"+strings.Repeat("x", 200), h.Localtime)
		}, name: ""},
		"a copy of no name": {make: func(h *Host) { inZoneInfo(t, h, "a.b"); write(t, h.Localtime, tzif+"a.b") }, name: ""},
		"no file at all":    {make: func(h *Host) { os.Mkdir(h.Localtime, 0o755) }, name: "-", mistaken: true},
	} {
		env := map[string]string{}
		h, dir := testHost(t, env)
		env["TZ"] = strings.Replace(test.tz, "ZONEINFO", h.ZoneInfo[0], 1)
		write(t, filepath.Join(dir, "zoneinfo/Europe/Berlin"), tzif+"berlin")
		write(t, filepath.Join(dir, "zoneinfo/Asia/Tokyo"), tzif+"tokyo")
		test.make(h)
		s, notes := h.Read([]string{Zone})
		if (s.Zone == nil) != (test.name == "-") || s.Zone != nil && s.Zone.Name != test.name || (len(notes) > 0) != test.mistaken {
			t.Errorf("%s: %+v, %q", name, s.Zone, notes)
		}
	}
}

func certificate(t *testing.T, name string, until time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestCAs(t *testing.T) {
	h, dir := testHost(t, nil)
	later := time.Now().Add(time.Hour)
	corp, local, old := certificate(t, "corp", later), certificate(t, "local", later), certificate(t, "old", time.Now().Add(-time.Hour))
	var common string
	for root := range bundle.Roots() {
		common += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
	}
	key := "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
	// What the host's distribution brought, the image has, or Mozilla distrusts it by now.
	distrusted := certificate(t, "distrusted", later)
	write(t, filepath.Join(dir, "shipped/distrusted.crt"), "[p11-kit-object-v1]\ntrusted: true\n"+distrusted)
	if err := os.MkdirAll(filepath.Join(dir, "certs"), 0o755); err != nil {
		t.Fatal(err)
	}
	os.Symlink(filepath.Join(dir, "shipped/distrusted.crt"), filepath.Join(dir, "certs/distrusted.pem"))
	write(t, h.Bundles[1], "# words\n"+distrusted+common+corp+key+old+"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	write(t, filepath.Join(dir, "certs/local.pem"), local+corp)
	os.Symlink("local.pem", filepath.Join(dir, "certs/12345678.0"))
	s, notes := h.Read([]string{CAs})
	if s.CAs != corp+local || len(notes) > 0 {
		t.Errorf("%q\n%q", s.CAs, notes)
	}
	many := common
	for range guestapi.MaxCAs/len(corp) + 5 {
		many += certificate(t, "many", later)
	}
	write(t, h.Bundles[1], many)
	if s, notes = h.Read([]string{CAs}); len(s.CAs) > guestapi.MaxCAs || len(notes) != 1 {
		t.Errorf("%d bytes, %q", len(s.CAs), notes)
	}
}

func TestRegistries(t *testing.T) {
	h, dir := testHost(t, nil)
	write(t, filepath.Join(dir, "etc-certs.d/a.test/ca.crt"), "weak")
	write(t, filepath.Join(dir, "certs.d/a.test/ca.crt"), "strong")
	write(t, filepath.Join(dir, "certs.d/b.test:5000/client.key"), "key")
	write(t, filepath.Join(dir, "certs.d/b.test:5000/README"), "no")
	write(t, filepath.Join(dir, "certs.d/b.test:5000/large.crt"), strings.Repeat("x", guestapi.MaxRegistryFile+1))
	write(t, filepath.Join(dir, "certs.d/b.test:5000/client.cert"), "cert")
	// dockerd refuses all pulls from a registry that has a half of such a pair.
	write(t, filepath.Join(dir, "certs.d/c.test/ca.crt"), "ca")
	write(t, filepath.Join(dir, "certs.d/c.test/client.cert"), "cert")
	write(t, filepath.Join(dir, "certs.d/c.test/client.key"), strings.Repeat("x", guestapi.MaxRegistryFile+1)) // as if it were root's
	write(t, filepath.Join(dir, "certs.d/c.test/other.key"), "key")
	s, notes := h.Read([]string{Registries})
	want := []guestapi.RegistryFile{{Registry: "a.test", Name: "ca.crt", Data: []byte("strong")}, {Registry: "b.test:5000", Name: "client.cert", Data: []byte("cert")},
		{Registry: "b.test:5000", Name: "client.key", Data: []byte("key")}, {Registry: "c.test", Name: "ca.crt", Data: []byte("ca")}}
	if !reflect.DeepEqual(s.Registries, want) || len(notes) != 1 || !strings.HasPrefix(notes[0], "4 certificates") {
		t.Errorf("%+v, %q", s.Registries, notes)
	}
	if s, _ := h.Read([]string{}); !reflect.DeepEqual(s, guestapi.Surroundings{}) {
		t.Errorf("of nothing: %+v", s)
	}
}

// Nobody waits for the other end of a pipe, and devices are not read.
func TestPipesAreLeftOut(t *testing.T) {
	h, dir := testHost(t, nil)
	write(t, filepath.Join(dir, "certs.d/a.test/other.crt"), "key")
	write(t, filepath.Join(dir, "certs/none"), "")
	for _, path := range []string{h.ResolvConf, h.Bundles[0], filepath.Join(dir, "certs/a.pem"), filepath.Join(dir, "certs.d/a.test/ca.crt")} {
		os.Remove(path)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(h.Localtime)
	os.Symlink("/dev/zero", h.Localtime)
	read := make(chan guestapi.Surroundings, 1)
	go func() {
		s, _ := h.Read(nil)
		read <- s
	}()
	select {
	case s := <-read:
		if len(s.Registries) != 1 || s.Registries[0].Name != "other.crt" {
			t.Errorf("%+v", s.Registries)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("waits for a pipe")
	}
}

// Changes are told: of a file in its place, by a rename, behind a link, and of what was not
// there at first.
func TestWatch(t *testing.T) {
	h, dir := testHost(t, nil)
	write(t, filepath.Join(dir, "run/stub.conf"), "search a.test\n")
	os.Symlink("run/stub.conf", h.ResolvConf)
	write(t, h.Bundles[1], "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan struct{}, 10)
	ended := make(chan error, 1)
	go func() { ended <- h.Watch(ctx, func() { told <- struct{}{} }) }()
	time.Sleep(200 * time.Millisecond)
	for name, change := range map[string]func(){
		"in its place": func() { write(t, h.Bundles[1], "x") },
		"renamed behind a link": func() {
			write(t, filepath.Join(dir, "run/.new"), "search b.test\n")
			os.Rename(filepath.Join(dir, "run/.new"), filepath.Join(dir, "run/stub.conf"))
		},
		"made": func() { write(t, filepath.Join(dir, "certs.d/a.test/ca.crt"), "x") },
	} {
		change()
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: not told", name)
		}
	}
	write(t, filepath.Join(dir, "something"), "else")
	select {
	case <-told:
		t.Error("told of what does not matter")
	case <-time.After(2 * settle):
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
