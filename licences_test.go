package hyve

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the licences of what go.mod has now")

// TestLicences makes sure that the programs go with the licences of everything
// that is linked into them, read from the modules themselves. hyve's are a file
// beside it, hyve-init's are part of each image.
func TestLicences(t *testing.T) {
	for file, programs := range map[string][]string{
		"THIRD_PARTY_LICENSES":              {"./cmd/hyve", "./cmd/hyve-init"}, // the one carries the other
		"internal/image/build/licences.txt": {"./cmd/hyve-init"},
	} {
		want := licences(t, programs)
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what %s are made of (%v); run go test . -run TestLicences -update", file, programs, err)
		}
	}
}

// licences puts each text once, with all whose it is.
func licences(t *testing.T, programs []string) []byte {
	owners := map[string][]string{}
	for dir, owner := range linked(t, programs) {
		for _, text := range texts(t, dir, owner.Dir) {
			if !slices.Contains(owners[text], owner.String()) {
				owners[text] = append(owners[text], owner.String())
			}
			if owner.Path == "golang.org/x/sys" && !slices.Contains(owners[text], "Go's standard library") {
				// It has the same, but not each distribution of Go has it at hand.
				owners[text] = append(owners[text], "Go's standard library")
			}
		}
	}
	var parts []string
	for text, names := range owners {
		slices.Sort(names)
		parts = append(parts, strings.Join(names, "\n")+"\n\n"+text)
	}
	slices.Sort(parts)
	line := strings.Repeat("=", 80) + "\n"
	return []byte(fmt.Sprintf("What is linked into %s, and under which licence.\n", strings.Join(programs, " and ")) +
		line + strings.Join(parts, line))
}

// texts returns the licences that stand in dir or above, up to its module's own.
func texts(t *testing.T, dir, top string) []string {
	var found []string
	for ; ; dir = filepath.Dir(dir) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !licenceFile.MatchString(e.Name()) {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, strings.Trim(string(data), "\n")+"\n")
		}
		if dir == top {
			break
		}
	}
	if len(found) == 0 {
		t.Errorf("no licence in %s", top)
	}
	return found
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|patents)(\.txt|\.md)?$`)

var platforms = map[string][]string{
	"./cmd/hyve":      {"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"},
	"./cmd/hyve-init": {"linux/amd64", "linux/arm64"},
}

type goModule struct {
	Path, Version, Dir string
}

func (m goModule) String() string { return strings.TrimSpace(m.Path + " " + m.Version) }

// linked returns the directories of all packages that the programs consist of
// on any platform, with their modules. The standard library is left out.
func linked(t *testing.T, programs []string) map[string]goModule {
	found := map[string]goModule{}
	for _, program := range programs {
		for _, platform := range platforms[program] {
			system, arch, _ := strings.Cut(platform, "/")
			cmd := exec.Command("go", "list", "-deps", "-json=Dir,Module", program)
			cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0")
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			for d := json.NewDecoder(bytes.NewReader(out)); ; {
				var p struct {
					Dir    string
					Module *goModule
				}
				if err := d.Decode(&p); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				if p.Module != nil {
					found[p.Dir] = *p.Module
				}
			}
		}
	}
	return found
}
