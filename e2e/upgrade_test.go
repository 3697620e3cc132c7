package e2e

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/e2e/testimage"
	"github.com/hyve-vm/hyve/internal/image"
	"github.com/hyve-vm/hyve/internal/image/build"
	"github.com/hyve-vm/hyve/internal/machine"
)

// needsBothEngines makes the images of both, and returns the versions of docker.
func needsBothEngines(t *testing.T) (stable, newest string) {
	t.Helper()
	for engine, version := range map[build.Engine]*string{build.Stable: &stable, build.Newest: &newest} {
		img, err := testimage.Make(t.Context(), machine.Home(home), engine)
		if err != nil {
			t.Fatal(err)
		}
		*version, _, _ = strings.Cut(img.Manifest.Docker, "+")
	}
	return stable, newest
}

func engineVersion(t *testing.T, name string) string {
	t.Helper()
	version, _, _ := strings.Cut(dock(t, name, "version", "-f", "{{.Server.Version}}"), "+")
	return strings.TrimSpace(version)
}

// imageOf returns the image with an engine.
func imageOf(t *testing.T, engine build.Engine) *image.Image {
	t.Helper()
	img, err := testimage.Make(t.Context(), machine.Home(home), engine)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// putAside hides files until the test ends.
func putAside(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.Rename(path, path+".aside"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(os.RemoveAll(path), os.Rename(path+".aside", path)); err != nil {
				t.Error(err)
			}
		})
	}
}

// cutOff returns the URL of an HTTP proxy that hangs up for good at the fourth package.
func cutOff(t *testing.T) string {
	t.Helper()
	var packages atomic.Int32
	proxy := &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}, ErrorLog: log.New(io.Discard, "", 0)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/pool/") {
			packages.Add(1)
		}
		if packages.Load() >= 4 {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		if packages.Load() < 4 {
			t.Errorf("%d packages were asked for: nothing was cut off", packages.Load())
		}
	})
	return server.URL
}

// upgradeCutOff upgrades a machine to an image that is not there yet, and whose download
// ends in the middle.
func upgradeCutOff(t *testing.T, name string) {
	putAside(t, filepath.Join(home, "cache", "sha256"), imageOf(t, build.Stable).Dir)
	cut := cutOff(t)
	cmd := command(t.Context(), binary, "upgrade", name, "--engine", "stable")
	cmd.Env = append(cmd.Env, "http_proxy="+cut)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "\nhyve: ") || !strings.Contains(string(out), "EOF") {
		t.Errorf("%v: %s", err, out)
	}
}

// upgradeLimit is how long an upgrade may take, which boots a machine up to three times.
const upgradeLimit = 10 * time.Minute

