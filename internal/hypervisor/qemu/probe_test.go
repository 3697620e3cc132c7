package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/hint"
)

// script stands for a foreign binary.
func script(t *testing.T, name, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFindUnfit(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, override, want string }{
		{"missing", "/nonexistent/qemu", "/nonexistent/qemu does not exist"},
		{"a directory", t.TempDir(), "is a directory"},
		{"not on PATH", "qemu-system-nonexistent", "no qemu-system-nonexistent on PATH"},
		{"not executable", plain, plain + " is not executable"},
		{"too old", script(t, "q", `echo "QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)"`), "is version 6.2.0, 7.2 or newer is needed"},
		{"a minor too old", script(t, "q", `echo "QEMU emulator version 7.1.93"`), "is version 7.1.93"},
		{"another program", script(t, "q", `echo "bash, version 5"; echo more`), `is not a QEMU system emulator: --version prints "bash, version 5"`},
		{"another tool of QEMU's", script(t, "q", `echo "qemu-img version 7.2.22"`), `is not a QEMU system emulator`},
		{"silent", script(t, "q", `exit 0`), "prints nothing"},
		{"fails", script(t, "q", `exit 3`), "exit status 3"},
		{"complains", script(t, "q", `echo "cannot load libfoo.so" >&2; exit 127`), "cannot load libfoo.so"},
		{"garbage", script(t, "q", `head -c 100000 /dev/zero`), "is not a QEMU system emulator"},
		{"a version and nothing else", script(t, "q", `echo "QEMU emulator version 9.0.0"; [ "$1" = --version ] || { echo "$0: no machine here" >&2; exit 1; }`), "no machine here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cache := t.TempDir()
			began := time.Now()
			q, err := Find(t.Context(), tt.override, cache)
			if err == nil {
				t.Fatalf("found %v", q)
			}
			t.Logf("%v; hint: %s", err, hint.Of(err))
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q lacks %q", err, tt.want)
			}
			if hint.Of(err) == "" && tt.name != "a version and nothing else" {
				t.Error("no hint")
			}
			if left, _ := os.ReadDir(cache); len(left) != 0 {
				t.Errorf("kept %v", left)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestFindCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := Find(ctx, script(t, "q", "exec sleep 30"), "")
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

func TestNothingOnPath(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Find(t.Context(), "", "")
	if err == nil || !strings.Contains(err.Error(), "no "+binaryName()+" on PATH") || !strings.Contains(hint.Of(err), "install") {
		t.Errorf("%v; %s", err, hint.Of(err))
	}
}

// TestFindReal asks the installed QEMU once, and again only if it changed.
func TestFindReal(t *testing.T) {
	real := emulators(t)[0]
	if !real.Sandbox && runtime.GOOS == "linux" {
		t.Log("this QEMU was built without seccomp")
	}
	if real.Arch != runtime.GOARCH || len(real.Accels) == 0 {
		t.Errorf("%+v", real)
	}
	cache, count := t.TempDir(), filepath.Join(t.TempDir(), "count")
	wrapper := script(t, "qemu", fmt.Sprintf("echo >> %s; exec %s \"$@\"", count, real.Path))
	asked := func() int {
		b, _ := os.ReadFile(count)
		return len(b)
	}
	var times []time.Duration
	for range 2 {
		began := time.Now()
		q, err := Find(t.Context(), wrapper, cache)
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(began))
		if q.Version != real.Version || q.Sandbox != real.Sandbox || fmt.Sprint(q.Accels) != fmt.Sprint(real.Accels) || q.Path != wrapper {
			t.Errorf("%+v, want %+v", q, real)
		}
	}
	t.Logf("asked in %s, kept in %s", times[0], times[1])
	once := asked()
	if once == 0 || once > 4 {
		t.Errorf("run %d times", once)
	}
	later := time.Now().Add(time.Second)
	if err := os.Chtimes(wrapper, later, later); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(t.Context(), wrapper, cache); err != nil || asked() != 2*once {
		t.Errorf("after a change it was run %d times, %v", asked()-once, err)
	}
	if err := os.WriteFile(filepath.Join(cache, "qemu.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(t.Context(), wrapper, cache); err != nil || asked() != 3*once {
		t.Errorf("after damage it was run %d times, %v", asked()-2*once, err)
	}
	if _, err := Find(t.Context(), wrapper, "/dev/null/nowhere"); err != nil {
		t.Errorf("without a cache: %v", err)
	}
}

func TestParseVersion(t *testing.T) {
	for output, want := range map[string]Version{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright": {7, 2, 22},
		"QEMU emulator version 10.0.2":                                              {10, 0, 2},
		"QEMU emulator version 9.1.90 (v9.2.0-rc0-1-gabc)":                          {9, 1, 90},
		"QEMU emulator version 8.2 ":                                                {8, 2, 0},
		"warning: x\nQEMU emulator version 11.0.0\n":                                {11, 0, 0},
		"QEMU emulator version 8.2.0.":                                              {8, 2, 0},
	} {
		if got, ok := parseVersion(output); !ok || got != want {
			t.Errorf("%q is %v, %t", output, got, ok)
		}
	}
	for _, output := range []string{"", "QEMU emulator version", "QEMU emulator version x.y", "QEMU emulator version 7", "qemu-img version 7.2.22", "QEMU emulator version 7.-2", "QEMU emulator version 99999999.1"} {
		if got, ok := parseVersion(output); ok {
			t.Errorf("%q is %v", output, got)
		}
	}
}

func TestParseAccels(t *testing.T) {
	got := parseAccels("Accelerators supported in QEMU binary:\ntcg\nkvm\r\n\n")
	if fmt.Sprint(got) != "[kvm tcg]" {
		t.Error(got)
	}
}

func TestVersionLess(t *testing.T) {
	order := []Version{{6, 9, 9}, {7, 1, 99}, {7, 2, 0}, {7, 2, 22}, {8, 0, 0}, {10, 0, 0}}
	for i, v := range order {
		for j, w := range order {
			if v.Less(w) != (i < j) {
				t.Errorf("%v < %v is %t", v, w, v.Less(w))
			}
		}
	}
}
