package guest

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestParseUevent(t *testing.T) {
	for _, test := range []struct {
		in   string
		want uevent
		ok   bool
	}{
		{"add@/devices/pci0/virtio1/block/vda\x00ACTION=add\x00SUBSYSTEM=block\x00DEVNAME=vda\x00",
			uevent{action: "add", devpath: "/devices/pci0/virtio1/block/vda", subsystem: "block", devname: "vda"}, true},
		{"change@/x\x00broken\x00", uevent{action: "change", devpath: "/x"}, true},
		{"libudev\x00\xfe\xed\xca\xfe", uevent{}, false},
		{"add@/x", uevent{}, false}, // cut short
		{"@/x\x00", uevent{}, false},
		{"", uevent{}, false},
	} {
		got, ok := parseUevent([]byte(test.in))
		if ok != test.ok || ok && got != test.want {
			t.Errorf("parseUevent(%q) = %+v, %t; want %+v, %t", test.in, got, ok, test.want, test.ok)
		}
	}
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte("add@/devices/x\x00SUBSYSTEM=block\x00DEVNAME=vda\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, ok := parseUevent(b); ok && !bytes.HasPrefix(b, []byte(e.action+"@"+e.devpath+"\x00")) {
			t.Errorf("parseUevent(%q) = %+v", b, e)
		}
	})
}

func TestParseOOMKill(t *testing.T) {
	for _, test := range []struct {
		in   string
		want oomKill
		ok   bool
	}{
		{"4,713,123456,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=abc,mems_allowed=0,oom_memcg=/docker/abc,task_memcg=/docker/abc,task=stress,pid=321,uid=0\n SUBSYSTEM=x\n",
			oomKill{process: "stress", cgroup: "/docker/abc"}, true},
		{"4,1,1,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/docker/x,task=a,b,pid=7,uid=0",
			oomKill{process: "a,b"}, true},
		{"4,1,1,-;oom-kill:constraint=CONSTRAINT_NONE", oomKill{}, false},
		{"6,1,1,-;virtio_net virtio0 eth0: renamed", oomKill{}, false},
		{"oom-kill:task=a,pid=1", oomKill{}, false}, // no prefix: not a record
	} {
		got, ok := parseOOMKill(test.in)
		if ok != test.ok || ok && got != test.want {
			t.Errorf("parseOOMKill(%q) = %+v, %t; want %+v, %t", test.in, got, ok, test.want, test.ok)
		}
	}
}

func FuzzParseOOMKill(f *testing.F) {
	f.Add("4,713,123456,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/docker/abc,task=stress,pid=321,uid=0")
	f.Fuzz(func(t *testing.T, s string) {
		if k, ok := parseOOMKill(s); ok && (k.process == "" || !strings.Contains(s, k.process)) {
			t.Errorf("parseOOMKill(%q) = %+v", s, k)
		}
	})
}

// A complaint is the kernel's own word, a warning or worse, and not of those known to mean
// nothing.
func TestParseComplaint(t *testing.T) {
	for record, want := range map[string]string{
		"4,713,123456,-;clocksource:                       'tsc' is current clocksource.\n SUBSYSTEM=x\n":                               "clocksource:                       'tsc' is current clocksource.",
		"4,1,1,-;clocksource:                       'kvm-clock' (not 'tsc') is current clocksource.":                                    "",
		"4,1,1,-;clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable because the skew is too large:":       "",
		"4,1,1,-;clocksource: timekeeping watchdog on CPU0: Marking clocksource 'kvm-clock' as unstable because the skew is too large:": "clocksource: timekeeping watchdog on CPU0: Marking clocksource 'kvm-clock' as unstable because the skew is too large:",
		"0,1,1,-;watchdog: BUG: soft lockup - CPU#0 stuck for 22s!":                                                                     "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
		"3,1,1,c;EXT4-fs error (device vdb)": "EXT4-fs error (device vdb)",
		"4,1,1,-;":                           "", // an empty line says nothing
		"5,1,1,-;random: crng reseeded due to virtual machine fork":                                       "",
		"6,1,1,-;virtio_net virtio0 eth0: renamed":                                                        "",
		"12,1,1,-;a program's own warning":                                                                "", // 1<<3 | 4
		"4,1,1,-;hrtimer: interrupt took 13994693 ns":                                                     "",
		"4,1,1,-;workqueue: drain_vmap_area_work hogged CPU for >10000us 4 times, consider switching":     "",
		"4,1,1,-;perf: interrupt took too long (2514 > 2500), lowering kernel.perf_event_max_sample_rate": "",
		"":         "",
		"4,1,1,-":  "",
		"-4,1,1;x": "",
		"x;y":      "",
	} {
		if got, ok := parseComplaint(record); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t; want %q", record, got, ok, want)
		}
	}
	for _, h := range harmless {
		if h.part == "" || h.why == "" {
			t.Errorf("%q is harmless for no reason: %q", h.part, h.why)
		}
	}
}

func FuzzParseComplaint(f *testing.F) {
	f.Add("4,713,123456,-;clocksource: unstable\n SUBSYSTEM=x\n")
	f.Fuzz(func(t *testing.T, s string) {
		if text, ok := parseComplaint(s); ok && (text == "" || strings.Contains(text, "\n") || !strings.Contains(s, ";"+text)) {
			t.Errorf("parseComplaint(%q) = %q", s, text)
		}
	})
}

func TestModules(t *testing.T) {
	if got := moduleName("/modules/virtio-blk.ko"); got != "virtio_blk" {
		t.Errorf("moduleName = %q", got)
	}
	for in, want := range map[string][]string{
		"\x7fELF…\x00license=GPL\x00depends=net-failover,x\x00name=virtio_net\x00": {"net_failover", "x"},
		"\x00depends=\x00": nil,
		"nothing":          nil,
		"\x00depends=cut":  {"cut"},
	} {
		if got := moduleDepends([]byte(in)); !slices.Equal(got, want) {
			t.Errorf("moduleDepends(%q) = %q, want %q", in, got, want)
		}
	}
	if got := moduleList("/a.ko\n\n# no\n /b.ko \n/c.ko"); !slices.Equal(got, []string{"/a.ko", "/b.ko", "/c.ko"}) {
		t.Errorf("moduleList = %q", got)
	}
}

func FuzzModuleDepends(f *testing.F) {
	f.Add([]byte("\x00depends=a,b\x00"))
	f.Fuzz(func(t *testing.T, b []byte) { moduleDepends(b) })
}

func TestMeminfo(t *testing.T) {
	m := meminfo("MemTotal:        2021552 kB\nCached:    10 kB\nHugePages_Total:       0\nnonsense\nx: y\n")
	if m["MemTotal"] != 2021552<<10 || m["Cached"] != 10<<10 || len(m) != 3 {
		t.Errorf("got %v", m)
	}
}

func TestFragments(t *testing.T) {
	const buddyinfo = `Node 0, zone      DMA      1      0      0      0      0      0      1      1      0      1      3
Node 0, zone    DMA32      0      2      2      2      0      2      2      2      2      1    422
nonsense
Node 0, zone
`
	if got, want := fragments(buddyinfo), 1+64+128+2*(2+4+8+32+64+128+256); got != want {
		t.Errorf("%d pages, want %d", got, want)
	}
}