// A machine that runs gets another engine, and keeps its data. One whose engine does not
// come up is as it was.
func TestUpgrade(t *testing.T) {
	stable, newest := needsBothEngines(t)
	create(t, "old", "--engine", "stable")
	dock(t, "old", "run", "-d", "--name", "kept", "--restart", "always", "-v", "data:/data", "-p", "127.0.0.1:18095:80", "busybox",
		"sh", "-c", "echo once >> /data/starts; echo served > /data/index.html; httpd -f -h /data")
	check := func(engine string) {
		t.Helper()
		if v := engineVersion(t, "old"); v != engine {
			t.Errorf("the engine is %s, want %s", v, engine)
		}
		if out := dock(t, "old", "exec", "kept", "cat", "/data/index.html"); out != "served\n" {
			t.Errorf("the volume holds %q", out)
		}
		if text := get(t, "127.0.0.1:18095"); strings.TrimSpace(text) != "served" {
			t.Errorf("the port says %q", text)
		}
		if _, err := os.Stat(filepath.Join(home, "machines", "old", "upgrade")); err == nil {
			t.Error("what it was before is kept for ever")
		}
	}
	check(stable)
	_, errText, code := result(t, binary, "upgrade", "old", "--engine", "99", "--mirror", "http://127.0.0.1:9/debian")
	if lines := strings.Split(strings.TrimSpace(errText), "\n"); code == 0 || !strings.HasPrefix(lines[len(lines)-2], "hyve: ") || !strings.Contains(errText, "127.0.0.1:9") {
		t.Errorf("without an archive: %d, %s", code, errText)
	}
	check(stable)

	// A setting that the newest engine does not know any more.
	const settings = "/var/lib/boot2docker/etc/docker/daemon.json"
	inGuest(t, "old", "sudo mkdir -p $(dirname "+settings+`) && echo '{"api-cors-header": "*"}' | sudo tee `+settings)
	out, err := try(upgradeLimit, binary, "upgrade", "old", "--engine", "newest")
	if err == nil || !strings.Contains(out, `machine "old" is as it was: it did not come up with docker `+newest) || !strings.Contains(out, "api-cors-header") {
		t.Fatalf("%v: %s", err, out)
	}
	check(stable)
	inGuest(t, "old", "sudo rm "+settings)

	if out, err := try(upgradeLimit, binary, "upgrade", "old", "--engine", newest[:strings.LastIndex(newest, ".")]); err != nil ||
		!strings.Contains(out, newest) || !strings.Contains(out, stable) {
		t.Fatalf("%v: %s", err, out)
	}
	check(newest)
	if out, err := try(limit, binary, "upgrade", "old"); err != nil || !strings.Contains(out, "up to date: docker "+newest) {
		t.Errorf("again: %s, %v", out, err)
	}
	t.Run("the network ends", func(t *testing.T) { upgradeCutOff(t, "old") })
	check(newest)

	// What is suspended has containers of the engine that it has.
	if statusOf(t, "old").Accelerator == "tcg" {
		hyve(t, "suspend", "old")
		_, errText, code := result(t, binary, "upgrade", "old", "--engine", "stable")
		if code == 0 || !strings.Contains(errText, "hyve resume old") {
			t.Errorf("one that is suspended: %d, %s", code, errText)
		}
		hyve(t, "resume", "old")
		check(newest)
	}
}

