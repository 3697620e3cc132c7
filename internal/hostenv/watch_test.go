package hostenv

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// swap makes path a link to target, at once.
func swap(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// replace makes path a file with that text, at once.
func replace(t *testing.T, path, text string) {
	t.Helper()
	write(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// Changes are told wherever they are on the way to a file, again and again.
func TestWatchFollowsLinks(t *testing.T) {
	for name, test := range map[string]struct {
		make    func(h *Host, dir string)
		changes []func(h *Host, dir string)
	}{
		"a link in the middle": { // as Kubernetes has them
			make: func(h *Host, dir string) {
				for i := range 4 {
					write(t, fmt.Sprintf("%s/k/..v%d/ca.crt", dir, i), fmt.Sprint(i))
				}
				os.Symlink("..v0", dir+"/k/..data")
				os.Symlink("..data/ca.crt", dir+"/k/ca.crt")
				h.Bundles = []string{dir + "/k/ca.crt"}
			},
			changes: []func(h *Host, dir string){
				func(h *Host, dir string) { swap(t, "..v1", dir+"/k/..data") },
				func(h *Host, dir string) { swap(t, "..v2", dir+"/k/..data") },
				func(h *Host, dir string) { write(t, dir+"/k/..v2/ca.crt", "x") },
				func(h *Host, dir string) { replace(t, dir+"/k/..v2/ca.crt", "y") },
				func(h *Host, dir string) { swap(t, "..v3/ca.crt", dir+"/k/ca.crt") },
			},
		},
		"a link above": { // as NixOS has them
			make: func(h *Host, dir string) {
				write(t, dir+"/store/1/ssl/ca.crt", "1")
				write(t, dir+"/store/2/ssl/ca.crt", "2")
				os.Symlink(dir+"/store/1", dir+"/static")
				os.Symlink(dir+"/static/ssl", dir+"/ssl")
				h.Bundles = []string{dir + "/ssl/../ssl/ca.crt"}
			},
			changes: []func(h *Host, dir string){
				func(h *Host, dir string) { swap(t, dir+"/store/2", dir+"/static") },
				func(h *Host, dir string) { write(t, dir+"/store/2/ssl/ca.crt", "x") },
			},
		},
		"a directory above": {
			make: func(h *Host, dir string) {
				write(t, dir+"/a/b/c/ca.crt", "1")
				write(t, dir+"/new/c/ca.crt", "2")
				h.Bundles = []string{dir + "/a/b/c/ca.crt"}
			},
			changes: []func(h *Host, dir string){
				func(h *Host, dir string) {
					os.Rename(dir+"/a/b", dir+"/old")
					os.Rename(dir+"/new", dir+"/a/b")
				},
				func(h *Host, dir string) { write(t, dir+"/a/b/c/ca.crt", "x") },
			},
		},
		"a linked file in certs.d": {
			make: func(h *Host, dir string) {
				write(t, dir+"/opt/reg.crt", "1")
				write(t, dir+"/opt2/reg.crt", "2")
				os.Symlink("opt", dir+"/via")
				os.MkdirAll(dir+"/certs.d/reg.test:5000", 0o755)
				os.Symlink(dir+"/via/reg.crt", dir+"/certs.d/reg.test:5000/ca.crt")
			},
			changes: []func(h *Host, dir string){
				func(h *Host, dir string) { write(t, dir+"/opt/reg.crt", "x") },
				func(h *Host, dir string) { replace(t, dir+"/opt/reg.crt", "y") },
				func(h *Host, dir string) { swap(t, "opt2", dir+"/via") },
				func(h *Host, dir string) { write(t, dir+"/opt2/reg.crt", "z") },
			},
		},
		"a linked file of a linked registry": {
			make: func(h *Host, dir string) {
				write(t, dir+"/opt/reg.crt", "1")
				os.MkdirAll(dir+"/registry", 0o755)
				os.MkdirAll(dir+"/certs.d", 0o755)
				os.Symlink("../opt/reg.crt", dir+"/registry/ca.crt")
				os.Symlink("../registry", dir+"/certs.d/reg.test")
			},
			changes: []func(h *Host, dir string){
				func(h *Host, dir string) { write(t, dir+"/opt/reg.crt", "x") },
				func(h *Host, dir string) { write(t, dir+"/registry/client.cert", "x") },
			},
		},
		"a linked CA": {
			make: func(h *Host, dir string) {
				write(t, dir+"/local/corp.crt", "1")
				os.MkdirAll(dir+"/certs", 0o755)
				os.Symlink(dir+"/local/corp.crt", dir+"/certs/corp.pem")
			},
			changes: []func(h *Host, dir string){
				func(h *Host, dir string) { write(t, dir+"/local/corp.crt", "x") },
				func(h *Host, dir string) { replace(t, dir+"/local/corp.crt", "y") },
			},
		},
		"a link that leads nowhere yet": {
			make: func(h *Host, dir string) {
				os.Symlink("to/come/ca.crt", dir+"/ca.crt")
				h.Bundles = []string{dir + "/ca.crt"}
			},
			changes: []func(h *Host, dir string){
				func(h *Host, dir string) { write(t, dir+"/to/come/ca.crt", "x") },
			},
		},
		"TZ's file": {
			make: func(h *Host, dir string) {
				write(t, dir+"/zones/here", tzif)
				h.Getenv = func(name string) string { return map[string]string{"TZ": ":" + dir + "/zones/here"}[name] }
			},
			changes: []func(h *Host, dir string){
				func(h *Host, dir string) { replace(t, dir+"/zones/here", tzif+"x") },
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, dir := testHost(t, nil)
			test.make(h, dir)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			told := make(chan struct{}, 10)
			go h.Watch(ctx, func() { told <- struct{}{} })
			time.Sleep(300 * time.Millisecond)
			for i, change := range test.changes {
				change(h, dir)
				select {
				case <-told:
				case <-time.After(5 * time.Second):
					t.Fatalf("change %d is not told", i+1)
				}
				for quiet := false; !quiet; { // a change in steps may be told twice
					select {
					case <-told:
					case <-time.After(settle + settle/4):
						quiet = true
					}
				}
			}
		})
	}
}

// However many links there are, and wherever they lead, so many are followed.
func TestWaysAreBounded(t *testing.T) {
	h, dir := testHost(t, nil)
	os.Symlink("b", dir+"/a")
	os.Symlink("a", dir+"/b")
	h.Bundles = []string{dir + "/a/x", dir + "/a"}
	for i := range 3 * maxFollowed / 100 {
		registry := filepath.Join(dir, "certs.d", fmt.Sprintf("r%d.test", i))
		if err := os.MkdirAll(registry, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range 100 {
			os.Symlink(fmt.Sprintf("%s/to/%d/%d", dir, i, j), fmt.Sprintf("%s/%d.crt", registry, j))
		}
	}
	if w := h.ways(); len(w.decisive) > maxFollowed+maxLinks || len(w.watched) > 3*maxFollowed {
		t.Errorf("%d paths count, %d are watched", len(w.decisive), len(w.watched))
	}
}
