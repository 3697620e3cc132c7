package build

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// readIndex reads an index as kmod does (libkmod/libkmod-index.c) and returns what it
// holds as "KEY=VALUE", sorted.
func readIndex(t testing.TB, b []byte) []string {
	t.Helper()
	if binary.BigEndian.Uint32(b) != 0xB007F457 || binary.BigEndian.Uint32(b[4:]) != 0x00020001 {
		t.Fatalf("it begins with % x", b[:8])
	}
	var out []string
	var down func(offset uint32, key string)
	down = func(offset uint32, key string) {
		at := int(offset & 0x0fffffff)
		text := func() string {
			s, _, _ := strings.Cut(string(b[at:]), "\x00")
			at += len(s) + 1
			return s
		}
		number := func() uint32 { at += 4; return binary.BigEndian.Uint32(b[at-4:]) }
		if offset&0x80000000 != 0 {
			key += text()
		}
		var children []uint32
		var first byte
		if offset&0x20000000 != 0 {
			first = b[at]
			n := int(b[at+1]) - int(first) + 1
			at += 2
			for range n {
				children = append(children, number())
			}
		}
		if offset&0x40000000 != 0 {
			for range number() {
				number()
				out = append(out, key+"="+text())
			}
		}
		for i, c := range children {
			if c != 0 {
				down(c, key+string(rune(int(first)+i)))
			}
		}
	}
	down(binary.BigEndian.Uint32(b[8:]), "")
	slices.Sort(out)
	return out
}

func TestModuleIndex(t *testing.T) {
	for _, keys := range [][]string{
		nil, {""}, {"a"}, {"abc", "abd"}, {"abc", "ab"}, {"ab", "abc"}, {"", "abc", "x"},
		{"xt_nat", "xt_NAT", "xt_nat_x", "nf_nat", "nf_tables", "n"}, {"\x7f", "\x01"},
	} {
		var x moduleIndex
		var want []string
		for i, k := range keys {
			x.add(k, "v", uint32(i))
			x.add(k, "v", 0) // once is enough
			x.add(k, "w", 0)
			want = append(want, k+"=v", k+"=w")
		}
		slices.Sort(want)
		if got := readIndex(t, x.bytes()); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", keys, got, want)
		}
	}
	var x moduleIndex
	x.add("ümlaut", "v", 0)
	if got := readIndex(t, x.bytes()); len(got) != 0 {
		t.Errorf("what is no ASCII: %q", got)
	}
}

func FuzzModuleIndex(f *testing.F) {
	f.Add("a b ab abc")
	f.Fuzz(func(t *testing.T, text string) {
		var x moduleIndex
		var want []string
		for i, k := range strings.Fields(text) {
			x.add(k, fmt.Sprint(i), uint32(i))
			if !strings.ContainsFunc(k, func(r rune) bool { return r == 0 || r >= 0x80 }) {
				want = append(want, fmt.Sprintf("%s=%d", k, i))
			}
		}
		slices.Sort(want)
		if got := readIndex(t, x.bytes()); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestAliasKey(t *testing.T) {
	for alias, want := range map[string]string{
		"net-pf-16-proto-6": "net_pf_16_proto_6", "crypto-[a-z]-x": "crypto_[a-z]_x", "fs-nfs": "fs_nfs",
	} {
		if got := aliasKey(alias); got != want {
			t.Errorf("%s: %s, want %s", alias, got, want)
		}
	}
}

func TestDeviceNode(t *testing.T) {
	for _, tt := range []struct{ aliases, want string }{
		{"devname:net/tun char-major-10-200", "net/tun c10:200"},
		{"char-major-10-237 block-major-7-* devname:loop-control", "loop-control c10:237"},
		{"char-major-21-*", ""}, {"devname:x", ""}, {"", ""},
	} {
		m := module{aliases: strings.Fields(tt.aliases)}
		if got, ok := m.deviceNode(); ok != (tt.want != "") || ok && got != tt.want {
			t.Errorf("%s: %q %v", tt.aliases, got, ok)
		}
	}
}