// One engine's data opened by the other: containers, networks, images and the build cache,
// there and back. docs/upgrade.md says what comes of it.
func TestUpgradeAndBack(t *testing.T) {
	takesLong(t)
	stable, newest := needsBothEngines(t)
	create(t, "there", "--engine", "stable")
	make := func(name string) {
		t.Helper()
		dock(t, "there", "network", "create", name)
		dock(t, "there", "run", "-d", "--name", name, "--network", name, "--restart", "unless-stopped", "-v", name+":/data", "busybox",
			"sh", "-c", "echo "+name+" > /data/file; touch /layer; sleep 1000000")
		dock(t, "there", "commit", name, "image-"+name)
		// With a mount for the cache, which is BuildKit's.
		inGuest(t, "there", `printf 'FROM busybox\nRUN --mount=type=cache,target=/kept echo `+name+` >> /kept/file && cp /kept/file /got\n' | docker build -q -t built-`+name+` -`)
	}
	check := func(engine string, names ...string) {
		t.Helper()
		cache := ""
		if v := engineVersion(t, "there"); v != engine {
			t.Errorf("the engine is %s, want %s", v, engine)
		}
		for _, name := range names {
			eventually(t, name+" runs", func() bool {
				return dock(t, "there", "inspect", "-f", "{{.State.Running}}", name) == "true\n"
			})
			if out := dock(t, "there", "exec", name, "sh", "-c", "cat /data/file; ls /layer; nslookup "+name+" 127.0.0.11 | grep -c Name"); out != name+"\n/layer\n1\n" {
				t.Errorf("with %s, %s holds %q", engine, name, out)
			}
			if out := dock(t, "there", "run", "--rm", "image-"+name, "ls", "/layer"); out != "/layer\n" {
				t.Errorf("with %s, the image of %s has %q", engine, name, out)
			}
			// The cache is one for all builds, whichever engine they were made with.
			cache += name + "\n"
			if out := dock(t, "there", "run", "--rm", "built-"+name, "cat", "/got"); out != cache {
				t.Errorf("with %s, what was built has %q, want %q", engine, out, cache)
			}
		}
	}
	upgrade := func(engine string) {
		t.Helper()
		if out, err := try(upgradeLimit, binary, "upgrade", "there", "--engine", engine); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	make("first")
	check(stable, "first")
	upgrade("newest")
	check(newest, "first")
	make("second")
	check(newest, "first", "second")
	// One that does not run is tried, and does not run afterwards.
	hyve(t, "stop", "there")
	upgrade("stable")
	if s := statusOf(t, "there").State; s != "Stopped" {
		t.Errorf("it is %s", s)
	}
	hyve(t, "start", "there")
	check(stable, "first", "second")
	make("third")
	upgrade("newest")
	check(newest, "first", "second", "third")
}

// Whenever an upgrade is killed the machine starts, with one of the two engines and with
// its data.
func TestKilledUpgrade(t *testing.T) {
	takesLong(t)
	stable, newest := needsBothEngines(t)
	create(t, "torn", "--engine", "stable", "--cold")
	dock(t, "torn", "run", "-d", "--name", "kept", "--restart", "always", "-v", "data:/data", "busybox", "sh", "-c", "trap exit TERM; date > /data/file; sleep 1000000 & wait")
	dir := machine.Home(home).Dir("torn")
	seen := map[string]bool{}
	reached := map[string]func() bool{
		"it is stopping": func() bool { return statusOf(t, "torn").State == "Stopping" },
		"its disk is being kept": func() bool {
			drafts, _ := filepath.Glob(filepath.Join(string(dir), ".draft-*"))
			pending, _ := dir.Upgrade()
			return len(drafts) > 0 || pending != nil
		},
		"its image is another": func() bool { pending, _ := dir.Upgrade(); return pending != nil },
		"it boots": func() bool {
			pending, _ := dir.Upgrade()
			return pending != nil && statusOf(t, "torn").HypervisorPid != 0
		},
	}
	for moment, there := range reached {
		for _, everything := range []bool{false, true} {
			now := engineVersion(t, "torn")
			to := map[string]string{stable: "newest", newest: "stable"}[now]
			ctx, cancel := context.WithTimeout(t.Context(), scaled(upgradeLimit))
			cmd := command(ctx, binary, "upgrade", "torn", "--engine", to)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, moment, there)
			cmd.Process.Kill()
			cmd.Wait()
			cancel()
			if s := statusOf(t, "torn"); everything {
				for _, pid := range []int{s.PID, s.HypervisorPid} {
					if pid > 0 {
						syscall.Kill(pid, syscall.SIGKILL)
					}
				}
			}
			// What goes on without the command ends as it may; then it can be started.
			if out, err := try(upgradeLimit, binary, "start", "torn"); err != nil {
				try(upgradeLimit, binary, "stop", "torn")
				if again, err := try(upgradeLimit, binary, "start", "torn"); err != nil {
					t.Fatalf("killed when %s: %s, %v: %s", moment, out, err, again)
				}
			}
			v := engineVersion(t, "torn")
			if v != stable && v != newest {
				t.Errorf("killed when %s: the engine is %s", moment, v)
			}
			seen[moment+" "+v] = true
			if out := dock(t, "torn", "run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file"); out == "" {
				t.Errorf("killed when %s: the volume is empty", moment)
			}
			if pending, err := dir.Upgrade(); pending != nil || err != nil {
				t.Errorf("killed when %s: %v is left, %v", moment, pending, err)
			}
		}
	}
	t.Log(seen)
	hyve(t, "stop", "--cold", "torn")
	checkDisk(t, "torn")
}
