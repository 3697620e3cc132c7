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

// Every test that docs/promises.md and docs/security.md name is there and run when they
// say, and each promise names one.
func TestPromisesHaveTests(t *testing.T) {
	long := map[string]bool{} // whether it is one of those that take long
	declared := regexp.MustCompile(`(?ms)^func (Test\w+)\(.*?^}`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
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
	for _, document := range []string{"docs/promises.md", "docs/security.md"} {
		checkPromises(t, document, long)
	}
}

// checkPromises reads the tables of a document. long are all tests, and whether each takes
// long.
func checkPromises(t *testing.T, document string, long map[string]bool) {
	promises, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`( \\*long\\*)?")
	rows := 0
	for line := range strings.Lines(string(promises)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| When |") || strings.HasPrefix(line, "| Promise |") {
			continue
		}
		rows++
		found := named.FindAllStringSubmatch(line, -1)
		if len(found) == 0 {
			t.Errorf("%s: no test: %s", document, line)
		}
		for _, name := range found {
			if takesLong, ok := long[name[1]]; !ok || takesLong != (name[2] != "") {
				t.Errorf("%s: %s: it is there: %t, it takes long: %t", document, name[0], ok, takesLong)
			}
		}
	}
	if rows < 20 {
		t.Errorf("%s: %d promises found: the test looks for the wrong thing", document, rows)
	}
}
