package hyve

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that docs/promises.md names is there and run when it says, and each promise
// names one.
func TestPromisesHaveTests(t *testing.T) {
	promises, err := os.ReadFile("docs/promises.md")
	if err != nil {
		t.Fatal(err)
	}
	long := map[string]bool{} // whether it is one of those that take long
	declared := regexp.MustCompile(`(?ms)^func (Test\w+)\(.*?^}`)
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		for _, match := range declared.FindAllSubmatch(code, -1) {
			long[string(match[1])] = bytes.Contains(match[0], []byte("takesLong(t)"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`( \\*long\\*)?")
	rows := 0
	for line := range strings.Lines(string(promises)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| When |") {
			continue
		}
		rows++
		found := named.FindAllStringSubmatch(line, -1)
		if len(found) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, name := range found {
			if takesLong, ok := long[name[1]]; !ok || takesLong != (name[2] != "") {
				t.Errorf("%s: it is there: %t, it takes long: %t", name[0], ok, takesLong)
			}
		}
	}
	if rows < 20 {
		t.Errorf("%d promises found: the test looks for the wrong thing", rows)
	}
}
