package build

import (
	"context"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/image"
)

// TestBuildFromMirror builds a real image from the mirror that this computer is
// configured for. The environment says what to do with it:
//
//	HYVE_TEST_IMAGE_DIR  keep the store there
//	HYVE_TEST_CACHE_DIR  keep downloads there
//	HYVE_TEST_INIT       the hyve-init to put into it (default: the embedded
//	                     one, else a stand-in that cannot boot)
//	HYVE_TEST_ARCH       architecture (default amd64)
//	HYVE_TEST_ONCE       if set, do not build a second time to compare
func TestBuildFromMirror(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: this downloads 120 MB")
	}
	arch := getenv("HYVE_TEST_ARCH", "amd64")
	requireMirror(t)
	store, err := image.Open(getenv("HYVE_TEST_IMAGE_DIR", t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Store: store, Arch: arch, HyveInit: testInit(t, arch),
		CacheDir: getenv("HYVE_TEST_CACHE_DIR", t.TempDir()),
		Warn:     func(err error) { t.Log("warning:", err) },
	}
	stage, since := "", time.Now()
	o.Progress = func(p Progress) {
		if p.Stage != stage {
			t.Logf("%6.2fs %s (%d)", time.Since(since).Seconds(), p.Stage, p.Total)
			stage = p.Stage
		}
	}
	img, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%6.2fs %s", time.Since(since).Seconds(), img.Dir)
	for _, f := range img.Manifest.Files {
		t.Logf("%12d %s", f.Size, f.Name)
	}
	if err := store.Verify(context.Background(), img); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("HYVE_TEST_ONCE") != "" {
		return
	}
	second, err := image.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	o.Store = second
	again, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest != img.Digest {
		t.Errorf("a second build made %s, the first %s", again.Digest, img.Digest)
	}
}

func getenv(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// requireMirror skips the test where no mirror answers.
func requireMirror(t *testing.T) {
	t.Helper()
	list, err := mirrors("")
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Head(list[0].Archive + "/dists/" + suite + "/InRelease")
	if err != nil {
		t.Skip("offline: ", err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Skip("the mirror does not serve ", suite, ": ", resp.Status)
	}
}

func testInit(t *testing.T, arch string) []byte {
	t.Helper()
	if file := os.Getenv("HYVE_TEST_INIT"); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if data, err := hyveInit(arch); err == nil {
		return data
	}
	return []byte("#!/no/such/interpreter\n")
}
